//! P1, P3 and P5: somebody unmounts, mounts and remounts by hand. The state
//! follows, and nobody gets the wrong filesystem.

use std::process::Stdio;

use pst::sys::mount::Mode;

use crate::rig::{Fs, Rig, RunToEnd, Setup, start, tool, wait_until};
use crate::{needs_mounts, needs_root};

/// Leaves, below the mount point, what looks like the storage when it is not mounted.
fn bait(rig: &Rig) {
    rig.umount(&[]);
    std::fs::create_dir(rig.data()).expect("bait");
    rig.do_mount();
    rig.prepare().must(0);
    rig.await_state("ro");
}

/// It is unmounted: denied, and back when it is mounted.
#[track_caller]
fn assert_absent_until_mounted(rig: &Rig) {
    rig.await_state("absent");
    rig.must_deny("mount");
    // Where it was, nothing came to be.
    assert!(
        std::fs::read_dir(rig.data())
            .expect("bait")
            .next()
            .is_none()
    );
    // The last that held it is gone: as clean as it should be.
    wait_until("the journal is empty", || !rig.needs_recovery());
    rig.do_mount();
    rig.prepare().must(0);
    rig.await_state("ro");
    rig.must_serve();
}

#[test]
fn p3_unmounted_while_idle_it_denies_until_it_is_mounted() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    bait(&rig);
    rig.umount(&[]);
    assert_absent_until_mounted(&rig);
}

#[test]
fn p5_unmounted_lazily_during_a_session_it_ends_it_and_denies_until_it_is_mounted() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    bait(&rig);
    let victims = [
        rig.victim(),
        rig.victim_with("cd $KVMD_PST_DATA; exec sleep 1000"),
    ];
    rig.umount(&["-l"]);
    for victim in victims {
        victim.must_be_lost("mount");
    }
    assert_absent_until_mounted(&rig);
}

#[test]
fn p5_mounted_anew_during_a_session_it_ends_it_and_serves_later_ones() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let victim = rig.victim_with("exec 3> $KVMD_PST_DATA/open; exec sleep 1000");
    rig.umount(&["-l"]);
    // As long as the old superblock is writable the kernel refuses a read-only mount of it.
    let mut mount = rig.command("mount");
    mount.args(["-o", OTHER[1], rig.device()]).arg(rig.mount());
    wait_until("it is mounted anew", || {
        mount.output().expect("mount").status.success()
    });
    victim.must_be_lost("mount");
    rig.prepare().must(0);
    rig.await_state("ro");
    rig.await_superblock("ro");
    rig.must_serve();
}

#[test]
fn p3_no_command_starts_below_a_mount_point_that_was_unmounted_before_the_daemon_looked() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    bait(&rig);
    rig.signal_daemon("STOP");
    let early = start(&mut rig.run(["echo", "started"]));
    early.await_stderr("Opening");
    rig.umount(&[]);
    rig.signal_daemon("CONT");
    let ended = early.end().must(1);
    assert_eq!(ended.text(), "", "{ended:?}");
    assert_absent_until_mounted(&rig);
}

#[test]
fn p3_no_command_starts_below_a_mount_point_that_was_unmounted_after_the_grant() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    bait(&rig);
    // Stopped, so that it does not see the grant before we have unmounted.
    rig.signal_daemon("STOP");
    let early = start(&mut rig.run(["echo", "started"]));
    early.await_stderr("Opening");
    early.signal("STOP");
    rig.signal_daemon("CONT");
    rig.await_state("rw");
    rig.umount(&["-l"]);
    early.signal("CONT");
    let ended = early.end().must(1);
    assert_eq!(ended.text(), "", "{ended:?}");
    assert_absent_until_mounted(&rig);
}

/// The second filesystem is what is there now: sessions write to it, and to it only.
#[track_caller]
fn assert_serves_the_other(rig: &Rig, other: &str) {
    rig.prepare().must(0);
    wait_until("the other device is known", || {
        let status = rig.status();
        status["storage"]["device"] == other && status["storage"]["state"] == "ro"
    });
    rig.sh("echo there > $KVMD_PST_DATA/there").must(0);
    assert_eq!(rig.superblock(), "ro");
    let debugfs = |device: &str| {
        tool(std::process::Command::new("debugfs").args(["-R", "cat /data/there", device]))
    };
    assert_eq!((&*debugfs(other), &*debugfs(rig.device())), ("there", ""));
    rig.umount(&[]);
}

const OTHER: [&str; 2] = ["-o", "ro,nodev,nosuid,noexec,errors=remount-ro"];

#[test]
fn p3_replaced_by_another_device_while_idle_it_serves_that() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    rig.must_serve();
    let other = rig.make_device("other", 16);
    rig.umount(&[]);
    rig.mount_over(&[OTHER[0], OTHER[1], &other]);
    assert_serves_the_other(&rig, &other);
    rig.await_state("absent");
    rig.do_mount();
}

#[test]
fn p5_replaced_by_another_device_during_a_session_it_ends_it() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let victim = rig.victim_with("exec 3> $KVMD_PST_DATA/open; exec sleep 1000");
    let other = rig.make_device("other", 16);
    rig.umount(&["-l"]);
    rig.mount_over(&[OTHER[0], OTHER[1], &other]);
    victim.must_be_lost("mount");
    wait_until("the lost one is clean", || !rig.needs_recovery());
    assert_serves_the_other(&rig, &other);
    rig.do_mount();
}

#[test]
fn p3_overmounted_while_idle_it_denies_until_that_is_gone() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    rig.mount_over(&["-t", "tmpfs", "tmpfs"]);
    std::fs::create_dir(rig.data()).expect("bait");
    rig.await_state("unprepared");
    rig.must_deny("no block device");
    assert!(
        std::fs::read_dir(rig.data())
            .expect("bait")
            .next()
            .is_none()
    );
    rig.umount(&[]);
    rig.await_state("ro");
    rig.must_serve();
}

#[test]
fn p5_overmounted_during_a_session_it_ends_it_and_the_lower_one_is_left_read_only() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let victim = rig.victim();
    rig.mount_over(&["-t", "tmpfs", "tmpfs"]);
    victim.must_be_lost("mount");
    rig.await_state("unprepared");
    rig.must_deny("no block device");
    wait_until("the lower one is clean", || !rig.needs_recovery());
    rig.umount(&[]);
    assert_eq!(rig.superblock(), "ro");
    rig.await_state("ro");
    rig.must_serve();
}

#[test]
fn p5_overmounted_by_another_device_during_a_session_it_ends_it_and_serves_that() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let victim = rig.victim();
    let other = rig.make_device("other", 16);
    rig.mount_over(&[OTHER[0], OTHER[1], &other]);
    victim.must_be_lost("mount");
    wait_until("the lower one is clean", || !rig.needs_recovery());
    assert_serves_the_other(&rig, &other);
    rig.await_state("ro");
    rig.must_serve();
}

#[test]
fn p1_remounted_by_hand_while_idle_it_is_as_before_soon() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    for options in [
        "remount,ro",
        "remount,bind,ro",
        "remount,rw",
        "remount,bind,rw",
    ] {
        rig.mount_over(&["-o", options]);
        // Prepared again, and nobody can write.
        wait_until(&format!("it is as before: {options}"), || {
            (rig.superblock(), rig.mount_flag()) == ("ro", "rw")
        });
        rig.await_state("ro");
        rig.must_serve();
    }
}

/// In its own world: what the kernel does not tell the daemon, another test's
/// mounts must not tell it.
fn alone() -> Rig {
    Setup::new(Fs::Ext4).own_world().start()
}

#[test]
fn p1_switched_to_writable_past_the_mounts_it_is_put_back_at_the_first_write() {
    needs_root!("a loop device");
    needs_mounts!();
    let rig = alone();
    rig.must_serve();
    rig.switch_by_hand(Mode::ReadWrite);
    assert_eq!(rig.superblock(), "rw");
    tool(rig.command("touch").arg(rig.data().join("by-hand")));
    rig.await_superblock("ro");
    wait_until("it is logged", || {
        rig.log().contains("although no session is open")
    });
    rig.await_state("ro");
    assert!(!rig.needs_recovery());
    rig.must_serve();
}

#[test]
fn p1_switched_to_writable_past_the_mounts_it_is_put_back_after_the_next_session() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    rig.switch_by_hand(Mode::ReadWrite);
    rig.must_serve();
    rig.await_state("ro");
}

#[test]
fn p5_remounted_read_only_during_a_session_it_ends_it_and_serves_later_ones() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let victim = rig.victim();
    rig.mount_over(&["-o", "remount,ro"]);
    victim.must_be_lost("read-only");
    rig.await_state("ro");
    wait_until("it is prepared again", || rig.mount_flag() == "rw");
    rig.must_serve();
}

#[test]
fn p2_a_mount_made_read_only_during_a_session_is_made_writable_again() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let session = rig.session();
    rig.mount_over(&["-o", "remount,bind,ro"]);
    wait_until("it is prepared again", || rig.mount_flag() == "rw");
    rig.sh("echo x > $KVMD_PST_DATA/file").must(0);
    session.end().must(0);
    assert_eq!(rig.superblock(), "ro");
    rig.must_serve();
}

#[test]
fn p2_remounted_read_write_during_a_session_nothing_changes() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let session = rig.session();
    rig.remount_by_hand("rw");
    rig.switch_by_hand(Mode::ReadWrite);
    rig.sh("echo x > $KVMD_PST_DATA/file").must(0);
    session.end().must(0);
    assert_eq!(rig.superblock(), "ro");
    assert!(!rig.needs_recovery());
    rig.must_serve();
}

#[test]
fn p5_switched_to_read_only_past_the_mounts_during_a_session_it_ends_it() {
    needs_root!("a loop device");
    needs_mounts!();
    let rig = alone();
    let write = "echo kept > $KVMD_PST_DATA/kept; echo written.; exec sleep 1000";
    let victim = rig.victim_with(write);
    victim.await_stdout("written");
    rig.switch_by_hand(Mode::ReadOnly);
    victim.must_be_lost_at_a_look("read-only");
    assert_eq!(rig.on_medium("/data/kept"), "kept");
    rig.await_state("ro");
    rig.must_serve();
}

#[test]
fn p3_switched_to_read_only_past_the_mounts_nobody_is_started_in_vain() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let victim = rig.victim();
    rig.switch_by_hand(Mode::ReadOnly);
    // The daemon need not know yet; or all is over already, and it serves anew.
    let late = rig.run(["echo", "started"]).to_end();
    if late.code() != 0 {
        assert_eq!(late.must(1).text(), "", "the command was started");
    }
    victim.must_be_lost_at_a_look("read-only");
    rig.await_state("ro");
    rig.must_serve();
}

#[test]
fn p3_a_namespace_without_the_mount_is_denied_while_others_work() {
    needs_root!("a loop device");
    needs_mounts!();
    let rig = Setup::any().own_namespace().start();
    let without = |then: &str| {
        let script = format!(
            "umount '{}'; mkdir -p '{}'; {then}",
            rig.mount().display(),
            rig.data().display()
        );
        let mut command = rig.command("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", &script]);
        start(command.stdin(Stdio::null()))
    };
    let session = rig.session();
    let ended = without("exec kvmd-pstrun -- echo started").end().must(1);
    assert_eq!(ended.text(), "", "the command was started");
    assert!(ended.stderr.contains("mount namespace"), "{ended:?}");
    assert_eq!(rig.superblock(), "rw");
    rig.sh("echo x > $KVMD_PST_DATA/file").must(0);
    session.end().must(0);
    assert_eq!(rig.superblock(), "ro");
}
