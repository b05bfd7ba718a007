//! P1: what the kernel refuses for a moment is tried again, and the status says what is true meanwhile.

use std::process::Command;

use crate::rig::{Fs, Job, Rig, RunToEnd, Setup, start, tool, wait_until};
use crate::{needs_mounts, needs_root, needs_tool};

/// Its own world: the mounts of others would have the daemon look at the storage.
fn rig() -> Rig {
    let mut rig = Setup::new(Fs::Ext4).own_world().stopped().start();
    let mut daemon = rig.daemon_command();
    daemon.env("RUST_LOG", "debug");
    rig.start_daemon_as(daemon);
    rig
}

/// From its fourth call on, fsconfig(2) fails for the daemon: the calls before switch to read-write,
/// the fourth switches to read-only.
fn refuse_read_only(rig: &Rig, which: &str) -> Job {
    let log = rig.dir().join("calls");
    let pid = rig.daemon_pid().to_string();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=fsconfig", "-p", &pid, "-o"]);
    strace
        .arg(log)
        .args(["-e", &format!("inject=fsconfig:{which}")]);
    let tracer = start(&mut strace);
    tracer.await_stderr("attached");
    tracer
}

fn detach(tracer: Job) {
    tracer.signal("INT");
    tracer.end();
}

fn reason(rig: &Rig) -> String {
    rig.status()["storage"]["reason"].to_string()
}

fn await_sleep(rig: &Rig) {
    wait_until("no timer is armed", || rig.armed_timers() == 0);
}

#[test]
fn p1_a_remount_that_failed_once_is_tried_again() {
    needs_root!("tracing another process");
    needs_mounts!();
    needs_tool!("strace");
    // A shortage; an error that does not say whether it passes.
    for error in ["ENOMEM", "EINVAL"] {
        let rig = rig();
        let tracer = refuse_read_only(&rig, &format!("error={error}:when=4"));
        rig.sh("echo x > $KVMD_PST_DATA/file").must(0);
        rig.await_superblock("ro");
        rig.await_state("ro");
        detach(tracer);
        assert!(!rig.needs_recovery());
        await_sleep(&rig);
    }
}

#[test]
fn p1_while_a_remount_fails_the_status_says_so_and_sessions_are_served() {
    needs_root!("tracing another process");
    needs_mounts!();
    needs_tool!("strace");
    let rig = rig();
    let tracer = refuse_read_only(&rig, "error=ENOMEM:when=4+");
    rig.sh("echo x > $KVMD_PST_DATA/file").must(0);
    rig.await_state("stuck");
    assert_eq!(rig.superblock(), "rw");
    let why = reason(&rig);
    assert!(
        why.contains("cannot be made read-only: cannot allocate memory"),
        "{why}"
    );
    rig.pst(["status"]).to_end().must(1);
    let log = rig.log();
    assert!(log.contains("storage is stuck: "), "{log}");
    rig.sh("cat $KVMD_PST_DATA/file").must(0);
    rig.await_state("stuck");
    detach(tracer);
    rig.await_state("ro");
    assert!(!rig.needs_recovery());
    rig.must_serve();
    await_sleep(&rig);
}

#[test]
fn p4_a_remount_that_fails_for_good_fails_the_session_until_it_is_mounted_again() {
    needs_root!("tracing another process");
    needs_mounts!();
    needs_tool!("strace");
    let rig = rig();
    let tracer = refuse_read_only(&rig, "error=EIO:when=4");
    rig.sh("echo x > $KVMD_PST_DATA/file").must(1);
    rig.await_state("failed");
    rig.must_deny("cannot be made read-only");
    detach(tracer);
    rig.must_deny("unmount it, run");
    assert_eq!(rig.state(), "failed");
    rig.repair();
    rig.await_state("ro");
    rig.must_serve();
}

#[test]
fn p1_a_storage_that_was_left_writable_is_found_after_a_shortage_at_the_start() {
    needs_root!("tracing another process");
    needs_mounts!();
    needs_tool!("strace");
    let mut rig = rig();
    let session = rig.session();
    rig.kill_daemon();
    session.end();
    assert_eq!(rig.superblock(), "rw");
    let mut words = rig.daemon_words();
    let mut daemon = rig.command("strace");
    daemon.args(["-D", "-f", "-o"]).arg(rig.dir().join("calls"));
    daemon.arg("-P").arg(rig.mount());
    daemon.args([
        "-e",
        "trace=?open,openat",
        "-e",
        "inject=?open,openat:error=EMFILE:when=1..3",
    ]);
    daemon.args(words.drain(..));
    rig.start_daemon_as(daemon);
    rig.await_superblock("ro");
    rig.await_state("ro");
    await_sleep(&rig);
    rig.renew_footprint();
    rig.must_serve();
}

/// A frozen storage, thawed also when the test fails.
struct Frozen(Command);

impl Frozen {
    fn new(rig: &Rig) -> Frozen {
        tool(rig.command("fsfreeze").arg("-f").arg(rig.mount()));
        let mut thaw = rig.command("fsfreeze");
        thaw.arg("-u").arg(rig.mount());
        Frozen(thaw)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let thawed = self.0.output().is_ok_and(|thaw| thaw.status.success());
        assert!(thawed || std::thread::panicking());
    }
}

#[test]
fn a_freeze_that_refused_a_session_is_named_and_passes() {
    needs_root!("fsfreeze");
    needs_mounts!();
    let rig = rig();
    let hint = format!(
        "is frozen (fsfreeze(8)); run `fsfreeze -u {}`",
        rig.mount().display()
    );
    let frozen = Frozen::new(&rig);
    rig.must_deny(&hint);
    let looks = || rig.log().matches("Inspected(").count();
    let before = looks();
    wait_until("it has looked again", || looks() > before + 2);
    assert_eq!(rig.state(), "failed");
    let why = reason(&rig);
    assert!(why.contains(&hint), "{why}");
    drop(frozen);
    rig.await_state("ro");
    await_sleep(&rig);
    rig.must_serve();
}

#[test]
fn p10_a_freeze_that_keeps_it_writable_is_named() {
    needs_root!("fsfreeze");
    needs_mounts!();
    let rig = rig();
    let hint = format!(
        "is frozen (fsfreeze(8)); run `fsfreeze -u {}`",
        rig.mount().display()
    );
    let session = rig.session();
    let frozen = Frozen::new(&rig);
    session.end().must(0);
    rig.await_state("stuck");
    let holders = || rig.status()["holders"].clone();
    wait_until("it is named", || holders()[0].is_object());
    let named = holders();
    assert_eq!(named.as_array().map(Vec::len), Some(1), "{named}");
    assert_eq!(named[0]["kind"], "unknown");
    assert!(named.to_string().contains(&hint), "{named}");
    assert!(rig.log().contains(&hint), "{}", rig.log());
    drop(frozen);
    rig.await_state("ro");
    assert!(!rig.needs_recovery());
    rig.must_serve();
}

/// Waits until the status names the process that still writes, and kills it.
fn end_named_writer(rig: &Rig) {
    wait_until("the writer is named", || {
        rig.status()["holders"][0]["kind"] == "process"
    });
    let writer = rig.status()["holders"][0]["pid"].to_string();
    tool(rig.command("kill").args(["-KILL", &writer]));
    rig.await_state("ro");
}

#[test]
fn p10_a_freeze_is_named_before_a_writer_that_waits_for_its_end() {
    needs_root!("fsfreeze");
    needs_mounts!();
    let rig = rig();
    let session = rig.session_with("while sleep 0.01; do echo x; done > $KVMD_PST_DATA/file &");
    let frozen = Frozen::new(&rig);
    session.end().must(0);
    wait_until("it is named", || {
        rig.status()["holders"].to_string().contains("is frozen")
    });
    drop(frozen);
    end_named_writer(&rig);
}

#[test]
fn p9_a_repair_that_is_due_during_a_freeze_does_not_block_the_daemon() {
    needs_root!("fsfreeze");
    needs_mounts!();
    let rig = rig();
    let writer = "exec 7>$KVMD_PST_DATA/../held; sleep 1000 >/dev/null 2>&1 & exec 7>&-";
    let session = rig.session_with(&format!("{writer}; rm -r $KVMD_PST_DATA"));
    let frozen = Frozen::new(&rig);
    session.end().must(0);
    wait_until("the freeze is named", || {
        rig.status()["holders"].to_string().contains("is frozen")
    });
    drop(frozen);
    end_named_writer(&rig);
    rig.sh("rm $KVMD_PST_DATA/../held").must(0);
}
