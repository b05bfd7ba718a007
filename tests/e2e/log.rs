//! The daemon's log: a line for each event, which an operator can search for.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use pst::wire::{ClientMessage, MAGIC, Message, VERSION};

use crate::needs_storage;
use crate::rig::{BOUND, MEMBER, OUTSIDER, PRIMARY, Rig, RunToEnd, Setup, start, wait_until};
use crate::{needs_root, needs_tool};

/// The lines with this in them.
fn lines(log: &str, part: &str) -> Vec<String> {
    let lines = log.lines().filter(|line| line.contains(part));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_session_is_a_line_as_it_opens_and_a_line_as_it_closes() {
    needs_root!("other users, a block device's statistics");
    let rig = Rig::ext4();
    let session = rig.session_as(MEMBER);
    let pid = rig.status()["sessions"][0]["pid"].clone();
    let who = format!("session 1 of user {}, pid {pid}, `sh -c ", MEMBER.uid);
    let opened = lines(&rig.log(), &who);
    assert_eq!(opened.len(), 1, "{}", rig.log());
    assert!(opened[0].starts_with("pst: INFO ") && opened[0].ends_with(", opened"));
    rig.sh("head -c 100000 /dev/zero > $KVMD_PST_DATA/file")
        .must(0);
    session.end().must(0);
    let both = lines(&rig.log(), &who);
    assert_eq!(both.len(), 2, "{}", rig.log());
    let (_, end) = both[1].split_once(", closed (after ").expect("closed");
    let (time, written) = end.split_once(" s, ").expect("a time");
    assert!(time.parse::<f64>().is_ok(), "{both:?}");
    // Others' bytes count, too: they were written meanwhile.
    let kibibytes = written.split_once(" KiB written)").expect("an amount").0;
    assert!(
        kibibytes.parse::<f64>().expect("a number") > 97.0,
        "{both:?}"
    );
}

#[test]
fn a_long_command_is_cut() {
    needs_storage!();
    let rig = Rig::any();
    rig.run(["true", &"x".repeat(1000)]).to_end().must(0);
    let cut = format!("`true {}…`, closed", "x".repeat(75));
    assert!(rig.log().contains(&cut), "{}", rig.log());
}

/// Sends $2, hexadecimal, to the socket $1 and hangs up at the answer, 300 times.
const FLOOD: &str = "
import socket, sys
for _ in range(300):
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[1])
    client.sendall(bytes.fromhex(sys.argv[2]))
    assert client.recv(1)
    client.close()
";

#[test]
fn p9_a_member_cannot_flood_the_log() {
    needs_root!("other users");
    needs_tool!("python3");
    let mut rig = Setup::any().head("socket_mode = 0o666").start();
    let open: String = open_message().iter().map(|b| format!("{b:02x}")).collect();
    let mut flood = rig.command_as(MEMBER, "python3");
    flood.args(["-c", FLOOD]).arg(rig.socket()).arg(open);
    flood.to_end().must(0);
    rig.await_state("ro");

    // What others do, and what an administrator must see.
    rig.run_as(PRIMARY, ["true"]).to_end().must(0);
    rig.run_as(OUTSIDER, ["true"]).to_end().must(1);
    rig.umount(&[]);
    rig.await_state("absent");
    let log = rig.stop_daemon().stderr;
    rig.do_mount();
    let member = lines(&log, &format!("of user {}, pid ", MEMBER.uid));
    assert_eq!(
        lines(&log, &format!("of user {}, pid ", PRIMARY.uid)).len(),
        2,
        "{log}"
    );
    assert_eq!(
        lines(&log, "was refused: not in the group").len(),
        1,
        "{log}"
    );
    assert_eq!(lines(&log, "pst: WARN storage is absent").len(), 1, "{log}");

    // A period may have ended meanwhile.
    assert!(member.len() <= 2 * 60, "{log}");
    assert!(lines(&log, "storage made ").len() <= 2 * 60, "{log}");
    let left_out = format!(" log lines about user {} were left out", MEMBER.uid);
    let left_out = lines(&log, &left_out).into_iter().map(|line| {
        let number = line.split(' ').nth(2).expect("a number");
        number.parse::<usize>().expect("a number")
    });
    assert_eq!(member.len() + left_out.sum::<usize>(), 600, "{log}");
}

#[test]
fn a_remount_is_a_line_with_its_time() {
    needs_storage!();
    let rig = Rig::any();
    rig.sh("true").must(0);
    wait_until("both are logged", || {
        let log = rig.log();
        lines(&log, "pst: INFO storage made writable in ").len() == 1
            && lines(&log, "pst: INFO storage made read-only in ").len() == 1
    });
    for line in lines(&rig.log(), "storage made ") {
        let time = line.split_once(" in ").expect("a time").1;
        assert!(time.starts_with(|c: char| c.is_ascii_digit()), "{line}");
        assert!(time.contains("ms") || time.contains("µs"), "{line}");
    }
}

#[test]
fn a_refusal_names_who_and_why() {
    needs_root!("other users");
    let rig = Setup::any().head("socket_mode = 0o666").start();
    rig.run_as(OUTSIDER, ["true"]).to_end().must(1);
    assert_eq!(rig.status()["totals"]["denials"], 1); // now it is logged, too
    let refused = lines(&rig.log(), "was refused: not in the group");
    assert_eq!(refused.len(), 1, "{}", rig.log());
    let who = format!("pst: WARN user {}, pid ", OUTSIDER.uid);
    assert!(refused[0].starts_with(&who), "{refused:?}");
}

#[test]
fn a_denial_names_who_and_why() {
    needs_storage!();
    let rig = Setup::any().unmounted().start();
    rig.sh("true").must(1);
    let denied = lines(&rig.log(), "`sh -c true`, denied: ");
    assert_eq!(denied.len(), 1, "{}", rig.log());
    assert!(denied[0].starts_with("pst: WARN session 1 of user 0, pid "));
    assert!(denied[0].contains("mounted"), "{denied:?}");
    let status = rig.status();
    assert_eq!(status["totals"]["denials"], 1);
    assert_eq!(status["past"][0]["ended"], "denied");
}

#[test]
fn the_option_goes_before_the_environment() {
    needs_storage!();
    let mut rig = Setup::any().stopped().start();
    for (option, variable, info, debug) in [
        (None, None, true, false),
        (Some("warn"), None, false, false),
        (None, Some("warn"), false, false),
        (Some("debug"), Some("error"), true, true),
        (Some("error"), Some("debug"), false, false),
    ] {
        let mut command = rig.daemon_command();
        command.env_remove("RUST_LOG");
        if let Some(level) = option {
            command.arg(format!("--log-level={level}"));
        }
        if let Some(level) = variable {
            command.env("RUST_LOG", level);
        }
        rig.start_daemon_as(command);
        rig.sh("true").must(0);
        let log = rig.stop_daemon().stderr;
        assert_eq!(log.contains("pst: INFO session 1"), info, "{log}");
        assert_eq!(log.contains("pst: DEBUG "), debug, "{log}");
    }
    let mut wrong = rig.pst(["daemon", "--log-level", "loud", "-c"]);
    let ended = start(wrong.arg(rig.config())).end().must(2);
    assert!(ended.one_line().contains("loud"), "{ended:?}");
}

/// The log's reader, and the end for the daemon: a pipe to a pager, the journal's socket.
fn streams() -> [(File, OwnedFd); 2] {
    let (pager, pipe) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
    let (journal, socket) = UnixStream::pair().expect("socket pair");
    [
        (pager.into(), pipe),
        (OwnedFd::from(journal).into(), socket.into()),
    ]
}

/// The daemon with this as its stderr.
fn logging_to(rig: &Rig, stderr: OwnedFd) -> Command {
    let mut command = rig.command("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 2>&0 0</dev/null"]);
    command.args(rig.daemon_words()).arg("--log-level=debug");
    command.stdin(stderr);
    command
}

/// Opens a session with a long command.
fn open_message() -> Vec<u8> {
    let mut open = MAGIC.to_vec();
    let (version, command) = (VERSION, vec![b'x'; 1000]);
    ClientMessage::Open { version, command }.encode(&mut open);
    open
}

/// Opens sessions and hangs up after the grant. Each makes some hundred bytes of log.
fn open_and_hang_up(rig: &Rig, count: usize) {
    let open = open_message();
    for _ in 0..count {
        let mut client = UnixStream::connect(rig.socket()).expect("connect");
        client.set_read_timeout(Some(BOUND)).expect("timeout");
        client.write_all(&open).expect("open");
        client.read_exact(&mut [0]).expect("an answer"); // tries again after a signal
    }
}

#[test]
fn p9_a_log_that_nobody_reads_stops_nothing() {
    needs_storage!();
    for (mut reader, stderr) in streams() {
        let mut rig = Setup::any().stopped().start();
        rig.start_daemon_as(logging_to(&rig, stderr));
        let session = rig.session();
        open_and_hang_up(&rig, 3000);
        session.end().must(0);
        rig.sh("echo x > $KVMD_PST_DATA/file").must(0);
        assert_eq!(rig.superblock(), "ro");
        rig.await_state("ro");

        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                let _ = sender.send(text); // the test may be over
            }
        });
        let mut log = String::new();
        wait_until("it says how many are missing", || {
            log.extend(lines.try_iter());
            log.contains(" log lines were dropped: ")
        });
        let (before, _) = log.split_once(" log lines were dropped: ").expect("it");
        let (_, missing) = before.rsplit_once("\npst: WARN ").expect("a warning");
        assert!(missing.parse::<u64>().expect("a number") > 100, "{missing}");
        log.clear();
        rig.sh("exit 7").must(7);
        wait_until("it is logged again", || {
            log.extend(lines.try_iter());
            log.contains("`sh -c exit 7`, asked for")
        });
        assert!(!log.contains("dropped"), "{log}");
    }
}

#[test]
fn p9_a_daemon_whose_log_nobody_reads_can_be_stopped() {
    needs_storage!();
    for (_reader, stderr) in streams() {
        let mut rig = Setup::any().stopped().start();
        rig.start_daemon_as(logging_to(&rig, stderr));
        let session = rig.session();
        open_and_hang_up(&rig, 1000);
        rig.stop_daemon();
        assert_eq!(rig.superblock(), "ro");
        session.end().must(143);
    }
}
