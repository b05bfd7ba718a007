//! Every interleaving of a small world, breadth first, and from each state on: does it end well?

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::time::Instant;

use super::model::{KILL_GRACE, Machine, Move, RULES, Violation, World, rebase};
use super::{Arbiter, Moment, SessionId, Stage};
use crate::daemon::timeouts::{RETRY_FIRST, RETRY_LONGEST};

impl Arbiter {
    /// Makes `now` the world's start.
    pub(super) fn rebase(&mut self, now: Moment) {
        if let Some(retry) = self.retry.as_mut().filter(|r| r.wait > RETRY_FIRST) {
            retry.wait = RETRY_LONGEST; // as if there were no steps between the two
        }
        let retry = self.retry.iter_mut().map(|retry| &mut retry.next);
        let cuts = self.sessions.values_mut().filter_map(|stage| match stage {
            Stage::Revoked { cut } => Some(cut),
            _ => None,
        });
        let others = [&mut self.look_at, &mut self.stop_by, &mut self.armed];
        let others = others.into_iter().flatten();
        let all = retry.chain(cuts).chain(others);
        all.for_each(|moment| rebase(moment, now));
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub sessions: u64,
    /// Failures, disturbances and writers' closes on one path.
    pub faults: u8,
}

#[derive(Debug)]
pub struct Explored {
    pub states: usize,
    pub transitions: usize,
    /// The first violation, on a shortest path, and that path.
    pub broken: Option<(Violation, Vec<Move>)>,
}

/// A state: the world, and the faults that it has had.
type State<M> = (World<M>, u8);
type Number = u32;

/// Ways to go on without a choice, from each state to the next; `None` at the end.
#[derive(Default)]
struct Ways {
    settling: Vec<Option<Number>>,
    patient: Vec<Option<Number>>,
    stubborn: Vec<Option<Number>>,
}

struct Exploration<M> {
    numbers: HashMap<Rc<State<M>>, Number, BuildHasherDefault<Mixer>>,
    states: Vec<Rc<State<M>>>,
    /// How each state was first reached.
    reached: Vec<Option<(Number, Move)>>,
    ways: Ways,
    transitions: usize,
}

/// Explores all that can follow from a machine's start.
pub fn explore<M: Machine>(start: World<M>, bounds: Bounds) -> Explored {
    let mut exploration = Exploration {
        numbers: HashMap::default(),
        states: Vec::new(),
        reached: Vec::new(),
        ways: Ways::default(),
        transitions: 0,
    };
    let broken = exploration.run(start, bounds).err();
    Explored {
        states: exploration.states.len(),
        transitions: exploration.transitions,
        broken,
    }
}

/// A hasher that is fast without optimization too. Nobody attacks it here.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
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
    fn run(&mut self, start: World<M>, bounds: Bounds) -> Result<(), (Violation, Vec<Move>)> {
        self.number((start, 0), None);
        let mut next = 0;
        while let Some(state) = self.states.get(next).cloned() {
            let (world, faults) = &*state;
            let number = Number::try_from(next).expect("few enough states");
            let settling = world.settling();
            let patient = world.patient();
            let stubborn = world.stubborn();
            let mut ways = [None; 3];
            for (step, cost) in world.moves((1..=bounds.sessions).map(SessionId)) {
                let faults = faults + cost;
                if faults > bounds.faults {
                    continue;
                }
                let mut world = world.clone();
                if let Err(violation) = world.make(step.clone()) {
                    return Err((violation, self.path(number, Some(step))));
                }
                if step == Move::Wait {
                    world.rebase();
                }
                self.transitions += 1;
                let is = [&settling, &patient, &stubborn].map(|way| way.as_ref() == Some(&step));
                let to = self.number((world, faults), Some((number, step)));
                for (way, _) in ways.iter_mut().zip(is).filter(|(_, is)| *is) {
                    *way = Some(to);
                }
            }
            self.ways.settling.push(ways[0]);
            self.ways.patient.push(ways[1]);
            self.ways.stubborn.push(ways[2]);
            next += 1;
        }
        self.ends()
    }

    fn number(&mut self, state: State<M>, from: Option<(Number, Move)>) -> Number {
        if let Some(number) = self.numbers.get(&state) {
            return *number;
        }
        let number = Number::try_from(self.states.len()).expect("few enough states");
        let state = Rc::new(state);
        self.numbers.insert(state.clone(), number);
        self.states.push(state);
        self.reached.push(from);
        number
    }

    fn path(&self, mut to: Number, last: Option<Move>) -> Vec<Move> {
        let mut path: Vec<Move> = last.into_iter().collect();
        while let Some((from, step)) = &self.reached[to as usize] {
            path.push(step.clone());
            to = *from;
        }
        path.reverse();
        path
    }

    /// From each state on, by each way: where does it end?
    fn ends(&self) -> Result<(), (Violation, Vec<Move>)> {
        let violation = |rule, text: &str| Violation {
            rule,
            text: text.into(),
        };
        self.follow(&self.ways.settling, |_| false, World::at_rest)?;
        let unanswered = || Err(violation(2, "somebody never gets an answer"));
        let never = || Err(violation(7, "stopped, and never exits"));
        let answered = |world: &World<M>| world.all_answered();
        let exited = |world: &World<M>| world.exited() || !world.stopped();
        for way in [&self.ways.patient, &self.ways.stubborn] {
            self.follow(way, answered, |world| {
                if answered(world) {
                    Ok(())
                } else {
                    unanswered()
                }
            })?;
            self.follow(
                way,
                exited,
                |world| {
                    if exited(world) { Ok(()) } else { never() }
                },
            )?;
        }
        Ok(())
    }

    /// Follows one way from every state to where `done` says so, or it ends, or it turns in a
    /// circle, and judges what is there.
    fn follow(
        &self,
        way: &[Option<Number>],
        done: impl Fn(&World<M>) -> bool,
        judge: impl Fn(&World<M>) -> Result<(), Violation>,
    ) -> Result<(), (Violation, Vec<Move>)> {
        let (new, under_way, judged) = (0_u8, 1, 2);
        let mut marks = vec![new; self.states.len()];
        for start in 0..self.states.len() {
            let mut path = vec![start];
            while let Some(&at) = path.last() {
                let circle = marks[at] == under_way;
                if marks[at] == judged {
                    break;
                }
                marks[at] = under_way;
                let world = &self.states[at].0;
                match way[at].filter(|_| !circle && !done(world)) {
                    Some(next) => path.push(next as usize),
                    None => {
                        if let Err(violation) = judge(world) {
                            let number = Number::try_from(start).expect("few enough states");
                            return Err((violation, self.path(number, None)));
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

/// A world around a new arbiter.
pub fn start() -> World<Arbiter> {
    let (arbiter, effects) = Arbiter::new(KILL_GRACE);
    World::new(arbiter, effects).expect("a good start")
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
            "rule {} ({}) is broken: {}\n{}",
            violation.rule,
            RULES[violation.rule - 1],
            violation.text,
            path.concat()
        );
    }
    assert!(explored.states > 10_000, "the model has collapsed");
}

#[test]
fn every_interleaving_of_three_sessions_keeps_the_rules() {
    holds_within(Bounds {
        sessions: 3,
        faults: 3,
    });
}
