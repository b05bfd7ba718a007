//! The protocol between clients and daemon: messages, their encoding, and the frames that carry them. No I/O.
//!
//! The transport is a Unix stream socket. The client first sends the 4 bytes `\0PST` ([`MAGIC`]). Then both sides send
//! frames: a `u16` length (of type and payload together, so at least 1), the `u8` type and the payload. A frame has at
//! most [`CLIENT_FRAME_MAX`] bytes from a client and [`DAEMON_FRAME_MAX`] from the daemon.
//! [`ClientMessage`] and [`DaemonMessage`] declare the messages and their fields, in the order of the bytes.
//!
//! Integers are little endian. `command`, `path`, `text` and `chunk` are a `u16` length and that many bytes: at most
//! [`COMMAND_MAX`], [`PATH_MAX`], [`TEXT_MAX`] and [`CHUNK_MAX`]. A text is UTF-8. A `bool` is one byte, 0 or 1,
//! and an enum one byte, its value.
//!
//! Requests and answers:
//! - `Open` → `Granted` or `Denied`. A session lasts from `Granted` until the connection ends or until
//!   `Close` → `Closed`. `Revoked` can arrive at any time during a session.
//! - `Status` → one [`Status`] document as JSON, in one or more `Status` messages. With `watch` the connection stays
//!   open, and a new document follows after each change, at most ten times a second.
//! - A malformed message → `Error`, and the connection ends.
//!
//! The first message in each direction contains the version. If it is not [`VERSION`], the rest is not read, because its
//! layout may differ. Only `Error` has the same layout in all versions, so that it can report a mismatch.

mod decoder;
mod field;
mod message;
mod status;
#[cfg(test)]
mod tests;

pub use decoder::{DecodeError, Decoder, MAGIC, begins_with_magic};
pub use message::{ClientMessage, CloseResult, DaemonMessage, DenyReason, Message, RevokeReason};
pub use status::{
    DaemonStatus, EndedSession, Ext4Stats, HolderKind, HolderStatus, Phase, SessionOutcome,
    SessionStatus, State, Status, StorageStatus, Totals,
};

/// The version of the protocol that this program speaks.
pub const VERSION: u16 = 3;

/// Type and payload, in bytes.
pub const CLIENT_FRAME_MAX: usize = 4096;
/// Type and payload, in bytes.
pub const DAEMON_FRAME_MAX: usize = u16::MAX as usize;

/// In bytes. A longer command is cut when it is encoded.
pub const COMMAND_MAX: usize = 1024;
/// In bytes, like the kernel's own limit. A longer path is cut when it is encoded.
pub const PATH_MAX: usize = 4096;
/// In bytes. A longer text is cut between two characters when it is encoded.
pub const TEXT_MAX: usize = 4096;
/// In bytes: the longest part of a status document in one message.
pub const CHUNK_MAX: usize = 32 << 10;
