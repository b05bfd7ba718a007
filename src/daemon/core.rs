//! The executor thread's hub: feeds the arbiter, carries out what it says, and keeps what the
//! outside may be told. It decides nothing itself.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::arbiter::{Arbiter, Effect, Input, Job, Moment, Phase, SessionId, State};
use super::seat::{Notice, Seat};
use super::tell_systemd;
use super::timer::Timer;
use super::times::LAST_ANSWERS;
use super::worker::Report;
use crate::config::{Config, Place};
use crate::escape::escape;
use crate::storage::Facts;
use crate::storage::holders::{Holder, HolderKind};
use crate::sys::file;
use crate::sys::socket::Peer;
use crate::wire::{DaemonMessage, VERSION};

/// See the module's text.
#[derive(Debug)]
pub struct Core {
    start: Instant,
    arbiter: RefCell<Arbiter>,
    jobs: mpsc::Sender<Job>,
    /// Sessions that the arbiter knows.
    seats: RefCell<BTreeMap<SessionId, Rc<Seat>>>,
    last_id: Cell<u64>,
    stopping: Cell<bool>,
    alarm: Alarm,
    ending: Ending,
    /// What was last told as the state.
    told: Cell<Option<State>>,
    ready: Cell<bool>,
    facts: RefCell<Facts>,
    holders: RefCell<Vec<Holder>>,
    data_device: Cell<u64>,
    mount: PathBuf,
    data: PathBuf,
    kill_grace: Duration,
    /// Connections that may be open, and the access group.
    pub limit: usize,
    /// The access group's number and name.
    pub access: (u32, String),
    /// What kvmd's API needs besides.
    #[cfg(feature = "kvmd-api")]
    pub api: super::kvmd::Api,
}

/// The moment that the arbiter wants to be called at.
#[derive(Debug, Default)]
struct Alarm {
    at: Cell<Option<Moment>>,
    changed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// The way to the exit.
#[derive(Debug, Default)]
pub struct Ending {
    clean: Cell<Option<bool>>,
    /// Answers that are not written yet.
    unsent: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

impl Core {
    /// Starts the arbiter, and with it the first look.
    pub fn new(
        config: &Config,
        place: &Place,
        access: u32,
        start: Instant,
        jobs: mpsc::Sender<Job>,
    ) -> Rc<Core> {
        let (arbiter, effects) = Arbiter::new(config.session.kill_grace);
        let core = Rc::new(Core {
            start,
            arbiter: RefCell::new(arbiter),
            jobs,
            seats: RefCell::default(),
            last_id: Cell::new(0),
            stopping: Cell::new(false),
            alarm: Alarm::default(),
            ending: Ending::default(),
            told: Cell::new(None),
            ready: Cell::new(false),
            facts: RefCell::default(),
            holders: RefCell::default(),
            data_device: Cell::new(0),
            mount: place.mount.clone(),
            data: place.root.join(&place.data).components().collect(), // no slash at the end
            kill_grace: config.session.kill_grace,
            limit: config.session.limit,
            access: (access, config.group.clone()),
            #[cfg(feature = "kvmd-api")]
            api: super::kvmd::Api::new(&place.root.join(&config.kvmd_api.path)),
        });
        core.carry_out(effects);
        core
    }

    /// Feeds the arbiter and carries out what it says.
    pub fn input(&self, input: Input) {
        let now = Moment(self.start.elapsed());
        let effects = self.arbiter.borrow_mut().input(input, now);
        self.carry_out(effects);
        self.tell_state();
    }

    /// Takes the worker's report.
    pub fn done(&self, report: Report) {
        log::debug!("{:?} after {:?}", report.outcome, report.took);
        if let Some(facts) = report.facts {
            self.facts.replace(facts);
        }
        if let Some(device) = report.data_device {
            self.data_device.set(device);
        }
        if let Some(holders) = report.holders {
            self.name_holders(holders);
        }
        self.input(Input::Done(report.outcome));
    }

    /// Begins the end.
    pub fn stop(&self) {
        self.stopping.set(true);
        tell_systemd("STOPPING=1");
        self.input(Input::Stop);
    }

    /// Whether the daemon is on its way out.
    pub fn stopping(&self) -> bool {
        self.stopping.get()
    }

    /// A number for the next session.
    pub fn next_id(&self) -> SessionId {
        self.last_id.set(self.last_id.get() + 1);
        SessionId(self.last_id.get())
    }

    /// Opens a session for an admitted client.
    pub fn open(&self, seat: Rc<Seat>) {
        let id = seat.id;
        log::info!(
            "session {id} asked for by {}: {}",
            seat.peer,
            seat.command()
        );
        self.seats.borrow_mut().insert(id, seat);
        self.seats_changed();
        self.input(Input::Opened(id));
    }

    /// Its connection is over.
    pub fn gone(&self, id: SessionId) {
        if self.unseat(id).is_some() {
            log::info!("session {id} ended");
        }
        self.input(Input::Gone(id));
    }

    fn carry_out(&self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start(job) => {
                    if self.jobs.send(job).is_err() {
                        log::error!("the worker is gone");
                        self.ending.end(false);
                    }
                }
                Effect::Grant(id) => {
                    log::debug!("session {id} granted");
                    let device = self.data_device.get();
                    self.say(id, Notice::Granted { device });
                }
                Effect::Deny(id, reason, text) => {
                    log::warn!("session {id} denied: {text}");
                    self.say_last(id, Notice::Denied(reason, text));
                }
                Effect::Revoke(id, reason, text) => {
                    log::warn!("session {id} revoked: {text}");
                    self.say(id, Notice::Revoked(reason, text));
                }
                Effect::Closed(id, result, text) => {
                    if !text.is_empty() {
                        log::error!("session {id} closed, its data may be lost: {text}");
                    }
                    log::info!("session {id} closed");
                    self.say_last(id, Notice::Closed(result, text));
                }
                Effect::Cut(id) => {
                    log::warn!("session {id} did not end after it was revoked: cut");
                    if let Some(seat) = self.unseat(id) {
                        seat.cut();
                    }
                }
                Effect::Arm(at) => self.alarm.set(at),
                Effect::Exit { clean } => self.ending.end(clean),
            }
        }
    }

    /// A grant, in our own protocol.
    pub fn grant(&self, device: u64) -> DaemonMessage {
        DaemonMessage::Granted {
            version: VERSION,
            data: self.data.as_os_str().as_bytes().to_vec(),
            device,
            kill_grace_ms: u32::try_from(self.kill_grace.as_millis()).unwrap_or(u32::MAX),
        }
    }

    /// Why this client may not open sessions; it is logged, too.
    pub fn not_admitted(&self, peer: Peer) -> String {
        let group = &self.access.1;
        log::warn!("{peer} was refused: not in the group '{group}'");
        format!(
            "user {} is neither root nor in the group '{group}': have an administrator run \
             `usermod -aG {group} USER`, and log in anew",
            peer.uid
        )
    }

    fn say(&self, id: SessionId, notice: Notice) {
        if let Some(seat) = self.seats.borrow().get(&id) {
            self.ending.expect();
            seat.push(notice);
        }
    }

    /// Says it, and forgets the session.
    fn say_last(&self, id: SessionId, notice: Notice) {
        if let Some(seat) = self.unseat(id) {
            self.ending.expect();
            seat.push(notice);
        }
    }

    fn unseat(&self, id: SessionId) -> Option<Rc<Seat>> {
        let seat = self.seats.borrow_mut().remove(&id);
        self.seats_changed();
        seat
    }

    fn seats_changed(&self) {
        #[cfg(feature = "kvmd-api")]
        self.api.watchers.wake();
    }

    /// An answer was written, or nobody is left to take it.
    pub fn answered(&self, count: usize) {
        self.ending.answered(count);
    }

    /// Calls the arbiter when it wants to be.
    pub async fn alarm(self: Rc<Self>) {
        let mut timer = Timer::never();
        loop {
            poll_fn(|cx| {
                if self.alarm.changed.take() {
                    let at = self.alarm.at.get();
                    timer = at.map_or_else(Timer::never, |at| Timer::at(self.start + at.0));
                }
                self.alarm.waker.replace(Some(cx.waker().clone()));
                Pin::new(&mut timer).poll(cx)
            })
            .await;
            timer = Timer::never();
            self.input(Input::Tick);
        }
    }

    /// Ends when the arbiter says so and every answer is written. True if all is well.
    pub async fn exit(self: Rc<Self>) -> bool {
        let ended = poll_fn(|cx| {
            self.ending.waker.replace(Some(cx.waker().clone()));
            self.ending.clean.get().map_or(Poll::Pending, Poll::Ready)
        });
        let clean = ended.await;
        let sent = poll_fn(|cx| {
            self.ending.waker.replace(Some(cx.waker().clone()));
            if self.ending.unsent.get() == 0 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        smol::future::or(sent, async {
            Timer::after(LAST_ANSWERS).await;
        })
        .await;
        if !clean {
            log::error!("exiting, and the storage is still writable");
        }
        clean
    }

    fn tell_state(&self) {
        let (state, reason, settled, stuck) = {
            let arbiter = self.arbiter.borrow();
            let (settled, stuck) = (arbiter.settled(), arbiter.stuck());
            (arbiter.state(), arbiter.reason(), settled, stuck)
        };
        if !stuck {
            self.holders.borrow_mut().clear();
        }
        let passing = matches!(state, State::GoingRo | State::GoingRw);
        if !passing && (self.ready.get() || settled) && self.told.get() != Some(state) {
            self.told.set(Some(state));
            let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
            let level = match state {
                State::Failed => log::Level::Error,
                State::Absent | State::Unprepared | State::Stuck => log::Level::Warn,
                _ => log::Level::Info,
            };
            log::log!(level, "storage is {}{reason}", state.as_str());
            tell_systemd(&format!("STATUS=storage is {}{reason}", state.as_str()));
        }
        if settled && !self.ready.replace(true) {
            tell_systemd("READY=1");
        }
    }

    fn name_holders(&self, holders: Vec<Holder>) {
        if *self.holders.borrow() == holders {
            return;
        }
        for holder in &holders {
            let path = escape(&holder.path);
            let command = escape(&holder.command);
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
        self.holders.replace(holders);
    }

    /// The first message of a status.
    pub fn storage_message(&self) -> DaemonMessage {
        let arbiter = self.arbiter.borrow();
        let facts = self.facts.borrow();
        let state = arbiter.state();
        let mounted = state != State::Absent;
        let space = mounted
            .then(|| file::open_directory(&self.mount).and_then(|root| file::space(root.as_fd())))
            .and_then(Result::ok);
        DaemonMessage::Storage {
            version: VERSION,
            daemon_version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_ms: milliseconds(self.start),
            state,
            reason: arbiter
                .reason()
                .map_or(String::new(), |text| text.to_string()),
            mount: self.mount.as_os_str().as_bytes().to_vec(),
            data: self.data.as_os_str().as_bytes().to_vec(),
            device: if mounted {
                facts.device.clone()
            } else {
                String::new()
            },
            fstype: if mounted {
                facts.fstype.clone()
            } else {
                String::new()
            },
            size: space.map_or(0, |space| space.size),
            free: space.map_or(0, |space| space.free),
        }
    }

    /// The first session after `last`, for a status.
    pub fn session_message(&self, last: SessionId) -> Option<(SessionId, DaemonMessage)> {
        let seats = self.seats.borrow();
        let next = seats.range(SessionId(last.0 + 1)..).next();
        next.map(|(id, seat)| {
            let message = DaemonMessage::Session {
                id: id.0,
                pid: seat.peer.pid,
                uid: seat.peer.uid,
                phase: self.arbiter.borrow().phase(*id).unwrap_or(Phase::Closing),
                age_ms: milliseconds(seat.opened),
                command: seat.command.to_vec(),
            };
            (*id, message)
        })
    }

    /// How many sessions are open.
    #[cfg(feature = "kvmd-api")]
    pub fn sessions(&self) -> usize {
        self.seats.borrow().len()
    }

    /// Whether somebody may write: a session is granted, and the storage not lost since.
    #[cfg(feature = "kvmd-api")]
    pub fn write_allowed(&self) -> bool {
        self.arbiter.borrow().write_allowed()
    }

    /// One of those who keep the storage from going read-only, for a status; counted from 0.
    pub fn holder_message(&self, number: usize) -> Option<DaemonMessage> {
        let holders = self.holders.borrow();
        holders.get(number).map(|holder| DaemonMessage::Holder {
            kind: holder.kind,
            pid: holder.pid,
            uid: holder.uid,
            command: holder.command.clone(),
            path: holder.path.clone(),
        })
    }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Alarm {
    fn set(&self, at: Option<Moment>) {
        self.at.set(at);
        self.changed.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Ending {
    fn end(&self, clean: bool) {
        self.clean.set(Some(clean));
        self.wake();
    }

    fn expect(&self) {
        self.unsent.set(self.unsent.get() + 1);
    }

    fn answered(&self, count: usize) {
        self.unsent.set(self.unsent.get().saturating_sub(count));
        if self.unsent.get() == 0 && self.clean.get().is_some() {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
