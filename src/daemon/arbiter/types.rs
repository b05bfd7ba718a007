//! The arbiter's inputs and effects, and the worker's jobs and their outcomes.

use std::time::Duration;

pub(crate) use crate::storage::health::{Health, Inspection, Remount, Text};
pub(crate) use crate::wire::{CloseResult, DenyReason, RevokeReason};

/// Identifies a session; never reused while the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub u64);

/// A point in time, since the start of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Moment(pub Duration);

/// Work for the worker thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Job {
    /// Inspects the mount and its health. Answered by [`Outcome::Inspected`].
    Inspect,
    /// Inspects the storage; if it is healthy, opens the root directory and remounts read-write.
    /// Answered by [`Outcome::MadeWritable`].
    MakeWritable,
    /// Remounts read-only, syncs through the pinned descriptor, then closes it. It stays open only
    /// if the kernel says busy, the sync succeeded and `release` is not set.
    /// Answered by [`Outcome::MadeReadOnly`].
    MakeReadOnly {
        /// Close the descriptor in any case.
        release: bool,
        /// A client waits for the sync, so sync even if the kernel says busy. Otherwise a busy
        /// storage is not synced, which would cost writes at each attempt.
        awaited: bool,
    },
    /// Flushes all written data to the card. Answered by [`Outcome::Synced`].
    Sync,
    /// Finds what keeps the storage writable. Answered by [`Outcome::Searched`].
    FindHolders,
}

/// The result of a job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Inspected(Inspection),
    /// [`Health::Ready`] and writable on success.
    MadeWritable(Inspection),
    MadeReadOnly {
        remount: Remount,
        sync: Result<(), Text>,
    },
    Synced(Result<(), Text>),
    /// The arbiter does not need the result.
    Searched,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Input {
    /// An admitted client asks for a session.
    Opened(SessionId),
    /// The client's command has ended; it asks whether its data is safe.
    Close(SessionId),
    /// The connection ended, with or without a close.
    Disconnected(SessionId),
    /// The running job is done.
    Done(Outcome),
    /// The mount or the filesystem may have changed.
    Recheck,
    /// A file that was open for writing was closed while no session was open.
    WriterClosed,
    /// The timer of [`Effect::SetTimer`] has expired.
    Tick,
    Stop,
}

/// What the controller must do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Effect {
    /// Pass the job to the worker.
    Start(Job),
    /// Answer a request for a session: the storage is writable.
    Grant(SessionId),
    /// Refuse a request for a session; the session is over.
    Deny(SessionId, DenyReason, Text),
    /// Tell a granted session that it must end.
    Revoke(SessionId, RevokeReason, Text),
    /// Answer a close; the session is over.
    Closed(SessionId, CloseResult, Text),
    /// Disconnect a revoked session that did not end in time; the session is over.
    Disconnect(SessionId),
    /// Replace the timer: pass in [`Input::Tick`] at this moment, or never if `None`.
    SetTimer(Option<Moment>),
    /// Every client has its answer: send the queued messages and exit.
    Exit {
        /// The storage is read-only or absent.
        clean: bool,
    },
}
