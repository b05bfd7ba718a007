//! P9: clients that are too many, too slow, or no clients at all.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use pst::sys::socket;

use crate::rig::{BOUND, MEMBER, PRIMARY, Rig, RunToEnd, Setup, start, wait_until};
use crate::{needs_root, needs_storage};

fn connect(rig: &Rig) -> UnixStream {
    let stream = UnixStream::connect(rig.socket()).expect("connect");
    stream.set_read_timeout(Some(BOUND)).expect("timeout");
    stream
}

/// What the daemon says until it closes the connection.
fn until_closed(mut stream: UnixStream) -> Vec<u8> {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => {}
        Err(e) => assert_eq!(
            e.kind(),
            std::io::ErrorKind::ConnectionReset,
            "it was not closed"
        ),
    }
    said
}

#[test]
fn p9_one_user_gets_at_most_a_quarter() {
    needs_root!("other users");
    let rig = Setup::any().session("limit = 8").start();
    let first = rig.session_as(MEMBER);
    let second = rig.session_as(MEMBER);
    let third = rig.run_as(MEMBER, ["echo", "started"]).to_end().must(1);
    assert_eq!(third.text(), "");
    assert!(third.stderr.contains("ERROR"), "{third:?}");
    // Others are served, and the same one again when there is room.
    rig.run_as(PRIMARY, ["true"]).to_end().must(0);
    rig.sh("true").must(0);
    first.end().must(0);
    wait_until("there is room", || {
        rig.status()["sessions"]
            .as_array()
            .is_some_and(|s| s.len() == 1)
    });
    rig.run_as(MEMBER, ["true"]).to_end().must(0);
    second.end().must(0);
}

#[test]
fn p9_the_limit_holds_for_root_too() {
    needs_storage!();
    let rig = Setup::any().session("limit = 4").start();
    // A session holds its connection open; some are spoken for by nobody.
    let idle: Vec<_> = (0..4).map(|_| connect(&rig)).collect();
    let denied = rig.sh("echo started").must(1);
    assert_eq!(denied.text(), "");
    drop(idle);
    wait_until("there is room", || rig.sh("true").status.code() == Some(0));
}

#[test]
fn p9_the_line_to_the_socket_is_short_and_who_finds_it_full_gets_in_line() {
    needs_storage!();
    let rig = Setup::any().session("limit = 200").start();
    rig.signal_daemon("STOP");
    let mut line = Vec::new();
    let full = loop {
        match socket::connect(&rig.socket()) {
            Ok(stream) => line.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock, "{full}");
    assert_eq!(line.len(), 201, "listen(2) lets one more in than it says");
    let clients = [rig.run(["true"]), rig.pst(["status"])].map(|mut client| start(&mut client));
    for client in &clients {
        let call = format!("/proc/{}/syscall", client.pid());
        let connect = format!("{} ", libc::SYS_connect);
        wait_until("it waits in line", || {
            std::fs::read_to_string(&call).is_ok_and(|text| text.starts_with(&connect))
        });
    }
    drop(line);
    rig.signal_daemon("CONT");
    for client in clients {
        client.end().must(0);
    }
}

#[test]
fn p9_a_silent_client_is_dropped() {
    needs_storage!();
    let rig = Rig::any();
    let silent = connect(&rig);
    let mut half = connect(&rig);
    half.write_all(b"\0PST\x05").expect("write");
    rig.sh("true").must(0);
    until_closed(silent);
    until_closed(half);
    rig.sh("true").must(0);
}

#[test]
fn p9_garbage_is_refused_and_harms_nobody() {
    needs_storage!();
    let rig = Rig::any();
    let session = rig.session();
    for bytes in [
        &b"GARBAGE\r\n\r\n"[..],
        b"\0PSX\0\0\0\0",
        b"\0PST\xff\xff\xff\xff\xff\xff",
        b"\0PST\x00\x00\x00",
        b"\0PST\x01\x00\xee\x00\x00\x00\x00\x00",
    ] {
        let mut stream = connect(&rig);
        stream.write_all(bytes).expect("write");
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("shutdown");
        let said = until_closed(stream);
        if bytes.starts_with(b"\0PST") {
            assert!(!said.is_empty(), "no error for {bytes:?}");
        }
    }
    assert_eq!(rig.superblock(), "rw");
    session.end().must(0);
}

#[test]
fn p9_many_that_vanish_leave_nothing() {
    needs_storage!();
    let rig = Rig::any();
    for _ in 0..500 {
        let mut stream = connect(&rig);
        stream.write_all(b"\0PST").expect("write");
    }
    rig.sh("true").must(0);
    // The rig looks at descriptors and memory when it ends.
}

#[test]
fn p9_another_version_is_a_clear_error_on_both_sides() {
    needs_storage!();
    let rig = Setup::any().stopped().start();
    // A daemon of another version: `Denied`, whose version comes first.
    let listener = UnixListener::bind(rig.socket()).expect("bind");
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        stream.write_all(b"\x03\x00\x82\xee\x00").expect("write");
        let _ = stream.read_to_end(&mut Vec::new()); // until the client is gone
    });
    let ended = rig.run(["echo", "started"]).to_end().must(1);
    assert_eq!(ended.text(), "");
    let told = "cannot speak protocol version 238, only ";
    let next = "restart its daemon (`systemctl restart pst`)";
    assert!(
        ended.stderr.contains(told) && ended.stderr.contains(next),
        "{ended:?}"
    );
    other.join().expect("the other daemon");
    // A client of another version: `Open`.
    std::fs::remove_file(rig.socket()).expect("remove");
    let rig = Rig::any();
    let mut stream = connect(&rig);
    stream
        .write_all(b"\0PST\x05\x00\x01\xee\x00\x00\x00")
        .expect("write");
    let said = until_closed(stream);
    assert_eq!(said.get(2), Some(&0x89), "no error: {said:?}");
    assert!(
        String::from_utf8_lossy(&said).contains("version"),
        "{said:?}"
    );
}
