//! Long runs of a larger world: up to eight sessions at once, without end, any number of faults,
//! and the time in any steps. At the end all leave, and it must come to rest.

use std::time::Duration;

use super::SessionId;
use super::explore::start;
use super::model::{Move, RULES, World};
use super::{Arbiter, Input};

const RUNS: u64 = 200;
const STEPS: u32 = 5_000;
const AT_ONCE: usize = 8;
/// Of so many moves that are faults, one is made.
const FAULTS: u64 = 4;

/// xorshift64*: the same run for the same seed, anywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % limit
    }

    fn pick<T>(&mut self, mut from: Vec<T>) -> T {
        let limit = u64::try_from(from.len()).expect("a length");
        let which = usize::try_from(self.below(limit)).expect("an index");
        from.swap_remove(which)
    }
}

fn make(world: &mut World<Arbiter>, next: Move, seed: u64) {
    if let Err(violation) = world.make(next.clone()) {
        panic!(
            "run {seed}: rule {} ({}) is broken by {next:?}: {}\n{world:#?}",
            violation.rule,
            RULES[violation.rule - 1],
            violation.text
        );
    }
}

/// One run; returns how many sessions it had.
fn run(seed: u64) -> u64 {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut world = start();
    let mut last = 0;
    for _ in 0..STEPS {
        if dice.below(3) == 0 {
            world.pass(Duration::from_micros(1 << dice.below(24)));
        }
        let mut clients: Vec<SessionId> = world.clients().collect();
        if clients.len() < AT_ONCE {
            clients.push(SessionId(last + 1));
        }
        let bold = dice.below(FAULTS) == 0;
        let mut moves = world.moves(clients.into_iter());
        moves.retain(|(next, faults)| {
            let ends = *next == Move::Input(Input::Stop);
            !ends && (bold || *faults == 0)
        });
        let (next, _) = dice.pick(moves);
        if matches!(&next, Move::Input(Input::Opened(id)) if id.0 > last) {
            last += 1;
        }
        make(&mut world, next, seed);
    }
    // Half of the runs are stopped in full swing, the others come to rest.
    let stopped = seed % 2 == 0;
    if stopped {
        make(&mut world, Move::Input(Input::Stop), seed);
    }
    for _ in 0..STEPS {
        let next = if stopped {
            world.stubborn()
        } else {
            world.settling()
        };
        let Some(next) = next else { break };
        make(&mut world, next, seed);
    }
    let end = world.at_rest();
    assert_eq!(end, Ok(()), "run {seed}: {world:#?}");
    assert_eq!(world.exited(), stopped, "run {seed}: {world:#?}");
    last
}

#[test]
fn long_random_runs_keep_the_rules_and_come_to_rest() {
    let sessions: u64 = (1..=RUNS).map(run).sum();
    println!("{RUNS} runs of {STEPS} steps, {sessions} sessions");
    assert!(sessions > RUNS * 100, "hardly a session");
}
