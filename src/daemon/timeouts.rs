//! All of the daemon's times that nobody configures, in one place.

use std::time::Duration;

/// A client that has not said what it wants by then is cut.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(5);
/// A client that has not taken an answer by then is cut.
pub(super) const WRITE_PATIENCE: Duration = Duration::from_secs(5);
/// What a revoked client gets beyond the kill grace before its connection is cut; with the default
/// grace of 1 s a stop takes 3 s at most.
pub(super) const REVOKE_MARGIN: Duration = Duration::from_secs(2);
/// At the exit, answers get this long to be taken.
pub(super) const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How often a client of kvmd's API is pinged; one that has not answered by the next is dropped.
#[cfg(feature = "kvmd-api")]
pub(super) const PING_EVERY: Duration = Duration::from_secs(15);
/// A client of kvmd's API is told that others came and went at most this often: each of those
/// costs a message to each client.
#[cfg(feature = "kvmd-api")]
pub(super) const CHANGES_EVERY: Duration = Duration::from_millis(100);
/// Who watches the status is told of changes at most this often.
pub(super) const WATCH_EVERY: Duration = Duration::from_millis(100);
/// A session that is open for longer than this was perhaps forgotten: the log says so, once, and
/// the status as long as it is. It is looked at when a writable storage is, so this needs no timer
/// of its own.
pub(crate) const FORGOTTEN: Duration = Duration::from_secs(60 * 60);
/// Wait after the kernel could not give a connection, before the next is asked for.
pub(super) const NO_RESOURCES: Duration = Duration::from_millis(100);

/// First wait before another try to go read-only, where nothing tells when to try.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest wait between two tries; each wait is twice the one before.
pub(super) const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// Waits between the tries that a writer's close triggers: the kernel tells of the close just
/// before the writer is gone.
pub(super) const BURST: [Duration; 3] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(20),
];

/// How often a writable storage is looked at: of a device that is gone (the card was pulled out), of
/// a superblock switched by hand, and of errors on most filesystems the kernel tells nobody.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the filesystem's events may gather before they are read again: writers that open and
/// close without end, which a FIFO's may on a read-only storage too, must not keep it busy.
pub(super) const EVENTS_GATHER: Duration = Duration::from_millis(20);
/// How long changes of the mounts may gather after one that was told at once: each costs a look,
/// which grants and closes wait for, and any user may mount and unmount with FUSE without end.
pub(super) const MOUNTS_GATHER: Duration = Duration::from_millis(50);
/// When to look again after the filesystem told of an error, each after the one before.
pub(super) const ERROR_LOOKS: [Duration; 4] = [
    Duration::from_millis(2),
    Duration::from_millis(8),
    Duration::from_millis(90),
    Duration::from_millis(400),
];
