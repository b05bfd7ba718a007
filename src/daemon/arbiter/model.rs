//! The world around the arbiter, as its tests have it: clients, the storage, the worker and the
//! time. It keeps the truth by itself, makes no decision, and checks each [`RULES`] at each step.

mod events;
mod invariants;
mod transitions;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hash;
use std::time::Duration;

pub use self::invariants::RULES;
use self::invariants::check;
use super::{
    Arbiter, DenyReason, Effect, Health, Input, Inspection, Job, Moment, Outcome, Phase, Remount,
    SessionId, State, Text,
};

pub const KILL_GRACE: Duration = Duration::from_secs(1);
/// When the world begins: late enough that there is a past.
const START: Moment = Moment(Duration::from_secs(3600));
/// Ticks at one moment before it is a busy loop.
const TICKS: u8 = 4;

/// The machine under test: the arbiter, or a broken twin of it.
pub trait Machine: Clone + Eq + Hash + fmt::Debug {
    fn input(&mut self, input: Input, now: Moment) -> Vec<Effect>;
    /// Makes `now` the [`START`].
    fn rebase(&mut self, now: Moment);
    /// Whether it shows the outside this.
    fn shows(&self, state: State, phases: &[(SessionId, Phase)]) -> bool;
}

impl Machine for Arbiter {
    fn input(&mut self, input: Input, now: Moment) -> Vec<Effect> {
        Arbiter::input(self, input, now)
    }

    fn rebase(&mut self, now: Moment) {
        Arbiter::rebase(self, now);
    }

    fn shows(&self, state: State, phases: &[(SessionId, Phase)]) -> bool {
        let as_it_is = |(id, phase): &(SessionId, Phase)| self.phase(*id) == Some(*phase);
        self.state() == state && phases.iter().all(as_it_is)
    }
}

/// One thing that can happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    Input(Input),
    /// The time moves on to the armed moment; the tick itself may be late.
    Wait,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: usize,
    pub text: String,
}

/// How far a look, or a try to go writable, that began after an opening has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fresh {
    No,
    Running,
    Done,
}

/// One client. It writes whenever it may, so nothing of it is durable before a later sync.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Client {
    Waiting {
        fresh: Fresh,
    },
    Granted {
        lost: bool,
    },
    Revoked {
        lost: bool,
        cut_from: Moment,
    },
    Closing {
        lost: bool,
        covered: bool,
        durable: bool,
    },
}

impl Client {
    fn phase(&self) -> Phase {
        match self {
            Client::Waiting { .. } => Phase::Waiting,
            Client::Granted { .. } => Phase::Granted,
            Client::Revoked { .. } => Phase::Revoked,
            Client::Closing { .. } => Phase::Closing,
        }
    }
}

/// [`Health`] without the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Ready,
    Absent,
    Unprepared,
    Failed,
}

impl Kind {
    fn of(health: &Health) -> Kind {
        match health {
            Health::Ready => Kind::Ready,
            Health::Absent(_) => Kind::Absent,
            Health::Unprepared(_) => Kind::Unprepared,
            Health::Failed(_) => Kind::Failed,
        }
    }

    fn health(self) -> Health {
        match self {
            Kind::Ready => Health::Ready,
            Kind::Absent => Health::Absent(why()),
            Kind::Unprepared => Health::Unprepared(why()),
            Kind::Failed => Health::Failed(why()),
        }
    }

    fn denial(self) -> DenyReason {
        match self {
            Kind::Absent => DenyReason::Absent,
            Kind::Unprepared => DenyReason::Unprepared,
            Kind::Failed | Kind::Ready => DenyReason::Failed,
        }
    }
}

/// Every way in which a storage can be found.
const SIGHTS: [(Kind, bool); 7] = [
    (Kind::Ready, false),
    (Kind::Ready, true),
    (Kind::Absent, false),
    (Kind::Unprepared, false),
    (Kind::Unprepared, true),
    (Kind::Failed, false),
    (Kind::Failed, true),
];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World<M> {
    machine: M,
    now: Moment,
    clients: BTreeMap<SessionId, Client>,
    running: Option<Job>,
    armed: Option<Moment>,
    /// Ticks since the time moved or somebody did something.
    ticks: u8,
    stopped: bool,
    exited: bool,
    /// The storage, as of the last report of it.
    kind: Kind,
    writable: bool,
    /// Somebody has looked at all.
    known: bool,
    /// Something happened since the last look began.
    suspect: bool,
    /// The worker holds the root's descriptor.
    pinned: bool,
    /// Something was lost since it is pinned.
    lost: bool,
    /// What should be told of it: the kind, or the loss until that period has ended.
    told: Kind,
    /// The last try to go read-only was refused as busy.
    busy: bool,
    /// The last try to go read-only failed otherwise: nobody knows what the superblock is.
    given_up: bool,
}

impl<M: Machine> World<M> {
    /// A world around a machine that has just started, and what it said first.
    pub fn new(machine: M, effects: Vec<Effect>) -> Result<Self, Violation> {
        let mut world = World {
            machine,
            now: START,
            clients: BTreeMap::new(),
            running: None,
            armed: None,
            ticks: 0,
            stopped: false,
            exited: false,
            kind: Kind::Absent,
            writable: false,
            known: false,
            suspect: true,
            pinned: false,
            lost: false,
            told: Kind::Absent,
            busy: false,
            given_up: false,
        };
        for effect in effects {
            world.effect(effect)?;
        }
        Ok(world)
    }

    /// Whether it has come to rest: read-only, nothing pinned, or gone.
    pub fn at_rest(&self) -> Result<(), Violation> {
        if self.exited {
            return Ok(());
        }
        let storage = (!self.writable || self.given_up) && !self.pinned;
        check(storage, 1, || "left writable, or pinned, for ever".into())?;
        check(!self.stopped, 7, || "stopped, and never exits".into())?;
        check(self.armed.is_none(), 8, || "armed at rest".into())?;
        check(self.settling().is_none(), 10, || {
            "never comes to rest".into()
        })
    }

    /// Whether everybody who asked has an answer.
    pub fn all_answered(&self) -> bool {
        !self
            .clients
            .values()
            .any(|client| matches!(client, Client::Waiting { .. } | Client::Closing { .. }))
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

    /// Lets time pass, not further than the armed moment.
    pub fn pass(&mut self, time: Duration) {
        let to = Moment(self.now.0 + time);
        self.now = self.armed.map_or(to, |at| to.min(at.max(self.now)));
        self.ticks = 0;
    }

    /// Makes this moment [`START`], so that the same situation is the same state at any time.
    pub fn rebase(&mut self) {
        let now = self.now;
        self.machine.rebase(now);
        for client in self.clients.values_mut() {
            if let Client::Revoked { cut_from, .. } = client {
                rebase(cut_from, now);
            }
        }
        self.armed.iter_mut().for_each(|at| rebase(at, now));
        self.now = START;
    }

    /// Makes one move, and checks every rule on the way.
    pub fn make(&mut self, next: Move) -> Result<(), Violation> {
        let input = match next {
            Move::Wait => {
                self.now = self.armed.unwrap_or(self.now);
                self.ticks = 0;
                return Ok(());
            }
            Move::Input(input) => input,
        };
        match &input {
            Input::Done(_) => {}
            Input::Tick => {
                self.ticks += 1;
                self.armed = None;
                check(self.ticks <= TICKS, 10, || "ticks without end".into())?;
            }
            _ => self.ticks = 0,
        }
        let cause = self.happens(&input);
        let effects = self.machine.input(input, self.now);
        let mut over = Vec::new();
        for effect in effects {
            if let Effect::Deny(id, ..) | Effect::Closed(id, ..) | Effect::Disconnect(id) = effect {
                over.push(id);
            }
            self.effect(effect)?;
        }
        // The connection of a session that is over ends soon after.
        for id in over {
            let more = self.machine.input(Input::Disconnected(id), self.now);
            check(more.is_empty(), 9, || {
                format!("{more:?} at the end of {id:?}")
            })?;
        }
        self.after(cause)
    }
}

/// What the world gives as the reason of every failure.
const WHY: &str = "it failed";
/// What the arbiter says itself.
const BY_HAND: &str = super::READ_ONLY_BY_HAND;

fn why() -> Text {
    WHY.into()
}

fn seen((kind, writable): (Kind, bool)) -> Inspection {
    let health = kind.health();
    Inspection { health, writable }
}

/// What may be left of a wait, in ms: the arbiter's own waits, without most of the doubled ones.
const GRID: [u64; 8] = [0, 1, 5, 20, 100, 1000, 3000, 10_000];

/// Makes `now` the [`START`] of a moment. All that is past is the same, and what is to come is
/// rounded down: fewer states, and moments keep their order. The random runs have exact times.
pub fn rebase(moment: &mut Moment, now: Moment) {
    let left = moment.0.saturating_sub(now.0);
    let of_grid = GRID.map(Duration::from_millis).into_iter().rev();
    let rounded = of_grid.into_iter().find(|step| *step <= left);
    moment.0 = START.0 + rounded.unwrap_or(left);
}
