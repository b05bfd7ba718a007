//! The rules: what the world checks of all that the machine says, and of what it leaves.

use super::super::{
    CloseResult, DenyReason, Effect, Input, Job, Moment, REVOKE_MARGIN, RevokeReason, SessionId,
    State, Text,
};
use super::{BY_HAND, Client, Fresh, KILL_GRACE, Kind, Machine, Violation, WHY, World};

/// The rules; a violation names one by its number, counted from 1.
pub const RULES: [&str; 10] = [
    "it never asks for read-only while a granted session lives, and always does in the end",
    "every opening and every close is answered once, and no close as durable before its data is",
    "a failed sync reaches every session that was open at it",
    "at most one job runs at a time",
    "a grant is given only while writable and healthy, and none after the stop",
    "losing the storage revokes every session; who comes later is answered after a fresh look",
    "a stop ends in one exit, after every answer, and clean only if the storage is read-only",
    "idle means idle: no moment is armed",
    "what is said to a session fits where it stands, and what is shown is so",
    "an armed moment is never left in the past without effect",
];

impl<M: Machine> World<M> {
    pub(super) fn effect(&mut self, effect: Effect) -> Result<(), Violation> {
        check(!self.exited, 7, || format!("{effect:?} after the exit"))?;
        match effect {
            Effect::Start(job) => self.starts(job),
            Effect::Grant(id) => self.grants(id),
            Effect::Deny(id, reason, text) => self.denies(id, reason, &text),
            Effect::Revoke(id, reason, text) => self.revokes(id, reason, &text),
            Effect::Closed(id, result, text) => self.closes(id, result, &text),
            Effect::Disconnect(id) => {
                let client = self.clients.remove(&id);
                let now = self.now;
                let due = |from: Moment| from <= now;
                let fits =
                    matches!(client, Some(Client::Revoked { cut_from, .. }) if due(cut_from));
                check(fits, 9, || format!("{client:?} is cut"))
            }
            Effect::SetTimer(at) => {
                self.armed = at;
                let past = at.is_some_and(|at| at < self.now);
                check(!past, 10, || "armed in the past".into())
            }
            Effect::Exit { clean } => self.exits(clean),
        }
    }

    fn starts(&mut self, job: Job) -> Result<(), Violation> {
        let other = self.running.replace(job);
        check(other.is_none(), 4, || format!("{job:?} during {other:?}"))?;
        let granted = self
            .clients
            .values()
            .any(|c| matches!(c, Client::Granted { .. }));
        let switch = matches!(job, Job::MakeReadOnly { .. });
        check(!(switch && granted), 1, || {
            "read-only during a session".into()
        })?;
        check(job != Job::Sync || self.pinned, 2, || {
            "a sync through a descriptor that nobody holds".into()
        })?;
        let looks = matches!(job, Job::Inspect | Job::MakeWritable);
        if looks {
            self.suspect = false;
        }
        for client in self.clients.values_mut() {
            match client {
                Client::Waiting { fresh } if looks => *fresh = Fresh::Running,
                Client::Closing { covered, .. } => *covered = switch || job == Job::Sync,
                _ => {}
            }
        }
        Ok(())
    }

    fn grants(&mut self, id: SessionId) -> Result<(), Violation> {
        let client = self.clients.insert(id, Client::Granted { lost: false });
        self.busy = false; // it should be writable again
        check(!self.stopped, 5, || "a grant after the stop".into())?;
        check(matches!(client, Some(Client::Waiting { .. })), 9, || {
            format!("{client:?} is granted")
        })?;
        let well = self.kind == Kind::Ready && self.writable && self.pinned && !self.lost;
        check(well, 5, || "a grant while not writable, or not well".into())?;
        let switching = matches!(
            self.running,
            Some(Job::Inspect | Job::MakeWritable | Job::MakeReadOnly { .. })
        );
        check(!self.suspect && !switching, 5, || {
            "a grant before a look that is due has ended".into()
        })
    }

    fn denies(&mut self, id: SessionId, reason: DenyReason, text: &Text) -> Result<(), Violation> {
        let client = self.clients.remove(&id);
        let Some(Client::Waiting { fresh }) = client else {
            return check(false, 9, || format!("{client:?} is denied"));
        };
        check(!text.is_empty(), 6, || "denied without a word".into())?;
        if reason == DenyReason::Stopping {
            return check(self.stopped, 6, || "denied as if stopping".into());
        }
        let well = self.kind == Kind::Ready && self.writable && self.pinned && !self.lost;
        check(!well, 6, || "denied while all is well".into())?;
        check(fresh == Fresh::Done || self.lost, 6, || {
            "denied without a fresh look".into()
        })?;
        let known = self.told;
        check(reason == known.denial(), 6, || {
            format!("denied as {reason:?} while {known:?}")
        })
    }

    fn revokes(
        &mut self,
        id: SessionId,
        reason: RevokeReason,
        text: &Text,
    ) -> Result<(), Violation> {
        let client = self.clients.get(&id).cloned();
        let Some(Client::Granted { lost }) = client else {
            return check(false, 9, || format!("{client:?} is revoked"));
        };
        let fits = match reason {
            RevokeReason::Lost => lost,
            RevokeReason::Stopping => self.stopped && !lost,
        };
        check(fits && !text.is_empty(), 9, || {
            format!("revoked as {reason:?}")
        })?;
        let cut_from = Moment(self.now.0 + KILL_GRACE + REVOKE_MARGIN);
        self.clients.insert(id, Client::Revoked { lost, cut_from });
        Ok(())
    }

    fn closes(&mut self, id: SessionId, result: CloseResult, text: &Text) -> Result<(), Violation> {
        let client = self.clients.remove(&id);
        let Some(Client::Closing { lost, durable, .. }) = client else {
            return check(false, 9, || format!("{client:?} is closed"));
        };
        match result {
            CloseResult::Durable => {
                check(!lost, 3, || "durable, and lost".into())?;
                check(durable, 2, || "durable before its sync".into())
            }
            CloseResult::Failed => {
                check(lost, 2, || "closed as failed, and nothing failed".into())?;
                check(&**text == WHY || &**text == BY_HAND, 2, || {
                    format!("closed as failed for another reason: {text}")
                })
            }
        }
    }

    fn exits(&mut self, clean: bool) -> Result<(), Violation> {
        self.exited = true;
        check(self.stopped, 7, || "an exit without a stop".into())?;
        check(self.clients.is_empty(), 7, || {
            format!("an exit before {:?} are answered", self.clients)
        })?;
        check(self.running.is_none(), 7, || "an exit during a job".into())?;
        check(self.given_up || clean != self.writable, 7, || {
            format!("clean: {clean}, writable: {}", self.writable)
        })
    }

    fn state(&self) -> State {
        match (self.told, self.running) {
            (Kind::Absent, _) => State::Absent,
            (Kind::Unprepared, _) => State::Unprepared,
            (Kind::Failed, _) => State::Failed,
            (Kind::Ready, Some(Job::MakeWritable)) => State::GoingRw,
            (Kind::Ready, _) if self.busy => State::Stuck,
            (Kind::Ready, Some(Job::MakeReadOnly { .. })) => State::GoingRo,
            (Kind::Ready, _) if self.writable => State::ReadWrite,
            (Kind::Ready, _) => State::ReadOnly,
        }
    }

    /// What must hold after each step. `cause`: the rule that is broken if a loss is not told.
    pub(super) fn after(&mut self, cause: usize) -> Result<(), Violation> {
        let granted = self
            .clients
            .values()
            .any(|c| matches!(c, Client::Granted { .. }));
        let waiting = self
            .clients
            .values()
            .any(|c| matches!(c, Client::Waiting { .. }));
        check(!(granted && self.lost), cause, || {
            "a session is not told of the loss".into()
        })?;
        check(!(granted && self.stopped), 7, || {
            "a session outlives the stop".into()
        })?;
        check(!(waiting && self.stopped), 2, || {
            "nobody denies after the stop".into()
        })?;
        let idle = self.clients.is_empty() && self.running.is_none();
        let quiet = idle && !self.writable && !self.busy && !self.stopped;
        check(!quiet || self.armed.is_none(), 8, || {
            "armed while idle".into()
        })?;
        let phases = self.clients.iter();
        let phases: Vec<_> = phases.map(|(id, client)| (*id, client.phase())).collect();
        let state = self.state();
        check(self.machine.shows(state, &phases), 9, || {
            format!("shows something else than {state:?}, {phases:?}")
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

/// Names the rule that is broken, unless it holds.
pub fn check(holds: bool, rule: usize, text: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds {
        return Ok(());
    }
    Err(Violation { rule, text: text() })
}
