//! The task that owns the daemon's state: sessions, history, the storage's last report and the arbiter. Other tasks and
//! threads send it [`Request`]s. It passes inputs to the arbiter, which decides, and carries out the effects.

mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, Weak, mpsc};
use std::time::Instant;

use async_io::Timer;
use rustix::process::{Signal, getpid, kill_process};
use smol::channel::{Receiver, Sender};
use smol::future::or;

use self::status::describe_ended;
use super::arbiter::{
    Arbiter, CloseResult, DenyReason, Effect, Input, Job, Moment, RevokeReason, SessionId, State,
};
use super::context::Context;
use super::handle::{JobReport, OpenSession, Request, StatusSnapshot};
use super::history::History;
use super::log::{LogLimit, Subject, log_end, log_holders, log_remount, log_state};
use super::timeouts::{FORGOTTEN, LAST_ANSWERS};
use crate::escape::escape;
use crate::storage::StorageReport;
use crate::sys::current;
use crate::systemd::ServiceManager;
use crate::wire::{DaemonMessage, HolderStatus, SessionOutcome, VERSION};

pub(super) struct Controller {
    context: Rc<Context>,
    jobs: mpsc::Sender<Job>,
    manager: ServiceManager,
    start: Instant,
    arbiter: Arbiter,
    sessions: BTreeMap<SessionId, OpenSession>,
    /// Sessions that got their last answer but are still connected.
    leaving: BTreeSet<SessionId>,
    history: History,
    report: StorageReport,
    holders: Vec<HolderStatus>,
    snapshot: Option<Arc<StatusSnapshot>>,
    /// Clients that wait for the search for holders.
    after_search: Vec<Sender<Arc<StatusSnapshot>>>,
    /// Earlier snapshots that may still be on their way to clients.
    old_snapshots: Vec<Weak<StatusSnapshot>>,
    /// Dropped when the snapshot becomes outdated.
    at_change: Option<Sender<()>>,
    /// Expires when the arbiter wants a tick.
    timer: Timer,
    /// Set when the arbiter is done: whether the storage is read-only or absent.
    exit: Option<bool>,
    /// The state that was logged last.
    logged: Option<State>,
    log_limit: LogLimit,
    /// Dropped after the first inspection.
    starting: Option<Sender<()>>,
}

impl Controller {
    pub(super) fn new(
        context: Rc<Context>,
        jobs: mpsc::Sender<Job>,
        manager: ServiceManager,
        starting: Sender<()>,
    ) -> Controller {
        let (arbiter, effects) = Arbiter::new(context.config.kill_grace);
        let start = Instant::now();
        let mut controller = Controller {
            context,
            jobs,
            manager,
            start,
            history: History::new(&arbiter, start),
            arbiter,
            sessions: BTreeMap::new(),
            leaving: BTreeSet::new(),
            report: StorageReport::default(),
            holders: Vec::new(),
            snapshot: None,
            after_search: Vec::new(),
            old_snapshots: Vec::new(),
            at_change: None,
            timer: Timer::never(),
            exit: None,
            logged: None,
            log_limit: LogLimit::new(start),
            starting: Some(starting),
        };
        controller.carry_out(effects);
        controller
    }

    /// Serves requests until the arbiter is done and all answers are sent. Returns whether the storage is
    /// read-only or absent.
    pub(super) async fn run(mut self, requests: Receiver<Request>) -> bool {
        loop {
            if let Some(clean) = self.exit.filter(|_| self.leaving.is_empty()) {
                return clean;
            }
            let request = async { requests.recv().await.ok() };
            let tick = async {
                (&mut self.timer).await;
                None
            };
            match (or(request, tick).await, self.exit) {
                (Some(request), _) => self.handle(request),
                (None, Some(clean)) => return clean, // some clients did not read their answer
                (None, None) => {
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
            Request::Disconnected(id) => {
                self.leaving.remove(&id);
                let outcome = self.outcome(id, SessionOutcome::Gone);
                self.end(id, outcome, "");
                self.input(Input::Disconnected(id));
            }
            Request::TurnedAway => {
                self.history.denials += 1;
                self.changed();
            }
            Request::Warn { uid, line } => {
                if self.log_limit.allows(Subject::user(uid), Instant::now()) {
                    log::warn!("{line}");
                }
            }
            Request::TrimMemory => {
                // The last document may describe all of their sessions.
                self.snapshot
                    .take_if(|last| Arc::strong_count(last) == 1 && last.outdated.is_closed());
                current::trim_memory();
            }
            Request::Status {
                searched: true,
                reply,
                ..
            } if self.search_expected() => {
                self.after_search.retain(|reply| !reply.is_closed());
                self.after_search.push(reply);
            }
            Request::Status { fresh, reply, .. } => {
                let _ = reply.try_send(self.status(fresh));
            }
            Request::Done(report) => self.done(*report),
            Request::Recheck => self.input(Input::Recheck),
            Request::WriterClosed => self.input(Input::WriterClosed),
            Request::Watchdog => self.manager.notify("WATCHDOG=1"),
            Request::Stop => {
                self.manager.notify("STOPPING=1");
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

    fn done(&mut self, report: JobReport) {
        log::debug!("{:?} after {:?}", report.outcome, report.took);
        log_remount(&mut self.log_limit, &report.outcome, report.took);
        let lost_before = self.report.lost_preparation;
        self.report = report.storage;
        if self.report.lost_preparation && !lost_before && self.context.activated {
            restart(&self.context.mount);
        }
        if let Some(holders) = report.holders {
            if self.holders != holders {
                log_holders(&holders);
                self.holders = holders;
                self.changed();
            }
        }
        self.input(Input::Done(report.outcome));
    }

    fn input(&mut self, input: Input) {
        let effects = self.arbiter.input(input, Moment(self.start.elapsed()));
        self.carry_out(effects);
        self.record_state();
        if !self.after_search.is_empty() && !self.search_expected() {
            let snapshot = self.status(true);
            for reply in std::mem::take(&mut self.after_search) {
                let _ = reply.try_send(snapshot.clone());
            }
        }
    }

    /// Whether a search will soon name the first holders.
    fn search_expected(&self) -> bool {
        self.holders.is_empty() && self.arbiter.search_expected()
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
                Effect::Deny(id, reason, text) => self.deny(id, reason, text.to_string()),
                Effect::Revoke(id, reason, text) => self.revoke(id, reason, text.to_string()),
                Effect::Closed(id, result, text) => self.closed(id, result, text.to_string()),
                // Dropping the session ends the connection.
                Effect::Disconnect(id) => drop(self.end(id, SessionOutcome::Cut, "")),
                Effect::SetTimer(None) => self.timer = Timer::never(),
                Effect::SetTimer(Some(at)) => self.timer.set_at(self.start + at.0),
                Effect::Exit { clean } => self.exit(clean),
            }
        }
    }

    fn exit(&mut self, clean: bool) {
        if !clean {
            log::error!("exiting, and the storage is still writable");
        }
        self.log_limit.log_left_out();
        self.exit = Some(clean);
        self.timer.set_at(Instant::now() + LAST_ANSWERS);
    }

    fn grant(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            let subject = Subject::user(session.peer.uid);
            if self.log_limit.allows(subject, Instant::now()) {
                log::info!("session {session} opened");
            }
            session.written_before = self.report.written;
            let kill_grace = self.context.config.kill_grace;
            session.answer(DaemonMessage::Granted {
                version: VERSION,
                data: self.context.data.clone(),
                device: self.report.data_device,
                kill_grace_ms: u32::try_from(kill_grace.as_millis()).unwrap_or(u32::MAX),
            });
        }
        self.history.granted += 1;
        self.changed();
    }

    fn deny(&mut self, id: SessionId, reason: DenyReason, text: String) {
        self.history.denials += 1;
        if let Some(session) = self.end(id, SessionOutcome::Denied, &text) {
            self.leaving.insert(id);
            session.answer(DaemonMessage::Denied {
                version: VERSION,
                reason,
                text,
            });
        }
    }

    fn revoke(&mut self, id: SessionId, reason: RevokeReason, text: String) {
        if let Some(session) = self.sessions.get_mut(&id) {
            log::warn!("session {session} revoked: {text}");
            session.revoked = true;
            session.answer(DaemonMessage::Revoked { reason, text });
            self.changed();
        }
    }

    fn closed(&mut self, id: SessionId, result: CloseResult, text: String) {
        let outcome = match result {
            CloseResult::Durable => self.outcome(id, SessionOutcome::Durable),
            CloseResult::Failed => SessionOutcome::Failed,
        };
        if let Some(session) = self.end(id, outcome, &text) {
            self.leaving.insert(id);
            let stays = "the storage stays writable, see `pst status`";
            let text = match (self.arbiter.stuck(), text.is_empty()) {
                (true, true) => stays.to_owned(),
                (true, false) => format!("{text}; {stays}"),
                (false, _) => text,
            };
            session.answer(DaemonMessage::Closed { result, text });
        }
    }

    /// Returns `otherwise`, unless the session was revoked.
    fn outcome(&self, id: SessionId, otherwise: SessionOutcome) -> SessionOutcome {
        match self.sessions.get(&id) {
            Some(session) if session.revoked => SessionOutcome::Revoked,
            _ => otherwise,
        }
    }

    /// Removes a session, and records and logs its end. `text` is the reason, if the outcome needs one.
    fn end(&mut self, id: SessionId, outcome: SessionOutcome, text: &str) -> Option<OpenSession> {
        let session = self.sessions.remove(&id)?;
        let ended = describe_ended(&session, outcome, self.report.written);
        log_end(&mut self.log_limit, &session, &ended, text);
        self.history.record_end(ended);
        self.changed();
        Some(session)
    }

    /// Logs a reminder, once for each session that may have been forgotten.
    fn remind(&mut self) {
        let sessions = self.sessions.values_mut(); // the oldest first
        let forgotten = sessions.take_while(|session| session.opened.elapsed() >= FORGOTTEN);
        for session in forgotten.filter(|session| !session.reminded) {
            log::warn!("session {session} is open for more than an hour: was it forgotten?");
            session.reminded = true;
        }
    }

    fn changed(&mut self) {
        self.at_change = None;
    }

    /// Records the state. If it is new, logs it and reports it to the service manager.
    fn record_state(&mut self) {
        if !self.arbiter.stuck() && !self.holders.is_empty() {
            self.holders.clear();
            self.changed(); // the state may still be the same: failed
        }
        if self.history.record_state(&self.arbiter) {
            self.changed();
        }
        if self.starting.is_some() && !self.arbiter.settled() {
            return;
        }
        if let Some(status) = log_state(&mut self.logged, &self.arbiter) {
            self.manager.notify(&format!("STATUS={status}"));
        }
        if self.starting.take().is_some() {
            self.manager.notify("READY=1");
        }
    }
}

/// Stops this daemon, so that the service manager starts another one, and prepares the mount before.
fn restart(mount: &[u8]) {
    let mount = escape(mount);
    log::warn!("the mount on {mount} is read-only again: restarting, so that `pst prepare` runs");
    if let Err(error) = kill_process(getpid(), Signal::TERM) {
        log::error!("cannot restart: {error}; run `pst prepare` as root");
    }
}
