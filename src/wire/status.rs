//! The status document: the daemon fills it in, `pst status` shows it, `--json` prints it and `check` reads it.
//!
//! [`DaemonMessage::Status`](super::DaemonMessage::Status) carries it as JSON. Since protocol 3, fields are only added.
//! Times are in seconds, sizes in bytes. The daemon escapes all names from outside.

use serde::{Deserialize, Serialize};

/// Declares enums whose values have the same name on the screen, in the log and in JSON.
macro_rules! named {
    ($($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$value_doc])* #[serde(rename = $text)] $value,)*
        }

        impl $name {
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)*
                }
            }
        }
    )*};
}

named! {
    /// The storage's state, as the arbiter sees it.
    State {
        Absent = "absent",
        /// The mount's own flag is read-only: `pst prepare` is needed.
        Unprepared = "unprepared",
        ReadOnly = "ro",
        GoingRw = "going-rw",
        ReadWrite = "rw",
        GoingRo = "going-ro",
        /// Still writable although it should be read-only, because the kernel refuses for now.
        Stuck = "stuck",
        /// Shut down by the kernel, or lost data, or a remount failed. Lasts until it is mounted again, or until a
        /// temporary reason, such as a freeze, has passed.
        Failed = "failed",
    }

    Phase {
        /// Not yet granted: the storage must become writable first.
        Waiting = "waiting",
        Granted = "granted",
        /// Revoked, but the client is still connected.
        Revoked = "revoked",
        /// The data is being flushed to the card.
        Closing = "closing",
    }

    /// The way in which a session ended.
    SessionOutcome {
        /// Closed by its client, and the data is on stable storage.
        Durable = "durable",
        /// Closed, but data may be lost.
        Failed = "failed",
        /// Never granted.
        Denied = "denied",
        /// Revoked, and the client ended in time.
        Revoked = "revoked",
        /// The connection ended without a close: the client was killed or gave up.
        Gone = "gone",
        /// Revoked, but the client did not end, so the daemon disconnected it.
        Cut = "cut",
    }

    /// What keeps the storage writable.
    HolderKind {
        /// A process, through a descriptor, a mapping or its working directory.
        Process = "process",
        /// A loop device whose backing file is on the storage.
        Loop = "loop",
        Swap = "swap",
        /// A frozen filesystem; or nothing was found: a kernel user, or a descriptor in flight.
        Unknown = "unknown",
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's, which may differ from the client's.
    pub version: String,
    pub daemon: DaemonStatus,
    pub storage: StorageStatus,
    pub sessions: Vec<SessionStatus>,
    pub holders: Vec<HolderStatus>,
    /// The sessions that ended most recently, oldest first.
    pub past: Vec<EndedSession>,
    pub totals: Totals,
    /// `None` if the filesystem is not ext4.
    pub ext4: Option<Ext4Stats>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DaemonStatus {
    pub pid: u32,
    pub uptime: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StorageStatus {
    pub state: State,
    /// Why the storage is not healthy; `None` if it is.
    pub reason: Option<String>,
    pub mount: String,
    pub data: String,
    /// Empty while nothing is mounted, like `fstype`.
    pub device: String,
    pub fstype: String,
    pub size: u64,
    /// Bytes that users other than root may still write.
    pub free: u64,
    /// Files that they may still create; `None` if the filesystem has no fixed number of inodes.
    #[serde(default)]
    pub free_inodes: Option<u64>,
    /// Seconds since the storage entered this state.
    pub state_age: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Never reused by the same daemon.
    pub id: u64,
    /// The client's process: `pst run`, not its command.
    pub pid: u32,
    pub uid: u32,
    /// Filled in by the client, because looking up names can block.
    #[serde(default)]
    pub user: String,
    pub command: String,
    /// Time since the client asked for the session.
    pub age: f64,
    pub state: Phase,
    /// The client's process is stopped (^Z). Filled in by the client.
    #[serde(default)]
    pub stopped: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HolderStatus {
    pub kind: HolderKind,
    /// `None` if the holder is not a process, like `uid` and `user`.
    pub pid: Option<u32>,
    pub uid: Option<u32>,
    /// Filled in by the client.
    #[serde(default)]
    pub user: Option<String>,
    /// For a loop device, its name.
    pub command: Option<String>,
    pub path: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndedSession {
    pub id: u64,
    /// The client's process: `pst run`, not its command.
    pub pid: u32,
    pub uid: u32,
    /// Filled in by the client.
    #[serde(default)]
    pub user: String,
    pub command: String,
    pub ended: SessionOutcome,
    /// The end, in seconds since 1970 by the daemon's clock at the time of the status.
    pub at: u64,
    /// From the request to the end.
    pub duration: f64,
    /// Bytes written to the device during the session, by any process; `None` if the kernel does not count them.
    pub written: Option<u64>,
}

/// Counted since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Only those that were granted.
    pub sessions: u64,
    /// Clients that were refused, for any reason.
    pub denials: u64,
    pub remounts: u64,
    /// Remounts that the kernel refused.
    pub failed_remounts: u64,
    /// Time in which the storage was writable.
    pub writable: f64,
    /// Bytes written to the device; `None` if the kernel does not count them.
    pub written: Option<u64>,
}

/// The counters that ext4 keeps in sysfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ext4Stats {
    /// Bytes written since the filesystem was created, as counted in its superblock.
    pub lifetime: u64,
    /// Bytes written since it was mounted.
    pub since_mount: u64,
    /// Errors since it was last checked.
    pub errors: u64,
}
