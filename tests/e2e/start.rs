//! Starting: whatever the storage is like, and one daemon only.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::process::Command;

use crate::rig::{Fs, MEMBER, Rig, RunToEnd, STORAGE_USER, Setup, tool};
use crate::{needs_mounts, needs_root, needs_storage, needs_tool};

#[test]
fn p3_it_starts_without_a_storage_and_serves_when_it_comes() {
    needs_storage!();
    let mut rig = Setup::any().unmounted().start();
    assert_eq!(rig.state(), "absent");
    let denied = rig.sh("echo started").must(1);
    assert_eq!(denied.text(), "");
    assert!(denied.stderr.contains("ERROR"), "{denied:?}");
    rig.do_mount();
    rig.prepare().must(0);
    rig.await_state("ro");
    rig.renew_footprint();
    rig.sh("echo x > $KVMD_PST_DATA/file").must(0);
    assert_eq!(rig.superblock(), "ro");
}

#[test]
fn p3_the_storage_may_leave_while_idle_and_come_back() {
    needs_storage!();
    let rig = Rig::any();
    rig.sh("true").must(0);
    rig.umount(&[]); // nothing of the daemon's keeps it
    rig.await_state("absent");
    rig.sh("true").must(1);
    rig.do_mount();
    rig.prepare().must(0);
    rig.await_state("ro");
    rig.sh("true").must(0);
}

#[test]
fn p3_a_daemon_that_is_root_prepares_by_itself() {
    needs_storage!();
    let rig = Setup::any().unprepared().start();
    rig.await_state("ro");
    assert_eq!(rig.mount_flag(), "rw");
    assert_eq!(rig.superblock(), "ro");
    // By hand: the mount's flag comes back with it.
    rig.remount_by_hand("ro");
    crate::rig::wait_until("it is prepared again", || rig.mount_flag() == "rw");
    rig.await_state("ro");
    rig.sh("echo x > $KVMD_PST_DATA/file").must(0);
}

#[test]
fn p9_a_second_daemon_on_the_same_socket_refuses() {
    needs_storage!();
    let rig = Rig::any();
    let second = rig.daemon_command().to_end().must(1);
    assert!(
        second
            .one_line()
            .contains(rig.socket().to_str().expect("UTF-8")),
        "{second:?}"
    );
    rig.sh("true").must(0); // the first one is still reached
}

#[test]
fn p9_a_second_daemon_on_the_same_storage_refuses() {
    needs_storage!();
    let rig = Rig::any();
    let mut second = rig.daemon_command();
    second.env("PST_SOCKET", rig.run_dir().join("other.sock"));
    let second = second.to_end().must(1);
    let told = "another daemon already manages";
    assert!(second.one_line().contains(told), "{second:?}");
    rig.sh("true").must(0);
}

#[test]
fn p2_a_second_daemon_on_the_same_device_refuses_wherever_its_socket_is() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let elsewhere = rig.dir().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("directory");
    let session = rig.session();
    let mut second = rig.daemon_command();
    second.env("PST_SOCKET", elsewhere.join("pst.sock"));
    let second = second.to_end().must(1);
    let told = format!("another daemon already manages {}", rig.device());
    assert!(second.one_line().contains(&told), "{second:?}");
    let next = format!("fuser -v {}", rig.lock().display());
    assert!(second.one_line().contains(&next), "{second:?}");
    assert_eq!(rig.superblock(), "rw");
    session.end().must(0);
    rig.must_serve();
}

/// These words run in the rig with this fault in their calls of flock(2): a daemon locks its socket
/// first, and then the device.
fn with_flock(rig: &Rig, fault: &str, words: &[OsString]) -> Command {
    let mut strace = rig.command("strace");
    strace.args(["-D", "-f", "-o"]).arg(rig.dir().join("calls"));
    strace.args(["-e", "trace=flock", "-e"]);
    strace.arg(format!("inject=flock:{fault}")).args(words);
    strace
}

#[test]
fn p9_an_error_of_a_lock_is_not_taken_for_another_daemon() {
    needs_root!("tracing");
    needs_tool!("strace");
    let rig = Setup::new(Fs::Ext4).stopped().start();
    let socket = rig.run_dir().join("pst.sock.lock");
    let mut prepare: Vec<OsString> = ["pst", "prepare", "-c"].map(OsString::from).into();
    prepare.push(rig.config().into());
    for (words, call, lock) in [
        (rig.daemon_words(), 1, socket),
        (rig.daemon_words(), 2, rig.lock()),
        (prepare, 1, rig.lock()),
    ] {
        let fault = format!("error=ENOLCK:when={call}");
        let refused = with_flock(&rig, &fault, &words).to_end().must(1);
        let told = format!("cannot lock {}: no locks available", lock.display());
        assert!(refused.one_line().contains(&told), "{refused:?}");
    }
}

#[test]
fn p9_a_device_that_prepare_holds_for_a_moment_is_waited_for() {
    needs_root!("tracing");
    needs_tool!("strace");
    let mut rig = Setup::new(Fs::Ext4).stopped().start();
    let words = rig.daemon_words();
    rig.start_daemon_as(with_flock(&rig, "error=EAGAIN:when=2..4", &words));
    rig.must_serve();
}

/// A rig in whose namespace the directory of the locks is missing.
pub fn without_lock_directory() -> Rig {
    let rig = Setup::new(Fs::Ext4).own_namespace().stopped().start();
    tool(rig.command("mount").args(["-t", "tmpfs", "tmpfs", "/run"]));
    rig
}

#[test]
fn p2_the_directory_of_the_locks_is_made_for_root_alone_whatever_the_umask() {
    needs_root!("a directory in /run");
    needs_mounts!();
    for umask in ["000", "077"] {
        let rig = without_lock_directory();
        let script = format!("umask {umask}; exec pst prepare -c \"$0\"");
        let mut prepare = rig.command("sh");
        prepare.args(["-c", &script]).arg(rig.config());
        prepare.to_end().must(0);
        let mut stat = rig.command("stat");
        let found = tool(stat.args(["-c", "%u:%g %a", "/run/pst"]));
        assert_eq!(found, "0:0 755", "with umask {umask}");
        // A daemon that is not root opens the file by its owner.
        let mut stat = rig.command("stat");
        let found = tool(stat.args(["-c", "%u %a"]).arg(rig.lock()));
        assert_eq!(found, format!("{STORAGE_USER} 600"));
    }
    let mut rig = without_lock_directory();
    rig.start_daemon();
    tool(rig.command("test").arg("-f").arg(rig.lock()));
}

#[test]
fn p2_a_directory_for_a_lock_that_is_missing_is_named() {
    needs_root!("a directory in /run");
    needs_mounts!();
    let rig = without_lock_directory();
    tool(rig.command("mount").args(["-o", "remount,ro", "/run"]));
    let refused = rig.prepare().must(1);
    let told = "cannot create /run/pst: read-only file system";
    assert!(refused.one_line().contains(told), "{refused:?}");
    let nowhere = rig.dir().join("nowhere/pst.sock");
    let mut daemon = rig.daemon_command();
    let refused = daemon.env("PST_SOCKET", &nowhere).to_end().must(1);
    let told = format!("cannot lock {}.lock: no such file", nowhere.display());
    assert!(refused.one_line().contains(&told), "{refused:?}");
    let told = "; create its directory first";
    assert!(refused.one_line().contains(told), "{refused:?}");
}

#[test]
fn p2_a_directory_of_the_locks_that_others_can_write_to_is_refused() {
    needs_root!("other users");
    needs_mounts!();
    let rig = Setup::new(Fs::Ext4).own_namespace().stopped().start();
    let (uid, lock) = (MEMBER.uid, rig.lock());
    for (options, told) in [
        (
            format!("mode=755,uid={uid}"),
            format!("belongs to user {uid}"),
        ),
        ("mode=775".to_owned(), "its mode is 775".to_owned()),
        ("mode=1777".to_owned(), "its mode is 1777".to_owned()),
    ] {
        tool(
            rig.command("mount")
                .args(["-t", "tmpfs", "-o", &options, "tmpfs", "/run/pst"]),
        );
        for refused in [rig.daemon_command().to_end(), rig.prepare()] {
            let refused = refused.must(1);
            assert!(refused.one_line().contains(&told), "{refused:?}");
        }
        rig.command("test").arg("-e").arg(&lock).to_end().must(1);
        tool(rig.command("umount").arg("/run/pst"));
    }
    let rig = without_lock_directory();
    tool(rig.command("ln").args(["-s", "/tmp", "/run/pst"]));
    let refused = rig.daemon_command().to_end().must(1);
    let told = "/run/pst is not a directory";
    assert!(refused.one_line().contains(told), "{refused:?}");
}

#[test]
fn p9_a_stale_socket_is_replaced() {
    needs_storage!();
    let mut rig = Setup::any().stopped().start();
    drop(UnixListener::bind(rig.socket()).expect("bind"));
    assert!(rig.socket().exists());
    rig.start_daemon();
    rig.sh("true").must(0);
    // And after one that was killed.
    rig.kill_daemon();
    rig.start_daemon();
    rig.sh("true").must(0);
}

#[test]
fn p9_what_is_no_socket_is_not_removed() {
    needs_storage!();
    let rig = Setup::any().stopped().start();
    std::fs::write(rig.socket(), "precious").expect("file");
    let refused = rig.daemon_command().to_end();
    assert_ne!(refused.code(), 0);
    assert_eq!(
        std::fs::read_to_string(rig.socket()).expect("file"),
        "precious"
    );
}

#[test]
fn p9_a_daemon_removes_only_its_own_socket() {
    needs_storage!();
    let mut rig = Rig::any();
    std::fs::remove_file(rig.socket()).expect("remove");
    let other = UnixListener::bind(rig.socket()).expect("bind");
    rig.stop_daemon();
    assert!(rig.socket().exists());
    drop(other);
}

#[test]
fn it_also_answers_to_the_name_kvmd_pst() {
    needs_storage!();
    let mut rig = Setup::any().stopped().start();
    let mut command = rig.command(rig.bin("kvmd-pst"));
    command.arg("--run").arg("-c").arg(rig.config());
    rig.start_daemon_as(command);
    rig.sh("true").must(0);
}

#[test]
fn it_ignores_the_config_options_of_kvmd_with_one_line() {
    needs_storage!();
    let mut rig = Setup::any().stopped().start();
    let mut command = rig.command(rig.bin("kvmd-pst"));
    command.args(["--run", "--main-config", "/etc/kvmd/main.yaml"]);
    command.args(["--override-config=/etc/kvmd/override.yaml"]);
    command.args(["--override-dir", "/etc/kvmd/override.d"]);
    command.arg("-c").arg(rig.config());
    rig.start_daemon_as(command);
    let log = rig.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("--main")).collect();
    let options = "--main-config, --override-config, --override-dir";
    let warning = format!("kvmd-pst: ignoring {options}: kvmd's settings have no effect here");
    assert!(lines.len() == 1 && lines[0].starts_with(&warning), "{log}");
    rig.sh("true").must(0);
}

#[test]
fn the_config_may_come_from_the_environment() {
    needs_storage!();
    let mut rig = Setup::any().stopped().start();
    let mut command = rig.pst(["daemon"]);
    command.env("PST_CONFIG", rig.config());
    rig.start_daemon_as(command);
    rig.sh("true").must(0);
}

#[test]
fn a_mount_point_with_a_blank_is_found_in_fstab() {
    needs_storage!();
    let rig = Setup::any().mount_name("my pst").start();
    let ended = rig
        .sh("echo x > \"$KVMD_PST_DATA/file\"; echo \"$KVMD_PST_DATA\"")
        .must(0);
    assert_eq!(ended.text(), rig.data().to_str().expect("UTF-8"));
}

#[test]
fn the_data_root_may_be_the_storage_root() {
    needs_storage!();
    let rig = Setup::any().storage("data = \"\"").start();
    let ended = rig
        .sh("echo x > $KVMD_PST_DATA/file; echo $KVMD_PST_DATA")
        .must(0);
    assert_eq!(ended.text(), rig.mount().to_str().expect("UTF-8"));
    // Scripts name it.
    let found = std::fs::metadata(rig.data()).expect("data");
    let root = std::fs::metadata(rig.mount()).expect("the root");
    let owner = |of: &std::fs::Metadata| (of.uid(), of.gid(), of.mode());
    assert_eq!(owner(&found), owner(&root));
    assert_eq!(found.mode() & 0o7777, 0o1775);
}

#[test]
fn what_is_in_the_place_of_data_stays_where_the_data_root_is_the_storage_root() {
    needs_storage!();
    let rig = Setup::any().storage("data = \"\"").start();
    rig.sh("rmdir $KVMD_PST_DATA/data; ln -s elsewhere $KVMD_PST_DATA/data")
        .must(0);
    rig.must_serve();
    rig.prepare().must(0);
    let link = std::fs::read_link(rig.data()).expect("the link");
    assert_eq!(link.to_str(), Some("elsewhere"));
    // Without it, the next session makes it.
    rig.sh("rm $KVMD_PST_DATA/data").must(0);
    rig.must_serve();
    assert!(rig.data().is_dir());
}
