//! Mutants: arbiters with one error each. The exploration must catch each one by the right invariant.
//!
//! A mutant is the real machine with its inputs or its effects changed.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::explore::{Bounds, explore};
use super::model::{KILL_GRACE, Machine, Model};
use super::{
    Arbiter, CloseResult, DenyReason, Effect, Health, Input, Job, Moment, Outcome, Phase, Remount,
    RevokeReason, SessionId, Stage, State,
};

const BOUNDS: Bounds = Bounds {
    sessions: 2,
    faults: 1,
};

/// Changes the effects of an input. Also gets the machine as it was before the input.
type OutputMutation = fn(&Arbiter, &Input, Moment, &mut Vec<Effect>);
/// Changes an input before the machine gets it; `None` drops the input.
type InputMutation = fn(&mut Arbiter, Input) -> Option<Input>;

#[derive(Clone, Debug)]
struct Mutant {
    arbiter: Arbiter,
    mutate_input: InputMutation,
    mutate_output: OutputMutation,
}

/// Ignores the mutation, which never changes during an exploration.
impl PartialEq for Mutant {
    fn eq(&self, other: &Mutant) -> bool {
        self.arbiter == other.arbiter
    }
}

impl Eq for Mutant {}

impl Hash for Mutant {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.arbiter.hash(state);
    }
}

impl Machine for Mutant {
    fn input(&mut self, input: Input, now: Moment) -> Vec<Effect> {
        let Some(input) = (self.mutate_input)(&mut self.arbiter, input) else {
            return Vec::new();
        };
        let before = self.arbiter.clone();
        let mut effects = self.arbiter.input(input.clone(), now);
        (self.mutate_output)(&before, &input, now, &mut effects);
        effects
    }

    fn rebase(&mut self, now: Moment) {
        self.arbiter.rebase(now);
    }

    fn reports(&self, _: State, _: &[(SessionId, Phase)]) -> bool {
        true // mutants are caught by their effects alone
    }
}

/// Explores a mutant and checks that it breaks this invariant first.
fn breaks(invariant: usize, mutate_input: InputMutation, mutate_output: OutputMutation) {
    let (arbiter, effects) = Arbiter::new(KILL_GRACE);
    let mutant = Mutant {
        arbiter,
        mutate_input,
        mutate_output,
    };
    let explored = explore(Model::new(mutant, effects).expect("a good start"), BOUNDS);
    let (violation, path) = explored.broken.expect("the exploration does not catch it");
    println!(
        "invariant {} after {} steps: {}",
        violation.invariant,
        path.len(),
        violation.text
    );
    assert_eq!(
        violation.invariant, invariant,
        "{}: {path:#?}",
        violation.text
    );
}

fn breaks_by_output(invariant: usize, mutation: OutputMutation) {
    breaks(invariant, |_, input| Some(input), mutation);
}

fn breaks_by_input(invariant: usize, mutation: InputMutation) {
    breaks(invariant, mutation, |_, _, _, _| {});
}

#[test]
fn the_real_machine_is_not_caught() {
    let (arbiter, effects) = Arbiter::new(KILL_GRACE);
    let mutant = Mutant {
        arbiter,
        mutate_input: |_, input| Some(input),
        mutate_output: |_, _, _, _| {},
    };
    let explored = explore(Model::new(mutant, effects).expect("a good start"), BOUNDS);
    assert_eq!(explored.broken, None);
}

#[test]
fn invariant_1_catches_a_mutant_that_forgets_sessions_when_another_one_ends() {
    breaks_by_input(1, |arbiter, input| {
        if matches!(input, Input::Disconnected(_)) {
            arbiter.granted.clear();
        }
        Some(input)
    });
}

#[test]
fn invariant_1_catches_a_mutant_that_goes_read_only_at_the_first_close() {
    breaks_by_output(1, |before, input, _, out| {
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
fn invariant_1_catches_a_mutant_that_never_retries() {
    breaks_by_output(1, |before, _, _, out| {
        let stuck = before.running == Some(Job::FindHolders);
        out.retain(|effect| !(stuck && matches!(effect, Effect::SetTimer(Some(_)))));
    });
}

#[test]
fn invariant_1_catches_a_mutant_that_retries_only_if_the_kernel_says_busy() {
    breaks_by_input(1, |_, input| match input {
        Input::Done(Outcome::MadeReadOnly {
            remount: Remount::Refused(text),
            sync,
        }) => {
            let remount = Remount::Failed(text);
            Some(Input::Done(Outcome::MadeReadOnly { remount, sync }))
        }
        other => Some(other),
    });
}

#[test]
fn invariant_2_catches_a_mutant_that_does_not_deny_at_the_stop() {
    breaks_by_output(2, |_, input, _, out| {
        let stop = *input == Input::Stop;
        out.retain(|effect| !(stop && matches!(effect, Effect::Deny(..))));
    });
}

#[test]
fn invariant_2_catches_a_mutant_that_syncs_and_does_not_answer() {
    breaks_by_input(2, |arbiter, input| {
        if matches!(input, Input::Done(Outcome::Synced(_))) {
            set_covered(arbiter, false);
        }
        Some(input)
    });
}

#[test]
fn invariant_2_catches_a_mutant_that_says_durable_when_the_sync_begins() {
    breaks_by_output(2, |_, input, _, out| {
        if let (Input::Close(id), [Effect::Start(_), ..]) = (input, &**out) {
            out.push(Effect::Closed(*id, CloseResult::Durable, "".into()));
        }
    });
}

#[test]
fn invariant_2_catches_a_mutant_that_counts_a_sync_that_began_before_the_close() {
    breaks_by_input(2, |arbiter, input| {
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
fn invariant_3_catches_a_mutant_that_calls_a_failed_close_durable() {
    breaks_by_output(3, |_, _, _, out| {
        for effect in out {
            if let Effect::Closed(_, result, _) = effect {
                *result = CloseResult::Durable;
            }
        }
    });
}

#[test]
fn invariant_3_catches_a_mutant_that_reports_a_failed_sync_only_to_closing_sessions() {
    breaks_by_output(3, |_, input, _, out| {
        let failed = matches!(input, Input::Done(Outcome::Synced(Err(_))));
        out.retain(|effect| !(failed && matches!(effect, Effect::Revoke(..))));
    });
}

#[test]
fn invariant_3_catches_a_mutant_that_takes_read_only_for_success() {
    breaks_by_input(3, |_, input| match input {
        Input::Done(Outcome::MadeReadOnly { remount, .. }) if remount == Remount::Done => {
            let sync = Ok(());
            Some(Input::Done(Outcome::MadeReadOnly { remount, sync }))
        }
        other => Some(other),
    });
}

#[test]
fn invariant_4_catches_a_mutant_that_inspects_during_a_job() {
    breaks_by_output(4, |before, input, _, out| {
        if *input == Input::Recheck && before.running.is_some() {
            out.push(Effect::Start(Job::Inspect));
        }
    });
}

#[test]
fn invariant_5_catches_a_mutant_that_grants_after_the_stop() {
    breaks_by_output(5, |_, _, _, out| {
        for effect in out {
            if let Effect::Deny(id, DenyReason::Stopping, _) = effect {
                *effect = Effect::Grant(*id);
            }
        }
    });
}

#[test]
fn invariant_5_catches_a_mutant_that_grants_although_it_could_not_be_made_writable() {
    breaks_by_output(5, |_, input, _, out| {
        let tried = matches!(input, Input::Done(Outcome::MadeWritable { .. }));
        for effect in out {
            if let (true, Effect::Deny(id, ..)) = (tried, &*effect) {
                *effect = Effect::Grant(*id);
            }
        }
    });
}

#[test]
fn invariant_5_catches_a_mutant_that_grants_before_it_has_inspected() {
    breaks_by_output(5, |before, input, _, out| {
        if let Input::Opened(id) = input {
            if before.pinned && before.running == Some(Job::Inspect) {
                out.push(Effect::Grant(*id));
            }
        }
    });
}

#[test]
fn invariant_6_catches_a_mutant_that_does_not_report_a_loss() {
    breaks_by_output(6, |_, input, _, out| {
        let inspected = matches!(input, Input::Done(Outcome::Inspected(_)));
        out.retain(|effect| !(inspected && matches!(effect, Effect::Revoke(..))));
    });
}

#[test]
fn invariant_6_catches_a_mutant_that_denies_without_a_new_inspection() {
    breaks_by_output(6, |before, input, _, out| {
        if let (Input::Opened(id), Health::Absent(text)) = (input, &before.health) {
            out.push(Effect::Deny(*id, DenyReason::Absent, text.clone()));
        }
    });
}

#[test]
fn invariant_6_catches_a_mutant_that_gives_the_wrong_reason() {
    breaks_by_output(6, |_, _, _, out| {
        for effect in out {
            if let Effect::Deny(_, reason @ DenyReason::Absent, _) = effect {
                *reason = DenyReason::Unprepared;
            }
        }
    });
}

#[test]
fn invariant_7_catches_a_mutant_that_exits_at_once() {
    breaks_by_output(7, |_, input, _, out| {
        if *input == Input::Stop {
            out.push(Effect::Exit { clean: true });
        }
    });
}

#[test]
fn invariant_7_catches_a_mutant_that_never_exits() {
    breaks_by_output(7, |before, input, _, out| {
        out.retain(|effect| !matches!(effect, Effect::Exit { .. }));
        if let (true, Input::Opened(id)) = (before.exited, input) {
            out.push(Effect::Deny(*id, DenyReason::Stopping, "no".into()));
        }
    });
}

#[test]
fn invariant_7_catches_a_mutant_that_exits_before_it_has_disconnected_revoked_sessions() {
    breaks_by_output(7, |_, _, _, out| {
        out.retain(|effect| !matches!(effect, Effect::Disconnect(_)));
    });
}

#[test]
fn invariant_7_catches_a_mutant_that_does_not_revoke_at_the_stop() {
    breaks_by_output(7, |_, input, _, out| {
        let stop = *input == Input::Stop;
        out.retain(|effect| !(stop && matches!(effect, Effect::Revoke(..))));
    });
}

#[test]
fn invariant_7_catches_a_mutant_that_leaves_it_writable_and_calls_that_clean() {
    breaks_by_output(7, |_, _, _, out| {
        for effect in out {
            if let Effect::Exit { clean } = effect {
                *clean = true;
            }
        }
    });
}

#[test]
fn invariant_8_catches_a_mutant_that_leaves_its_timer_set() {
    breaks_by_output(8, |_, _, _, out| {
        out.retain(|effect| *effect != Effect::SetTimer(None));
    });
}

#[test]
fn invariant_9_catches_a_mutant_that_grants_twice() {
    breaks_by_output(9, |_, _, _, out| {
        if let Some(Effect::Grant(id)) = out.first() {
            out.push(Effect::Grant(*id));
        }
    });
}

#[test]
fn invariant_9_catches_a_mutant_that_disconnects_within_the_grace() {
    breaks_by_output(9, |_, _, _, out| {
        if let Some(Effect::Revoke(id, RevokeReason::Stopping, _)) = out.first() {
            out.push(Effect::Disconnect(*id));
        }
    });
}

#[test]
fn invariant_9_catches_a_mutant_that_revokes_a_waiting_session() {
    breaks_by_output(9, |_, _, _, out| {
        for effect in out {
            if let Effect::Deny(id, DenyReason::Stopping, text) = effect {
                *effect = Effect::Revoke(*id, RevokeReason::Stopping, text.clone());
            }
        }
    });
}

#[test]
fn invariant_9_catches_a_mutant_that_closes_a_disconnected_session() {
    breaks_by_output(9, |_, input, _, out| {
        if let Input::Disconnected(id) = input {
            out.push(Effect::Closed(*id, CloseResult::Durable, "".into()));
        }
    });
}

#[test]
fn invariant_10_catches_a_mutant_that_retries_at_once() {
    breaks_by_output(10, |_, _, now, out| {
        for effect in out {
            if let Effect::SetTimer(Some(at)) = effect {
                *at = now;
            }
        }
    });
}

#[test]
fn invariant_10_catches_a_mutant_that_sets_its_timer_in_the_past() {
    breaks_by_output(10, |_, input, _, out| {
        for effect in out {
            if let (Input::Tick, Effect::SetTimer(Some(at))) = (input, effect) {
                at.0 = at.0.saturating_sub(Duration::from_secs(60));
            }
        }
    });
}

#[test]
fn invariant_11_catches_a_mutant_that_takes_a_temporary_failure_for_a_lasting_one() {
    breaks_by_input(11, |_, mut input| {
        if let Input::Done(Outcome::Inspected(found) | Outcome::MadeWritable(found)) = &mut input {
            found.temporary = false;
        }
        Some(input)
    });
}

#[test]
fn invariant_11_catches_a_mutant_that_does_not_inspect_again() {
    breaks_by_output(11, |_, input, _, out| {
        let temporary = matches!(input, Input::Done(Outcome::Inspected(found)) if found.temporary);
        out.retain(|effect| !(temporary && matches!(effect, Effect::SetTimer(Some(_)))));
    });
}
