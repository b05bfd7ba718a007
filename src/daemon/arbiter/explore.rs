//! Explores every interleaving of a small model, breadth first. Then follows fixed strategies from
//! every state and checks their ends.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::time::Instant;

use super::model::{INVARIANTS, KILL_GRACE, Machine, Model, Transition, Violation, rebase};
use super::{Arbiter, Moment, SessionId, Stage};
use crate::daemon::timeouts::{RETRY_FIRST, RETRY_LONGEST};

impl Arbiter {
    /// Shifts all times so that `now` becomes the model's start.
    pub(super) fn rebase(&mut self, now: Moment) {
        if let Some(retry) = self.retry.as_mut().filter(|r| r.wait > RETRY_FIRST) {
            retry.wait = RETRY_LONGEST; // skip the doublings in between: fewer states
        }
        self.inspect_wait = self.inspect_wait.map(|_| RETRY_FIRST);
        let retry = self.retry.iter_mut().map(|retry| &mut retry.next);
        let disconnects = self.sessions.values_mut().filter_map(|stage| match stage {
            Stage::Revoked { disconnect_at } => Some(disconnect_at),
            _ => None,
        });
        let others = [&mut self.inspect_at, &mut self.stop_by, &mut self.timer];
        let others = others.into_iter().flatten();
        let all = retry.chain(disconnects).chain(others);
        all.for_each(|moment| rebase(moment, now));
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub sessions: u64,
    /// Failures, rechecks and writers' closes on one path.
    pub faults: u8,
}

#[derive(Debug)]
pub struct Explored {
    pub states: usize,
    pub transitions: usize,
    /// The first violation and a shortest path to it.
    pub broken: Option<(Violation, Vec<Transition>)>,
}

/// A state of the exploration: the model and the id of faults so far.
type Node<M> = (Model<M>, u8);
type StateId = u32;

/// The successor of each state under each strategy; `None` at the end.
#[derive(Default)]
struct Successors {
    settling: Vec<Option<StateId>>,
    patient: Vec<Option<StateId>>,
    stubborn: Vec<Option<StateId>>,
}

struct Exploration<M> {
    ids: HashMap<Rc<Node<M>>, StateId, BuildHasherDefault<FastHasher>>,
    states: Vec<Rc<Node<M>>>,
    /// The first transition that reached each state.
    reached: Vec<Option<(StateId, Transition)>>,
    successors: Successors,
    transitions: usize,
}

/// Explores all states that can follow `start`.
pub fn explore<M: Machine>(start: Model<M>, bounds: Bounds) -> Explored {
    let mut exploration = Exploration {
        ids: HashMap::default(),
        states: Vec::new(),
        reached: Vec::new(),
        successors: Successors::default(),
        transitions: 0,
    };
    let broken = exploration.run(start, bounds).err();
    Explored {
        states: exploration.states.len(),
        transitions: exploration.transitions,
        broken,
    }
}

/// A hasher that is fast even in debug builds. It needs no protection against attacks here.
#[derive(Default)]
struct FastHasher(u64);

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

impl<M: Machine> Exploration<M> {
    fn run(&mut self, start: Model<M>, bounds: Bounds) -> Result<(), (Violation, Vec<Transition>)> {
        self.id_of((start, 0), None);
        let mut next = 0;
        while let Some(state) = self.states.get(next).cloned() {
            let (model, faults) = &*state;
            let id = StateId::try_from(next).expect("few enough states");
            let settling = model.settling();
            let patient = model.patient();
            let stubborn = model.stubborn();
            let mut successors = [None; 3];
            for (step, cost) in model.transitions((1..=bounds.sessions).map(SessionId)) {
                let faults = faults + cost;
                if faults > bounds.faults {
                    continue;
                }
                let mut model = model.clone();
                if let Err(violation) = model.apply(step.clone()) {
                    return Err((violation, self.path(id, Some(step))));
                }
                if step == Transition::Wait {
                    model.rebase();
                }
                self.transitions += 1;
                let chosen =
                    [&settling, &patient, &stubborn].map(|choice| choice.as_ref() == Some(&step));
                let to = self.id_of((model, faults), Some((id, step)));
                for (successor, _) in successors
                    .iter_mut()
                    .zip(chosen)
                    .filter(|(_, chosen)| *chosen)
                {
                    *successor = Some(to);
                }
            }
            self.successors.settling.push(successors[0]);
            self.successors.patient.push(successors[1]);
            self.successors.stubborn.push(successors[2]);
            next += 1;
        }
        self.check_ends()
    }

    fn id_of(&mut self, state: Node<M>, from: Option<(StateId, Transition)>) -> StateId {
        if let Some(id) = self.ids.get(&state) {
            return *id;
        }
        let id = StateId::try_from(self.states.len()).expect("few enough states");
        let state = Rc::new(state);
        self.ids.insert(state.clone(), id);
        self.states.push(state);
        self.reached.push(from);
        id
    }

    fn path(&self, mut to: StateId, last: Option<Transition>) -> Vec<Transition> {
        let mut path: Vec<Transition> = last.into_iter().collect();
        while let Some((from, step)) = &self.reached[to as usize] {
            path.push(step.clone());
            to = *from;
        }
        path.reverse();
        path
    }

    /// Checks the end of each strategy, from every state.
    fn check_ends(&self) -> Result<(), (Violation, Vec<Transition>)> {
        let violation = |invariant, text: &str| Violation {
            invariant,
            text: text.into(),
        };
        self.follow(&self.successors.settling, |_| false, Model::at_rest)?;
        let unanswered = || Err(violation(2, "a client never gets an answer"));
        let never = || Err(violation(7, "stopped, and never exits"));
        let answered = |model: &Model<M>| model.all_answered();
        let exited = |model: &Model<M>| model.exited() || !model.stopped();
        for strategy in [&self.successors.patient, &self.successors.stubborn] {
            self.follow(strategy, answered, |model| {
                if answered(model) {
                    Ok(())
                } else {
                    unanswered()
                }
            })?;
            self.follow(strategy, exited, |model| {
                if exited(model) { Ok(()) } else { never() }
            })?;
        }
        Ok(())
    }

    /// Follows a strategy from every state until `done`, its end or a cycle, and judges the state
    /// reached.
    fn follow(
        &self,
        strategy: &[Option<StateId>],
        done: impl Fn(&Model<M>) -> bool,
        judge: impl Fn(&Model<M>) -> Result<(), Violation>,
    ) -> Result<(), (Violation, Vec<Transition>)> {
        let (new, under_way, judged) = (0_u8, 1, 2);
        let mut marks = vec![new; self.states.len()];
        for start in 0..self.states.len() {
            let mut path = vec![start];
            while let Some(&at) = path.last() {
                let cycle = marks[at] == under_way;
                if marks[at] == judged {
                    break;
                }
                marks[at] = under_way;
                let model = &self.states[at].0;
                match strategy[at].filter(|_| !cycle && !done(model)) {
                    Some(next) => path.push(next as usize),
                    None => {
                        if let Err(violation) = judge(model) {
                            let id = StateId::try_from(start).expect("few enough states");
                            return Err((violation, self.path(id, None)));
                        }
                        break;
                    }
                }
            }
            path.into_iter().for_each(|at| marks[at] = judged);
        }
        Ok(())
    }
}

/// Returns a model with a new arbiter.
pub fn start() -> Model<Arbiter> {
    let (arbiter, effects) = Arbiter::new(KILL_GRACE);
    Model::new(arbiter, effects).expect("a good start")
}

fn holds_within(bounds: Bounds) {
    let begin = Instant::now();
    let explored = explore(start(), bounds);
    println!(
        "{bounds:?}: {} states, {} transitions, {:.1} s",
        explored.states,
        explored.transitions,
        begin.elapsed().as_secs_f32()
    );
    if let Some((violation, path)) = explored.broken {
        let path: Vec<String> = path.iter().map(|step| format!("  {step:?}\n")).collect();
        panic!(
            "invariant {} ({}) is broken: {}\n{}",
            violation.invariant,
            INVARIANTS[violation.invariant - 1],
            violation.text,
            path.concat()
        );
    }
    assert!(explored.states > 10_000, "the model has collapsed");
}

#[test]
fn every_interleaving_of_three_sessions_keeps_the_invariants() {
    holds_within(Bounds {
        sessions: 3,
        faults: 3,
    });
}
