//! The task that owns all of the daemon's state. Connections, the worker and the watchers send it
//! [`Request`]s; it feeds the arbiter and carries out the effects. It decides nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use log::Level;
use smol::channel::{Receiver, Sender};
use smol::future::or;

use super::arbiter::{
    Arbiter, CloseResult, DenyReason, Effect, Health, Input, Job, Moment, Outcome, Phase, Remount,
    RevokeReason, SessionId, State, Text,
};
use super::client::Client;
use super::handle::{Request, SessionEvent};
use super::history::{History, Past};
use super::settings::Settings;
use super::space;
use super::status::{Seen, Status};
use super::timeouts::{FORGOTTEN, LAST_ANSWERS, WATCH_EVERY};
use super::timers::Timers;
use super::worker::Report;
use crate::amount::{Bytes, Span};
use crate::escape::escape;
use crate::storage::holders::{Holder, HolderKind};
use crate::systemd::Manager;
use crate::wire::Ended;

#[derive(Debug)]
struct Open {
    client: Arc<Client>,
    events: Sender<SessionEvent>,
    /// Bytes written to the device before the grant, where they are counted.
    written: Option<u64>,
    granted: bool,
    revoked: bool,
}

pub(super) struct Controller {
    settings: Rc<Settings>,
    timers: Rc<Timers>,
    jobs: mpsc::Sender<Job>,
    manager: Manager,
    start: Instant,
    arbiter: Arbiter,
    sessions: BTreeMap<SessionId, Open>,
    /// Told their last word; their connections are not gone yet.
    leaving: BTreeSet<SessionId>,
    /// The newest session that was looked at for being forgotten.
    reminded: SessionId,
    history: History,
    seen: Seen,
    /// Counts changes of what a status shows.
    generation: u64,
    waiting: Vec<Sender<()>>,
    status: Option<Arc<Status>>,
    /// When the arbiter wants to be called.
    alarm: Option<Instant>,
    /// Whether the storage is left as it should be, once the arbiter says that all is over.
    clean: Option<bool>,
    /// The state that the log was last told.
    logged: Option<State>,
    remounted: bool,
    /// Dropped when the first look is over.
    starting: Option<Sender<()>>,
}

impl Controller {
    pub(super) fn new(
        settings: Rc<Settings>,
        timers: Rc<Timers>,
        jobs: mpsc::Sender<Job>,
        manager: Manager,
        start: Instant,
        starting: Sender<()>,
    ) -> Controller {
        let (arbiter, effects) = Arbiter::new(settings.kill_grace);
        let history = History::new(&arbiter, start);
        let mut controller = Controller {
            settings,
            timers,
            jobs,
            manager,
            start,
            arbiter,
            sessions: BTreeMap::new(),
            leaving: BTreeSet::new(),
            reminded: SessionId(0),
            history,
            seen: Seen::default(),
            generation: 0,
            waiting: Vec::new(),
            status: None,
            alarm: None,
            clean: None,
            logged: None,
            remounted: false,
            starting: Some(starting),
        };
        controller.carry_out(effects);
        controller
    }

    /// Serves requests until the arbiter says that all is over and every answer is written.
    /// Returns whether the storage is left as it should be.
    pub(super) async fn run(mut self, requests: Receiver<Request>) -> bool {
        let (mut alarm, mut sleep) = (None, None);
        loop {
            if let Some(clean) = self.clean.filter(|_| self.leaving.is_empty()) {
                return clean;
            }
            if alarm != self.alarm {
                alarm = self.alarm;
                sleep = alarm.map(|at| self.timers.at(at));
            }
            let tick = async {
                match &mut sleep {
                    Some(sleep) => {
                        let _ = sleep.await;
                    }
                    None => pending().await,
                }
                None
            };
            match or(async { requests.recv().await.ok() }, tick).await {
                Some(request) => self.handle(request),
                None if self.clean.is_some() => return self.clean == Some(true), // late answers
                None => {
                    (alarm, self.alarm) = (None, None);
                    self.input(Input::Tick);
                    self.remind();
                }
            }
        }
    }

    fn handle(&mut self, request: Request) {
        match request {
            Request::Open(client, events) => self.open(client, events),
            Request::Close(id) => {
                self.input(Input::Close(id));
                self.changed();
            }
            Request::Disconnected(id) => self.gone(id),
            Request::TurnedAway => {
                self.history.denials += 1;
                self.changed();
            }
            Request::Status { fresh, reply } => {
                let status = self.status(fresh);
                let _ = reply.try_send(status);
            }
            Request::Changed { since, reply } if self.generation > since => {
                let _ = reply.try_send(());
            }
            Request::Changed { reply, .. } => {
                self.waiting.retain(|other| !other.is_closed());
                self.waiting.push(reply);
            }
            Request::Done(report) => self.done(*report),
            Request::Recheck => self.input(Input::Recheck),
            Request::WriterClosed => self.input(Input::WriterClosed),
            Request::Watchdog => self.notify_manager("WATCHDOG=1"),
            Request::Stop => {
                self.notify_manager("STOPPING=1");
                self.input(Input::Stop);
            }
        }
    }

    fn open(&mut self, client: Arc<Client>, events: Sender<SessionEvent>) {
        let id = client.id;
        log::debug!("session {client} asked for");
        if let Some(text) = self.lacking(&client) {
            log::warn!("{} was refused: {text}", client.peer);
            self.history.denials += 1;
            self.leaving.insert(id);
            let _ = events.try_send(SessionEvent::Denied(DenyReason::Full, text.into()));
            return self.changed();
        }
        let open = Open {
            client,
            events,
            written: None,
            granted: false,
            revoked: false,
        };
        self.sessions.insert(id, open);
        self.changed();
        self.input(Input::Opened(id));
    }

    fn gone(&mut self, id: SessionId) {
        self.leaving.remove(&id);
        if let Some(open) = self.sessions.remove(&id) {
            let (level, ended, text) = match (open.granted, open.revoked) {
                (false, _) => (Level::Info, Ended::Gone, "given up before it was granted"),
                (true, true) => (Level::Info, Ended::Revoked, "ended, as it was told to"),
                (true, false) => (Level::Warn, Ended::Gone, "ended without a close"),
            };
            self.record(&open, level, ended, text);
        }
        self.input(Input::Disconnected(id));
    }

    fn done(&mut self, report: Report) {
        log::debug!("{:?} after {:?}", report.outcome, report.took);
        self.log_remount(&report.outcome, report.took);
        self.seen.counts = report.counts;
        self.seen.space = report.space;
        if let Some(facts) = report.facts {
            self.seen.facts = facts;
        }
        if let Some(device) = report.data_device {
            self.seen.data_device = device;
        }
        if let Some(holders) = report.holders {
            self.name_holders(holders);
        }
        self.input(Input::Done(report.outcome));
    }

    fn input(&mut self, input: Input) {
        let effects = self.arbiter.input(input, Moment(self.start.elapsed()));
        self.carry_out(effects);
        self.log_state();
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start(job) => {
                    if self.jobs.send(job).is_err() {
                        log::error!("the worker is gone");
                        self.exit(false);
                    }
                }
                Effect::Grant(id) => self.grant(id),
                Effect::Deny(id, reason, text) => self.deny(id, reason, text),
                Effect::Revoke(id, reason, text) => self.revoke(id, reason, text),
                Effect::Closed(id, result, text) => self.closed(id, result, text),
                Effect::Disconnect(id) => {
                    let text = "cut: it was revoked and did not end";
                    self.end(id, Level::Warn, Ended::Cut, text, None);
                }
                Effect::SetTimer(at) => self.alarm = at.map(|at| self.start + at.0),
                Effect::Exit { clean } => self.exit(clean),
            }
        }
    }

    fn exit(&mut self, clean: bool) {
        if !clean {
            log::error!("exiting, and the storage is still writable");
        }
        self.clean = Some(clean);
        self.alarm = Some(Instant::now() + LAST_ANSWERS);
    }

    fn grant(&mut self, id: SessionId) {
        let Some(open) = self.sessions.get(&id) else {
            return;
        };
        // Judged again: another storage may have been mounted since the opening.
        if let Some(text) = self.lacking(&open.client) {
            return self.deny(id, DenyReason::Full, text.into());
        }
        if let Some(open) = self.sessions.get_mut(&id) {
            log::info!("session {} opened", open.client);
            (open.granted, open.written) = (true, self.seen.counts.written);
            let _ = open
                .events
                .try_send(SessionEvent::Granted(self.seen.data_device));
        }
        self.history.granted += 1;
        self.changed();
    }

    fn deny(&mut self, id: SessionId, reason: DenyReason, text: Text) {
        self.history.denials += 1;
        let line = format!("denied: {text}");
        let last = SessionEvent::Denied(reason, text);
        self.end(id, Level::Warn, Ended::Denied, &line, Some(last));
    }

    fn revoke(&mut self, id: SessionId, reason: RevokeReason, text: Text) {
        if let Some(open) = self.sessions.get_mut(&id) {
            log::warn!("session {} revoked: {text}", open.client);
            open.revoked = true;
            let _ = open.events.try_send(SessionEvent::Revoked(reason, text));
            self.changed();
        }
    }

    fn closed(&mut self, id: SessionId, result: CloseResult, text: Text) {
        let revoked = self.sessions.get(&id).is_some_and(|open| open.revoked);
        let (level, ended, line) = match result {
            CloseResult::Failed => {
                let line = format!("closed, its data may be lost: {text}");
                (Level::Error, Ended::Failed, line)
            }
            CloseResult::Durable if revoked => (
                Level::Info,
                Ended::Revoked,
                "closed, as it was told to".into(),
            ),
            CloseResult::Durable => (Level::Info, Ended::Durable, "closed".into()),
        };
        self.end(
            id,
            level,
            ended,
            &line,
            Some(SessionEvent::Closed(result, text)),
        );
    }

    /// Ends a session with its last word, if it has one.
    fn end(
        &mut self,
        id: SessionId,
        level: Level,
        ended: Ended,
        line: &str,
        last: Option<SessionEvent>,
    ) {
        if let Some(open) = self.sessions.remove(&id) {
            self.record(&open, level, ended, line);
            if let Some(last) = last {
                let _ = open.events.try_send(last);
                self.leaving.insert(id);
            }
        }
    }

    /// A session is over: it is logged, and remembered.
    fn record(&mut self, open: &Open, level: Level, ended: Ended, text: &str) {
        let past = Past::new(&open.client, ended, open.written, self.seen.counts.written);
        let written = past
            .written
            .map_or(String::new(), |n| format!(", {} written", Bytes(n)));
        log::log!(
            level,
            "session {} {text} (after {}{written})",
            open.client,
            Span(past.lasted)
        );
        self.history.add(past);
        self.changed();
    }

    fn lacking(&self, client: &Client) -> Option<String> {
        let space = self.seen.space?;
        space::lacking(client.need, client.peer, space, &self.settings.mount)
    }

    /// Says which sessions were perhaps forgotten: once each.
    fn remind(&mut self) {
        let now = Instant::now();
        let later = self.sessions.range(SessionId(self.reminded.0 + 1)..);
        let overdue = later.take_while(|(_, open)| now - open.client.opened >= FORGOTTEN);
        let mut last = None;
        for (id, open) in overdue {
            log::warn!(
                "session {} is open for more than an hour: was it forgotten?",
                open.client
            );
            last = Some(*id);
        }
        if let Some(last) = last {
            self.reminded = last;
            self.changed();
        }
    }

    fn status(&mut self, fresh: bool) -> Arc<Status> {
        let kept = self.status.as_ref().filter(|kept| {
            let same = kept.generation == self.generation;
            kept.at.elapsed() < WATCH_EVERY && (same || !fresh)
        });
        if let Some(kept) = kept {
            return kept.clone();
        }
        let sessions = self.sessions.iter().map(|(id, open)| {
            let phase = self.arbiter.phase(*id).unwrap_or(Phase::Closing);
            (open.client.clone(), phase)
        });
        let status = Arc::new(Status::new(
            self.generation,
            &self.settings,
            self.start,
            &self.arbiter,
            &self.seen,
            &self.history,
            sessions.collect(),
        ));
        self.status = Some(status.clone());
        status
    }

    fn changed(&mut self) {
        self.generation += 1;
        self.waiting.clear(); // a reply that is dropped tells it, too
    }

    /// Logs the storage's state, and tells it the service manager, where it is news.
    fn log_state(&mut self) {
        let state = self.arbiter.state();
        if !self.arbiter.stuck() {
            self.seen.holders = Arc::default();
        }
        if self.history.state_is(&self.arbiter) {
            self.changed();
        }
        let settled = self.arbiter.settled();
        let passing = matches!(state, State::GoingRo | State::GoingRw);
        let remounted = !passing && std::mem::take(&mut self.remounted);
        if !passing && (self.starting.is_none() || settled) && self.logged != Some(state) {
            let before = self.logged.replace(state);
            let reason = self
                .arbiter
                .reason()
                .map_or(String::new(), |text| format!(": {text}"));
            let level = match state {
                State::Failed => Level::Error,
                State::Absent | State::Unprepared | State::Stuck => Level::Warn,
                State::ReadOnly | State::ReadWrite if remounted => Level::Debug,
                _ => Level::Info,
            };
            let text = format!("storage is {}{reason}", state.as_str());
            log::log!(level, "{text}");
            // Not of each remount: PID 1 passes each STATUS on to the whole bus.
            match (is_well(state), before.is_some_and(is_well)) {
                (true, true) => {}
                (true, false) => {
                    self.notify_manager("STATUS=storage is read-only, or writable for sessions")
                }
                (false, _) => self.notify_manager(&format!("STATUS={text}")),
            }
        }
        if settled && self.starting.take().is_some() {
            self.notify_manager("READY=1");
            self.changed();
        }
    }

    fn log_remount(&mut self, outcome: &Outcome, took: Duration) {
        match outcome {
            Outcome::MadeWritable(seen) if seen.health == Health::Ready => {
                log::info!("storage made writable in {took:.1?}");
            }
            Outcome::MadeReadOnly { remount, sync } if *remount == Remount::Done => {
                let synced = match sync {
                    Ok(()) => "its data on the medium",
                    Err(_) => "its data perhaps lost",
                };
                log::info!("storage made read-only in {took:.1?}, {synced}");
            }
            _ => return,
        }
        self.remounted = true;
    }

    fn name_holders(&mut self, holders: Vec<Holder>) {
        if *self.seen.holders == *holders {
            return;
        }
        for holder in &holders {
            let (command, path) = (escape(&holder.command), escape(&holder.path));
            match holder.kind {
                HolderKind::Process => log::warn!(
                    "kept from read-only by pid {} of user {}, `{command}`: {path}",
                    holder.pid,
                    holder.uid
                ),
                HolderKind::Loop => log::warn!("kept from read-only by {command}: {path}"),
                HolderKind::Swap => log::warn!("kept from read-only by a swap file: {path}"),
                HolderKind::Unknown => log::warn!("kept from read-only; {path}"),
            }
        }
        self.seen.holders = holders.into();
        self.changed();
    }

    fn notify_manager(&self, state: &str) {
        if let Err(error) = self.manager.tell(state) {
            log::warn!("cannot tell the service manager '{state}': {error}");
        }
    }
}

fn is_well(state: State) -> bool {
    matches!(state, State::ReadOnly | State::ReadWrite)
}
