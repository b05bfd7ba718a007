//! The first bytes of a connection: which protocol does the peer speak? It
//! consumes nothing, so that the bytes can be handed to whoever understands them.

/// What a client of this protocol sends before its first frame.
pub const MAGIC: [u8; 4] = *b"\0PST";

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Too few bytes to tell.
    NeedMore,
    /// This protocol: frames follow after [`MAGIC`].
    Frames,
    Other,
}

/// Looks at all bytes that came so far on a new connection.
pub fn opening(bytes: &[u8]) -> Opening {
    if bytes.starts_with(&MAGIC) {
        Opening::Frames
    } else if MAGIC.starts_with(bytes) {
        Opening::NeedMore
    } else {
        Opening::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_of_the_magic_needs_more_and_the_whole_matches() {
        for end in 0..MAGIC.len() {
            assert_eq!(opening(&MAGIC[..end]), Opening::NeedMore);
        }
        assert_eq!(opening(&MAGIC), Opening::Frames);
        assert_eq!(opening(b"\0PST\x01\x00\x02"), Opening::Frames);
    }

    #[test]
    fn another_protocol_is_seen_at_the_first_byte_that_differs() {
        for bytes in [
            &b"G"[..],
            b"GET / HTTP/1.1",
            b"\0p",
            b"\0PSU",
            b"PST",
            b"\0\0",
        ] {
            assert_eq!(opening(bytes), Opening::Other, "{bytes:?}");
        }
    }
}
