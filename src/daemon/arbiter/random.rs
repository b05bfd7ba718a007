//! Long random runs of a larger model: up to eight sessions at once, any number of faults, and time
//! steps of any length. At the end, all clients leave, and the model must come to rest.

use std::time::Duration;

use super::SessionId;
use super::explore::start;
use super::model::{INVARIANTS, Model, Transition};
use super::{Arbiter, Input};

const RUNS: u64 = 200;
const STEPS: u32 = 5_000;
const AT_ONCE: usize = 8;
/// On average, one in this number of transitions may be a fault.
const FAULTS: u64 = 4;

/// The xorshift64* generator: the same seed always gives the same run.
struct Random(u64);

impl Random {
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

fn apply(model: &mut Model<Arbiter>, next: Transition, seed: u64) {
    if let Err(violation) = model.apply(next.clone()) {
        panic!(
            "run {seed}: invariant {} ({}) is broken by {next:?}: {}\n{model:#?}",
            violation.invariant,
            INVARIANTS[violation.invariant - 1],
            violation.text
        );
    }
}

/// Returns the number of sessions of the run.
fn run(seed: u64) -> u64 {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut model = start();
    let mut last = 0;
    for _ in 0..STEPS {
        if random.below(3) == 0 {
            model.advance(Duration::from_micros(1 << random.below(24)));
        }
        let mut clients: Vec<SessionId> = model.clients().collect();
        if clients.len() < AT_ONCE {
            clients.push(SessionId(last + 1));
        }
        let bold = random.below(FAULTS) == 0;
        let mut transitions = model.transitions(clients.into_iter());
        transitions.retain(|(next, faults)| {
            let ends = *next == Transition::Input(Input::Stop);
            !ends && (bold || *faults == 0)
        });
        let (next, _) = random.pick(transitions);
        if matches!(&next, Transition::Input(Input::Opened(id)) if id.0 > last) {
            last += 1;
        }
        apply(&mut model, next, seed);
    }
    // Half of the runs are stopped. The others come to rest.
    let stopped = seed % 2 == 0;
    if stopped {
        apply(&mut model, Transition::Input(Input::Stop), seed);
    }
    for _ in 0..STEPS {
        let next = if stopped {
            model.stubborn()
        } else {
            model.settling()
        };
        let Some(next) = next else { break };
        apply(&mut model, next, seed);
    }
    let end = model.at_rest();
    assert_eq!(end, Ok(()), "run {seed}: {model:#?}");
    assert_eq!(model.exited(), stopped, "run {seed}: {model:#?}");
    last
}

#[test]
fn long_random_runs_keep_the_invariants_and_come_to_rest() {
    let sessions: u64 = (1..=RUNS).map(run).sum();
    println!("{RUNS} runs of {STEPS} steps, {sessions} sessions");
    assert!(sessions > RUNS * 100, "hardly any sessions");
}
