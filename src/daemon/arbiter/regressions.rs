//! Former bugs, each with the shortest sequence of inputs that triggers it.

use std::time::Duration;

use super::{
    Arbiter, CloseResult, DenyReason, Effect, Health, Input, Inspection, Job, Moment, Outcome,
    Phase, Remount, SessionId, State,
};

const NOW: Moment = Moment(Duration::from_secs(60));
const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);

fn inspection(health: Health, writable: bool) -> Inspection {
    Inspection {
        health,
        writable,
        temporary: false,
    }
}

fn inspected(health: Health, writable: bool) -> Input {
    Input::Done(Outcome::Inspected(inspection(health, writable)))
}

fn made_writable(health: Health, writable: bool) -> Input {
    Input::Done(Outcome::MadeWritable(inspection(health, writable)))
}

fn made_read_only(remount: Remount, synced: bool) -> Input {
    let sync = if synced { Ok(()) } else { Err("lost".into()) };
    Input::Done(Outcome::MadeReadOnly { remount, sync })
}

fn unprepared() -> Health {
    Health::Unprepared("not prepared".into())
}

/// Returns a new arbiter after these inputs, and the effects of the last one.
fn after(inputs: &[Input]) -> (Arbiter, Vec<Effect>) {
    let (mut arbiter, mut effects) = Arbiter::new(Duration::from_secs(1));
    for input in inputs {
        effects = arbiter.input(input.clone(), NOW);
    }
    (arbiter, effects)
}

/// Like [`after`], but first grants session [`A`].
fn granted_then(inputs: &[Input]) -> (Arbiter, Vec<Effect>) {
    let mut all = vec![
        Input::Opened(A),
        inspected(Health::Ready, false),
        made_writable(Health::Ready, true),
    ];
    all.extend_from_slice(inputs);
    after(&all)
}

#[test]
fn the_exit_is_the_last_effect() {
    let (_, effects) = after(&[Input::Stop, inspected(Health::Ready, false)]);
    assert_eq!(effects.last(), Some(&Effect::Exit { clean: true }));
}

#[test]
fn after_a_busy_remount_while_unprepared_a_waiting_client_causes_an_inspection() {
    let (_, effects) = after(&[
        inspected(unprepared(), true),
        Input::Opened(A),
        made_read_only(Remount::Busy, true),
    ]);
    assert_eq!(effects, [Effect::Start(Job::MakeWritable)]);
}

#[test]
fn a_failed_remount_fails_the_close_even_if_the_sync_succeeded() {
    let failed = Remount::Failed("given up".into());
    let (_, effects) = granted_then(&[Input::Close(A), made_read_only(failed, true)]);
    let answer = Effect::Closed(A, CloseResult::Failed, "given up".into());
    assert_eq!(effects, [answer, Effect::SetTimer(None)]);
}

#[test]
fn retries_end_when_the_storage_is_gone() {
    let (_, effects) = after(&[
        inspected(Health::Ready, true),
        Input::Opened(A),
        made_read_only(Remount::Busy, false),
        made_writable(Health::Absent("gone".into()), false),
    ]);
    let denied = Effect::Deny(A, DenyReason::Absent, "gone".into());
    assert_eq!(effects, [denied]);
}

#[test]
fn a_new_client_causes_an_inspection_while_an_earlier_writer_remains() {
    let (_, effects) = after(&[
        inspected(Health::Ready, true),
        Input::Opened(A),
        made_read_only(Remount::Busy, true),
    ]);
    assert_eq!(effects, [Effect::Start(Job::MakeWritable)]);
}

#[test]
fn an_outdated_search_does_not_delay_the_next_remount() {
    let (_, effects) = after(&[
        inspected(Health::Ready, true),
        Input::Opened(A),
        made_read_only(Remount::Busy, true),
        made_writable(Health::Ready, true),
        Input::Disconnected(A),
    ]);
    assert_eq!(
        effects,
        [Effect::Start(Job::MakeReadOnly {
            release: false,
            awaited: false
        })]
    );
}

#[test]
fn a_loss_lasts_until_its_writable_period_ends() {
    let lost = [
        Input::Recheck,
        inspected(unprepared(), false),
        Input::Recheck,
        inspected(Health::Ready, true),
    ];
    let (mut arbiter, _) = granted_then(&lost);
    let denied = Effect::Deny(B, DenyReason::Unprepared, "not prepared".into());
    assert_eq!(arbiter.input(Input::Opened(B), NOW), [denied]);
    let effects = arbiter.input(Input::Close(A), NOW);
    let failed = Effect::Closed(A, CloseResult::Failed, "not prepared".into());
    assert!(effects.contains(&failed), "{effects:?}");
    let end = Effect::Start(Job::MakeReadOnly {
        release: true,
        awaited: false,
    });
    assert!(effects.contains(&end), "{effects:?}");
}

#[test]
fn writers_that_keep_closing_files_cause_few_attempts() {
    let (mut arbiter, _) = granted_then(&[
        Input::Disconnected(A),
        made_read_only(Remount::Busy, true),
        Input::Done(Outcome::Searched),
    ]);
    let mut attempts = 0;
    for millisecond in 0..1000 {
        let now = Moment(NOW.0 + Duration::from_millis(millisecond));
        let mut effects = arbiter.input(Input::WriterClosed, now);
        effects.extend(arbiter.input(Input::Tick, now));
        while let Some(Effect::Start(job)) = effects.iter().find(|e| matches!(e, Effect::Start(_)))
        {
            let done = match job {
                Job::FindHolders => Input::Done(Outcome::Searched),
                _ => {
                    attempts += 1;
                    made_read_only(Remount::Busy, true)
                }
            };
            effects = arbiter.input(done, now);
        }
    }
    assert!((10..50).contains(&attempts), "{attempts} in a second");
}

#[test]
fn a_writer_that_closes_during_a_burst_gets_a_burst_of_its_own() {
    let (mut arbiter, _) = granted_then(&[
        Input::Disconnected(A),
        made_read_only(Remount::Busy, true),
        Input::Done(Outcome::Searched),
        Input::WriterClosed,
        Input::WriterClosed,
    ]);
    let mut now = NOW;
    let (mut waits, mut searches) = (Vec::new(), 0);
    for _ in 0..7 {
        let mut effects = arbiter.input(made_read_only(Remount::Busy, true), now);
        if effects == [Effect::Start(Job::FindHolders)] {
            searches += 1;
            effects = arbiter.input(Input::Done(Outcome::Searched), now);
        }
        let [Effect::SetTimer(Some(next))] = effects[..] else {
            panic!("{effects:?}");
        };
        waits.push((next.0 - now.0).as_millis());
        now = next;
        let effects = arbiter.input(Input::Tick, now);
        assert!(matches!(effects[..], [Effect::Start(_), ..]), "{effects:?}");
    }
    assert_eq!(waits, [1, 5, 20, 100, 1, 5, 20]);
    assert_eq!(searches, 1, "the holders are searched once");
}

#[test]
fn p10_a_failed_storage_can_be_stuck_so_its_holders_are_searched() {
    let busy = made_read_only(Remount::Busy, false);
    let (arbiter, _) = granted_then(&[Input::Close(A), busy]);
    assert_eq!(arbiter.state(), State::Failed);
    assert!(arbiter.stuck());
}

#[test]
fn a_writer_that_closes_during_the_first_attempt_does_not_make_the_storage_stuck() {
    let (arbiter, _) = granted_then(&[Input::Disconnected(A), Input::WriterClosed]);
    assert_eq!(arbiter.state(), State::GoingRo);
}

#[test]
fn read_only_by_hand_is_a_loss_only_if_a_session_relies_on_it() {
    let (arbiter, effects) = granted_then(&[
        Input::Disconnected(A),
        Input::Recheck,
        made_read_only(Remount::Busy, true),
        inspected(Health::Ready, false),
    ]);
    assert_eq!(arbiter.state(), State::GoingRo);
    assert!(effects.contains(&Effect::Start(Job::MakeReadOnly {
        release: true,
        awaited: false
    })));
    let (arbiter, _) = granted_then(&[Input::Recheck, inspected(Health::Ready, false)]);
    assert_eq!(arbiter.state(), State::Failed);
}

#[test]
fn p9_a_new_client_does_not_wait_for_inspections_that_others_cause() {
    let (_, effects) = after(&[
        inspected(Health::Ready, false),
        Input::Recheck,
        Input::Opened(A),
        Input::Recheck,
        inspected(Health::Ready, false),
    ]);
    assert!(
        effects.contains(&Effect::Start(Job::MakeWritable)),
        "{effects:?}"
    );
}

/// The inspection of a storage that cannot be opened for a moment.
fn shortage() -> Inspection {
    Inspection {
        temporary: true,
        ..inspection(Health::Absent("too many open files".into()), false)
    }
}

/// Passes in a tick at each moment that the arbiter asks for, and answers each job with `outcome`.
/// Returns the waits in ms.
fn waits(arbiter: &mut Arbiter, mut effects: Vec<Effect>, outcome: &Input) -> Vec<u128> {
    let (mut now, mut waits) = (NOW, Vec::new());
    while waits.len() < 9 {
        let [Effect::SetTimer(Some(next))] = effects[..] else {
            panic!("{effects:?}");
        };
        waits.push((next.0 - now.0).as_millis());
        now = next;
        let started = arbiter.input(Input::Tick, now);
        assert!(matches!(started[..], [Effect::Start(_), ..]), "{started:?}");
        effects = arbiter.input(outcome.clone(), now);
    }
    waits
}

/// The pauses of the doubling timer, in ms.
const DOUBLED: [u128; 9] = [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000];

#[test]
fn p1_a_refused_remount_is_tried_again_and_the_state_says_why() {
    let refused = made_read_only(Remount::Refused("no memory".into()), true);
    let (mut arbiter, effects) = after(&[inspected(Health::Ready, true), refused.clone()]);
    assert_eq!(arbiter.state(), State::Stuck);
    assert_eq!(arbiter.reason().as_deref(), Some("no memory"));
    assert_eq!(waits(&mut arbiter, effects, &refused), DOUBLED);
}

#[test]
fn while_a_remount_is_refused_closes_are_durable_and_sessions_are_granted() {
    let refused = made_read_only(Remount::Refused("no memory".into()), true);
    let (mut arbiter, effects) = granted_then(&[Input::Close(A), refused]);
    let durable = Effect::Closed(A, CloseResult::Durable, "".into());
    assert!(effects.contains(&durable), "{effects:?}");
    let effects = arbiter.input(Input::Opened(B), NOW);
    assert!(effects.contains(&Effect::Grant(B)), "{effects:?}");
    assert_eq!(arbiter.state(), State::ReadWrite);
}

#[test]
fn p1_an_inspection_that_failed_temporarily_is_made_again() {
    let failed = Input::Done(Outcome::Inspected(shortage()));
    let (mut arbiter, effects) = after(std::slice::from_ref(&failed));
    assert_eq!(arbiter.state(), State::Absent);
    assert_eq!(waits(&mut arbiter, effects, &failed), DOUBLED);
    let effects = arbiter.input(Input::Tick, Moment(NOW.0 + Duration::from_secs(60)));
    assert!(
        effects.contains(&Effect::Start(Job::Inspect)),
        "{effects:?}"
    );
    let effects = arbiter.input(inspected(Health::Ready, true), NOW);
    assert!(matches!(
        effects[..],
        [Effect::Start(Job::MakeReadOnly { .. }), ..]
    ));
}

#[test]
fn p11_an_absent_storage_needs_no_timer() {
    let (arbiter, effects) = after(&[inspected(Health::Absent("not mounted".into()), false)]);
    assert_eq!((effects, arbiter.timer), (vec![], None));
}

#[test]
fn p5_a_temporary_failure_to_inspect_ends_no_session() {
    let (arbiter, effects) =
        granted_then(&[Input::Recheck, Input::Done(Outcome::Inspected(shortage()))]);
    assert!(
        matches!(effects[..], [Effect::SetTimer(Some(_))]),
        "{effects:?}"
    );
    assert_eq!(arbiter.state(), State::ReadWrite);
    assert_eq!(arbiter.phase(A), Some(Phase::Granted));
}

#[cfg(feature = "kvmd-api")]
#[test]
fn write_is_allowed_only_while_a_session_is_granted() {
    assert!(granted_then(&[]).0.write_allowed());
    assert!(!granted_then(&[Input::Close(A)]).0.write_allowed());
    assert!(!after(&[inspected(Health::Ready, true)]).0.write_allowed());
}
