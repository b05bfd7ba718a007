//! Tests of the protocol: every message's golden bytes, unchanged, cut and changed.

use std::fmt::Debug;

use proptest::prelude::*;

use super::*;

mod golden;
mod random;

use golden::{every_client_message, every_daemon_message};

fn encoded<M: Message>(message: &M) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

/// Returns the decoded messages, and the error that ended the decoding.
fn decoded<M: Message>(bytes: &[u8]) -> (Vec<M>, Option<DecodeError>) {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    let mut messages = Vec::new();
    loop {
        match decoder.next_message() {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return (messages, None),
            Err(error) => return (messages, Some(error)),
        }
    }
}

/// Returns a frame with this type and payload, and the right length.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(1 + payload.len()).unwrap();
    [&length.to_le_bytes(), &[kind][..], payload].concat()
}

#[test]
fn every_message_has_its_golden_bytes() {
    fn check<M: Message + Debug + PartialEq>(golden: Vec<(M, &[u8])>) {
        for (message, bytes) in golden {
            assert_eq!(encoded(&message), bytes, "{message:?}");
            assert_eq!(decoded(bytes), (vec![message], None));
        }
    }
    check(every_client_message());
    check(every_daemon_message());
}

#[test]
fn every_enum_value_keeps_its_byte() {
    use {CloseResult as C, DenyReason as D, RevokeReason as R};
    assert_eq!(
        codes(),
        [
            (1, D::NotAdmitted),
            (2, D::Limit),
            (3, D::Absent),
            (4, D::Unprepared),
            (5, D::Failed),
            (6, D::Stopping),
        ]
    );
    assert_eq!(codes(), [(1, R::Stopping), (2, R::Lost)]);
    assert_eq!(codes(), [(1, C::Durable), (2, C::Failed)]);
}

#[test]
fn a_payload_cut_anywhere_is_refused() {
    fn check<M: Message + Debug + PartialEq>(golden: Vec<(M, &[u8])>) {
        for (message, bytes) in golden {
            let (kind, payload) = (bytes[2], &bytes[3..]);
            for end in 0..payload.len() {
                let error = DecodeError::Short { kind };
                let cut = frame(kind, &payload[..end]);
                assert_eq!(decoded::<M>(&cut), (vec![], Some(error)), "{message:?}");
            }
        }
    }
    check(every_client_message());
    check(every_daemon_message());
}

#[test]
fn a_payload_with_trailing_bytes_is_refused() {
    fn check<M: Message + Debug + PartialEq>(golden: Vec<(M, &[u8])>) {
        for (message, bytes) in golden {
            let (kind, payload) = (bytes[2], &bytes[3..]);
            for count in 1..=9 {
                let error = DecodeError::Trailing { kind };
                let longer = frame(kind, &[payload, &vec![0; count]].concat());
                assert_eq!(decoded::<M>(&longer), (vec![], Some(error)), "{message:?}");
            }
        }
    }
    check(every_client_message());
    check(every_daemon_message());
}

#[test]
fn a_frame_cut_anywhere_is_incomplete() {
    fn check<M: Message + Debug + PartialEq>(golden: Vec<(M, &[u8])>) {
        for (_, bytes) in golden {
            for end in 0..bytes.len() {
                assert_eq!(decoded::<M>(&bytes[..end]), (vec![], None));
            }
        }
    }
    check(every_client_message());
    check(every_daemon_message());
}

/// Checks that all decoded messages encode to the bytes that they were decoded from.
fn check_same_bytes<M: Message>(bytes: &[u8]) -> Result<(), TestCaseError> {
    let (messages, _) = decoded::<M>(bytes);
    let again: Vec<u8> = messages.iter().flat_map(encoded).collect();
    prop_assert_eq!(&again[..], &bytes[..again.len()]);
    Ok(())
}

#[test]
fn every_changed_byte_is_refused_or_another_valid_message() {
    fn check<M: Message>(golden: Vec<(M, &[u8])>) {
        for (_, bytes) in golden {
            for at in 0..bytes.len() {
                for value in 0..=u8::MAX {
                    let mut changed = bytes.to_vec();
                    changed[at] = value;
                    check_same_bytes::<ClientMessage>(&changed).unwrap();
                    check_same_bytes::<DaemonMessage>(&changed).unwrap();
                }
            }
        }
    }
    check(every_client_message());
    check(every_daemon_message());
}

#[test]
fn a_type_of_the_other_direction_or_of_none_is_unknown() {
    for kind in 0..=u8::MAX {
        let unknown = Some(DecodeError::UnknownType(kind));
        let frame = frame(kind, &[]);
        let client = decoded::<ClientMessage>(&frame).1;
        let daemon = decoded::<DaemonMessage>(&frame).1;
        assert_eq!(client == unknown, !matches!(kind, 0x01..=0x03), "{kind}");
        assert_eq!(
            daemon == unknown,
            !matches!(kind, 0x81..=0x85 | 0x89),
            "{kind}"
        );
    }
}

#[test]
fn another_version_is_named_whatever_follows_it() {
    for version in [0, 1, 2, 0x0301, u16::MAX] {
        let error = Some(DecodeError::Version(version));
        for rest in [&b""[..], b"\xff", b"what another version may look like"] {
            let payload = [&version.to_le_bytes(), rest].concat();
            for kind in [0x01, 0x03] {
                let frame = frame(kind, &payload);
                assert_eq!(decoded::<ClientMessage>(&frame), (vec![], error));
            }
            for kind in [0x81, 0x82, 0x85] {
                let frame = frame(kind, &payload);
                assert_eq!(decoded::<DaemonMessage>(&frame), (vec![], error));
            }
        }
    }
}

#[test]
fn an_error_is_read_in_every_version() {
    for version in [0, 1, u16::MAX] {
        let text = "speak version 1".to_owned();
        let message = DaemonMessage::Error { version, text };
        assert_eq!(decoded(&encoded(&message)), (vec![message], None));
    }
}

#[test]
fn a_string_over_its_limit_is_refused() {
    let mut command = [&VERSION.to_le_bytes()[..], &1025u16.to_le_bytes()].concat();
    command.resize(4 + 1025, b'x');
    let invalid = |kind| (vec![], Some(DecodeError::Invalid { kind }));
    assert_eq!(
        decoded::<ClientMessage>(&frame(0x01, &command)),
        (vec![], Some(DecodeError::Invalid { kind: 0x01 }))
    );
    for (kind, before, limit) in [
        (0x81, &b""[..], PATH_MAX),
        (0x82, b"\x01", TEXT_MAX),
        (0x85, b"\x01", CHUNK_MAX),
        (0x89, b"", TEXT_MAX),
    ] {
        let length = u16::try_from(limit + 1).unwrap().to_le_bytes();
        let mut string = [&VERSION.to_le_bytes(), before, &length].concat();
        string.resize(string.len() + limit + 1, b'x');
        assert_eq!(
            decoded::<DaemonMessage>(&frame(kind, &string)),
            invalid(kind)
        );
    }
}

#[test]
fn a_text_that_is_not_utf8_is_refused() {
    let error = DecodeError::Invalid { kind: 0x83 };
    assert_eq!(
        decoded::<DaemonMessage>(&frame(0x83, b"\x01\x02\x00\xc3\x28")),
        (vec![], Some(error))
    );
}

#[test]
fn strings_over_their_limit_are_cut_when_encoded() {
    let version = VERSION;
    let open = |length| ClientMessage::Open {
        version,
        command: vec![b'x'; length],
    };
    let cut = open(COMMAND_MAX);
    assert_eq!(decoded(&encoded(&open(100_000))), (vec![cut], None));

    let granted = |length| DaemonMessage::Granted {
        version,
        data: vec![0xff; length],
        device: 1,
        kill_grace_ms: 2,
    };
    let cut = granted(PATH_MAX);
    assert_eq!(decoded(&encoded(&granted(100_000))), (vec![cut], None));

    // Three bytes a character: the limit falls within one.
    let error = |count| DaemonMessage::Error {
        version,
        text: "\u{20ac}".repeat(count),
    };
    let cut = error(1365);
    assert_eq!(decoded(&encoded(&error(50_000))), (vec![cut], None));
}

#[test]
fn the_longest_message_of_each_direction_is_within_its_frame_limit() {
    let open = ClientMessage::Open {
        version: VERSION,
        command: vec![0; COMMAND_MAX],
    };
    assert!(encoded(&open).len() <= 2 + CLIENT_FRAME_MAX);
    let status = DaemonMessage::Status {
        version: VERSION,
        last: false,
        bytes: vec![0; CHUNK_MAX],
    };
    assert!(encoded(&status).len() <= 2 + DAEMON_FRAME_MAX);
    // No other daemon message has more than one string, and 64 bytes besides.
    const { assert!(2 + PATH_MAX + 64 <= DAEMON_FRAME_MAX && PATH_MAX == TEXT_MAX) };
}

/// `--json` prints this: the names and the order of the fields are an interface for other programs.
#[test]
fn the_status_document_has_its_golden_text() {
    let status = golden::status();
    let text = serde_json::to_string(&status).unwrap();
    assert_eq!(text, golden::STATUS);
    assert_eq!(
        serde_json::from_str::<Status>(golden::STATUS).unwrap(),
        status
    );
}

#[test]
fn a_status_with_new_fields_is_read() {
    let newer = golden::STATUS.replacen('{', r#"{"new":[1],"#, 1);
    let newer = newer.replacen(r#""pid":1,"#, r#""pid":1,"new":{},"#, 1);
    assert_eq!(
        serde_json::from_str::<Status>(&newer).unwrap(),
        golden::status()
    );
}

/// Returns all values of an enum, with their bytes.
fn codes<T: TryFrom<u8>>() -> Vec<(u8, T)> {
    (0..=u8::MAX)
        .filter_map(|byte| Some((byte, T::try_from(byte).ok()?)))
        .collect()
}
