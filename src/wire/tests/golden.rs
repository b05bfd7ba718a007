//! One message of each kind, with the bytes that it must always have.

use super::*;

pub fn every_client_message() -> Vec<(ClientMessage, &'static [u8])> {
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

pub fn every_daemon_message() -> Vec<(DaemonMessage, &'static [u8])> {
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
