//! What kvmd's API refuses, and how it limits the cost of a client.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::json;

use super::{curl, sessions};
use crate::rig::{ACCESS_GROUP, MEMBER, OUTSIDER, Rig, RunToEnd, Setup, start, wait_until};
use crate::{needs_root, needs_storage, needs_tool};

#[test]
fn p8_kvmd_api_an_outsider_learns_which_group_is_needed() {
    needs_root!("other users");
    needs_tool!("curl");
    let rig = Setup::any().head("socket_mode = 0o666").start();
    let upgrade = [
        "-H",
        "Connection: Upgrade",
        "-H",
        "Upgrade: websocket",
        "-H",
        "Sec-WebSocket-Version: 13",
        "-H",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "http://x/ws",
    ];
    let (status, said) = curl(&rig, Some(OUTSIDER), &upgrade);
    assert_eq!((status.as_str(), &said["ok"]), ("403", &json!(false)));
    assert_eq!(said["result"]["error"], "ForbiddenError");
    let text = said["result"]["error_msg"].as_str().expect("a text");
    assert!(text.contains(&format!("'{ACCESS_GROUP}'")), "{text}");
    assert_eq!(rig.superblock(), "ro");
    // Everybody who can connect may ask for the state.
    let (status, _) = curl(&rig, Some(OUTSIDER), &["http://x/state"]);
    assert_eq!(status, "200");
    let member = start(
        rig.command_as(MEMBER, "curl")
            .args(["-sSN", "--http1.1", "--unix-socket"])
            .arg(rig.socket())
            .args(upgrade),
    );
    member.await_stdout("\"write_allowed\":true");
    assert_eq!(rig.superblock(), "rw");
    member.signal("KILL");
    rig.await_superblock("ro");
}

#[test]
fn p9_kvmd_api_an_invalid_request_gets_an_http_error() {
    needs_storage!();
    needs_tool!("curl");
    let rig = Rig::any();
    let long = format!("X: {}", "x".repeat(9000));
    for (words, status, error) in [
        (&["http://x/"][..], "404", "NotFoundError"),
        (
            &["-d", "x", "http://x/state"],
            "405",
            "MethodNotAllowedError",
        ),
        (
            &["-X", "GET", "-d", "x", "http://x/state"],
            "413",
            "PayloadTooLargeError",
        ),
        (&["http://x/ws"], "400", "BadRequestError"),
        (&["-H", &long, "http://x/state"], "431", "HeadTooLargeError"),
    ] {
        let (code, said) = curl(&rig, None, words);
        assert_eq!(code, status, "{words:?}: {said}");
        assert_eq!(said["ok"], false);
        assert_eq!(said["result"]["error"], error);
        assert!(said["result"]["error_msg"].is_string(), "{said}");
    }
    let head = rig
        .command("curl")
        .args(["-sSI", "--unix-socket"])
        .arg(rig.socket())
        .arg("http://x/state")
        .to_end()
        .must(0)
        .text();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let mut stream = connect(&rig);
    stream
        .write_all(b"HEAD /nope HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("write");
    let mut said = String::new();
    stream
        .read_to_string(&mut said)
        .expect("until it is closed");
    assert!(
        said.starts_with("HTTP/1.1 404 ") && said.ends_with("\r\n\r\n"),
        "{said}"
    );
}

#[test]
fn kvmd_api_frames_sent_with_the_request_are_processed() {
    needs_storage!();
    let rig = Rig::any();
    let mut stream = connect(&rig);
    // A masked close frame with code 1000. It is answered whether the session is granted or not.
    let close = b"\x88\x82\0\0\0\0\x03\xe8";
    stream.write_all(&[UPGRADE, close].concat()).expect("write");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("until it is closed");
    let text = String::from_utf8_lossy(&said);
    assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
    assert!(text.contains("\"loop\""), "{text}");
    assert!(said.ends_with(&[0x88, 2, 0x03, 0xe8]), "{said:?}");
    rig.await_superblock("ro");
    assert_eq!(sessions(&rig), 0);
}

#[test]
fn p11_kvmd_api_no_timer_runs_after_the_last_client() {
    needs_storage!();
    let rig = Rig::any();
    let mut stream = connect(&rig);
    upgrade(&mut stream);
    rig.await_superblock("rw");
    wait_until("a timer is armed", || rig.armed_timers() > 0);
    drop(stream);
    wait_until("no timer is armed", || rig.armed_timers() == 0);
}

#[test]
fn p9_kvmd_api_a_slow_head_is_refused() {
    needs_storage!();
    let rig = Rig::any();
    let mut slow = connect(&rig);
    slow.write_all(b"GET /state HTTP/1.1\r\nHost: ")
        .expect("write");
    let mut said = String::new();
    slow.read_to_string(&mut said).expect("until it is closed");
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(said.contains("TimeoutError"), "{said}");
}

#[test]
fn p9_kvmd_api_the_limit_is_an_http_error() {
    needs_storage!();
    needs_tool!("curl");
    let rig = Setup::any().session("limit = 2").start();
    let held: Vec<_> = (0..2).map(|_| rig.session()).collect();
    // Even if the request comes late.
    let mut stream = connect(&rig);
    wait_until("the connection is refused", || {
        rig.log().contains("was refused")
    });
    stream
        .write_all(b"GET /state HTTP/1.1\r\nHost: ")
        .expect("write");
    stream.write_all(b"x\r\n\r\n").expect("write");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("until it ends");
    assert!(said.starts_with("HTTP/1.1 503 "), "{said}");
    assert!(said.contains("too many connections"), "{said}");
    let (status, said) = curl(&rig, None, &["http://x/state"]);
    assert_eq!(status, "503", "{said}");
    assert_eq!(said["result"]["error"], "UnavailableError");
    // A client of the native protocol is denied in that protocol.
    rig.sh("true").must(1);
    for session in held {
        session.end().must(0);
    }
}

#[test]
fn p9_kvmd_api_the_daemon_waits_for_the_requests_of_a_few_refused_clients_only() {
    needs_storage!();
    let rig = Setup::any().session("limit = 2").start();
    let held: Vec<_> = (0..2).map(|_| rig.session()).collect();
    let descriptors = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", rig.daemon_pid()));
        open.expect("its descriptors").count()
    };
    let before = descriptors();
    let silent: Vec<_> = (0..300).map(|_| connect(&rig)).collect();
    for mut stream in silent {
        assert!(descriptors() <= before + 64 + 1, "{}", descriptors());
        let mut said = Vec::new();
        stream.read_to_end(&mut said).expect("until it ends");
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("too many connections"), "{said}");
    }
    wait_until("nothing is left", || descriptors() == before);
    for session in held {
        session.end().must(0);
    }
}

#[test]
fn p9_kvmd_api_a_client_that_does_not_answer_pings_is_dropped() {
    needs_storage!();
    let rig = Rig::any();
    let mut stream = connect(&rig);
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("timeout");
    upgrade(&mut stream);
    rig.await_superblock("rw");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("until it is closed");
    // The last frame is an empty ping.
    assert!(
        said.ends_with(&[0x89, 0]),
        "{:?}",
        String::from_utf8_lossy(&said)
    );
    wait_until("it is logged", || {
        rig.log().contains("does not answer pings")
    });
    rig.await_superblock("ro");
}

#[test]
fn p9_kvmd_api_a_flood_does_not_block_other_sessions() {
    needs_storage!();
    let rig = Rig::any();
    let mut hostile: Vec<UnixStream> = (0..8).map(|_| connect(&rig)).collect();
    for stream in &mut hostile {
        upgrade(stream);
    }
    let floods: Vec<_> = hostile
        .iter()
        .enumerate()
        .map(|(n, stream)| {
            let mut stream = stream.try_clone().expect("dup");
            // Endless empty fragments, pings, or events, whose answers the client never reads.
            let begin = [&[0x01, 0x80, 0, 0, 0, 0][..], &[], &[]][n % 3];
            let again = [
                &[0x00, 0x80, 0, 0, 0, 0][..],
                &[0x89, 0x80, 0, 0, 0, 0],
                b"\x81\xa2\0\0\0\0{\"event_type\":\"ping\", \"event\":{}}",
            ][n % 3]
                .repeat(100);
            std::thread::spawn(move || {
                let _ = stream.write_all(begin);
                while stream.write_all(&again).is_ok() {}
            })
        })
        .collect();
    for n in 0..20 {
        rig.sh(&format!("echo {n} > $KVMD_PST_DATA/file")).must(0);
    }
    for stream in &hostile {
        let _ = stream.shutdown(std::net::Shutdown::Both); // the daemon may have closed it
    }
    for flood in floods {
        flood.join().expect("the flood");
    }
    drop(hostile);
    rig.await_superblock("ro");
}

fn connect(rig: &Rig) -> UnixStream {
    let stream = UnixStream::connect(rig.socket()).expect("connect");
    stream
        .set_read_timeout(Some(crate::rig::BOUND))
        .expect("timeout");
    stream
}

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn upgrade(stream: &mut UnixStream) {
    stream.write_all(UPGRADE).expect("write");
}
