//! The messages of both directions. Each is declared once, and macros generate the code to read and write it.

use super::field::{Reader, Writer};
use super::{
    CHUNK_MAX, CLIENT_FRAME_MAX, COMMAND_MAX, DAEMON_FRAME_MAX, DecodeError, PATH_MAX, TEXT_MAX,
};

/// Declares enums whose values are encoded as these bytes.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $byte:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$value_doc])* $value = $byte,)*
        }

        impl From<$name> for u8 {
            fn from(value: $name) -> u8 {
                value as u8
            }
        }

        impl TryFrom<u8> for $name {
            type Error = ();

            fn try_from(byte: u8) -> Result<Self, ()> {
                match byte {
                    $($byte => Ok(Self::$value),)*
                    _ => Err(()),
                }
            }
        }
    )*};
}

codes! {
    /// Why a session was refused.
    DenyReason {
        /// The user is neither root nor in the access group.
        NotAdmitted = 1,
        /// Too many connections, of this user or in total.
        Limit = 2,
        /// The storage is not mounted.
        Absent = 3,
        /// The storage's mount needs `pst prepare`.
        Unprepared = 4,
        /// The storage cannot be made writable.
        Failed = 5,
        /// The daemon is about to exit.
        Stopping = 6,
    }

    /// Why the daemon ends a session before its client closes it.
    RevokeReason {
        /// The daemon is about to exit.
        Stopping = 1,
        /// The storage is gone or no longer writable.
        Lost = 2,
    }

    /// Whether all data that was written before a close is on stable storage.
    CloseResult {
        Durable = 1,
        /// The sync failed: data may be lost.
        Failed = 2,
    }
}

pub trait Message: Sized {
    /// The maximum length of a frame in this direction: type and payload, in bytes.
    const FRAME_MAX: usize;

    /// Reads the payload of one frame.
    ///
    /// # Errors
    /// The payload does not consist of exactly the fields of this message.
    fn decode(kind: u8, payload: &[u8]) -> Result<Self, DecodeError>;

    /// Appends the message as one frame. Cuts strings to their limits.
    fn encode(&self, out: &mut Vec<u8>);
}

/// Declares the messages of one direction: the type byte, then the fields in the order of the bytes. Each field has a
/// type, and the function of [`Reader`] and [`Writer`] that handles it, perhaps with a limit.
macro_rules! messages {
    ($(#[$doc:meta])* $name:ident, at most $max:ident: $(
        $(#[$of:meta])* $kind:literal $message:ident
        $({ $($(#[$what:meta])* $field:ident: $type:ty = $codec:ident $(($limit:expr))?,)* })?
    ;)*) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$of])* $message $({ $($(#[$what])* $field: $type,)* })?,)*
        }

        impl Message for $name {
            const FRAME_MAX: usize = $max;

            fn decode(kind: u8, payload: &[u8]) -> Result<Self, DecodeError> {
                let mut reader = Reader::new(kind, payload);
                // A struct expression evaluates its fields in the order in which they are written.
                let message = match kind {
                    $($kind => Self::$message $({ $($field: reader.$codec($($limit)?)?,)* })?,)*
                    _ => return Err(DecodeError::UnknownType(kind)),
                };
                reader.finish()?;
                Ok(message)
            }

            fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$message $({ $($field,)* })? => {
                        Writer::new($kind) $($(.$codec($field $(, $limit)?))*)?
                    })*
                }
                .finish(out);
            }
        }
    };
}

messages! {
    /// What a client sends, after [`MAGIC`](super::MAGIC).
    ClientMessage, at most CLIENT_FRAME_MAX:
    /// Asks for a session for a command.
    0x01 Open {
        version: u16 = version,
        /// The command line, for the log and the status.
        command: Vec<u8> = bytes(COMMAND_MAX),
    };
    /// Ends the session and asks whether its data is on stable storage.
    0x02 Close;
    /// Asks for the status.
    0x03 Status {
        version: u16 = version,
        /// Also send a new document after each change, until the connection ends.
        watch: bool = bool,
    };
}

messages! {
    /// What the daemon sends, mostly as an answer.
    DaemonMessage, at most DAEMON_FRAME_MAX:
    /// The storage is writable until the connection ends.
    0x81 Granted {
        version: u16 = version,
        /// The data directory, an absolute path.
        data: Vec<u8> = bytes(PATH_MAX),
        /// `st_dev` of the data directory.
        device: u64 = u64,
        /// The time between SIGTERM and SIGKILL for a command that must end.
        kill_grace_ms: u32 = u32,
    };
    /// The session or the status was refused.
    0x82 Denied {
        version: u16 = version,
        reason: DenyReason = code,
        /// The reason and the next step, for the user.
        text: String = text(TEXT_MAX),
    };
    /// The session is over, and the command must end.
    0x83 Revoked {
        reason: RevokeReason = code,
        /// The reason and the next step, for the user.
        text: String = text(TEXT_MAX),
    };
    /// Answers [`ClientMessage::Close`].
    0x84 Closed {
        result: CloseResult = code,
        /// Why the data may be lost, for the user.
        text: String = text(TEXT_MAX),
    };
    /// A part of a [`Status`](super::Status) document in JSON.
    0x85 Status {
        version: u16 = version,
        /// The document ends with this part.
        last: bool = bool,
        bytes: Vec<u8> = bytes(CHUNK_MAX),
    };
    /// The client made a mistake, and the connection ends. Only this message has the same layout in all versions.
    0x89 Error {
        /// The version that the daemon speaks.
        version: u16 = u16,
        /// The mistake, for the user.
        text: String = text(TEXT_MAX),
    };
}
