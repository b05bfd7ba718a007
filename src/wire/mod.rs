//! The protocol between `pst run`, `pst status` and the daemon: all of its
//! messages, their bytes, and the frames that carry them. It does no I/O and
//! decides nothing.
//!
//! A Unix stream socket. The client sends the 4 bytes `\0PST` ([`MAGIC`]), then
//! both sides send frames: a `u16` length (of type and payload together, so at
//! least 1), the `u8` type, the payload. At most [`CLIENT_FRAME_MAX`] from a
//! client, [`DAEMON_FRAME_MAX`] from the daemon.
//!
//! | type | client sends | payload |
//! | --- | --- | --- |
//! | 0x01 | [`Open`](ClientMessage::Open) | version `u16`, command `command`, need `u64` |
//! | 0x02 | [`Close`](ClientMessage::Close) | |
//! | 0x03 | [`Status`](ClientMessage::Status) | version `u16`, watch `bool` |
//!
//! | type | daemon sends | payload |
//! | --- | --- | --- |
//! | 0x81 | [`Granted`](DaemonMessage::Granted) | version `u16`, data `path`, device `u64`, kill_grace_ms `u32` |
//! | 0x82 | [`Denied`](DaemonMessage::Denied) | version `u16`, reason [`DenyReason`], text `text` |
//! | 0x83 | [`Revoked`](DaemonMessage::Revoked) | reason [`RevokeReason`], text `text` |
//! | 0x84 | [`Closed`](DaemonMessage::Closed) | result [`CloseResult`], text `text` |
//! | 0x85 | [`Storage`](DaemonMessage::Storage) | version `u16`, whole `bool`, daemon_version `text`, pid `u32`, uptime_ms `u64`, state [`State`], state_ms `u64`, reason `text`, mount `path`, data `path`, device `text`, fstype `text`, size `u64`, free `u64` |
//! | 0x86 | [`Session`](DaemonMessage::Session) | id `u64`, pid `u32`, uid `u32`, phase [`Phase`], age_ms `u64`, command `command` |
//! | 0x87 | [`Holder`](DaemonMessage::Holder) | kind [`HolderKind`], pid `u32`, uid `u32`, command `command`, path `path` |
//! | 0x88 | [`End`](DaemonMessage::End) | |
//! | 0x89 | [`Error`](DaemonMessage::Error) | version `u16`, text `text` |
//! | 0x8a | [`Figures`](DaemonMessage::Figures) | lifetime `u64`, mounted `u64`, errors `u64`, first [`Incident`], last [`Incident`] |
//! | 0x8b | [`Totals`](DaemonMessage::Totals) | sessions `u64`, denials `u64`, remounts `u64`, failed_remounts `u64`, writable_ms `u64`, written `known` |
//! | 0x8c | [`Past`](DaemonMessage::Past) | id `u64`, pid `u32`, uid `u32`, ended [`Ended`], ago_ms `u64`, lasted_ms `u64`, written `known`, command `command` |
//!
//! Integers are little endian. `command`, `path` and `text` are a `u16` length
//! and that many bytes: at most [`COMMAND_MAX`], [`PATH_MAX`], [`TEXT_MAX`]; a
//! text is UTF-8, the other two are any bytes. `bool` is one byte, 0 or 1. The
//! enums are one byte; their values stand in their definitions, from 1. `known`
//! is a `u64`, with all bits set where nobody knows the number. [`Incident`] is
//! time `u64`, function `text`, line `u32`; all of them 0 and empty if there is none.
//!
//! The conversation:
//! - `Open` → `Granted` or `Denied`. `Granted` lasts until the connection ends,
//!   or until `Close` → `Closed`; `Revoked` may come at any time in between.
//! - `Status` → `Storage`, `Figures` if there are any, `Totals`, each `Session`,
//!   each `Past`, each `Holder`, `End`. With `watch` the connection stays, and the
//!   same comes again when something changed, ten times a second at most: with
//!   `whole` unset, only the `Session`s and `Past`s that are new or changed.
//!   A `Session` takes the place of the one with its number, a `Past` ends it;
//!   `Holder`s are all there are. The client says nothing more.
//! - What is malformed → `Error`, and the connection ends.
//!
//! The first frame each way begins with the version, so every message that can
//! be first does. With a version other than [`VERSION`] nothing more of it is
//! read, since the rest may be laid out differently. `Error` alone keeps its
//! layout in all versions: it is what tells the other side about a mismatch.

mod code;
mod decoder;
mod field;
mod magic;
mod message;
#[allow(dead_code)] // until the daemon fills it in
pub(crate) mod status;
#[cfg(test)]
mod tests;

pub use code::{CloseResult, DenyReason, Ended, HolderKind, Phase, RevokeReason, State};
pub use decoder::{DecodeError, Decoder};
pub use magic::{MAGIC, Opening, opening};
pub use message::{ClientMessage, DaemonMessage, Figures, Incident, Message, Totals};

/// The protocol's version that this program speaks.
pub const VERSION: u16 = 2;

/// Longest frame that a client may send: type and payload, in bytes.
pub const CLIENT_FRAME_MAX: usize = 4096;
/// Longest frame that the daemon may send: type and payload, in bytes.
pub const DAEMON_FRAME_MAX: usize = u16::MAX as usize;

/// Longest command, in bytes. A longer one is cut when it is encoded.
pub const COMMAND_MAX: usize = 1024;
/// Longest path, in bytes: the kernel's own limit. A longer one is cut when it is encoded.
pub const PATH_MAX: usize = 4096;
/// Longest text, in bytes. A longer one is cut when it is encoded, between two characters.
pub const TEXT_MAX: usize = 4096;
