//! The messages and what their fields mean. In which order they stand on the wire is
//! `layout.rs`'s business.

use super::{CloseResult, DecodeError, DenyReason, Ended, HolderKind, Phase, RevokeReason, State};

/// Messages of one direction.
pub trait Message: Sized {
    /// Longest frame of this direction: type and payload, in bytes.
    const FRAME_MAX: usize;

    /// Reads a whole frame's payload; every byte of it must have its meaning.
    fn decode(kind: u8, payload: &[u8]) -> Result<Self, DecodeError>;

    /// Appends the message as one frame. Strings over their limit are cut, so
    /// that the frame is always one that the other side accepts.
    fn encode(&self, out: &mut Vec<u8>);
}

/// What a client sends, after [`MAGIC`](super::MAGIC).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// Asks for a session.
    Open {
        /// [`VERSION`](super::VERSION).
        version: u16,
        /// What is going to run, for people to read.
        command: Vec<u8>,
        /// So many bytes must be free; 0: it does not matter.
        need: u64,
    },
    /// Ends the session and asks whether its data is on the medium.
    Close,
    /// Asks for the state of the storage.
    Status {
        /// [`VERSION`](super::VERSION).
        version: u16,
        /// Go on with what changes, until the connection ends.
        watch: bool,
    },
}

/// What the daemon sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DaemonMessage {
    /// The storage is writable, until the connection ends.
    Granted {
        /// [`VERSION`](super::VERSION).
        version: u16,
        /// The data root.
        data: Vec<u8>,
        /// The data root's `st_dev`.
        device: u64,
        /// From SIGTERM to SIGKILL for a command that must die, in milliseconds.
        kill_grace_ms: u32,
    },
    /// There will be no session.
    Denied {
        /// [`VERSION`](super::VERSION).
        version: u16,
        /// Why, for programs.
        reason: DenyReason,
        /// Why and what to do, for people.
        text: String,
    },
    /// The session is over: the command must die.
    Revoked {
        /// Why, for programs.
        reason: RevokeReason,
        /// Why, for people.
        text: String,
    },
    /// The answer to [`ClientMessage::Close`].
    Closed {
        /// Is the session's data on the medium?
        result: CloseResult,
        /// If not: why, for people.
        text: String,
    },
    /// The first answer to [`ClientMessage::Status`]: daemon and storage.
    Storage {
        /// [`VERSION`](super::VERSION).
        version: u16,
        /// All follows; else only what changed since the last [`DaemonMessage::End`].
        whole: bool,
        /// The daemon's own version, as `pst --version` shows it.
        daemon_version: String,
        /// The daemon's process.
        pid: u32,
        /// Since the daemon's start, in milliseconds.
        uptime_ms: u64,
        /// The storage's state.
        state: State,
        /// Since it got into that state, in milliseconds.
        state_ms: u64,
        /// Why it is not well; empty if it is.
        reason: String,
        /// The mount point.
        mount: Vec<u8>,
        /// The data root.
        data: Vec<u8>,
        /// The device's name; empty while nothing is mounted.
        device: String,
        /// The filesystem's type; empty while nothing is mounted.
        fstype: String,
        /// The filesystem's size, in bytes.
        size: u64,
        /// What users other than root can still write, in bytes.
        free: u64,
    },
    /// What ext4 itself has counted, if it is one and tells, after [`DaemonMessage::Storage`].
    Figures(Figures),
    /// What the daemon has counted since its start.
    Totals(Totals),
    /// One of the sessions.
    Session {
        /// Its number, never used again by this daemon.
        id: u64,
        /// The client's process.
        pid: u32,
        /// The client's user.
        uid: u32,
        /// How far it is.
        phase: Phase,
        /// Since it was asked for, in milliseconds.
        age_ms: u64,
        /// What the client says that it runs.
        command: Vec<u8>,
    },
    /// One of the sessions that ended last, the oldest first. Whoever watches forgets the
    /// [`DaemonMessage::Session`] with its number.
    Past {
        /// Its number.
        id: u64,
        /// The client's process.
        pid: u32,
        /// The client's user.
        uid: u32,
        /// How it ended.
        ended: Ended,
        /// Since its end, in milliseconds.
        ago_ms: u64,
        /// From asking for it to its end, in milliseconds.
        lasted_ms: u64,
        /// Bytes written to the device meanwhile, by whomever; `None` if nobody counts them.
        written: Option<u64>,
        /// The beginning of what the client said that it runs.
        command: Vec<u8>,
    },
    /// One of those who block the way back to read-only, after the sessions; all of them each time.
    Holder {
        /// What it is.
        kind: HolderKind,
        /// Its process; 0 if it is none.
        pid: u32,
        /// The process's user; 0 if it is none.
        uid: u32,
        /// The process's command line; empty if it is none.
        command: Vec<u8>,
        /// What it holds; empty if that is not known.
        path: Vec<u8>,
    },
    /// The status is complete.
    End,
    /// The client made a mistake, and the connection ends. The one message that
    /// has this layout in every version and is read in every version.
    Error {
        /// The version that the daemon speaks.
        version: u16,
        /// The mistake, for people.
        text: String,
    },
}

/// One error of ext4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// When, in seconds since 1970 by the clock of that time.
    pub time: u64,
    /// In which of the kernel's functions.
    pub function: String,
    /// At which line of it.
    pub line: u32,
}

/// What ext4 itself has counted on a filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Bytes written in its life, as far as the superblock was kept up to date.
    pub lifetime: u64,
    /// Bytes written since it was mounted.
    pub mounted: u64,
    /// Errors since it was last checked.
    pub errors: u64,
    /// The first of them, if any.
    pub first: Option<Incident>,
    /// The last of them, if any.
    pub last: Option<Incident>,
}

/// What the daemon has counted since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sessions granted.
    pub sessions: u64,
    /// Clients that were denied one, for whatever reason.
    pub denials: u64,
    /// Remounts, either way.
    pub remounts: u64,
    /// Remounts that the kernel refused.
    pub failed_remounts: u64,
    /// How long it was writable, in milliseconds.
    pub writable_ms: u64,
    /// Bytes written to the device; `None` if nobody counts them.
    pub written: Option<u64>,
}
