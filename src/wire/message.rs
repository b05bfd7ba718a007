//! The messages: what their fields mean, and how they stand on the wire, each once.

use super::field::{Reader, Writer};
use super::{
    CLIENT_FRAME_MAX, CloseResult, DAEMON_FRAME_MAX, DecodeError, DenyReason, Ended, HolderKind,
    Phase, RevokeReason, State,
};

pub trait Message: Sized {
    /// Longest frame of this direction: type and payload, in bytes.
    const FRAME_MAX: usize;

    /// Reads a whole frame's payload; every byte of it must have its meaning.
    fn decode(kind: u8, payload: &[u8]) -> Result<Self, DecodeError>;

    /// Appends the message as one frame. Strings over their limit are cut, so
    /// that the frame is always one that the other side accepts.
    fn encode(&self, out: &mut Vec<u8>);
}

/// The messages of one direction: the type byte, then each field in its order, with its type and the
/// function of [`Reader`] and [`Writer`] that reads and writes it.
macro_rules! messages {
    ($(#[$doc:meta])* $name:ident, at most $max:ident: $(
        $(#[$of:meta])* $kind:literal $message:ident
        $({ $($(#[$what:meta])* $field:ident: $type:ty = $codec:ident,)* })?
        $(($one:ident: $one_type:ty { $($part:ident = $part_codec:ident,)* }))?
    ;)*) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$of])* $message $({ $($(#[$what])* $field: $type,)* })? $(($one_type))?,)*
        }

        impl Message for $name {
            const FRAME_MAX: usize = $max;

            fn decode(kind: u8, payload: &[u8]) -> Result<Self, DecodeError> {
                let mut r = Reader::new(kind, payload);
                // A struct expression reads its fields in the order in which they are written.
                let message = match kind {
                    $($kind => Self::$message
                        $({ $($field: r.$codec()?,)* })?
                        $(({ type One = $one_type; One { $($part: r.$part_codec()?,)* } }))?,)*
                    _ => return Err(DecodeError::UnknownType(kind)),
                };
                r.finish()?;
                Ok(message)
            }

            fn encode(&self, out: &mut Vec<u8>) {
                let w = Writer::new(out);
                match self {
                    $(Self::$message $({ $($field,)* })? $(($one))? => w.kind($kind)
                        $($(.$codec($field))*)? $($(.$part_codec(&$one.$part))*)?,)*
                }
                .finish();
            }
        }
    };
}

messages! {
    /// What a client sends, after [`MAGIC`](super::MAGIC).
    ClientMessage, at most CLIENT_FRAME_MAX:
    0x01 Open {
        /// [`VERSION`](super::VERSION).
        version: u16 = version,
        /// What is going to run, for people to read.
        command: Vec<u8> = command,
        /// So many bytes must be free; 0: it does not matter.
        need: u64 = u64,
    };
    /// Ends the session and asks whether its data is on the medium.
    0x02 Close;
    /// Asks for the state of the storage.
    0x03 Status {
        /// [`VERSION`](super::VERSION).
        version: u16 = version,
        /// Go on with what changes, until the connection ends.
        watch: bool = bool,
    };
}

messages! {
    DaemonMessage, at most DAEMON_FRAME_MAX:
    /// The storage is writable, until the connection ends.
    0x81 Granted {
        /// [`VERSION`](super::VERSION).
        version: u16 = version,
        data: Vec<u8> = path,
        /// The data root's `st_dev`.
        device: u64 = u64,
        /// From SIGTERM to SIGKILL for a command that must die, in milliseconds.
        kill_grace_ms: u32 = u32,
    };
    /// There will be no session.
    0x82 Denied {
        /// [`VERSION`](super::VERSION).
        version: u16 = version,
        reason: DenyReason = code,
        /// Why and what to do, for people.
        text: String = text,
    };
    /// The session is over: the command must die.
    0x83 Revoked {
        reason: RevokeReason = code,
        text: String = text,
    };
    /// The answer to [`ClientMessage::Close`].
    0x84 Closed {
        /// Is the session's data on the medium?
        result: CloseResult = code,
        /// If not: why, for people.
        text: String = text,
    };
    /// The first answer to [`ClientMessage::Status`]: daemon and storage.
    0x85 Storage {
        /// [`VERSION`](super::VERSION).
        version: u16 = version,
        /// All follows; else only what changed since the last [`DaemonMessage::End`].
        whole: bool = bool,
        /// The daemon's own version, as `pst --version` shows it.
        daemon_version: String = text,
        pid: u32 = u32,
        /// Since the daemon's start, in milliseconds.
        uptime_ms: u64 = u64,
        state: State = code,
        /// Since it got into that state, in milliseconds.
        state_ms: u64 = u64,
        /// Why it is not well; empty if it is.
        reason: String = text,
        mount: Vec<u8> = path,
        data: Vec<u8> = path,
        /// The device's name; empty while nothing is mounted.
        device: String = text,
        /// The filesystem's type; empty while nothing is mounted.
        fstype: String = text,
        /// The filesystem's size, in bytes.
        size: u64 = u64,
        /// What users other than root can still write, in bytes.
        free: u64 = u64,
    };
    /// What ext4 itself has counted, if it is one and tells, after [`DaemonMessage::Storage`].
    0x8a Figures(figures: Figures { lifetime = u64, mounted = u64, errors = u64, first = incident, last = incident, });
    /// What the daemon has counted since its start.
    0x8b Totals(totals: Totals { sessions = u64, denials = u64, remounts = u64, failed_remounts = u64, writable_ms = u64, written = known, });
    0x86 Session {
        /// Its number, never used again by this daemon.
        id: u64 = u64,
        pid: u32 = u32,
        uid: u32 = u32,
        phase: Phase = code,
        /// Since it was asked for, in milliseconds.
        age_ms: u64 = u64,
        /// What the client says that it runs.
        command: Vec<u8> = command,
    };
    /// One of the sessions that ended last, the oldest first. Whoever watches forgets the
    /// [`DaemonMessage::Session`] with its number.
    0x8c Past {
        id: u64 = u64,
        pid: u32 = u32,
        uid: u32 = u32,
        ended: Ended = code,
        /// Since its end, in milliseconds.
        ago_ms: u64 = u64,
        /// From asking for it to its end, in milliseconds.
        lasted_ms: u64 = u64,
        /// Bytes written to the device meanwhile, by whomever; `None` if nobody counts them.
        written: Option<u64> = known,
        /// The beginning of what the client said that it runs.
        command: Vec<u8> = command,
    };
    /// One of those who block the way back to read-only, after the sessions; all of them each time.
    0x87 Holder {
        kind: HolderKind = code,
        /// Its process; 0 if it is none.
        pid: u32 = u32,
        /// The process's user; 0 if it is none.
        uid: u32 = u32,
        /// The process's command line; empty if it is none.
        command: Vec<u8> = command,
        /// What it holds; empty if that is not known.
        path: Vec<u8> = path,
    };
    0x88 End;
    /// The client made a mistake, and the connection ends. The one message that
    /// has this layout in every version and is read in every version.
    0x89 Error {
        /// The version that the daemon speaks.
        version: u16 = u16,
        text: String = text,
    };
}

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
    pub sessions: u64,
    /// Clients that were denied one, for whatever reason.
    pub denials: u64,
    pub remounts: u64,
    /// Remounts that the kernel refused.
    pub failed_remounts: u64,
    /// How long it was writable, in milliseconds.
    pub writable_ms: u64,
    /// Bytes written to the device; `None` if nobody counts them.
    pub written: Option<u64>,
}
