//! The messages and their fields, in the order in which they stand on the wire.
//! How a field becomes bytes is `field.rs`'s business.

use super::field::{Reader, Writer};
use super::{
    CLIENT_FRAME_MAX, CloseResult, DAEMON_FRAME_MAX, DecodeError, DenyReason, Ended, HolderKind,
    Phase, RevokeReason, State,
};

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
    Figures {
        /// Bytes written to the filesystem in its life.
        lifetime: u64,
        /// Bytes written to it since it was mounted.
        mounted: u64,
        /// Its errors since it was last checked.
        errors: u64,
        /// The first of them, if any.
        first: Option<Incident>,
        /// The last of them, if any.
        last: Option<Incident>,
    },
    /// What the daemon has counted since its start.
    Totals {
        /// Sessions granted.
        sessions: u64,
        /// Clients that were denied one, for whatever reason.
        denials: u64,
        /// Remounts, either way.
        remounts: u64,
        /// Remounts that the kernel refused.
        failed_remounts: u64,
        /// How long it was writable, in milliseconds.
        writable_ms: u64,
        /// Bytes written to the device; `None` if nobody counts them.
        written: Option<u64>,
    },
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

impl Incident {
    fn write<'a>(of: Option<&Incident>, w: Writer<'a>) -> Writer<'a> {
        match of {
            Some(one) => w.u64(one.time).text(&one.function).u32(one.line),
            None => w.u64(0).text("").u32(0),
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Option<Incident>, DecodeError> {
        let (time, function, line) = (r.u64()?, r.text()?, r.u32()?);
        let none = time == 0 && function.is_empty() && line == 0;
        Ok((!none).then_some(Incident {
            time,
            function,
            line,
        }))
    }
}

impl Message for ClientMessage {
    const FRAME_MAX: usize = CLIENT_FRAME_MAX;

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(kind, payload);
        // A struct expression reads its fields in the order in which they are written.
        let message = match kind {
            0x01 => Self::Open {
                version: r.version()?,
                command: r.command()?,
                need: r.u64()?,
            },
            0x02 => Self::Close,
            0x03 => Self::Status {
                version: r.version()?,
                watch: r.bool()?,
            },
            _ => return Err(DecodeError::UnknownType(kind)),
        };
        r.finish()?;
        Ok(message)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let w = Writer::new(out);
        match self {
            Self::Open {
                version,
                command,
                need,
            } => w.kind(0x01).u16(*version).command(command).u64(*need),
            Self::Close => w.kind(0x02),
            Self::Status { version, watch } => w.kind(0x03).u16(*version).bool(*watch),
        }
        .finish();
    }
}

impl Message for DaemonMessage {
    const FRAME_MAX: usize = DAEMON_FRAME_MAX;

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(kind, payload);
        let message = match kind {
            0x81 => Self::Granted {
                version: r.version()?,
                data: r.path()?,
                device: r.u64()?,
                kill_grace_ms: r.u32()?,
            },
            0x82 => Self::Denied {
                version: r.version()?,
                reason: r.code()?,
                text: r.text()?,
            },
            0x83 => Self::Revoked {
                reason: r.code()?,
                text: r.text()?,
            },
            0x84 => Self::Closed {
                result: r.code()?,
                text: r.text()?,
            },
            0x85 => Self::Storage {
                version: r.version()?,
                whole: r.bool()?,
                daemon_version: r.text()?,
                pid: r.u32()?,
                uptime_ms: r.u64()?,
                state: r.code()?,
                state_ms: r.u64()?,
                reason: r.text()?,
                mount: r.path()?,
                data: r.path()?,
                device: r.text()?,
                fstype: r.text()?,
                size: r.u64()?,
                free: r.u64()?,
            },
            0x86 => Self::Session {
                id: r.u64()?,
                pid: r.u32()?,
                uid: r.u32()?,
                phase: r.code()?,
                age_ms: r.u64()?,
                command: r.command()?,
            },
            0x87 => Self::Holder {
                kind: r.code()?,
                pid: r.u32()?,
                uid: r.u32()?,
                command: r.command()?,
                path: r.path()?,
            },
            0x88 => Self::End,
            0x89 => Self::Error {
                version: r.u16()?, // any: see the message's docs
                text: r.text()?,
            },
            0x8a => Self::Figures {
                lifetime: r.u64()?,
                mounted: r.u64()?,
                errors: r.u64()?,
                first: Incident::read(&mut r)?,
                last: Incident::read(&mut r)?,
            },
            0x8b => Self::Totals {
                sessions: r.u64()?,
                denials: r.u64()?,
                remounts: r.u64()?,
                failed_remounts: r.u64()?,
                writable_ms: r.u64()?,
                written: r.known()?,
            },
            0x8c => Self::Past {
                id: r.u64()?,
                pid: r.u32()?,
                uid: r.u32()?,
                ended: r.code()?,
                ago_ms: r.u64()?,
                lasted_ms: r.u64()?,
                written: r.known()?,
                command: r.command()?,
            },
            _ => return Err(DecodeError::UnknownType(kind)),
        };
        r.finish()?;
        Ok(message)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let w = Writer::new(out);
        match self {
            Self::Granted {
                version,
                data,
                device,
                kill_grace_ms,
            } => w
                .kind(0x81)
                .u16(*version)
                .path(data)
                .u64(*device)
                .u32(*kill_grace_ms),
            Self::Denied {
                version,
                reason,
                text,
            } => w.kind(0x82).u16(*version).u8(*reason as u8).text(text),
            Self::Revoked { reason, text } => w.kind(0x83).u8(*reason as u8).text(text),
            Self::Closed { result, text } => w.kind(0x84).u8(*result as u8).text(text),
            Self::Storage {
                version,
                whole,
                daemon_version,
                pid,
                uptime_ms,
                state,
                state_ms,
                reason,
                mount,
                data,
                device,
                fstype,
                size,
                free,
            } => w
                .kind(0x85)
                .u16(*version)
                .bool(*whole)
                .text(daemon_version)
                .u32(*pid)
                .u64(*uptime_ms)
                .u8(*state as u8)
                .u64(*state_ms)
                .text(reason)
                .path(mount)
                .path(data)
                .text(device)
                .text(fstype)
                .u64(*size)
                .u64(*free),
            Self::Session {
                id,
                pid,
                uid,
                phase,
                age_ms,
                command,
            } => w
                .kind(0x86)
                .u64(*id)
                .u32(*pid)
                .u32(*uid)
                .u8(*phase as u8)
                .u64(*age_ms)
                .command(command),
            Self::Holder {
                kind,
                pid,
                uid,
                command,
                path,
            } => w
                .kind(0x87)
                .u8(*kind as u8)
                .u32(*pid)
                .u32(*uid)
                .command(command)
                .path(path),
            Self::End => w.kind(0x88),
            Self::Error { version, text } => w.kind(0x89).u16(*version).text(text),
            Self::Figures {
                lifetime,
                mounted,
                errors,
                first,
                last,
            } => {
                let w = w.kind(0x8a).u64(*lifetime).u64(*mounted).u64(*errors);
                Incident::write(last.as_ref(), Incident::write(first.as_ref(), w))
            }
            Self::Totals {
                sessions,
                denials,
                remounts,
                failed_remounts,
                writable_ms,
                written,
            } => w
                .kind(0x8b)
                .u64(*sessions)
                .u64(*denials)
                .u64(*remounts)
                .u64(*failed_remounts)
                .u64(*writable_ms)
                .known(*written),
            Self::Past {
                id,
                pid,
                uid,
                ended,
                ago_ms,
                lasted_ms,
                written,
                command,
            } => w
                .kind(0x8c)
                .u64(*id)
                .u32(*pid)
                .u32(*uid)
                .u8(*ended as u8)
                .u64(*ago_ms)
                .u64(*lasted_ms)
                .known(*written)
                .command(command),
        }
        .finish();
    }
}
