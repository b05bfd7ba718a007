//! The daemon's time limits, pauses and intervals that cannot be configured.

use std::time::Duration;

/// A client must send its request within this time.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(5);
/// A client must read an answer within this time.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// A revoked client is disconnected this long after the kill grace. With the default grace of 1 s, stopping the daemon
/// takes at most 3 s.
pub(super) const REVOKE_MARGIN: Duration = Duration::from_secs(2);
/// At the exit, clients have this long to read their last answer.
pub(super) const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// A client of kvmd's API is disconnected if it has not answered a ping when the next one is due.
#[cfg(feature = "kvmd-api")]
pub(super) const PING_EVERY: Duration = Duration::from_secs(15);
/// A client of kvmd's API gets at most one `storage` event in this time: each change costs a message to each client.
#[cfg(feature = "kvmd-api")]
pub(super) const CHANGES_EVERY: Duration = Duration::from_millis(100);
/// A watching client gets at most one status in this time.
pub(super) const STATUS_INTERVAL: Duration = Duration::from_millis(100);
/// A status waits this long for the search that names what keeps the storage writable.
pub(super) const SEARCH_WAIT: Duration = Duration::from_secs(1);
/// A session that is open for longer may have been forgotten, which is logged once. The check needs no timer of its own:
/// it follows each tick.
pub(super) const FORGOTTEN: Duration = Duration::from_secs(60 * 60);
/// The pause if the kernel lacks resources for a new connection.
pub(super) const NO_RESOURCES: Duration = Duration::from_millis(100);

/// The pause before the second attempt to go read-only.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The pauses double up to this limit.
pub(super) const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// The pauses between the attempts after a writer closed its file: the kernel reports the close just before it drops the
/// writer.
pub(super) const WRITER_CLOSED_RETRIES: [Duration; 3] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(20),
];

/// The interval between inspections of a writable storage: the kernel does not report a card that was pulled out, a
/// superblock that was switched by hand, or an error on most filesystems.
pub(super) const INSPECT_EVERY: Duration = Duration::from_secs(1);
/// The pause between two reads of the filesystem's events: programs that open and close files in a loop must not keep
/// the daemon busy. On a read-only storage they can do that with a FIFO.
pub(super) const EVENTS_GATHER: Duration = Duration::from_millis(20);
/// The pause between two reports of changed mounts: each costs an inspection, for which grants and closes wait, and any
/// user may mount and unmount with FUSE in a loop.
pub(super) const MOUNTS_GATHER: Duration = Duration::from_millis(50);
/// The pauses between the inspections after the filesystem reported an error.
pub(super) const ERROR_INSPECTIONS: [Duration; 4] = [
    Duration::from_millis(2),
    Duration::from_millis(8),
    Duration::from_millis(90),
    Duration::from_millis(400),
];
