//! Checks the machine's effects and the resulting state against the invariants.

use super::super::{
    CloseResult, DenyReason, Effect, Input, Job, Moment, REVOKE_MARGIN, RevokeReason, SessionId,
    State, Text,
};
use super::{
    BY_HAND, Freshness, HealthKind, KILL_GRACE, Machine, Model, ModelClient, Violation, WHY,
};

/// A violation refers to one of these by its number, counted from 1.
pub const INVARIANTS: [&str; 11] = [
    "the machine never asks for read-only while a granted session lives, and always does in the end",
    "every open and every close is answered once, and no close as durable before its data is",
    "a failed sync reaches every session that was open during it",
    "at most one job runs at a time",
    "a grant is given only while writable and healthy, and none after the stop",
    "losing the storage revokes every session; later clients are answered after a new inspection",
    "a stop ends in one exit, after every answer, and clean only if the storage is read-only",
    "no timer is set while idle",
    "each answer fits the session's phase, and the reported state is true",
    "a timer never expires without effect again and again",
    "after a temporary failure another inspection is scheduled",
];

impl<M: Machine> Model<M> {
    pub(super) fn check_effect(&mut self, effect: Effect) -> Result<(), Violation> {
        check(!self.exited, 7, || format!("{effect:?} after the exit"))?;
        match effect {
            Effect::Start(job) => self.check_start(job),
            Effect::Grant(id) => self.check_grant(id),
            Effect::Deny(id, reason, text) => self.check_deny(id, reason, &text),
            Effect::Revoke(id, reason, text) => self.check_revoke(id, reason, &text),
            Effect::Closed(id, result, text) => self.check_close(id, result, &text),
            Effect::Disconnect(id) => {
                let client = self.clients.remove(&id);
                let now = self.now;
                let due = |from: Moment| from <= now;
                let fits = matches!(client, Some(ModelClient::Revoked { disconnect_from, .. }) if due(disconnect_from));
                check(fits, 9, || format!("{client:?} is disconnected"))
            }
            Effect::SetTimer(at) => {
                self.timer = at;
                let past = at.is_some_and(|at| at < self.now);
                check(!past, 10, || "timer set in the past".into())
            }
            Effect::Exit { clean } => self.check_exit(clean),
        }
    }

    fn check_start(&mut self, job: Job) -> Result<(), Violation> {
        let other = self.running.replace(job);
        check(other.is_none(), 4, || format!("{job:?} during {other:?}"))?;
        let granted = self
            .clients
            .values()
            .any(|c| matches!(c, ModelClient::Granted { .. }));
        let switch = matches!(job, Job::MakeReadOnly { .. });
        check(!(switch && granted), 1, || {
            "read-only during a session".into()
        })?;
        check(job != Job::Sync || self.pinned, 2, || {
            "a sync without a pinned descriptor".into()
        })?;
        let inspects = matches!(job, Job::Inspect | Job::MakeWritable);
        if inspects {
            self.recheck_due = false;
        }
        for client in self.clients.values_mut() {
            match client {
                ModelClient::Waiting { fresh } if inspects => *fresh = Freshness::Running,
                ModelClient::Closing { covered, .. } => *covered = switch || job == Job::Sync,
                _ => {}
            }
        }
        Ok(())
    }

    fn check_grant(&mut self, id: SessionId) -> Result<(), Violation> {
        let client = self
            .clients
            .insert(id, ModelClient::Granted { lost: false });
        self.busy = false; // it should be writable again
        check(!self.stopped, 5, || "a grant after the stop".into())?;
        check(
            matches!(client, Some(ModelClient::Waiting { .. })),
            9,
            || format!("{client:?} is granted"),
        )?;
        let well = self.health == HealthKind::Ready && self.writable && self.pinned && !self.lost;
        check(well, 5, || {
            "a grant while not writable or not healthy".into()
        })?;
        let switching = matches!(
            self.running,
            Some(Job::Inspect | Job::MakeWritable | Job::MakeReadOnly { .. })
        );
        check(!self.recheck_due && !switching, 5, || {
            "a grant before a due inspection has ended".into()
        })
    }

    fn check_deny(
        &mut self,
        id: SessionId,
        reason: DenyReason,
        text: &Text,
    ) -> Result<(), Violation> {
        let client = self.clients.remove(&id);
        let Some(ModelClient::Waiting { fresh }) = client else {
            return check(false, 9, || format!("{client:?} is denied"));
        };
        check(!text.is_empty(), 6, || "denied without a reason".into())?;
        if reason == DenyReason::Stopping {
            return check(self.stopped, 6, || "denied as if stopping".into());
        }
        let well = self.health == HealthKind::Ready && self.writable && self.pinned && !self.lost;
        check(!well, 6, || "denied while healthy and writable".into())?;
        check(fresh == Freshness::Done || self.lost, 6, || {
            "denied without a new inspection".into()
        })?;
        let known = self.reported;
        check(reason == known.denial(), 6, || {
            format!("denied as {reason:?} while {known:?}")
        })
    }

    fn check_revoke(
        &mut self,
        id: SessionId,
        reason: RevokeReason,
        text: &Text,
    ) -> Result<(), Violation> {
        let client = self.clients.get(&id).cloned();
        let Some(ModelClient::Granted { lost }) = client else {
            return check(false, 9, || format!("{client:?} is revoked"));
        };
        let fits = match reason {
            RevokeReason::Lost => lost,
            RevokeReason::Stopping => self.stopped && !lost,
        };
        check(fits && !text.is_empty(), 9, || {
            format!("revoked as {reason:?}")
        })?;
        let disconnect_from = Moment(self.now.0 + KILL_GRACE + REVOKE_MARGIN);
        self.clients.insert(
            id,
            ModelClient::Revoked {
                lost,
                disconnect_from,
            },
        );
        Ok(())
    }

    fn check_close(
        &mut self,
        id: SessionId,
        result: CloseResult,
        text: &Text,
    ) -> Result<(), Violation> {
        let client = self.clients.remove(&id);
        let Some(ModelClient::Closing { lost, durable, .. }) = client else {
            return check(false, 9, || format!("{client:?} is closed"));
        };
        match result {
            CloseResult::Durable => {
                check(!lost, 3, || "durable although lost".into())?;
                check(durable, 2, || "durable before its sync".into())
            }
            CloseResult::Failed => {
                check(lost, 2, || {
                    "closed as failed although nothing failed".into()
                })?;
                check(&**text == WHY || &**text == BY_HAND, 2, || {
                    format!("closed as failed for another reason: {text}")
                })
            }
        }
    }

    fn check_exit(&mut self, clean: bool) -> Result<(), Violation> {
        self.exited = true;
        check(self.stopped, 7, || "an exit without a stop".into())?;
        check(self.clients.is_empty(), 7, || {
            format!("an exit before these are answered: {:?}", self.clients)
        })?;
        check(self.running.is_none(), 7, || "an exit during a job".into())?;
        check(self.remount_failed || clean != self.writable, 7, || {
            format!("clean: {clean}, writable: {}", self.writable)
        })
    }

    fn state(&self) -> State {
        match (self.reported, self.running) {
            (HealthKind::Absent, _) => State::Absent,
            (HealthKind::Unprepared, _) => State::Unprepared,
            (HealthKind::Failed, _) => State::Failed,
            (HealthKind::Ready, Some(Job::MakeWritable)) => State::GoingRw,
            (HealthKind::Ready, _) if self.busy => State::Stuck,
            (HealthKind::Ready, Some(Job::MakeReadOnly { .. })) => State::GoingRo,
            (HealthKind::Ready, _) if self.writable => State::ReadWrite,
            (HealthKind::Ready, _) => State::ReadOnly,
        }
    }

    /// Checks the state after a transition. `cause` is violated if a loss is not reported.
    pub(super) fn check_state(&mut self, cause: usize) -> Result<(), Violation> {
        let granted = self
            .clients
            .values()
            .any(|c| matches!(c, ModelClient::Granted { .. }));
        let waiting = self
            .clients
            .values()
            .any(|c| matches!(c, ModelClient::Waiting { .. }));
        check(!(granted && self.lost), cause, || {
            "a loss is not reported to a session".into()
        })?;
        check(!(granted && self.stopped), 7, || {
            "a session outlives the stop".into()
        })?;
        check(!(waiting && self.stopped), 2, || {
            "a waiting client is not denied after the stop".into()
        })?;
        let idle = self.clients.is_empty() && self.running.is_none();
        let forgotten = idle && self.timer.is_none() && !self.stopped;
        check(
            !(forgotten && self.writable && !self.remount_failed),
            1,
            || "writable, and nothing is scheduled".into(),
        )?;
        check(!(forgotten && self.temporary), 11, || {
            "nothing is scheduled after a temporary failure".into()
        })?;
        let quiet = idle && !self.writable && !self.busy && !self.temporary && !self.stopped;
        check(!quiet || self.timer.is_none(), 8, || {
            "timer set while idle".into()
        })?;
        let phases = self.clients.iter();
        let phases: Vec<_> = phases.map(|(id, client)| (*id, client.phase())).collect();
        let state = self.state();
        check(self.machine.reports(state, &phases), 9, || {
            format!("does not report {state:?}, {phases:?}")
        })?;
        if self.exited {
            for input in [
                Input::Recheck,
                Input::WriterClosed,
                Input::Tick,
                Input::Stop,
            ] {
                let late = self.machine.input(input, self.now);
                check(late.is_empty(), 7, || format!("{late:?} after the exit"))?;
            }
        }
        Ok(())
    }
}

/// Returns a violation of the invariant unless `holds`.
pub fn check(
    holds: bool,
    invariant: usize,
    text: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds {
        return Ok(());
    }
    Err(Violation {
        invariant,
        text: text(),
    })
}
