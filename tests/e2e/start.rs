//! Starting: whatever the storage is like, and one daemon only.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;

use crate::needs_storage;
use crate::rig::{Rig, RunToEnd, Setup};

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
fn p9_a_second_daemon_on_the_same_device_refuses() {
    needs_storage!();
    let rig = Rig::any();
    let config = std::fs::read_to_string(rig.config()).expect("config");
    let other = rig.dir().join("other.toml");
    std::fs::write(&other, config.replace("pst.sock", "other.sock")).expect("config");
    let second = rig.pst(["daemon", "-c"]).arg(&other).to_end().must(1);
    assert!(second.one_line().contains("daemon"), "{second:?}");
    rig.sh("true").must(0);
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
