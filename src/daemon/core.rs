//! The executor thread's hub: feeds the arbiter, carries out what it says, and writes down what
//! happened. It decides nothing itself.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::arbiter::{Arbiter, Effect, Input, Job, Moment, SessionId, State};
use super::changes::Changes;
use super::ledger::{Ledger, Standing};
use super::seat::Seat;
use super::shown::Reading;
use super::timers::Timers;
use super::times::LAST_ANSWERS;
use super::worker::Report;
use crate::config::{Config, Place};
use crate::storage::Facts;
use crate::storage::holders::Holder;
use crate::sys::file::Space;
use crate::systemd::Manager;
use crate::wire::{DaemonMessage, VERSION};

/// See the module's text.
#[derive(Debug)]
pub struct Core {
    pub(super) start: Instant,
    /// The times that are waited for.
    pub timers: Rc<Timers>,
    pub(super) arbiter: RefCell<Arbiter>,
    jobs: mpsc::Sender<Job>,
    manager: Manager,
    /// Sessions that the arbiter knows.
    pub(super) seats: RefCell<BTreeMap<SessionId, Rc<Seat>>>,
    pub(super) ledger: RefCell<Ledger>,
    pub(super) changes: Changes,
    /// What was last read from the storage for a status.
    pub(super) reading: RefCell<Option<Reading>>,
    last_id: Cell<u64>,
    stopping: Cell<bool>,
    alarm: Alarm,
    pub(super) ending: Ending,
    /// What was last told as the state.
    pub(super) told: Cell<Option<State>>,
    /// A remount since then was logged.
    pub(super) remounted: Cell<bool>,
    pub(super) ready: Cell<bool>,
    pub(super) facts: RefCell<Facts>,
    pub(super) holders: RefCell<Vec<Holder>>,
    pub(super) data_device: Cell<u64>,
    space: Cell<Option<Space>>,
    pub(super) mount: PathBuf,
    pub(super) data: PathBuf,
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
        timers: Rc<Timers>,
        jobs: mpsc::Sender<Job>,
        manager: Manager,
    ) -> Rc<Core> {
        let (arbiter, effects) = Arbiter::new(config.session.kill_grace);
        let ledger = Ledger::new(standing(&arbiter), start);
        let core = Rc::new(Core {
            start,
            timers,
            arbiter: RefCell::new(arbiter),
            jobs,
            manager,
            seats: RefCell::default(),
            ledger: RefCell::new(ledger),
            changes: Changes::default(),
            reading: RefCell::default(),
            last_id: Cell::new(0),
            stopping: Cell::new(false),
            alarm: Alarm::default(),
            ending: Ending::default(),
            told: Cell::new(None),
            remounted: Cell::new(false),
            ready: Cell::new(false),
            facts: RefCell::default(),
            holders: RefCell::default(),
            data_device: Cell::new(0),
            space: Cell::new(None),
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
        let closing = match input {
            Input::Close(id) => Some(id),
            _ => None,
        };
        let effects = self.arbiter.borrow_mut().input(input, now);
        self.carry_out(effects);
        if let Some(seat) = closing.and_then(|id| self.seat(id)) {
            seat.changed.set(self.changes.note());
        }
        self.tell_state();
    }

    /// Takes the worker's report.
    pub fn done(&self, report: Report) {
        log::debug!("{:?} after {:?}", report.outcome, report.took);
        self.tell_remount(&report);
        self.ledger.borrow_mut().counts = report.counts;
        self.space.set(report.space);
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
        self.tell_manager("STOPPING=1");
        self.input(Input::Stop);
    }

    /// Tells the service manager, if there is one.
    pub fn tell_manager(&self, state: &str) {
        if let Err(error) = self.manager.tell(state) {
            log::warn!("cannot tell the service manager '{state}': {error}");
        }
    }

    /// Whether the daemon is on its way out.
    pub fn stopping(&self) -> bool {
        self.stopping.get()
    }

    /// The number of the newest session.
    pub fn newest(&self) -> SessionId {
        SessionId(self.last_id.get())
    }

    /// A number for the next session.
    pub fn next_id(&self) -> SessionId {
        self.last_id.set(self.last_id.get() + 1);
        SessionId(self.last_id.get())
    }

    /// How much is free on the storage, as of the last job: right while it is read-only, and at
    /// most a second old while somebody has a session. `None` if nothing is mounted.
    pub fn space(&self) -> Option<Space> {
        self.space.get()
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &[u8] {
        self.mount.as_os_str().as_bytes()
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
                Effect::Grant(id) => self.granted(id),
                Effect::Deny(id, reason, text) => self.denied(id, reason, text),
                Effect::Revoke(id, reason, text) => self.revoked(id, reason, text),
                Effect::Closed(id, result, text) => self.closed(id, result, text),
                Effect::Cut(id) => self.cut(id),
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

    /// An answer was written, or nobody is left to take it.
    pub fn answered(&self, count: usize) {
        self.ending.answered(count);
    }

    /// Calls the arbiter when it wants to be.
    pub async fn alarm(self: Rc<Self>) {
        let mut sleep = None;
        loop {
            poll_fn(|cx| {
                if self.alarm.changed.take() {
                    let at = self.alarm.at.get();
                    sleep = at.map(|at| self.timers.at(self.start + at.0));
                }
                self.alarm.waker.replace(Some(cx.waker().clone()));
                let sleep = sleep.as_mut();
                sleep.map_or(Poll::Pending, |sleep| Pin::new(sleep).poll(cx))
            })
            .await;
            sleep = None;
            self.input(Input::Tick);
            self.remind();
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
            self.timers.after(LAST_ANSWERS).await;
        })
        .await;
        if !clean {
            log::error!("exiting, and the storage is still writable");
        }
        clean
    }

    /// Whether somebody may write: a session is granted, and the storage not lost since.
    #[cfg(feature = "kvmd-api")]
    pub fn write_allowed(&self) -> bool {
        self.arbiter.borrow().write_allowed()
    }
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

    /// An answer is to be written.
    pub(super) fn expect(&self) {
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

/// How things stand, for the ledger.
pub(super) fn standing(arbiter: &Arbiter) -> Standing {
    Standing {
        state: arbiter.state(),
        reason: arbiter.reason(),
        writable: arbiter.writable(),
    }
}
