//! A model of the arbiter's environment for its tests: clients, storage, worker and time.
//!
//! It tracks the truth independently of the arbiter and checks the [`INVARIANTS`] at each step.

mod events;
mod invariants;
mod transitions;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hash;
use std::time::Duration;

pub use self::invariants::INVARIANTS;
use self::invariants::check;
use super::{
    Arbiter, DenyReason, Effect, Health, Input, Inspection, Job, Moment, Outcome, Phase, Remount,
    SessionId, State, Text,
};

pub const KILL_GRACE: Duration = Duration::from_secs(1);
/// The model's start, late enough that earlier moments exist.
const START: Moment = Moment(Duration::from_secs(3600));
/// More ticks at one moment count as a busy loop.
const TICKS: u8 = 4;

/// The machine under test: the arbiter or a mutant.
pub trait Machine: Clone + Eq + Hash + fmt::Debug {
    fn input(&mut self, input: Input, now: Moment) -> Vec<Effect>;
    /// Shifts all times so that `now` becomes [`START`].
    fn rebase(&mut self, now: Moment);
    /// Whether the machine reports this state and these phases.
    fn reports(&self, state: State, phases: &[(SessionId, Phase)]) -> bool;
}

impl Machine for Arbiter {
    fn input(&mut self, input: Input, now: Moment) -> Vec<Effect> {
        Arbiter::input(self, input, now)
    }

    fn rebase(&mut self, now: Moment) {
        Arbiter::rebase(self, now);
    }

    fn reports(&self, state: State, phases: &[(SessionId, Phase)]) -> bool {
        let same = |(id, phase): &(SessionId, Phase)| self.phase(*id) == Some(*phase);
        self.state() == state && phases.iter().all(same)
    }
}

/// A step of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Transition {
    Input(Input),
    /// Time advances to the timer's moment. The tick is a transition of its own: it may be late.
    Wait,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: usize,
    pub text: String,
}

/// The progress of the first inspection after the request for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Freshness {
    NotStarted,
    Running,
    Done,
}

/// A client. It always writes while it may, so its data is durable only after a later sync.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum ModelClient {
    Waiting {
        fresh: Freshness,
    },
    Granted {
        lost: bool,
    },
    Revoked {
        lost: bool,
        disconnect_from: Moment,
    },
    Closing {
        lost: bool,
        covered: bool,
        durable: bool,
    },
}

impl ModelClient {
    fn phase(&self) -> Phase {
        match self {
            ModelClient::Waiting { .. } => Phase::Waiting,
            ModelClient::Granted { .. } => Phase::Granted,
            ModelClient::Revoked { .. } => Phase::Revoked,
            ModelClient::Closing { .. } => Phase::Closing,
        }
    }
}

/// [`Health`] without the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum HealthKind {
    Ready,
    Absent,
    Unprepared,
    Failed,
}

impl HealthKind {
    fn of(health: &Health) -> HealthKind {
        match health {
            Health::Ready => HealthKind::Ready,
            Health::Absent(_) => HealthKind::Absent,
            Health::Unprepared(_) => HealthKind::Unprepared,
            Health::Failed(_) => HealthKind::Failed,
        }
    }

    fn health(self) -> Health {
        match self {
            HealthKind::Ready => Health::Ready,
            HealthKind::Absent => Health::Absent(why()),
            HealthKind::Unprepared => Health::Unprepared(why()),
            HealthKind::Failed => Health::Failed(why()),
        }
    }

    fn denial(self) -> DenyReason {
        match self {
            HealthKind::Absent => DenyReason::Absent,
            HealthKind::Unprepared => DenyReason::Unprepared,
            HealthKind::Failed | HealthKind::Ready => DenyReason::Failed,
        }
    }
}

/// Every possible result of an inspection that shows the truth: whether the superblock is writable, too.
const INSPECTIONS: [(HealthKind, bool); 7] = [
    (HealthKind::Ready, false),
    (HealthKind::Ready, true),
    (HealthKind::Absent, false),
    (HealthKind::Unprepared, false),
    (HealthKind::Unprepared, true),
    (HealthKind::Failed, false),
    (HealthKind::Failed, true),
];

/// An inspection that failed temporarily. It says nothing about the truth.
const HIDDEN: (HealthKind, bool) = (HealthKind::Failed, false);
/// A temporary failure after the switch to read-write.
const HALF_DONE: (HealthKind, bool) = (HealthKind::Unprepared, true);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Model<M> {
    machine: M,
    now: Moment,
    clients: BTreeMap<SessionId, ModelClient>,
    running: Option<Job>,
    timer: Option<Moment>,
    /// Ticks since time advanced or another input arrived.
    ticks: u8,
    stopped: bool,
    exited: bool,
    /// The storage's health at the last report.
    health: HealthKind,
    writable: bool,
    /// The storage has been inspected at least once.
    known: bool,
    /// A recheck was requested after the last inspection started.
    recheck_due: bool,
    /// The worker holds the root directory's descriptor.
    pinned: bool,
    /// The storage or data was lost during the current writable period.
    lost: bool,
    /// The health that the machine must report: a loss is sticky until its writable period ends.
    reported: HealthKind,
    /// The last remount to read-only was refused, as busy or for another reason that may pass.
    busy: bool,
    /// The last inspection failed temporarily.
    temporary: bool,
    /// The last remount to read-only failed, so the superblock's state is unknown.
    remount_failed: bool,
}

impl<M: Machine> Model<M> {
    /// Returns a model with a new machine and the machine's first effects.
    pub fn new(machine: M, effects: Vec<Effect>) -> Result<Self, Violation> {
        let mut model = Model {
            machine,
            now: START,
            clients: BTreeMap::new(),
            running: None,
            timer: None,
            ticks: 0,
            stopped: false,
            exited: false,
            health: HealthKind::Absent,
            writable: false,
            known: false,
            recheck_due: true,
            pinned: false,
            lost: false,
            reported: HealthKind::Absent,
            busy: false,
            temporary: false,
            remount_failed: false,
        };
        for effect in effects {
            model.check_effect(effect)?;
        }
        Ok(model)
    }

    /// Checks that the model is at rest: read-only with nothing pinned, or exited.
    pub fn at_rest(&self) -> Result<(), Violation> {
        if self.exited {
            return Ok(());
        }
        let storage = (!self.writable || self.remount_failed) && !self.pinned;
        check(storage, 1, || "left writable or pinned for ever".into())?;
        check(!self.stopped, 7, || "stopped, and never exits".into())?;
        check(self.timer.is_none(), 8, || "timer set at rest".into())?;
        check(self.settling().is_none(), 10, || {
            "never comes to rest".into()
        })
    }

    /// Whether every request and every close has been answered.
    pub fn all_answered(&self) -> bool {
        !self.clients.values().any(|client| {
            matches!(
                client,
                ModelClient::Waiting { .. } | ModelClient::Closing { .. }
            )
        })
    }

    pub fn stopped(&self) -> bool {
        self.stopped
    }

    pub fn exited(&self) -> bool {
        self.exited
    }

    pub fn clients(&self) -> impl Iterator<Item = SessionId> {
        self.clients.keys().copied()
    }

    /// Advances time, but not beyond the timer's moment.
    pub fn advance(&mut self, time: Duration) {
        let to = Moment(self.now.0 + time);
        self.now = self.timer.map_or(to, |at| to.min(at.max(self.now)));
        self.ticks = 0;
    }

    /// Shifts all times so that `now` becomes [`START`]: the same situation at different times is one
    /// state.
    pub fn rebase(&mut self) {
        let now = self.now;
        self.machine.rebase(now);
        for client in self.clients.values_mut() {
            if let ModelClient::Revoked {
                disconnect_from, ..
            } = client
            {
                rebase(disconnect_from, now);
            }
        }
        self.timer.iter_mut().for_each(|at| rebase(at, now));
        self.now = START;
    }

    /// Applies a transition and checks every invariant.
    pub fn apply(&mut self, next: Transition) -> Result<(), Violation> {
        let input = match next {
            Transition::Wait => {
                self.now = self.timer.unwrap_or(self.now);
                self.ticks = 0;
                return Ok(());
            }
            Transition::Input(input) => input,
        };
        match &input {
            Input::Done(_) => {}
            Input::Tick => {
                self.ticks += 1;
                self.timer = None;
                check(self.ticks <= TICKS, 10, || "ticks without end".into())?;
            }
            _ => self.ticks = 0,
        }
        let cause = self.happened(&input);
        let effects = self.machine.input(input, self.now);
        let mut over = Vec::new();
        for effect in effects {
            if let Effect::Deny(id, ..) | Effect::Closed(id, ..) | Effect::Disconnect(id) = effect {
                over.push(id);
            }
            self.check_effect(effect)?;
        }
        // The connection ends soon after its session.
        for id in over {
            let more = self.machine.input(Input::Disconnected(id), self.now);
            check(more.is_empty(), 9, || {
                format!("{more:?} at the end of {id:?}")
            })?;
        }
        self.check_state(cause)
    }
}

/// The model's reason for every failure.
const WHY: &str = "it failed";
/// The only reason that the arbiter itself gives.
const BY_HAND: &str = super::READ_ONLY_BY_HAND;

fn why() -> Text {
    WHY.into()
}

fn inspection((kind, writable): (HealthKind, bool), temporary: bool) -> Inspection {
    let health = kind.health();
    Inspection {
        health,
        writable,
        temporary,
    }
}

/// The waits that the exploration distinguishes, in ms: the arbiter's, without most doublings.
const REMAINING_WAITS: [u64; 8] = [0, 1, 5, 20, 100, 1000, 3000, 10_000];

/// Shifts a moment so that `now` becomes [`START`]. To limit the number of states, all past moments
/// become equal and waits are rounded down; the order is kept. The random runs use exact times.
pub fn rebase(moment: &mut Moment, now: Moment) {
    let left = moment.0.saturating_sub(now.0);
    let waits = REMAINING_WAITS.map(Duration::from_millis).into_iter().rev();
    let rounded = waits.into_iter().find(|step| *step <= left);
    moment.0 = START.0 + rounded.unwrap_or(left);
}
