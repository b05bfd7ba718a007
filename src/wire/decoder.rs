//! Decodes a stream of bytes, in pieces of any size, to messages. The caller reads the bytes.

use std::fmt;
use std::marker::PhantomData;

use super::{Message, VERSION};

/// A client of this protocol sends these bytes before its first frame.
pub const MAGIC: [u8; 4] = *b"\0PST";

/// Whether a connection that begins with these bytes speaks this protocol. `None` if more bytes are needed.
pub fn begins_with_magic(bytes: &[u8]) -> Option<bool> {
    if MAGIC.starts_with(bytes) && bytes != MAGIC {
        return None;
    }
    Some(bytes.starts_with(&MAGIC))
}

/// Splits a peer's bytes into frames and decodes them to messages `M`.
///
/// Call [`Decoder::next_message`] until it returns `None` before each [`Decoder::push`]. Then the decoder keeps at most
/// one incomplete frame, and needs no memory between frames.
#[derive(Debug)]
pub struct Decoder<M> {
    buffer: Vec<u8>,
    failed: Option<DecodeError>,
    messages: PhantomData<fn() -> M>,
}

impl<M: Message> Decoder<M> {
    #[expect(clippy::new_without_default, reason = "all callers name it")]
    pub fn new() -> Self {
        Decoder {
            buffer: Vec::new(),
            failed: None,
            messages: PhantomData,
        }
    }

    /// Adds received bytes. After an error, drops them.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// Returns the next message, or `None` if it is incomplete.
    ///
    /// # Errors
    /// The first error is final and returned again, because the start of the next frame is unknown.
    pub fn next_message(&mut self) -> Result<Option<M>, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.decode() {
            Ok(Some((message, end))) => {
                // A new vector has no spare capacity. An empty one has no memory at all.
                self.buffer = self.buffer[end..].to_vec();
                Ok(Some(message))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                self.failed = Some(error);
                self.buffer = Vec::new();
                Err(error)
            }
        }
    }

    /// Returns the first message and the end of its frame.
    fn decode(&self) -> Result<Option<(M, usize)>, DecodeError> {
        if self.buffer.starts_with(b"HTTP/") {
            return Err(DecodeError::Http);
        }
        let Some((length, rest)) = self.buffer.split_first_chunk() else {
            return Ok(None);
        };
        let (length, limit) = (usize::from(u16::from_le_bytes(*length)), M::FRAME_MAX);
        if length == 0 || length > limit {
            return Err(DecodeError::Length { length, limit });
        }
        let Some([kind, payload @ ..]) = rest.get(..length) else {
            return Ok(None);
        };
        Ok(Some((M::decode(*kind, payload)?, 2 + length)))
    }
}

/// Why bytes are not a message. `kind` is the type of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The peer is an HTTP server. No frame begins like its answer, because the type would be `T`.
    Http,
    /// The frame is empty, or longer than the limit for its sender.
    Length { length: usize, limit: usize },
    /// The frame's type does not exist in this direction.
    UnknownType(u8),
    /// The peer speaks this version of the protocol.
    Version(u16),
    /// The frame ends within a field.
    Short { kind: u8 },
    /// The frame continues after the last field.
    Trailing { kind: u8 },
    /// A field has an invalid value: not UTF-8, too long, or unknown to its enum.
    Invalid { kind: u8 },
}

impl std::error::Error for DecodeError {}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Http => write!(f, "an HTTP server answers"),
            Self::Length { length: 0, .. } => write!(f, "frame of length 0"),
            Self::Length { length, limit } => {
                write!(f, "frame of {length} bytes, only {limit} are allowed")
            }
            Self::UnknownType(kind) => write!(f, "unknown message type 0x{kind:02x}"),
            Self::Version(version) => write!(
                f,
                "cannot speak protocol version {version}, only {VERSION}: \
                 if pst was updated, restart its daemon (`systemctl restart pst`)"
            ),
            Self::Short { kind } => write!(f, "message 0x{kind:02x} is cut short"),
            Self::Trailing { kind } => write!(f, "message 0x{kind:02x} has trailing bytes"),
            Self::Invalid { kind } => write!(f, "message 0x{kind:02x} has an invalid value"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ClientMessage, DaemonMessage};
    use super::*;

    const CLOSE: &[u8] = b"\x01\x00\x02";

    #[test]
    fn the_magic_is_recognized_only_when_it_is_complete() {
        for end in 0..MAGIC.len() {
            assert_eq!(begins_with_magic(&MAGIC[..end]), None);
        }
        assert_eq!(begins_with_magic(&MAGIC), Some(true));
        assert_eq!(begins_with_magic(b"\0PST\x01\x00\x02"), Some(true));
    }

    #[test]
    fn another_protocol_is_recognized_at_the_first_different_byte() {
        for bytes in [
            &b"G"[..],
            b"GET / HTTP/1.1",
            b"\0p",
            b"\0PSU",
            b"PST",
            b"\0\0",
        ] {
            assert_eq!(begins_with_magic(bytes), Some(false), "{bytes:?}");
        }
    }

    #[test]
    fn an_http_server_is_recognized_before_its_answer_is_complete() {
        let mut decoder = Decoder::<DaemonMessage>::new();
        decoder.push(b"HTTP");
        assert_eq!(decoder.next_message(), Ok(None));
        decoder.push(b"/1.0");
        assert_eq!(decoder.next_message(), Err(DecodeError::Http));
    }

    #[test]
    fn no_memory_is_kept_between_frames_or_after_an_error() {
        let mut decoder = Decoder::<ClientMessage>::new();
        assert_eq!(decoder.buffer.capacity(), 0);
        decoder.push(&CLOSE.repeat(10));
        for _ in 0..10 {
            assert_eq!(decoder.next_message(), Ok(Some(ClientMessage::Close)));
        }
        assert_eq!(decoder.buffer.capacity(), 0, "before `None` was returned");
        assert_eq!(decoder.next_message(), Ok(None));
        assert_eq!(decoder.buffer.capacity(), 0);

        decoder.push(b"\x01\x00\x55 and so on");
        assert_eq!(decoder.next_message(), Err(DecodeError::UnknownType(0x55)));
        decoder.push(&CLOSE.repeat(10));
        assert_eq!(decoder.next_message(), Err(DecodeError::UnknownType(0x55)));
        assert_eq!(decoder.buffer.capacity(), 0);
    }

    #[test]
    fn only_an_incomplete_frame_is_kept() {
        let mut decoder = Decoder::<ClientMessage>::new();
        let mut bytes = CLOSE.repeat(5000);
        bytes.extend_from_slice(&CLOSE[..2]);
        decoder.push(&bytes);
        let mut count = 0;
        while decoder.next_message().unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, 5000);
        assert_eq!(decoder.buffer, CLOSE[..2]);
        assert_eq!(decoder.buffer.capacity(), 2);
        decoder.push(&CLOSE[2..]);
        assert_eq!(decoder.next_message(), Ok(Some(ClientMessage::Close)));
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_the_frame_arrives() {
        for length in 0..=u16::MAX {
            let mut client = Decoder::<ClientMessage>::new();
            let mut daemon = Decoder::<DaemonMessage>::new();
            client.push(&length.to_le_bytes());
            daemon.push(&length.to_le_bytes());
            let length = usize::from(length);
            let limit = super::super::CLIENT_FRAME_MAX;
            let refused = DecodeError::Length { length, limit };
            match length {
                1..=4096 => assert_eq!(client.next_message(), Ok(None)),
                _ => assert_eq!(client.next_message(), Err(refused)),
            }
            let limit = super::super::DAEMON_FRAME_MAX;
            let refused = DecodeError::Length { length, limit };
            match length {
                0 => assert_eq!(daemon.next_message(), Err(refused)),
                _ => assert_eq!(daemon.next_message(), Ok(None)),
            }
        }
    }

    #[test]
    fn every_error_is_one_line_that_names_the_fault() {
        let (kind, length, limit) = (0x85, 5000, 4096);
        for (error, line) in [
            (
                DecodeError::Length { length, limit },
                "frame of 5000 bytes, only 4096 are allowed",
            ),
            (DecodeError::UnknownType(0x0a), "unknown message type 0x0a"),
            (
                DecodeError::Version(1),
                "cannot speak protocol version 1, only 3: if pst was updated, restart its daemon (`systemctl restart pst`)",
            ),
            (DecodeError::Short { kind }, "message 0x85 is cut short"),
            (
                DecodeError::Trailing { kind },
                "message 0x85 has trailing bytes",
            ),
            (
                DecodeError::Invalid { kind },
                "message 0x85 has an invalid value",
            ),
        ] {
            assert_eq!(error.to_string(), line);
        }
    }
}
