//! What the outside is shown of the arbiter. Nothing here changes anything.

use super::{Arbiter, Health, Job, Phase, SessionId, Stage, State, Text};

impl Arbiter {
    /// The state as the outside is told it.
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

    /// Why the state is not well; `None` if it is.
    pub(crate) fn reason(&self) -> Option<Text> {
        match &self.health {
            Health::Absent(text) | Health::Unprepared(text) | Health::Failed(text) => {
                Some(text.clone())
            }
            Health::Ready if self.stuck() => {
                Some("the kernel refuses read-only: something still holds it".into())
            }
            Health::Ready => None,
        }
    }

    /// Where a session stands; `None` once it is over.
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

    /// Whether somebody may write: at least one session is granted, and was not revoked.
    #[cfg(feature = "kvmd-api")]
    pub(crate) fn write_allowed(&self) -> bool {
        !self.granted.is_empty()
    }

    /// Whether the superblock is writable, as far as known.
    pub(crate) fn writable(&self) -> bool {
        self.writable
    }

    /// The first look is over, and what it led to: from now on the state means something.
    pub(crate) fn settled(&self) -> bool {
        self.running.is_none() && !self.look
    }

    /// The kernel refuses read-only, whatever else there is to say about the storage.
    pub(crate) fn stuck(&self) -> bool {
        self.retry.as_ref().is_some_and(|retry| retry.refused)
    }
}
