//! P8: the daemon needs no root: a user of its own, three capabilities, and a
//! private mount namespace will do.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use crate::rig::{
    ACCESS_GROUP, Fs, MEMBER, OUTSIDER, Rig, RunToEnd, STORAGE_USER, Setup, signal, start,
    wait_until,
};
use crate::start::without_lock_directory;
use crate::{needs_mounts, needs_root};

/// What the unit gives the daemon.
const CAPABILITIES: &str = "+sys_admin,+sys_ptrace,+dac_read_search";

fn setup() -> Setup {
    Setup::new(Fs::Ext4)
        .own_namespace()
        .clients_have_config()
        .stopped()
}

/// `pst daemon` as the storage's user in a namespace of its own.
fn sandboxed(rig: &Rig) -> Command {
    std::os::unix::fs::chown(rig.run_dir(), Some(STORAGE_USER), Some(ACCESS_GROUP)).expect("chown");
    let mut command = rig.command("unshare");
    command.args(["-m", "--propagation", "slave", "setpriv"]);
    command.args([
        &format!("--reuid={STORAGE_USER}"),
        &format!("--regid={ACCESS_GROUP}"),
        "--clear-groups",
    ]);
    command.args([
        "--no-new-privs",
        &format!("--bounding-set=-all,{CAPABILITIES}"),
    ]);
    command.args([
        &format!("--inh-caps=-all,{CAPABILITIES}"),
        &format!("--ambient-caps=-all,{CAPABILITIES}"),
    ]);
    command.args(rig.daemon_words());
    command
}

#[test]
fn p8_a_daemon_that_is_not_root_serves() {
    needs_root!("other users");
    needs_mounts!();
    let mut rig = setup().start();
    rig.start_daemon_as(sandboxed(&rig));
    for who in [MEMBER, MEMBER] {
        rig.run_as(who, ["sh", "-c", "echo x > $KVMD_PST_DATA/$$"])
            .to_end()
            .must(0);
        assert_eq!(rig.superblock(), "ro");
        assert!(!rig.needs_recovery());
    }
    rig.sh("echo x > $KVMD_PST_DATA/root").must(0);
}

#[test]
fn p10_a_daemon_that_is_not_root_names_the_holder_too() {
    needs_root!("other users");
    needs_mounts!();
    let mut rig = setup().start();
    rig.start_daemon_as(sandboxed(&rig));
    let ended = rig
        .sh("exec 3> $KVMD_PST_DATA/leftover; sleep 1000 & echo $!")
        .must(0);
    let pid: u32 = ended.text().parse().expect("a pid");
    rig.await_state("stuck");
    wait_until("it is named", || rig.status()["holders"][0]["pid"] == pid);
    signal(pid, "KILL");
    rig.await_superblock("ro");
}

#[test]
fn p3_an_unprepared_storage_is_denied_with_what_to_do() {
    needs_root!("other users");
    needs_mounts!();
    // In the host's namespace: the flag that counts is that of process 1's mount.
    // Its roots are made; what is missing after a new mount is the mount's flag.
    let mut rig = Setup::new(Fs::Ext4).clients_have_config().stopped().start();
    rig.umount(&[]);
    rig.do_mount();
    rig.start_daemon_as(sandboxed(&rig));
    assert_eq!(rig.state(), "unprepared");
    let status = rig.pst(["status"]).to_end().must(1);
    assert!(status.text().contains("pst prepare"), "{status:?}");
    let denied = rig.sh("echo started").must(1);
    assert_eq!(denied.text(), "");
    assert!(denied.stderr.contains("pst prepare"), "{denied:?}");
    rig.prepare().must(0);
    rig.sh("echo x > $KVMD_PST_DATA/file").must(0);
    // By hand, the flag comes back.
    rig.remount_by_hand("ro");
    rig.await_state("unprepared");
    rig.sh("true").must(1);
    rig.prepare().must(0);
    rig.await_state("ro");
}

#[test]
fn p3_a_daemon_without_a_lock_file_denies_sessions_until_prepare_has_made_it() {
    needs_root!("other users");
    needs_mounts!();
    // The flag that counts is that of process 1's mount.
    let mut rig = Setup::new(Fs::Ext4).clients_have_config().stopped().start();
    std::fs::remove_file(rig.lock()).expect("the lock file");
    let refused = sandboxed(&rig).to_end().must(1);
    let told = format!(
        "there is no {}; run `pst prepare` as root",
        rig.lock().display()
    );
    assert!(refused.one_line().contains(&told), "{refused:?}");
    rig.umount(&[]);
    rig.do_mount();
    rig.start_daemon_as(sandboxed(&rig));
    assert_eq!(rig.state(), "unprepared");
    rig.must_deny("pst prepare");
    rig.prepare().must(0);
    rig.await_state("ro");
    rig.renew_footprint();
    rig.must_serve();
}

#[test]
fn p3_a_daemon_without_the_directory_of_the_locks_says_what_to_do() {
    needs_root!("other users");
    needs_mounts!();
    let rig = without_lock_directory();
    let refused = sandboxed(&rig).to_end().must(1);
    let told = "cannot inspect /run/pst: no such file or directory; run `pst prepare` as root";
    assert!(refused.one_line().contains(told), "{refused:?}");
}

#[test]
fn p2_a_daemon_of_roots_elsewhere_refuses_the_device_of_one_that_is_not_root() {
    needs_root!("other users");
    needs_mounts!();
    let mut rig = setup().start();
    rig.start_daemon_as(sandboxed(&rig));
    let mut elsewhere = rig.daemon_command();
    elsewhere.env("PST_SOCKET", rig.dir().join("elsewhere.sock"));
    let refused = elsewhere.to_end().must(1);
    let told = "another daemon already manages";
    assert!(refused.one_line().contains(told), "{refused:?}");
    for who in [MEMBER, OUTSIDER] {
        let mut flock = rig.command_as(who, "flock");
        flock.args(["-n"]).arg(rig.lock()).arg("true");
        let refused = flock.to_end();
        assert!(refused.stderr.contains("ermission denied"), "{refused:?}");
    }
    rig.must_serve();
}

#[test]
fn p5_a_mount_made_read_only_during_a_session_ends_it_where_the_daemon_cannot_prepare() {
    needs_root!("other users");
    needs_mounts!();
    // The flag that counts is that of process 1's mount.
    let mut rig = Setup::new(Fs::Ext4).clients_have_config().stopped().start();
    rig.start_daemon_as(sandboxed(&rig));
    let victim = rig.victim();
    rig.mount_over(&["-o", "remount,bind,ro"]);
    victim.must_be_lost("pst prepare");
    rig.await_superblock("ro");
    rig.must_deny("pst prepare");
    assert_eq!(rig.state(), "unprepared");
    rig.prepare().must(0);
    rig.await_state("ro");
    rig.must_serve();
}

/// The same daemon with a socket of systemd's.
fn activated(rig: &Rig, listener: &UnixListener) -> Command {
    let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    let daemon = sandboxed(rig);
    let mut command = rig.command("sh");
    command.args(["-c", script, "sh"]).arg(daemon.get_program());
    command.args(daemon.get_args());
    let listener = listener.try_clone().expect("dup");
    command.stdin(Stdio::from(OwnedFd::from(listener)));
    command
}

#[test]
fn p3_a_storage_that_lost_its_preparation_has_systemd_start_another_daemon() {
    needs_root!("other users");
    needs_mounts!();
    // The flag that counts is that of process 1's mount.
    let mut rig = Setup::new(Fs::Ext4).clients_have_config().stopped().start();
    let listener = UnixListener::bind(rig.socket()).expect("bind");
    for remounted in [true, false] {
        rig.start_daemon_as(activated(&rig, &listener));
        rig.must_serve();
        if remounted {
            rig.remount_by_hand("ro");
        } else {
            // So quickly that the daemon may never see it unmounted.
            rig.umount(&[]);
            rig.do_mount();
        }
        rig.end_daemon().must(0);
        assert_eq!(rig.superblock(), "ro");
        // A client that comes now is served by the next daemon, before whose start `prepare` runs.
        let client = start(&mut rig.run(["sh", "-c", "echo x > $KVMD_PST_DATA/file"]));
        client.await_stderr("Opening");
        rig.prepare().must(0);
        rig.start_daemon_as(activated(&rig, &listener));
        client.end().must(0);
        rig.stop_daemon();
    }
}

#[test]
fn p3_a_mount_made_read_only_during_a_session_ends_it_before_another_daemon_starts() {
    needs_root!("other users");
    needs_mounts!();
    // The flag that counts is that of process 1's mount.
    let mut rig = Setup::new(Fs::Ext4).clients_have_config().stopped().start();
    let listener = UnixListener::bind(rig.socket()).expect("bind");
    rig.start_daemon_as(activated(&rig, &listener));
    let victim = rig.victim();
    rig.mount_over(&["-o", "remount,bind,ro"]);
    victim.must_be_lost("pst prepare");
    rig.end_daemon().must(0);
    assert_eq!(rig.superblock(), "ro");
    assert!(!rig.needs_recovery());
}

#[test]
fn p3_a_daemon_of_systemds_that_starts_unprepared_stays_and_says_so() {
    needs_root!("other users");
    needs_mounts!();
    // The flag that counts is that of process 1's mount.
    let mut rig = Setup::new(Fs::Ext4).clients_have_config().stopped().start();
    rig.umount(&[]);
    rig.do_mount();
    let listener = UnixListener::bind(rig.socket()).expect("bind");
    rig.start_daemon_as(activated(&rig, &listener));
    let pid = rig.daemon_pid();
    for _ in 0..3 {
        assert_eq!(rig.state(), "unprepared");
        rig.must_deny("pst prepare");
        rig.remount_by_hand("ro");
    }
    rig.prepare().must(0);
    rig.await_state("ro");
    rig.must_serve();
    assert_eq!(rig.daemon_pid(), pid);
    rig.stop_daemon();
}
