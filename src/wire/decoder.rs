//! From a stream of bytes to messages, in pieces of any size, and what can be
//! wrong with them. It never reads from anywhere: the caller brings the bytes.

use std::fmt;
use std::marker::PhantomData;

use super::{Message, VERSION};

/// Cuts a peer's bytes into frames and these into messages `M`.
///
/// Call [`Decoder::next_message`] until it gives `None` before each
/// [`Decoder::push`]: then no more is kept than an unfinished frame, and no
/// memory at all between two frames.
#[derive(Debug)]
pub struct Decoder<M> {
    buffer: Vec<u8>,
    /// So many bytes at the buffer's start are decoded.
    done: usize,
    failed: Option<DecodeError>,
    messages: PhantomData<fn() -> M>,
}

impl<M: Message> Decoder<M> {
    /// A decoder at the start of a frame.
    pub fn new() -> Self {
        Decoder {
            buffer: Vec::new(),
            done: 0,
            failed: None,
            messages: PhantomData,
        }
    }

    /// Takes bytes as they came. After an error they are dropped.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next message; `None`: its end has not come yet.
    ///
    /// The first error is final: where the next frame would begin is no longer
    /// known, so the same error is returned ever after.
    pub fn next_message(&mut self) -> Result<Option<M>, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.decode();
        if let Err(error) = result {
            self.failed = Some(error);
            self.done = self.buffer.len();
        }
        let idle = matches!(result, Ok(None)) && self.done > 0;
        if idle || self.done == self.buffer.len() {
            // A fresh vector of just the rest, since most of a read's memory may
            // be behind us; without a rest it has no memory.
            self.buffer = self.buffer[self.done..].to_vec();
            self.done = 0;
        }
        result
    }

    fn decode(&mut self) -> Result<Option<M>, DecodeError> {
        let Some((length, rest)) = self.buffer[self.done..].split_first_chunk() else {
            return Ok(None);
        };
        let length = u16::from_le_bytes(*length);
        if length == 0 {
            return Err(DecodeError::Empty);
        }
        if length > M::FRAME_MAX {
            let limit = M::FRAME_MAX;
            return Err(DecodeError::FrameTooLong { length, limit });
        }
        let Some([kind, payload @ ..]) = rest.get(..usize::from(length)) else {
            return Ok(None);
        };
        let message = M::decode(*kind, payload)?;
        self.done += 2 + usize::from(length);
        Ok(Some(message))
    }
}

impl<M: Message> Default for Decoder<M> {
    fn default() -> Self {
        Self::new()
    }
}

/// Why bytes are not a message. `kind` is the type byte of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// A frame of length 0: it has not even a type.
    Empty,
    /// A frame longer than its sender may send.
    FrameTooLong {
        /// The frame's length, in bytes.
        length: u16,
        /// What is allowed.
        limit: u16,
    },
    /// A type that this direction does not have.
    UnknownType(u8),
    /// The peer speaks another version of the protocol, this one.
    Version(u16),
    /// The frame ends within a field.
    Short {
        /// The frame's type.
        kind: u8,
    },
    /// The frame goes on after the last field.
    Trailing {
        /// The frame's type.
        kind: u8,
        /// Bytes after the last field.
        count: usize,
    },
    /// A string longer than its field may be.
    TooLong {
        /// The frame's type.
        kind: u8,
        /// The string's length, in bytes.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A byte that is no bool, or none of its enum's values.
    Value {
        /// The frame's type.
        kind: u8,
        /// The byte.
        value: u8,
    },
    /// A text that is not UTF-8.
    NotUtf8 {
        /// The frame's type.
        kind: u8,
    },
}

impl std::error::Error for DecodeError {}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty => write!(f, "frame of length 0"),
            Self::FrameTooLong { length, limit } => {
                write!(f, "frame of {length} bytes, only {limit} are allowed")
            }
            Self::UnknownType(kind) => write!(f, "unknown message type 0x{kind:02x}"),
            Self::Version(version) => write!(
                f,
                "the other side speaks protocol version {version}, this one {VERSION}: \
                 restart the daemon if pst was updated"
            ),
            Self::Short { kind } => write!(f, "message 0x{kind:02x} is cut short"),
            Self::Trailing { kind, count } => {
                write!(f, "message 0x{kind:02x} has {count} bytes too many")
            }
            Self::TooLong {
                kind,
                length,
                limit,
            } => write!(
                f,
                "message 0x{kind:02x} has a string of {length} bytes, only {limit} are allowed"
            ),
            Self::Value { kind, value } => {
                write!(f, "message 0x{kind:02x} has an unknown value {value}")
            }
            Self::NotUtf8 { kind } => {
                write!(f, "message 0x{kind:02x} has a text that is not UTF-8")
            }
        }
    }
}
