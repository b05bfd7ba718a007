//! Broken twins of the arbiter: each has one flaw, and the exploration must catch it by the rule
//! that is there for it. A twin is the real machine with what goes in or comes out of it falsified.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::explore::{Bounds, explore};
use super::model::{KILL_GRACE, Machine, World};
use super::{
    Arbiter, CloseResult, DenyReason, Effect, Health, Input, Job, Moment, Outcome, Phase, Remount,
    RevokeReason, SessionId, Stage, State,
};

const BOUNDS: Bounds = Bounds {
    sessions: 2,
    faults: 1,
};

/// What falsifies the effects of one input, with the machine as it was before.
type Flaw = fn(&Arbiter, &Input, Moment, &mut Vec<Effect>);
/// What falsifies an input, before the machine gets it; `None` keeps it from it.
type Deafness = fn(&mut Arbiter, Input) -> Option<Input>;

#[derive(Clone, Debug)]
struct Twin {
    arbiter: Arbiter,
    hears: Deafness,
    says: Flaw,
}

/// The flaw is the same throughout an exploration.
impl PartialEq for Twin {
    fn eq(&self, other: &Twin) -> bool {
        self.arbiter == other.arbiter
    }
}

impl Eq for Twin {}

impl Hash for Twin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.arbiter.hash(state);
    }
}

impl Machine for Twin {
    fn input(&mut self, input: Input, now: Moment) -> Vec<Effect> {
        let Some(input) = (self.hears)(&mut self.arbiter, input) else {
            return Vec::new();
        };
        let before = self.arbiter.clone();
        let mut effects = self.arbiter.input(input.clone(), now);
        (self.says)(&before, &input, now, &mut effects);
        effects
    }

    fn rebase(&mut self, now: Moment) {
        self.arbiter.rebase(now);
    }

    fn shows(&self, _: State, _: &[(SessionId, Phase)]) -> bool {
        true // it is caught by what it does
    }
}

/// Explores the twin, and wants this rule to be the first that is broken.
fn caught(rule: usize, hears: Deafness, says: Flaw) {
    let (arbiter, effects) = Arbiter::new(KILL_GRACE);
    let twin = Twin {
        arbiter,
        hears,
        says,
    };
    let explored = explore(World::new(twin, effects).expect("a good start"), BOUNDS);
    let (violation, path) = explored.broken.expect("the exploration does not see it");
    println!(
        "rule {} after {} steps: {}",
        violation.rule,
        path.len(),
        violation.text
    );
    assert_eq!(violation.rule, rule, "{}: {path:#?}", violation.text);
}

fn says(rule: usize, flaw: Flaw) {
    caught(rule, |_, input| Some(input), flaw);
}

fn hears(rule: usize, deafness: Deafness) {
    caught(rule, deafness, |_, _, _, _| {});
}

#[test]
fn the_real_machine_is_not_caught() {
    let (arbiter, effects) = Arbiter::new(KILL_GRACE);
    let twin = Twin {
        arbiter,
        hears: |_, input| Some(input),
        says: |_, _, _, _| {},
    };
    let explored = explore(World::new(twin, effects).expect("a good start"), BOUNDS);
    assert_eq!(explored.broken, None);
}

#[test]
fn rule_1_catches_one_that_forgets_a_session_when_another_goes() {
    hears(1, |arbiter, input| {
        if matches!(input, Input::Disconnected(_)) {
            arbiter.granted.clear();
        }
        Some(input)
    });
}

#[test]
fn rule_1_catches_one_that_goes_read_only_at_the_first_close() {
    says(1, |before, input, _, out| {
        if matches!(input, Input::Close(_)) && before.running.is_none() {
            for effect in out {
                if *effect == Effect::Start(Job::Sync) {
                    *effect = Effect::Start(Job::MakeReadOnly {
                        release: false,
                        awaited: false,
                    });
                }
            }
        }
    });
}

#[test]
fn rule_1_catches_one_that_never_tries_again() {
    says(1, |before, _, _, out| {
        let stuck = before.running == Some(Job::FindHolders);
        out.retain(|effect| !(stuck && matches!(effect, Effect::SetTimer(Some(_)))));
    });
}

#[test]
fn rule_2_catches_one_that_does_not_deny_at_the_stop() {
    says(2, |_, input, _, out| {
        let stop = *input == Input::Stop;
        out.retain(|effect| !(stop && matches!(effect, Effect::Deny(..))));
    });
}

#[test]
fn rule_2_catches_one_that_syncs_and_does_not_answer() {
    hears(2, |arbiter, input| {
        if matches!(input, Input::Done(Outcome::Synced(_))) {
            set_covered(arbiter, false);
        }
        Some(input)
    });
}

#[test]
fn rule_2_catches_one_that_says_durable_when_the_sync_begins() {
    says(2, |_, input, _, out| {
        if let (Input::Close(id), [Effect::Start(_), ..]) = (input, &**out) {
            out.push(Effect::Closed(*id, CloseResult::Durable, "".into()));
        }
    });
}

#[test]
fn rule_2_catches_one_that_counts_a_sync_that_began_before_the_close() {
    hears(2, |arbiter, input| {
        set_covered(arbiter, true);
        Some(input)
    });
}

fn set_covered(arbiter: &mut Arbiter, to: bool) {
    for stage in arbiter.sessions.values_mut() {
        if let Stage::Closing { covered } = stage {
            *covered = to;
        }
    }
}

#[test]
fn rule_3_catches_one_that_calls_a_failed_close_durable() {
    says(3, |_, _, _, out| {
        for effect in out {
            if let Effect::Closed(_, result, _) = effect {
                *result = CloseResult::Durable;
            }
        }
    });
}

#[test]
fn rule_3_catches_one_that_tells_only_who_closed_of_a_failed_sync() {
    says(3, |_, input, _, out| {
        let failed = matches!(input, Input::Done(Outcome::Synced(Err(_))));
        out.retain(|effect| !(failed && matches!(effect, Effect::Revoke(..))));
    });
}

#[test]
fn rule_3_catches_one_that_takes_read_only_for_well() {
    hears(3, |_, input| match input {
        Input::Done(Outcome::MadeReadOnly { remount, .. }) if remount == Remount::Done => {
            let sync = Ok(());
            Some(Input::Done(Outcome::MadeReadOnly { remount, sync }))
        }
        other => Some(other),
    });
}

#[test]
fn rule_4_catches_one_that_looks_during_a_job() {
    says(4, |before, input, _, out| {
        if *input == Input::Recheck && before.running.is_some() {
            out.push(Effect::Start(Job::Inspect));
        }
    });
}

#[test]
fn rule_5_catches_one_that_grants_after_the_stop() {
    says(5, |_, _, _, out| {
        for effect in out {
            if let Effect::Deny(id, DenyReason::Stopping, _) = effect {
                *effect = Effect::Grant(*id);
            }
        }
    });
}

#[test]
fn rule_5_catches_one_that_grants_what_could_not_be_made_writable() {
    says(5, |_, input, _, out| {
        let tried = matches!(input, Input::Done(Outcome::MadeWritable { .. }));
        for effect in out {
            if let (true, Effect::Deny(id, ..)) = (tried, &*effect) {
                *effect = Effect::Grant(*id);
            }
        }
    });
}

#[test]
fn rule_5_catches_one_that_grants_before_it_has_looked() {
    says(5, |before, input, _, out| {
        if let Input::Opened(id) = input {
            if before.pinned && before.running == Some(Job::Inspect) {
                out.push(Effect::Grant(*id));
            }
        }
    });
}

#[test]
fn rule_6_catches_one_that_does_not_tell_of_a_loss() {
    says(6, |_, input, _, out| {
        let looked = matches!(input, Input::Done(Outcome::Inspected(_)));
        out.retain(|effect| !(looked && matches!(effect, Effect::Revoke(..))));
    });
}

#[test]
fn rule_6_catches_one_that_denies_by_what_it_knew() {
    says(6, |before, input, _, out| {
        if let (Input::Opened(id), Health::Absent(text)) = (input, &before.health) {
            out.push(Effect::Deny(*id, DenyReason::Absent, text.clone()));
        }
    });
}

#[test]
fn rule_6_catches_one_that_gives_the_wrong_reason() {
    says(6, |_, _, _, out| {
        for effect in out {
            if let Effect::Deny(_, reason @ DenyReason::Absent, _) = effect {
                *reason = DenyReason::Unprepared;
            }
        }
    });
}

#[test]
fn rule_7_catches_one_that_exits_at_once() {
    says(7, |_, input, _, out| {
        if *input == Input::Stop {
            out.push(Effect::Exit { clean: true });
        }
    });
}

#[test]
fn rule_7_catches_one_that_never_exits() {
    says(7, |before, input, _, out| {
        out.retain(|effect| !matches!(effect, Effect::Exit { .. }));
        if let (true, Input::Opened(id)) = (before.exited, input) {
            out.push(Effect::Deny(*id, DenyReason::Stopping, "no".into()));
        }
    });
}

#[test]
fn rule_7_catches_one_that_exits_before_it_has_cut_who_does_not_go() {
    says(7, |_, _, _, out| {
        out.retain(|effect| !matches!(effect, Effect::Disconnect(_)));
    });
}

#[test]
fn rule_7_catches_one_that_does_not_revoke_at_the_stop() {
    says(7, |_, input, _, out| {
        let stop = *input == Input::Stop;
        out.retain(|effect| !(stop && matches!(effect, Effect::Revoke(..))));
    });
}

#[test]
fn rule_7_catches_one_that_leaves_it_writable_and_calls_that_clean() {
    says(7, |_, _, _, out| {
        for effect in out {
            if let Effect::Exit { clean } = effect {
                *clean = true;
            }
        }
    });
}

#[test]
fn rule_8_catches_one_that_leaves_its_timer_armed() {
    says(8, |_, _, _, out| {
        out.retain(|effect| *effect != Effect::SetTimer(None));
    });
}

#[test]
fn rule_9_catches_one_that_grants_twice() {
    says(9, |_, _, _, out| {
        if let Some(Effect::Grant(id)) = out.first() {
            out.push(Effect::Grant(*id));
        }
    });
}

#[test]
fn rule_9_catches_one_that_cuts_within_the_grace() {
    says(9, |_, _, _, out| {
        if let Some(Effect::Revoke(id, RevokeReason::Stopping, _)) = out.first() {
            out.push(Effect::Disconnect(*id));
        }
    });
}

#[test]
fn rule_9_catches_one_that_revokes_who_waits() {
    says(9, |_, _, _, out| {
        for effect in out {
            if let Effect::Deny(id, DenyReason::Stopping, text) = effect {
                *effect = Effect::Revoke(*id, RevokeReason::Stopping, text.clone());
            }
        }
    });
}

#[test]
fn rule_9_catches_one_that_closes_who_goes() {
    says(9, |_, input, _, out| {
        if let Input::Disconnected(id) = input {
            out.push(Effect::Closed(*id, CloseResult::Durable, "".into()));
        }
    });
}

#[test]
fn rule_10_catches_one_that_tries_again_at_once() {
    says(10, |_, _, now, out| {
        for effect in out {
            if let Effect::SetTimer(Some(at)) = effect {
                *at = now;
            }
        }
    });
}

#[test]
fn rule_10_catches_one_that_arms_in_the_past() {
    says(10, |_, input, _, out| {
        for effect in out {
            if let (Input::Tick, Effect::SetTimer(Some(at))) = (input, effect) {
                at.0 = at.0.saturating_sub(Duration::from_secs(60));
            }
        }
    });
}
