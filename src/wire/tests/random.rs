//! Property tests: arbitrary messages in arbitrary pieces, and arbitrary bytes.

use proptest::sample::{Index, select};

use super::*;

fn code<T: TryFrom<u8> + Clone + Debug + 'static>() -> impl Strategy<Value = T> {
    select(codes::<T>()).prop_map(|(_, value)| value)
}

fn command() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), COMMAND_MAX),
    ]
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), PATH_MAX),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![9 => any::<String>(), 1 => Just("x".repeat(TEXT_MAX))]
}

fn chunk() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), CHUNK_MAX),
    ]
}

fn client_message() -> impl Strategy<Value = ClientMessage> {
    let version = VERSION;
    prop_oneof![
        command().prop_map(move |command| ClientMessage::Open { version, command }),
        Just(ClientMessage::Close),
        any::<bool>().prop_map(move |watch| ClientMessage::Status { version, watch }),
    ]
}

fn daemon_message() -> impl Strategy<Value = DaemonMessage> {
    let version = VERSION;
    prop_oneof![
        (path(), any::<u64>(), any::<u32>()).prop_map(move |(data, device, kill_grace_ms)| {
            DaemonMessage::Granted {
                version,
                data,
                device,
                kill_grace_ms,
            }
        }),
        (code(), text()).prop_map(move |(reason, text)| DaemonMessage::Denied {
            version,
            reason,
            text
        }),
        (code(), text()).prop_map(|(reason, text)| DaemonMessage::Revoked { reason, text }),
        (code(), text()).prop_map(|(result, text)| DaemonMessage::Closed { result, text }),
        (any::<bool>(), chunk()).prop_map(move |(last, bytes)| DaemonMessage::Status {
            version,
            last,
            bytes,
        }),
        (any::<u16>(), text()).prop_map(|(version, text)| DaemonMessage::Error { version, text }),
    ]
}

/// Checks that all messages are decoded in order if their bytes arrive in these pieces.
fn all_are_decoded<M>(messages: Vec<M>, pieces: Vec<usize>) -> Result<(), TestCaseError>
where
    M: Message + Debug + PartialEq,
{
    let mut bytes = Vec::new();
    for message in &messages {
        message.encode(&mut bytes);
    }
    let mut decoder = Decoder::<M>::new();
    let mut decoded = Vec::new();
    let mut pieces = pieces.into_iter().cycle();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let size = pieces.next().unwrap_or(1).min(rest.len());
        let (piece, after) = rest.split_at(size);
        decoder.push(piece);
        while let Some(message) = decoder.next_message()? {
            decoded.push(message);
        }
        rest = after;
    }
    prop_assert_eq!(decoded, messages);
    Ok(())
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![1]),
        Just(vec![usize::MAX]),
        prop::collection::vec(1..3000usize, 1..20),
        prop::collection::vec(1..8usize, 1..20),
    ]
}

/// Generates bytes in the form of frames, so that the decoder reads more than the length.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![0x01..=0x03u8, 0x81..=0x89u8, any::<u8>()];
    let version = prop_oneof![Just(vec![]), Just(VERSION.to_le_bytes().to_vec())];
    let low = prop::collection::vec(prop_oneof![0..3u8, any::<u8>()], 0..60);
    let one = (kind, version, low).prop_map(|(k, v, p)| frame(k, &[v, p].concat()));
    prop::collection::vec(one, 0..8).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn client_messages_round_trip(
        messages in prop::collection::vec(client_message(), 1..10),
        pieces in pieces(),
    ) {
        all_are_decoded(messages, pieces)?;
    }

    #[test]
    fn daemon_messages_round_trip(
        messages in prop::collection::vec(daemon_message(), 1..10),
        pieces in pieces(),
    ) {
        all_are_decoded(messages, pieces)?;
    }

    #[test]
    fn a_flipped_bit_is_refused_or_another_valid_message(
        client in client_message(),
        daemon in daemon_message(),
        at: Index,
        bit in 0..8u8,
    ) {
        let mut bytes = encoded(&client);
        let index = at.index(bytes.len());
        bytes[index] ^= 1u8 << bit;
        check_same_bytes::<ClientMessage>(&bytes)?;

        let mut bytes = encoded(&daemon);
        let index = at.index(bytes.len());
        bytes[index] ^= 1u8 << bit;
        check_same_bytes::<DaemonMessage>(&bytes)?;
    }

    #[test]
    fn a_cut_frame_is_never_a_message(
        client in client_message(),
        daemon in daemon_message(),
        at: Index,
    ) {
        let bytes = encoded(&client);
        prop_assert_eq!(decoded(&bytes[..at.index(bytes.len())]), (Vec::<ClientMessage>::new(), None));
        let bytes = encoded(&daemon);
        prop_assert_eq!(decoded(&bytes[..at.index(bytes.len())]), (Vec::<DaemonMessage>::new(), None));
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_valid(bytes: Vec<u8>, frames in frames()) {
        for bytes in [bytes, frames] {
            check_same_bytes::<ClientMessage>(&bytes)?;
            check_same_bytes::<DaemonMessage>(&bytes)?;
        }
    }
}
