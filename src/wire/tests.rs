//! The wire as its users see it: every message's golden bytes, and what happens
//! to them when they are cut or changed. The random ones are in `random.rs`.

use std::fmt::Debug;

use proptest::prelude::*;

use super::*;

mod random;

fn encoded<M: Message>(message: &M) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

/// What a decoder makes of these bytes, and the error that ended it.
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

/// Frames `payload` behind a type, with the right length.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(1 + payload.len()).unwrap();
    [&length.to_le_bytes(), &[kind][..], payload].concat()
}

fn every_client_message() -> Vec<(ClientMessage, &'static [u8])> {
    vec![
        (
            ClientMessage::Open {
                version: 2,
                command: b"ls \xff".to_vec(),
                need: 0x0807_0605_0403_0201,
            },
            b"\x11\x00\x01\x02\x00\x04\x00ls \xff\x01\x02\x03\x04\x05\x06\x07\x08",
        ),
        (ClientMessage::Close, b"\x01\x00\x02"),
        (
            ClientMessage::Status {
                version: 2,
                watch: false,
            },
            b"\x04\x00\x03\x02\x00\x00",
        ),
        (
            ClientMessage::Status {
                version: 2,
                watch: true,
            },
            b"\x04\x00\x03\x02\x00\x01",
        ),
    ]
}

fn every_daemon_message() -> Vec<(DaemonMessage, &'static [u8])> {
    vec![
        (
            DaemonMessage::Granted {
                version: 2,
                data: b"/d\xff".to_vec(),
                device: 0x0807_0605_0403_0201,
                kill_grace_ms: 1000,
            },
            b"\x14\x00\x81\x02\x00\x03\x00/d\xff\x01\x02\x03\x04\x05\x06\x07\x08\xe8\x03\x00\x00",
        ),
        (
            DaemonMessage::Denied {
                version: 2,
                reason: DenyReason::Unprepared,
                text: "n\u{f6}".into(),
            },
            b"\x09\x00\x82\x02\x00\x04\x03\x00n\xc3\xb6",
        ),
        (
            DaemonMessage::Revoked {
                reason: RevokeReason::Lost,
                text: "gone".into(),
            },
            b"\x08\x00\x83\x02\x04\x00gone",
        ),
        (
            DaemonMessage::Closed {
                result: CloseResult::Durable,
                text: String::new(),
            },
            b"\x04\x00\x84\x01\x00\x00",
        ),
        (
            DaemonMessage::Storage {
                version: 2,
                whole: true,
                daemon_version: "0.1".into(),
                pid: 0x0102,
                uptime_ms: 0x0304,
                state: State::Stuck,
                state_ms: 0x0506,
                reason: "busy".into(),
                mount: b"/m".to_vec(),
                data: b"/m/d".to_vec(),
                device: "sda1".into(),
                fstype: "ext4".into(),
                size: 0x0a00_0000_0000,
                free: 0x0b,
            },
            b"\x4a\x00\x85\x02\x00\x01\x03\x000.1\x02\x01\x00\x00\x04\x03\x00\x00\x00\x00\x00\x00\x07\
              \x06\x05\x00\x00\x00\x00\x00\x00\x04\x00busy\x02\x00/m\x04\x00/m/d\x04\x00sda1\x04\x00ext4\
              \x00\x00\x00\x00\x00\x0a\x00\x00\x0b\x00\x00\x00\x00\x00\x00\x00",
        ),
        (
            DaemonMessage::Session {
                id: 7,
                pid: 0x0102,
                uid: 1000,
                phase: Phase::Granted,
                age_ms: 0x0304,
                command: b"vi".to_vec(),
            },
            b"\x1e\x00\x86\x07\x00\x00\x00\x00\x00\x00\x00\x02\x01\x00\x00\xe8\x03\x00\x00\x02\
              \x04\x03\x00\x00\x00\x00\x00\x00\x02\x00vi",
        ),
        (
            DaemonMessage::Holder {
                kind: HolderKind::Swap,
                pid: 0,
                uid: 0,
                command: Vec::new(),
                path: b"/m/swap".to_vec(),
            },
            b"\x15\x00\x87\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\x00/m/swap",
        ),
        (DaemonMessage::End, b"\x01\x00\x88"),
        (
            DaemonMessage::Figures(Figures {
                lifetime: 0x0102,
                mounted: 3,
                errors: 1,
                first: Some(Incident {
                    time: 0x0405,
                    function: "f".into(),
                    line: 6,
                }),
                last: None,
            }),
            b"\x36\x00\x8a\x02\x01\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\
              \x01\x00\x00\x00\x00\x00\x00\x00\x05\x04\x00\x00\x00\x00\x00\x00\x01\x00f\
              \x06\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        ),
        (
            DaemonMessage::Totals(Totals {
                sessions: 1,
                denials: 2,
                remounts: 3,
                failed_remounts: 4,
                writable_ms: 5,
                written: None,
            }),
            b"\x31\x00\x8b\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\
              \x03\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\
              \x05\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff",
        ),
        (
            DaemonMessage::Past {
                id: 7,
                pid: 0x0102,
                uid: 1000,
                ended: Ended::Gone,
                ago_ms: 8,
                lasted_ms: 9,
                written: Some(10),
                command: b"vi".to_vec(),
            },
            b"\x2e\x00\x8c\x07\x00\x00\x00\x00\x00\x00\x00\x02\x01\x00\x00\xe8\x03\x00\x00\x05\
              \x08\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x00\
              \x0a\x00\x00\x00\x00\x00\x00\x00\x02\x00vi",
        ),
        (
            DaemonMessage::Error {
                version: 2,
                text: "no".into(),
            },
            b"\x07\x00\x89\x02\x00\x02\x00no",
        ),
    ]
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
    use {CloseResult as C, DenyReason as D, HolderKind as H, RevokeReason as R};
    assert_eq!(
        codes(),
        [
            State::Absent,
            State::Unprepared,
            State::ReadOnly,
            State::GoingRw,
            State::ReadWrite,
            State::GoingRo,
            State::Stuck,
            State::Failed,
        ]
        .map(|state| (state as u8, state))
    );
    assert_eq!(
        codes(),
        [
            (1, D::NotAdmitted),
            (2, D::Limit),
            (3, D::Absent),
            (4, D::Unprepared),
            (5, D::Failed),
            (6, D::Stopping),
            (7, D::Full),
        ]
    );
    assert_eq!(codes(), [(1, R::Stopping), (2, R::Lost)]);
    assert_eq!(codes(), [(1, C::Durable), (2, C::Failed)]);
    assert_eq!(
        codes(),
        [
            (1, Phase::Waiting),
            (2, Phase::Granted),
            (3, Phase::Revoked),
            (4, Phase::Closing),
        ]
    );
    assert_eq!(
        codes(),
        [(1, H::Process), (2, H::Loop), (3, H::Swap), (4, H::Unknown),]
    );
    assert_eq!(
        codes(),
        [
            Ended::Durable,
            Ended::Failed,
            Ended::Denied,
            Ended::Revoked,
            Ended::Gone,
            Ended::Cut,
        ]
        .map(|ended| (ended as u8, ended))
    );
}

#[test]
fn states_phases_and_ends_have_their_names() {
    let names = codes::<State>().into_iter().map(|(_, s)| s.as_str());
    let expected = "absent unprepared ro going-rw rw going-ro stuck failed";
    assert_eq!(names.collect::<Vec<_>>().join(" "), expected);
    let names = codes::<Ended>().into_iter().map(|(_, e)| e.as_str());
    let expected = "durable failed denied revoked gone cut";
    assert_eq!(names.collect::<Vec<_>>().join(" "), expected);
    let names = codes::<Phase>().into_iter().map(|(_, p)| p.as_str());
    let expected = "waiting granted revoked closing";
    assert_eq!(names.collect::<Vec<_>>().join(" "), expected);
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
                let error = DecodeError::Trailing { kind, count };
                let longer = frame(kind, &[payload, &vec![0; count]].concat());
                assert_eq!(decoded::<M>(&longer), (vec![], Some(error)), "{message:?}");
            }
        }
    }
    check(every_client_message());
    check(every_daemon_message());
}

#[test]
fn a_frame_cut_anywhere_needs_more() {
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

/// Refused, unfinished, or messages whose bytes are the ones that came.
fn refused_or_the_same_bytes<M: Message>(bytes: &[u8]) -> Result<(), TestCaseError> {
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
                    refused_or_the_same_bytes::<ClientMessage>(&changed).unwrap();
                    refused_or_the_same_bytes::<DaemonMessage>(&changed).unwrap();
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
        assert_eq!(daemon == unknown, !matches!(kind, 0x81..=0x8c), "{kind}");
    }
}

#[test]
fn another_version_is_named_whatever_follows_it() {
    for version in [0, 1, 0x0201, u16::MAX] {
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
    let error = |kind, length, limit| DecodeError::TooLong {
        kind,
        length,
        limit,
    };
    assert_eq!(
        decoded::<ClientMessage>(&frame(0x01, &command)),
        (vec![], Some(error(0x01, 1025, 1024)))
    );
    for (kind, before) in [(0x81, &b""[..]), (0x85, b"\x01"), (0x89, b"")] {
        let string = 4097u16.to_le_bytes();
        let mut string = [&VERSION.to_le_bytes(), before, &string].concat();
        string.resize(string.len() + 4097, b'x');
        assert_eq!(
            decoded::<DaemonMessage>(&frame(kind, &string)),
            (vec![], Some(error(kind, 4097, 4096)))
        );
    }
}

#[test]
fn a_text_that_is_not_utf8_is_refused() {
    let error = DecodeError::NotUtf8 { kind: 0x83 };
    assert_eq!(
        decoded::<DaemonMessage>(&frame(0x83, b"\x01\x02\x00\xc3\x28")),
        (vec![], Some(error))
    );
}

#[test]
fn strings_over_their_limit_are_cut_when_encoded() {
    let version = VERSION;
    let command = vec![b'x'; 100_000];
    let need = 0;
    let long = ClientMessage::Open {
        version,
        command,
        need,
    };
    let command = vec![b'x'; COMMAND_MAX];
    let cut = ClientMessage::Open {
        version,
        command,
        need,
    };
    assert_eq!(decoded(&encoded(&long)), (vec![cut], None));

    let storage = |text: &str, path: &[u8]| DaemonMessage::Storage {
        version,
        whole: false,
        daemon_version: text.into(),
        pid: 1,
        uptime_ms: 2,
        state: State::ReadOnly,
        state_ms: 5,
        reason: text.into(),
        mount: path.into(),
        data: path.into(),
        device: text.into(),
        fstype: text.into(),
        size: 3,
        free: 4,
    };
    // Three bytes a character: the limit falls within one.
    let long = storage(&"\u{20ac}".repeat(50_000), &[0xff; 100_000]);
    let cut = storage(&"\u{20ac}".repeat(1365), &[0xff; PATH_MAX]);
    assert_eq!(decoded(&encoded(&long)), (vec![cut], None));
}

#[test]
fn the_longest_message_of_each_direction_is_within_its_frame_limit() {
    let command = vec![0; COMMAND_MAX];
    let open = ClientMessage::Open {
        version: VERSION,
        command,
        need: u64::MAX,
    };
    assert!(encoded(&open).len() <= 2 + CLIENT_FRAME_MAX);
    // No daemon message has more than six strings, and 64 bytes besides.
    const { assert!(6 * (2 + PATH_MAX) + 64 <= DAEMON_FRAME_MAX && PATH_MAX == TEXT_MAX) };
}

/// All values of an enum, with their bytes.
fn codes<T: TryFrom<u8>>() -> Vec<(u8, T)> {
    (0..=u8::MAX)
        .filter_map(|byte| Some((byte, T::try_from(byte).ok()?)))
        .collect()
}
