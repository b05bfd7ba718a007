//! The status document: the daemon fills it in, `pst status` draws it, `--json` prints it and `check` reads it.
//!
//! It travels as JSON in [`DaemonMessage::Status`](super::DaemonMessage::Status). From protocol 3 on fields are
//! only added. Times are in seconds, sizes in bytes. The daemon has escaped all names from outside.

use serde::{Deserialize, Serialize};

/// Enums whose values have the same name on the screen, in the log and in JSON.
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
    /// The storage's state.
    State {
        Absent = "absent",
        /// The mount's own flag is read-only: `pst prepare` is needed.
        Unprepared = "unprepared",
        ReadOnly = "ro",
        GoingRw = "going-rw",
        ReadWrite = "rw",
        GoingRo = "going-ro",
        /// Should be read-only, but the kernel says busy; still writable.
        Stuck = "stuck",
        /// Shut down by the kernel, or a remount failed, until it is mounted again.
        Failed = "failed",
    }

    Phase {
        /// Not yet granted.
        Waiting = "waiting",
        /// The command may write.
        Granted = "granted",
        /// Revoked, but the client is still connected.
        Revoked = "revoked",
        /// The data is being flushed to the card.
        Closing = "closing",
    }

    /// How a session ended.
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
        /// A loop device that is backed by a file on the storage.
        Loop = "loop",
        Swap = "swap",
        /// Nothing was found: a kernel user, or a descriptor in flight.
        Unknown = "unknown",
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    pub daemon: DaemonStatus,
    pub storage: StorageStatus,
    pub sessions: Vec<SessionStatus>,
    pub holders: Vec<HolderStatus>,
    /// The sessions that ended last, the oldest first.
    pub past: Vec<EndedSession>,
    pub totals: Totals,
    /// `None` unless the filesystem is ext4.
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
    /// Why it is not well; `None` if it is.
    pub reason: Option<String>,
    /// The mount point.
    pub mount: String,
    /// The data directory.
    pub data: String,
    /// Empty while nothing is mounted, as is `fstype`.
    pub device: String,
    pub fstype: String,
    pub size: u64,
    /// What users other than root may still write.
    pub free: u64,
    /// Time in this state.
    pub state_age: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Never used again by the same daemon.
    pub id: u64,
    /// The client's process.
    pub pid: u32,
    pub uid: u32,
    /// Filled in by the client that asked: looking up names can block.
    #[serde(default)]
    pub user: String,
    pub command: String,
    /// Time since the client asked for the session.
    pub age: f64,
    pub state: Phase,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HolderStatus {
    pub kind: HolderKind,
    /// `None` unless the holder is a process, as are the next three.
    pub pid: Option<u32>,
    pub uid: Option<u32>,
    /// Filled in by the client that asked.
    #[serde(default)]
    pub user: Option<String>,
    /// For a loop device its name.
    pub command: Option<String>,
    pub path: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndedSession {
    pub id: u64,
    /// The client's process.
    pub pid: u32,
    pub uid: u32,
    /// Filled in by the client that asked.
    #[serde(default)]
    pub user: String,
    pub command: String,
    pub ended: SessionOutcome,
    /// When it ended: seconds since 1970 by the daemon's clock at the time of the status.
    pub at: u64,
    /// From the request to the end.
    pub duration: f64,
    /// Bytes written to the device meanwhile, by any process; `None` if nothing counts them.
    pub written: Option<u64>,
}

/// Counted since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Sessions granted.
    pub sessions: u64,
    /// Clients that were refused, for any reason.
    pub denials: u64,
    pub remounts: u64,
    /// Remounts that the kernel refused.
    pub failed_remounts: u64,
    /// Time in which the storage was writable.
    pub writable: f64,
    /// Bytes written to the device; `None` if nothing counts them.
    pub written: Option<u64>,
}

/// What ext4 has counted on the filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ext4Stats {
    /// Bytes written since the filesystem was made, as far as its superblock was kept up to date.
    pub lifetime: u64,
    /// Bytes written since it was mounted.
    pub since_mount: u64,
    /// Errors since it was last checked.
    pub errors: u64,
}
