//! The arbiter's vocabulary: what it is told, what it says, and what the worker's jobs are and
//! bring back. It decides nothing.

use std::time::Duration;

pub(crate) use crate::storage::health::{Health, Inspection, Remount, Text};
pub(crate) use crate::wire::{CloseResult, DenyReason, RevokeReason};

/// A session, for the life of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub u64);

/// A point of the monotonic clock: the time since the daemon started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Moment(pub Duration);

/// What the worker is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Job {
    /// Look at the mount and its health. Answer: [`Outcome::Inspected`].
    Inspect,
    /// Look, and if all is well go read-write and hold the root's descriptor.
    /// Answer: [`Outcome::MadeWritable`].
    MakeWritable,
    /// Remount read-only, then sync through the pinned descriptor, then let go of it; it stays
    /// pinned only if it was, the kernel says busy, nothing was lost and `release` is not set.
    /// Answer: [`Outcome::MadeReadOnly`].
    MakeReadOnly {
        /// Let go of the storage whatever comes of it.
        release: bool,
        /// Somebody waits to hear whether its data is safe, so it is synced even if the kernel
        /// says busy. Without, a busy storage is not made to write at each try.
        awaited: bool,
    },
    /// Put on the medium what was written so far. Answer: [`Outcome::Synced`].
    Sync,
    /// Find out who keeps it from going read-only. Answer: [`Outcome::Searched`].
    FindHolders,
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// Of [`Job::Inspect`].
    Inspected(Inspection),
    /// Of [`Job::MakeWritable`]: ready and writable if it succeeded.
    MadeWritable(Inspection),
    /// Of [`Job::MakeReadOnly`].
    MadeReadOnly {
        remount: Remount,
        sync: Result<(), Text>,
    },
    /// Of [`Job::Sync`].
    Synced(Result<(), Text>),
    /// Of [`Job::FindHolders`]: what was found is not for the arbiter.
    Searched,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Input {
    /// An admitted client asks for a session.
    Opened(SessionId),
    /// Its command has ended; it wants to know whether its data is safe.
    Close(SessionId),
    /// Its connection ended, whatever went before.
    Disconnected(SessionId),
    /// The running job is done.
    Done(Outcome),
    /// Something happened to the mount or the filesystem: have a look.
    Recheck,
    /// Somebody closed a file that was open for writing, while nobody should have one.
    WriterClosed,
    /// The armed moment has come.
    Tick,
    Stop,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Effect {
    /// Give this to the worker.
    Start(Job),
    /// Answer an opening: the storage is writable.
    Grant(SessionId),
    /// Answer an opening with a refusal; the session is over.
    Deny(SessionId, DenyReason, Text),
    /// Tell a granted session that it must end.
    Revoke(SessionId, RevokeReason, Text),
    /// Answer a close; the session is over.
    Closed(SessionId, CloseResult, Text),
    /// Cut the connection of a session that was revoked and did not go; it is over.
    Disconnect(SessionId),
    /// Call with [`Input::Tick`] at this moment, and forget any other; `None`: at none.
    SetTimer(Option<Moment>),
    /// All is done: write out what is to be written, and exit.
    Exit {
        /// The storage is read-only, or there is none to be made so.
        clean: bool,
    },
}
