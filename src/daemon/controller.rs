//! The task that owns the daemon's state: sessions, history, the storage's last report and the arbiter. The other
//! tasks and threads send it [`Request`]s. It feeds the arbiter, which decides, and carries out the effects.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::rc::Rc;
use std::sync::{Arc, Weak, mpsc};
use std::time::Instant;

use async_io::Timer;
use log::Level;
use smol::channel::{Receiver, Sender};
use smol::future::or;

use super::arbiter::{
    Arbiter, CloseResult, DenyReason, Effect, Input, Job, Moment, Phase, RevokeReason, SessionId,
    Text,
};
use super::context::Settings;
use super::handle::{OpenSession, Request, SessionEvent};
use super::history::History;
use super::log::{StateLog, log_holders};
use super::status::{StatusSnapshot, describe};
use super::timeouts::{FORGOTTEN, LAST_ANSWERS, STATUS_INTERVAL};
use super::worker::JobReport;
use crate::storage::StorageReport;
use crate::systemd::ServiceManager;
use crate::units::{HumanBytes, HumanDuration};
use crate::wire::{HolderStatus, SessionOutcome};

/// Bytes of older snapshots that may still be on their way to slow clients when a new one is made. Beyond that,
/// clients get the last snapshot again, so that clients that do not read cannot use up the memory.
const SNAPSHOTS_MAX: usize = 2 << 20;

pub(super) struct Controller {
    settings: Rc<Settings>,
    jobs: mpsc::Sender<Job>,
    manager: ServiceManager,
    start: Instant,
    arbiter: Arbiter,
    sessions: BTreeMap<SessionId, OpenSession>,
    /// They got their last event, but are still connected.
    leaving: BTreeSet<SessionId>,
    /// The newest session that was checked for being forgotten.
    reminded: SessionId,
    history: History,
    report: StorageReport,
    holders: Vec<HolderStatus>,
    /// Counts the changes of what a status shows.
    generation: u64,
    /// Dropped at the next change.
    awaiting_change: Vec<Sender<()>>,
    snapshot: Option<Arc<StatusSnapshot>>,
    /// Earlier snapshots, as long as a client is being sent one.
    old_snapshots: Vec<Weak<StatusSnapshot>>,
    /// When the arbiter wants a tick.
    timer: Option<Instant>,
    /// Set when the arbiter is done: whether the storage is left as it should be.
    exit: Option<bool>,
    state_log: StateLog,
    /// Dropped after the first inspection.
    starting: Option<Sender<()>>,
}

impl Controller {
    pub(super) fn new(
        settings: Rc<Settings>,
        jobs: mpsc::Sender<Job>,
        manager: ServiceManager,
        starting: Sender<()>,
    ) -> Controller {
        let (arbiter, effects) = Arbiter::new(settings.kill_grace);
        let start = Instant::now();
        let mut controller = Controller {
            settings,
            jobs,
            manager,
            start,
            history: History::new(&arbiter, start),
            arbiter,
            sessions: BTreeMap::new(),
            leaving: BTreeSet::new(),
            reminded: SessionId(0),
            report: StorageReport::default(),
            holders: Vec::new(),
            generation: 0,
            awaiting_change: Vec::new(),
            snapshot: None,
            old_snapshots: Vec::new(),
            timer: None,
            exit: None,
            state_log: StateLog::default(),
            starting: Some(starting),
        };
        controller.carry_out(effects);
        controller
    }

    /// Serves requests until the arbiter is done and all answers are sent. Returns whether the storage is left as it
    /// should be.
    pub(super) async fn run(mut self, requests: Receiver<Request>) -> bool {
        let (mut set_to, mut timer) = (None, None);
        loop {
            if let Some(clean) = self.exit.filter(|_| self.leaving.is_empty()) {
                return clean;
            }
            if set_to != self.timer {
                set_to = self.timer;
                timer = set_to.map(Timer::at);
            }
            let tick = async {
                match &mut timer {
                    Some(timer) => timer.await,
                    None => pending().await,
                };
                None
            };
            match or(async { requests.recv().await.ok() }, tick).await {
                Some(request) => self.handle(request),
                None if self.exit.is_some() => return self.exit == Some(true), // some did not take their answer
                None => {
                    (set_to, self.timer) = (None, None);
                    self.input(Input::Tick);
                    self.remind();
                }
            }
        }
    }

    fn handle(&mut self, request: Request) {
        match request {
            Request::Open(session) => self.open(session),
            Request::Close(id) => {
                self.input(Input::Close(id));
                self.changed();
            }
            Request::Disconnected(id) => self.disconnected(id),
            Request::TurnedAway => {
                self.history.denials += 1;
                self.changed();
            }
            Request::Status { fresh, reply } => {
                let _ = reply.try_send(self.status(fresh));
            }
            Request::AwaitChange { generation, reply } => self.await_change(generation, reply),
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

    fn open(&mut self, session: OpenSession) {
        log::debug!("session {session} asked for");
        let id = session.id;
        self.sessions.insert(id, session);
        self.changed();
        self.input(Input::Opened(id));
    }

    fn disconnected(&mut self, id: SessionId) {
        self.leaving.remove(&id);
        if let Some(session) = self.sessions.remove(&id) {
            let waiting = self.arbiter.phase(id) == Some(Phase::Waiting);
            let (level, outcome, text) = match (waiting, session.revoked) {
                (true, _) => (
                    Level::Info,
                    SessionOutcome::Gone,
                    "given up before it was granted",
                ),
                (false, true) => (
                    Level::Info,
                    SessionOutcome::Revoked,
                    "ended after it was revoked",
                ),
                (false, false) => (Level::Warn, SessionOutcome::Gone, "ended without a close"),
            };
            self.record_end(&session, level, outcome, text);
        }
        self.input(Input::Disconnected(id));
    }

    fn done(&mut self, report: JobReport) {
        log::debug!("{:?} after {:?}", report.outcome, report.took);
        self.state_log.log_remount(&report.outcome, report.took);
        self.report = report.storage;
        if let Some(holders) = report.holders {
            self.name_holders(holders);
        }
        self.input(Input::Done(report.outcome));
    }

    fn input(&mut self, input: Input) {
        let effects = self.arbiter.input(input, Moment(self.start.elapsed()));
        self.carry_out(effects);
        self.record_state();
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start(job) => {
                    if self.jobs.send(job).is_err() {
                        log::error!("the worker thread ended");
                        self.exit(false);
                    }
                }
                Effect::Grant(id) => self.grant(id),
                Effect::Deny(id, reason, text) => self.deny(id, reason, text),
                Effect::Revoke(id, reason, text) => self.revoke(id, reason, text),
                Effect::Closed(id, result, text) => self.closed(id, result, text),
                Effect::Disconnect(id) => self.disconnect(id),
                Effect::SetTimer(at) => self.timer = at.map(|at| self.start + at.0),
                Effect::Exit { clean } => self.exit(clean),
            }
        }
    }

    fn exit(&mut self, clean: bool) {
        if !clean {
            log::error!("exiting, and the storage is still writable");
        }
        self.exit = Some(clean);
        self.timer = Some(Instant::now() + LAST_ANSWERS);
    }

    fn grant(&mut self, id: SessionId) {
        let device = self.report.data_device;
        if let Some(session) = self.sessions.get_mut(&id) {
            log::info!("session {session} opened");
            session.written_before = self.report.written;
            let _ = session.events.try_send(SessionEvent::Granted { device });
        }
        self.history.granted += 1;
        self.changed();
    }

    fn deny(&mut self, id: SessionId, reason: DenyReason, text: Text) {
        self.history.denials += 1;
        let line = format!("denied: {text}");
        self.end(
            id,
            Level::Warn,
            SessionOutcome::Denied,
            &line,
            SessionEvent::Denied(reason, text),
        );
    }

    fn revoke(&mut self, id: SessionId, reason: RevokeReason, text: Text) {
        if let Some(session) = self.sessions.get_mut(&id) {
            log::warn!("session {session} revoked: {text}");
            session.revoked = true;
            let _ = session.events.try_send(SessionEvent::Revoked(reason, text));
            self.changed();
        }
    }

    fn closed(&mut self, id: SessionId, result: CloseResult, text: Text) {
        let revoked = self
            .sessions
            .get(&id)
            .is_some_and(|session| session.revoked);
        let (level, outcome, line) = match result {
            CloseResult::Failed => {
                let line = format!("closed, its data may be lost: {text}");
                (Level::Error, SessionOutcome::Failed, line)
            }
            CloseResult::Durable if revoked => {
                let line = "closed after it was revoked".into();
                (Level::Info, SessionOutcome::Revoked, line)
            }
            CloseResult::Durable => (Level::Info, SessionOutcome::Durable, "closed".into()),
        };
        self.end(
            id,
            level,
            outcome,
            &line,
            SessionEvent::Closed(result, text),
        );
    }

    /// Ends a session with its last event.
    fn end(
        &mut self,
        id: SessionId,
        level: Level,
        outcome: SessionOutcome,
        line: &str,
        last: SessionEvent,
    ) {
        if let Some(session) = self.sessions.remove(&id) {
            self.record_end(&session, level, outcome, line);
            let _ = session.events.try_send(last);
            self.leaving.insert(id);
        }
    }

    /// Drops the session, which ends the connection.
    fn disconnect(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(&id) {
            let line = "disconnected: it was revoked and did not end";
            self.record_end(&session, Level::Warn, SessionOutcome::Cut, line);
        }
    }

    fn record_end(
        &mut self,
        session: &OpenSession,
        level: Level,
        outcome: SessionOutcome,
        line: &str,
    ) {
        let ended = self
            .history
            .record_end(session, outcome, self.report.written);
        let written = ended
            .written
            .map_or(String::new(), |n| format!(", {} written", HumanBytes(n)));
        let lasted = HumanDuration(session.opened.elapsed());
        log::log!(level, "session {session} {line} (after {lasted}{written})");
        self.changed();
    }

    /// Logs once for each session that was perhaps forgotten.
    fn remind(&mut self) {
        let now = Instant::now();
        let later = self.sessions.range(SessionId(self.reminded.0 + 1)..);
        let forgotten = later.take_while(|(_, session)| now - session.opened >= FORGOTTEN);
        let mut last = self.reminded;
        for (id, session) in forgotten {
            log::warn!("session {session} is open for more than an hour: was it forgotten?");
            last = *id;
        }
        self.reminded = last;
    }

    /// Returns the last snapshot if it is recent, else a new one.
    fn status(&mut self, fresh: bool) -> Arc<StatusSnapshot> {
        let too_much_unsent = self.unsent_bytes() > SNAPSHOTS_MAX;
        if let Some(last) = &self.snapshot {
            let same = last.generation == self.generation;
            let recent = last.created.elapsed() < STATUS_INTERVAL && (same || !fresh);
            if recent || too_much_unsent {
                return last.clone();
            }
        }
        let document = describe(
            &self.settings,
            self.start,
            &self.arbiter,
            &self.history,
            &self.report,
            &self.holders,
            self.sessions.iter(),
        );
        let snapshot = StatusSnapshot::new(self.generation, &self.arbiter, &document);
        let snapshot = Arc::new(snapshot);
        if let Some(last) = self.snapshot.replace(snapshot.clone()) {
            self.old_snapshots.push(Arc::downgrade(&last));
        }
        snapshot
    }

    /// Returns the size of the earlier snapshots that are still being sent.
    fn unsent_bytes(&mut self) -> usize {
        self.old_snapshots.retain(|old| old.strong_count() > 0);
        let sizes = self.old_snapshots.iter().filter_map(Weak::upgrade);
        sizes.map(|old| old.bytes.len()).sum()
    }

    fn await_change(&mut self, generation: u64, reply: Sender<()>) {
        if self.generation == generation {
            if self.awaiting_change.len() > 2 * self.settings.limit {
                self.awaiting_change.retain(|other| !other.is_closed());
            }
            self.awaiting_change.push(reply);
        }
    }

    fn changed(&mut self) {
        self.generation += 1;
        self.awaiting_change.clear();
    }

    /// Records the state where it is news, logs it and reports it to the service manager.
    fn record_state(&mut self) {
        if !self.arbiter.stuck() {
            self.holders.clear();
        }
        if self.history.record_state(&self.arbiter) {
            self.changed();
        }
        let settled = self.arbiter.settled();
        if self.starting.is_none() || settled {
            if let Some(status) = self.state_log.update(&self.arbiter) {
                self.notify_manager(&format!("STATUS={status}"));
            }
        }
        if settled && self.starting.take().is_some() {
            self.notify_manager("READY=1");
            self.changed();
        }
    }

    fn name_holders(&mut self, holders: Vec<HolderStatus>) {
        if self.holders != holders {
            log_holders(&holders);
            self.holders = holders;
            self.changed();
        }
    }

    fn notify_manager(&self, state: &str) {
        self.manager.notify(state);
    }
}
