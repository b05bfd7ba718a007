//! Read access to the arbiter, for the status and the log.

use super::retry::Retry;
use super::{Arbiter, Health, Job, Phase, SessionId, Stage, State, Text};

impl Arbiter {
    /// Returns the state that users see.
    pub(crate) fn state(&self) -> State {
        match self.health {
            Health::Absent(_) => return State::Absent,
            Health::Unprepared(_) => return State::Unprepared,
            Health::Failed(_) => return State::Failed,
            Health::Ready => {}
        }
        match self.running {
            Some(Job::MakeWritable) => State::GoingRw,
            _ if self.stuck() => State::Stuck,
            Some(Job::MakeReadOnly { .. }) => State::GoingRo,
            _ if self.writable => State::ReadWrite,
            _ => State::ReadOnly,
        }
    }

    /// Returns why the storage is not healthy or stuck; `None` if it is neither.
    pub(crate) fn reason(&self) -> Option<Text> {
        match &self.health {
            Health::Absent(text) | Health::Unprepared(text) | Health::Failed(text) => {
                Some(text.clone())
            }
            Health::Ready => self.retry.as_ref()?.refused.clone(),
        }
    }

    /// Returns the phase of a session; `None` once the session is over.
    pub(crate) fn phase(&self, id: SessionId) -> Option<Phase> {
        if self.granted.contains(&id) {
            return Some(Phase::Granted);
        }
        self.sessions.get(&id).map(|stage| match stage {
            Stage::Waiting { .. } => Phase::Waiting,
            Stage::Revoked { .. } => Phase::Revoked,
            Stage::Closing { .. } => Phase::Closing,
        })
    }

    /// Whether at least one session may write.
    #[cfg(feature = "kvmd-api")]
    pub(crate) fn write_allowed(&self) -> bool {
        !self.granted.is_empty()
    }

    /// Whether the superblock was writable at the last report.
    pub(crate) fn writable(&self) -> bool {
        self.writable
    }

    /// Whether the first inspection and the jobs that followed it are done, so the state is known.
    pub(crate) fn settled(&self) -> bool {
        self.running.is_none() && !self.inspect_due
    }

    /// Whether a search for holders runs, or follows the attempts that are about to be made.
    pub(crate) fn search_expected(&self) -> bool {
        let retry = self.retry.as_ref().filter(|retry| retry.refused.is_some());
        let expected = |retry: &Retry| retry.search || retry.burst.is_some();
        retry.is_some_and(expected) || self.running == Some(Job::FindHolders)
    }

    /// Whether the kernel refuses read-only. A failed storage can also be stuck.
    pub(crate) fn stuck(&self) -> bool {
        self.retry
            .as_ref()
            .is_some_and(|retry| retry.refused.is_some())
    }
}
