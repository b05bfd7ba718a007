//! Faults at every system call of `pst run`, its supervisor and the daemon, during one session: each is killed, stopped
//! and terminated there, and each call fails with each of a list of errors. After each trial the promises are judged
//! from outside. `make attack` runs it; ATTACK_SECONDS and ATTACK_SEED choose a part, ATTACK_ONLY=PLAN,… repeats what a
//! violation names.
#![cfg(target_arch = "x86_64")] // the tracer knows its registers
#![allow(clippy::expect_used)] // all of it is tests, not only what bears the attribute

mod attack;
#[path = "../soak/chance.rs"]
#[allow(dead_code)] // the soak uses all of it
mod chance;
mod plan;
mod process;
#[path = "../e2e/rig/mod.rs"]
#[allow(dead_code, unused_imports)] // the end-to-end tests use all of it
mod rig;
mod session;
mod stage;
mod tracer;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chance::Chance;
use plan::{Call, Plan, Program};

use stage::{Stage, Verdict};
use tracer::Seen;

/// Trials at a time: most of one is waiting.
const LANES: usize = 3;

#[test]
#[ignore = "takes up to 20 minutes: `make attack` runs it"]
fn the_promises_hold_with_a_fault_at_every_system_call() {
    needs_root!("a loop device");
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse().expect(name))
    };
    let clock = SystemTime::now().duration_since(UNIX_EPOCH);
    let seed = number("ATTACK_SEED").unwrap_or_else(|| clock.expect("a clock").as_secs());
    let seconds = number("ATTACK_SECONDS").unwrap_or(1140);
    println!("attack: ATTACK_SEED={seed} ATTACK_SECONDS={seconds}");
    let until = Instant::now() + Duration::from_secs(seconds);
    let plans = match std::env::var("ATTACK_ONLY") {
        Ok(words) => words
            .split(',')
            .map(|word| word.parse().expect("ATTACK_ONLY"))
            .collect(),
        Err(_) => shuffled(plans(), seed),
    };
    let total = plans.len();
    let results = Results::default();
    let left = Mutex::new(plans);
    let next = || {
        left.lock()
            .expect("lock")
            .pop()
            .filter(|_| Instant::now() < until)
    };
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| try_plans(next, &results));
        }
    });
    let results = results.0.into_inner().expect("lock");
    results.summarise(total, &left.into_inner().expect("lock"));
    assert_eq!(results.violations, 0, "ATTACK_SEED={seed}");
}

/// One trial after another, on a stage that is made again after a violation.
fn try_plans(next: impl Fn() -> Option<Plan>, results: &Results) {
    let mut stage = None;
    while let Some(plan) = next() {
        let here = stage.get_or_insert_with(Stage::new);
        let tried = catch_unwind(AssertUnwindSafe(|| {
            here.attack(plan.call.program, Some(plan))
        }));
        let verdict = tried.unwrap_or_else(|panic| Verdict::Violated(message(&*panic)));
        if matches!(verdict, Verdict::Violated(_)) {
            let _ = end(stage.take(), true); // a broken one may not end well
        }
        results.add(plan, &verdict);
    }
    if let Err(panic) = end(stage, false) {
        results.violation(&format!("at the end: {}", message(&*panic)));
    }
}

fn end(stage: Option<Stage>, broken: bool) -> std::thread::Result<()> {
    catch_unwind(AssertUnwindSafe(|| {
        if let Some(stage) = stage {
            stage.end(broken);
        }
    }))
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
        .unwrap_or_else(|| "a panic".into())
}

/// Every fault at every call of an undisturbed session. Keeps the calls that two sessions have in common: a mount of
/// another program makes the daemon look again.
fn plans() -> Vec<Plan> {
    let mut stage = Stage::new();
    let mut record = |program| match stage.attack(program, None) {
        Verdict::NotReached(seen) => seen,
        Verdict::Violated(text) => panic!("without a fault: {text}"),
        Verdict::Held => unreachable!("there was no plan"),
    };
    let mut calls = Vec::new();
    for program in [Program::Run, Program::Daemon] {
        let first: BTreeSet<Call> = record(program).iter().map(|seen| seen.call).collect();
        let second = record(program);
        calls.extend(second.into_iter().filter(|seen| first.contains(&seen.call)));
    }
    stage.end(false);
    show(&calls);
    let plans = calls.into_iter().flat_map(|Seen { call, can_fail }| {
        let faults = call.faults(can_fail);
        faults.map(move |fault| Plan { call, fault })
    });
    plans.collect()
}

/// Prints how often each task makes each call.
fn show(calls: &[Seen]) {
    let mut tasks: BTreeMap<(Program, usize), BTreeMap<&str, usize>> = BTreeMap::new();
    for Seen { call, .. } in calls {
        let names = tasks.entry((call.program, call.task)).or_default();
        *names.entry(call.name.name()).or_default() += 1;
    }
    for ((program, task), names) in tasks {
        let total: usize = names.values().sum();
        let names = names.iter().map(|(name, count)| format!("{name} {count}"));
        let names = names.collect::<Vec<_>>().join(", ");
        println!("attack: {program:?} {task}: {total} calls: {names}");
    }
}

/// In an order that the seed chooses, so that any beginning is an even sample.
fn shuffled(mut plans: Vec<Plan>, seed: u64) -> Vec<Plan> {
    let mut chance = Chance::new(seed);
    for end in (1..plans.len()).rev() {
        plans.swap(end, chance.below(end as u64 + 1) as usize);
    }
    plans
}

#[derive(Default)]
struct Results(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    trials: BTreeMap<String, usize>,
    not_reached: usize,
    violations: usize,
}

impl Results {
    fn add(&self, plan: Plan, verdict: &Verdict) {
        match verdict {
            Verdict::NotReached(_) => self.0.lock().expect("lock").not_reached += 1,
            _ => {
                let mut counts = self.0.lock().expect("lock");
                *counts.trials.entry(plan.fault.to_string()).or_default() += 1;
            }
        }
        if let Verdict::Violated(text) = verdict {
            self.violation(&format!(
                "{plan}: {text}; repeat it with ATTACK_ONLY={plan}"
            ));
        }
    }

    /// Shows it at once.
    fn violation(&self, text: &str) {
        eprintln!("VIOLATION {text}");
        self.0.lock().expect("lock").violations += 1;
    }
}

impl Counts {
    fn summarise(&self, total: usize, left: &[Plan]) {
        let tried: usize = self.trials.values().sum();
        let kinds = self
            .trials
            .iter()
            .map(|(fault, count)| format!("{fault} {count}"));
        println!(
            "attack: {tried} of {total} trials ({} left out for time, {} calls not reached): {}; violations: {}",
            left.len(),
            self.not_reached,
            kinds.collect::<Vec<_>>().join(", "),
            self.violations
        );
    }
}
