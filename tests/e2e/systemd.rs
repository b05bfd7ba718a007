//! What systemd is told, and what it hands over.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use pst::sys::poll;
use pst::wire::{ClientMessage, MAGIC, Message, VERSION};
use rustix::event::{PollFd, PollFlags};

use crate::needs_storage;
use crate::rig::{Rig, RunToEnd, Setup, start, wait_until};

#[test]
fn systemd_is_told_ready_status_and_stopping() {
    needs_storage!();
    let mut rig = Rig::any(); // has waited for READY=1
    let well = "STATUS=storage is read-only, or writable for sessions";
    rig.await_notice(well);
    rig.session().end().must(0);
    rig.await_state("ro");
    rig.umount(&[]);
    let notices = rig.notices();
    let told = |line: &str| {
        let notices = notices.lock().expect("lock");
        notices.iter().filter(|told| told.starts_with(line)).count()
    };
    wait_until("what is wrong", || told("STATUS=storage is absent: ") == 1);
    rig.ends_anyhow();
    rig.stop_daemon();
    wait_until("STOPPING=1", || told("STOPPING=1") == 1);
    // It is told nothing of a session's remounts.
    assert_eq!((told(well), told("STATUS=")), (1, 2));
}

#[test]
fn systemds_watchdog_is_fed_when_it_asks_for_it() {
    needs_storage!();
    let mut rig = Setup::any().stopped().start();
    let mut command = rig.daemon_command();
    command
        .env("WATCHDOG_USEC", "200000")
        .env_remove("WATCHDOG_PID");
    rig.start_daemon_as(command);
    rig.await_notice("WATCHDOG=1");
    rig.stop_daemon();
    let plain = rig.daemon_command();
    rig.start_daemon_as(plain);
    rig.sh("true").must(0);
}

#[test]
fn a_socket_of_systemds_is_used() {
    needs_storage!();
    let mut rig = Setup::any().stopped().start();
    let listener = UnixListener::bind(rig.socket()).expect("bind");
    let command = activated(&rig, listener);
    rig.start_daemon_as(command);
    rig.sh("env | grep LISTEN_").must(1);
    rig.sh("echo x > $KVMD_PST_DATA/file").must(0);
    rig.stop_daemon();
    assert!(rig.socket().exists(), "systemd's socket was removed");
}

/// What systemd does: the socket as descriptor 3, and the daemon's own pid.
fn activated(rig: &Rig, listener: UnixListener) -> Command {
    let mut command = rig.command("sh");
    command.args([
        "-c",
        "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"",
        "sh",
    ]);
    command.args(rig.daemon_words());
    command.stdin(Stdio::from(OwnedFd::from(listener)));
    command
}

#[test]
fn who_comes_to_systemds_socket_while_it_stops_is_left_for_the_next_daemon() {
    needs_storage!();
    let mut rig = Setup::any().stopped().start();
    let listener = UnixListener::bind(rig.socket()).expect("bind");
    let command = activated(&rig, listener.try_clone().expect("dup"));
    rig.start_daemon_as(command);
    let mut open = MAGIC.to_vec();
    ClientMessage::Open {
        version: VERSION,
        command: b"test".to_vec(),
    }
    .encode(&mut open);
    let mut first = UnixStream::connect(rig.socket()).expect("connect");
    first.write_all(&open).expect("open");
    let mut next = || {
        let mut length = [0; 2];
        first.read_exact(&mut length).expect("a frame");
        let mut frame = vec![0; u16::from_le_bytes(length).into()];
        first.read_exact(&mut frame).expect("a frame");
        frame[0]
    };
    assert_eq!(next(), 0x81, "granted");
    rig.signal_daemon("TERM");
    assert_eq!(next(), 0x83, "revoked: it is stopping");
    let mut second = UnixStream::connect(rig.socket()).expect("connect");
    second.write_all(&open).expect("open");
    drop(first);
    rig.end_daemon().must(0);
    listener.accept().expect("the second client was taken");
}

#[test]
fn who_comes_before_the_daemon_has_looked_is_told_what_it_found() {
    needs_storage!();
    let mut rig = Setup::any().stopped().start();
    // The look is sometimes faster.
    for _ in 0..10 {
        let listener = UnixListener::bind(rig.socket()).expect("bind");
        let status = start(&mut rig.pst(["status"]));
        wait_until("it is in line", || {
            let line = PollFd::new(&listener, PollFlags::IN);
            poll::wait([line], Some(Duration::ZERO)) == [true]
        });
        let command = activated(&rig, listener);
        let early = start(&mut rig.pst(["run", "--need", "1000G", "--", "echo", "started"]));
        rig.start_daemon_as(command);
        let status = status.end().must(0).text();
        assert!(status.contains(" ro: "), "{status}");
        let denied = early.end().must(1);
        assert_eq!(denied.text(), "");
        assert!(denied.stderr.contains(" needed, "), "{denied:?}");
        rig.await_state("ro");
        let status = rig.status();
        let totals = &status["totals"];
        assert_eq!(totals["sessions"], 1, "{status:#}");
        assert_eq!(totals["denials"], 0, "{status:#}");
        for past in status["past"].as_array().expect("a list") {
            assert_eq!(past["ended"], "durable", "{status:#}");
        }
        rig.signal_daemon("TERM");
        rig.end_daemon().must(0);
        std::fs::remove_file(rig.socket()).expect("systemd's socket");
    }
}

#[test]
fn lines_for_the_journal_carry_their_priority() {
    needs_storage!();
    let mut rig = Setup::any().stopped().start();
    let log = rig.dir().join("journal");
    let file = std::fs::File::create(&log).expect("file");
    let found = file.metadata().expect("stat");
    // The shell opens it again: the rig has its own idea of standard error.
    let mut command = rig.command("sh");
    command
        .args(["-c", "exec \"$@\" 2>>\"$LOG\"", "sh"])
        .env("LOG", &log);
    command.args(rig.daemon_words());
    command.env("JOURNAL_STREAM", format!("{}:{}", found.dev(), found.ino()));
    rig.start_daemon_as(command);
    rig.sh("true").must(0);
    rig.stop_daemon();
    let text = std::fs::read_to_string(&log).expect("log");
    assert!(!text.is_empty());
    for line in text.lines() {
        let level = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
        assert!(
            level.is_some_and(|(n, _)| n.parse::<u8>().is_ok_and(|n| n < 8)),
            "{line:?}"
        );
    }
    rig.start_daemon();
    assert!(
        rig.log().lines().all(|line| !line.starts_with('<')),
        "{}",
        rig.log()
    );
    rig.pst(["status"]).to_end().must(0);
}
