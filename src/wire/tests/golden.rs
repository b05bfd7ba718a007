//! Golden data: one message of each kind with its bytes, and a status document with its text.

use super::*;

pub fn every_client_message() -> Vec<(ClientMessage, &'static [u8])> {
    vec![
        (
            ClientMessage::Open {
                version: 3,
                command: b"ls \xff".to_vec(),
            },
            b"\x09\x00\x01\x03\x00\x04\x00ls \xff",
        ),
        (ClientMessage::Close, b"\x01\x00\x02"),
        (
            ClientMessage::Status {
                version: 3,
                watch: false,
            },
            b"\x04\x00\x03\x03\x00\x00",
        ),
        (
            ClientMessage::Status {
                version: 3,
                watch: true,
            },
            b"\x04\x00\x03\x03\x00\x01",
        ),
    ]
}

pub fn every_daemon_message() -> Vec<(DaemonMessage, &'static [u8])> {
    vec![
        (
            DaemonMessage::Granted {
                version: 3,
                data: b"/d\xff".to_vec(),
                device: 0x0807_0605_0403_0201,
                kill_grace_ms: 1000,
            },
            b"\x14\x00\x81\x03\x00\x03\x00/d\xff\x01\x02\x03\x04\x05\x06\x07\x08\xe8\x03\x00\x00",
        ),
        (
            DaemonMessage::Denied {
                version: 3,
                reason: DenyReason::Unprepared,
                text: "n\u{f6}".into(),
            },
            b"\x09\x00\x82\x03\x00\x04\x03\x00n\xc3\xb6",
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
            DaemonMessage::Status {
                version: 3,
                last: true,
                bytes: b"{}".to_vec(),
            },
            b"\x08\x00\x85\x03\x00\x01\x02\x00{}",
        ),
        (
            DaemonMessage::Error {
                version: 3,
                text: "no".into(),
            },
            b"\x07\x00\x89\x03\x00\x02\x00no",
        ),
    ]
}

/// Returns a status in which no field is empty.
pub fn status() -> Status {
    Status {
        version: "1".into(),
        daemon: DaemonStatus {
            pid: 1,
            uptime: 2.5,
        },
        storage: StorageStatus {
            state: State::Stuck,
            reason: Some("busy".into()),
            mount: "/m".into(),
            data: "/m/d".into(),
            device: "/dev/sda1".into(),
            fstype: "ext4".into(),
            size: 3,
            free: 2,
            free_inodes: Some(4),
            state_age: 0.5,
        },
        sessions: vec![SessionStatus {
            id: 7,
            pid: 8,
            uid: 9,
            user: "u".into(),
            command: "vi".into(),
            age: 1.0,
            state: Phase::Granted,
            stopped: false,
        }],
        holders: vec![
            HolderStatus {
                kind: HolderKind::Process,
                pid: Some(10),
                uid: Some(0),
                user: Some("root".into()),
                command: Some("sleep".into()),
                path: "/m/d/f".into(),
            },
            HolderStatus {
                kind: HolderKind::Swap,
                pid: None,
                uid: None,
                user: None,
                command: None,
                path: "/m/swap".into(),
            },
        ],
        past: vec![EndedSession {
            id: 6,
            pid: 5,
            uid: 4,
            user: "v".into(),
            command: "ls".into(),
            ended: SessionOutcome::Gone,
            at: 1_700_000_000,
            duration: 0.25,
            written: None,
        }],
        totals: Totals {
            sessions: 1,
            denials: 2,
            remounts: 3,
            failed_remounts: 4,
            writable: 5.5,
            written: Some(6),
        },
        ext4: Some(Ext4Stats {
            lifetime: 100,
            since_mount: 10,
            errors: 1,
        }),
    }
}

pub const STATUS: &str = concat!(
    r#"{"version":"1","daemon":{"pid":1,"uptime":2.5},"#,
    r#""storage":{"state":"stuck","reason":"busy","mount":"/m","data":"/m/d","device":"/dev/sda1","#,
    r#""fstype":"ext4","size":3,"free":2,"free_inodes":4,"state_age":0.5},"#,
    r#""sessions":[{"id":7,"pid":8,"uid":9,"user":"u","command":"vi","age":1.0,"state":"granted","stopped":false}],"#,
    r#""holders":[{"kind":"process","pid":10,"uid":0,"user":"root","command":"sleep","path":"/m/d/f"},"#,
    r#"{"kind":"swap","pid":null,"uid":null,"user":null,"command":null,"path":"/m/swap"}],"#,
    r#""past":[{"id":6,"pid":5,"uid":4,"user":"v","command":"ls","ended":"gone","at":1700000000,"#,
    r#""duration":0.25,"written":null}],"#,
    r#""totals":{"sessions":1,"denials":2,"remounts":3,"failed_remounts":4,"writable":5.5,"written":6},"#,
    r#""ext4":{"lifetime":100,"since_mount":10,"errors":1}}"#,
);
