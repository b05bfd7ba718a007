//! P1 and P11: without a session the storage is read-only and the daemon sleeps.

use std::process::Command;
use std::time::Duration;

use crate::rig::{Rig, RunToEnd, Setup, signal, start, wait_until};
use crate::{needs_mounts, needs_root, needs_storage, needs_tool};

#[test]
fn p1_a_lone_session_returns_with_an_empty_journal() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    for round in 0..10 {
        rig.sh(&format!("echo {round} > $KVMD_PST_DATA/file"))
            .must(0);
        assert!(!rig.needs_recovery(), "round {round}");
        assert_eq!(rig.superblock(), "ro");
    }
}

#[test]
fn p1_the_journal_is_in_use_meanwhile() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let session = rig.session();
    // Otherwise the test above could not fail.
    assert!(rig.needs_recovery());
    session.end().must(0);
    assert!(!rig.needs_recovery());
}

#[test]
fn p1_writable_by_hand_while_idle_is_put_back_and_logged() {
    needs_storage!();
    let rig = Rig::any();
    let before = rig.log().lines().count();
    rig.remount_by_hand("rw");
    rig.await_superblock("ro");
    wait_until("it is logged", || rig.log().lines().count() > before);
    rig.sh("echo x > $KVMD_PST_DATA/file").must(0);
}

#[test]
fn p1_a_daemon_that_finds_it_writable_makes_it_read_only_at_once() {
    needs_storage!();
    let mut rig = Rig::any();
    let session = rig.session();
    rig.kill_daemon();
    session.end();
    rig.remount_by_hand("rw");
    assert_eq!(rig.superblock(), "rw");
    rig.start_daemon();
    rig.await_superblock("ro");
    rig.await_state("ro");
    rig.sh("true").must(0);
}

#[test]
fn p1_a_boot_without_a_session_writes_nothing() {
    needs_root!("a block device's statistics");
    let mut rig = Rig::ext4();
    rig.sh("true").must(0); // makes the data directory
    rig.stop_daemon();
    let name = rig.device().trim_start_matches("/dev/").to_owned();
    let sectors_written = || {
        let stat = std::fs::read_to_string(format!("/sys/block/{name}/stat")).expect("stat");
        stat.split_whitespace().nth(6).expect("a field").to_owned()
    };
    rig.umount(&[]);
    let before = sectors_written();
    rig.do_mount();
    rig.prepare().must(0);
    rig.start_daemon();
    rig.await_state("ro");
    rig.stop_daemon();
    assert_eq!(sectors_written(), before);
}

#[test]
fn p11_an_idle_daemon_makes_no_system_call() {
    needs_root!("tracing another process");
    needs_mounts!();
    needs_tool!("strace");
    // With namespaces of its own: other tests' mounts would wake it, as they should.
    let rig = Setup::any().own_world().start();
    rig.sh("echo x > $KVMD_PST_DATA/file").must(0);
    rig.await_state("ro");
    makes_no_system_call(&rig, &[rig.daemon_pid()], || {
        rig.pst(["status"]).to_end().must(0);
    });
}

#[test]
fn p11_who_watches_an_idle_daemon_makes_no_system_call_nor_does_it() {
    needs_root!("tracing another process");
    needs_mounts!();
    needs_tool!("strace");
    let rig = Setup::any().own_world().start();
    let watcher = start(&mut rig.pst(["status", "--watch", "--json"]));
    wait_until("it watches", || !watcher.stdout().is_empty());
    rig.sh("echo x > $KVMD_PST_DATA/file").must(0);
    rig.await_state("ro");
    let words = format!("{} status --watch --json", rig.bin("pst").display());
    let mut pids = rig.running(&words);
    assert_eq!(pids.len(), 1);
    pids.push(rig.daemon_pid());
    makes_no_system_call(&rig, &pids, || {
        let before = watcher.stdout().lines().count();
        rig.sh("true").must(0);
        wait_until("it gets an update", || {
            watcher.stdout().lines().count() > before
        });
    });
    signal(pids[0], "INT");
}

/// Checks that none of these processes makes a system call in ten seconds, and that `wake` makes one.
fn makes_no_system_call(rig: &Rig, pids: &[u32], wake: impl FnOnce()) {
    // A timer that is no longer needed may stay armed: one late wake-up is allowed.
    let all = || pids.iter().map(|pid| switches(*pid)).collect::<Vec<_>>();
    wait_until("they sleep, and no timer is armed", || {
        // Not before they sleep: the timer is armed just before that.
        stays(Duration::from_millis(250), all) && rig.armed_timers() == 0
    });
    let log = rig.dir().join("calls");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-ttt", "-o"]).arg(&log);
    for pid in pids {
        strace.args(["-p", &pid.to_string()]);
    }
    let tracer = start(&mut strace);
    for pid in pids {
        tracer.await_stderr(&format!("Process {pid} attached"));
    }
    let calls = || std::fs::read_to_string(&log).unwrap_or_default();
    // Attaching interrupts waiting calls: what follows at once is the tracer's doing.
    wait_until("attaching is over", || stays(Duration::from_secs(1), calls));
    let before = calls();
    // The promise is about time: ten seconds without a wake-up.
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(calls(), before);
    wake();
    wait_until("strace sees calls if there are any", || calls() != before);
    tracer.signal("INT");
    tracer.end();
}

/// Whether this value stays the same for some time.
fn stays<T: PartialEq>(time: Duration, value: impl Fn() -> T) -> bool {
    let before = value();
    std::thread::sleep(time);
    value() == before
}

/// How often each thread of a process went to sleep.
fn switches(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks");
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok())
        .filter_map(|status| {
            Some(
                status
                    .lines()
                    .find(|l| l.starts_with("voluntary"))?
                    .to_owned(),
            )
        })
        .collect()
}
