//! Which fields a message has on the wire, in their order; read and written. How a field becomes
//! bytes is `field.rs`'s business.

use super::field::{Reader, Writer};
use super::message::{ClientMessage, DaemonMessage, Figures, Incident, Message, Totals};
use super::{CLIENT_FRAME_MAX, DAEMON_FRAME_MAX, DecodeError};

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
            0x8a => Self::Figures(Figures {
                lifetime: r.u64()?,
                mounted: r.u64()?,
                errors: r.u64()?,
                first: Incident::read(&mut r)?,
                last: Incident::read(&mut r)?,
            }),
            0x8b => Self::Totals(Totals {
                sessions: r.u64()?,
                denials: r.u64()?,
                remounts: r.u64()?,
                failed_remounts: r.u64()?,
                writable_ms: r.u64()?,
                written: r.known()?,
            }),
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
            Self::Figures(Figures {
                lifetime,
                mounted,
                errors,
                first,
                last,
            }) => {
                let w = w.kind(0x8a).u64(*lifetime).u64(*mounted).u64(*errors);
                Incident::write(last.as_ref(), Incident::write(first.as_ref(), w))
            }
            Self::Totals(Totals {
                sessions,
                denials,
                remounts,
                failed_remounts,
                writable_ms,
                written,
            }) => w
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
