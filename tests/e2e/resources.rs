//! P9: with too few descriptors or processes the affected client gets an error, and the daemon and
//! the other clients go on. Nothing depends on the clock either.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Command;

use pst::wire::{ClientMessage, MAGIC, Message, VERSION};

use crate::rig::{MEMBER, Rig, RunToEnd, Setup, start, tool, wait_until};
use crate::{needs_mounts, needs_root, needs_storage};

/// Limits the running daemon.
fn limit(rig: &Rig, resource: &str, value: u64) {
    let pid = rig.daemon_pid().to_string();
    let limit = format!("--{resource}={value}:{value}");
    tool(Command::new("prlimit").args(["--pid", &pid, &limit]));
}

/// Makes the daemon inspect the storage, by changes of the mounts.
fn have_it_inspected(rig: &Rig) {
    let aside = rig.dir().join("aside");
    std::fs::create_dir_all(&aside).expect("aside");
    for _ in 0..3 {
        tool(
            rig.command("mount")
                .args(["-t", "tmpfs", "tmpfs"])
                .arg(&aside),
        );
        tool(rig.command("umount").arg(&aside));
    }
}

/// Clients that ask for a session and keep it if it is granted.
fn crowd(rig: &Rig, count: usize) -> Vec<UnixStream> {
    let mut open = MAGIC.to_vec();
    let command = vec![b'x'; 1000];
    let version = VERSION;
    ClientMessage::Open { version, command }.encode(&mut open);
    let connect = |_| {
        let mut stream = UnixStream::connect(rig.socket()).expect("connect");
        // A refused connection may be closed already.
        let _ = stream.write_all(&open);
        stream
    };
    (0..count).map(connect).collect()
}

fn descriptors(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("descriptors")
        .count() as u64
}

#[test]
fn p9_without_descriptors_a_client_is_told_and_the_others_live() {
    needs_root!("another process's limits");
    let rig = Rig::any();
    let mut session = rig.session();
    limit(&rig, "nofile", descriptors(rig.daemon_pid()) + 24);
    let crowd = crowd(&rig, 60);
    let refused = rig.run(["echo", "started"]).to_end().must(1);
    assert_eq!(refused.text(), "", "the command was started");
    assert!(refused.stderr.contains("descriptors"), "{refused:?}");
    have_it_inspected(&rig);
    drop(crowd);
    wait_until("there is room", || rig.sh("true").status.code() == Some(0));
    assert!(session.is_running());
    assert!(!rig.log().contains("revoked"), "{}", rig.log());
    session.end().must(0);
    assert_eq!(rig.superblock(), "ro");
}

#[test]
fn p3_a_client_that_cannot_fork_says_so_and_its_session_ends() {
    needs_root!("another user");
    let rig = Rig::any();
    let other = rig.session();
    // Either the first fork fails or the second.
    for processes in ["--nproc=1", "--nproc=2"] {
        let mut run = rig.command_as(MEMBER, "prlimit");
        run.args([processes, "--", "kvmd-pstrun", "--", "echo", "started"]);
        let ended = run.to_end().must(1);
        assert_eq!(ended.text(), "", "the command was started");
        assert!(ended.stderr.contains("ERROR"), "{ended:?}");
        let next = "temporarily unavailable; too many processes: see `ulimit -u`";
        assert!(ended.stderr.contains(next), "{ended:?}");
    }
    wait_until("its session is over", || {
        rig.status()["sessions"]
            .as_array()
            .is_some_and(|all| all.len() == 1)
    });
    other.end().must(0);
    assert_eq!(rig.superblock(), "ro");
}

#[test]
fn p5_with_no_more_descriptors_than_it_needs_to_start_the_whole_tree_ends() {
    needs_storage!();
    let mut rig = Rig::any();
    let script = "for n in $(seq 4 30); do
            (ulimit -n $n; exec pst run -q -- true) 2>/dev/null && break
        done
        ulimit -n $n
        exec pst run -q -- sh -c 'sleep 7001 & setsid sleep 7001 & sleep 7001 & echo started; wait'";
    let job = start(rig.command("sh").args(["-c", script]));
    job.await_stdout("started");
    let sleeps = |rig: &Rig| rig.running("sleep 7001").len();
    wait_until("all three run", || sleeps(&rig) == 3);
    rig.kill_daemon();
    job.end().must(143);
    assert_eq!(sleeps(&rig), 0);
    rig.start_daemon(); // makes the storage read-only
}

#[test]
fn p3_a_client_without_descriptors_says_so_and_its_session_ends() {
    needs_storage!();
    let rig = Rig::any();
    for descriptors in 4..=14 {
        let mut run = rig.command("prlimit");
        run.arg(format!("--nofile={descriptors}"));
        let ended = run
            .args(["--", "kvmd-pstrun", "--", "echo", "started"])
            .to_end();
        if ended.status.code() == Some(0) {
            assert_eq!(ended.text(), "started");
        } else {
            let ended = ended.must(1);
            assert_eq!(ended.text(), "", "the command was started");
            let next = ": too many open files; see `ulimit -n`";
            let error = ended.stderr.lines().find(|line| line.contains("ERROR"));
            assert!(error.is_some_and(|line| line.contains(next)), "{ended:?}");
        }
        wait_until("its session is over", || {
            rig.status()["sessions"]
                .as_array()
                .is_some_and(|all| all.is_empty())
        });
        rig.await_superblock("ro");
    }
}

/// Runs a program with clocks that are eleven days ahead.
fn elsewhen(command: &Command) -> Command {
    let mut moved = Command::new("unshare");
    moved.args(["-T", "--monotonic", "1000000", "--boottime", "1000000"]);
    moved.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => moved.env(name, value),
            None => moved.env_remove(name),
        };
    }
    moved
}

#[test]
fn p2_clocks_that_differ_between_client_and_daemon_do_not_matter() {
    needs_root!("a time namespace");
    needs_mounts!();
    let mut rig = Setup::any().stopped().start();
    rig.start_daemon_as(elsewhen(&rig.daemon_command()));
    let here = rig.session();
    let there = elsewhen(&rig.run(["sh", "-c", "echo x > $KVMD_PST_DATA/file"])).to_end();
    there.must(0);
    here.end().must(0);
    assert_eq!(rig.superblock(), "ro");
    // The command dies in time, too: its grace is a duration, not a time of day.
    let mut stubborn = elsewhen(&rig.run(["sh", "-c", "trap '' TERM; echo started; sleep 1000"]));
    let stubborn = start(&mut stubborn);
    stubborn.await_stdout("started");
    rig.stop_daemon();
    assert_ne!(stubborn.end().code(), 0);
    assert_eq!(rig.superblock(), "ro");
    rig.start_daemon();
    rig.sh("true").must(0);
}
