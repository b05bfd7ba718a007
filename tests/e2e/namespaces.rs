//! P2 and P3 across mount namespaces.

use crate::rig::{Fs, Rig, RunToEnd, Setup, start};
use crate::{needs_mounts, needs_root, needs_storage};

fn setup() -> Setup {
    Setup::any().own_namespace()
}

/// A shell in a new mount namespace (a service's, with `PrivateTmp=`) that
/// runs one script for each line of `steps` that it reads.
fn private(rig: &Rig, propagation: &str, script: &str) -> crate::rig::Job {
    let mut command = rig.command("unshare");
    let script = format!("echo made; read _; {script}");
    command.args(["-m", "--propagation", propagation, "sh", "-c", &script]);
    let job = start(command.stdin(std::process::Stdio::piped()));
    job.await_stdout("made");
    job
}

#[test]
fn p2_a_namespace_made_while_read_only_can_write() {
    needs_storage!();
    needs_mounts!();
    let rig = setup().start();
    let run = rig.bin("kvmd-pstrun");
    let script = format!("{} -- sh -c 'echo x > $KVMD_PST_DATA/y'", run.display());
    for propagation in ["slave", "private", "shared"] {
        assert_eq!(rig.superblock(), "ro");
        private(&rig, propagation, &script).end().must(0);
        let text = rig
            .command("cat")
            .arg(rig.data().join("y"))
            .to_end()
            .must(0)
            .text();
        assert_eq!(text, "x");
        rig.sh("rm $KVMD_PST_DATA/y").must(0);
    }
}

#[test]
fn p2_a_process_of_such_a_namespace_writes_during_another_ones_session() {
    needs_storage!();
    needs_mounts!();
    let rig = setup().start();
    let script = format!("echo x > '{}/z'", rig.data().display());
    let other = private(&rig, "slave", &script);
    let session = rig.session();
    other.end().must(0);
    session.end().must(0);
}

#[test]
fn p3_a_namespace_made_before_prepare_is_told_that_it_cannot_write() {
    needs_storage!();
    needs_mounts!();
    let mut rig = setup().unprepared().stopped().start();
    let script = format!(
        "exec {} -- sh -c 'echo started'",
        rig.bin("kvmd-pstrun").display()
    );
    let other = private(&rig, "private", &script);
    rig.prepare().must(0);
    rig.start_daemon();
    rig.sh("true").must(0); // elsewhere it works
    let ended = other.end().must(1);
    assert!(
        !ended.text().contains("started"),
        "the command ran: {ended:?}"
    );
    assert!(ended.stderr.contains("ERROR"), "{ended:?}");
    rig.await_superblock("ro");
}

#[test]
fn p3_a_namespace_without_the_mount_is_denied_and_its_command_not_started() {
    needs_storage!();
    needs_mounts!();
    let rig = setup().start();
    let script = format!(
        "umount '{}'; exec {} -- sh -c 'echo started'",
        rig.mount().display(),
        rig.bin("kvmd-pstrun").display()
    );
    let ended = private(&rig, "private", &script).end().must(1);
    assert!(
        !ended.text().contains("started"),
        "the command ran: {ended:?}"
    );
    assert!(ended.stderr.contains("ERROR"), "{ended:?}");
    rig.await_superblock("ro");
}

#[test]
fn p3_another_filesystem_in_its_place_is_noticed() {
    needs_storage!();
    needs_mounts!();
    let rig = setup().start();
    let script = format!(
        "mount -t tmpfs tmpfs '{}'; mkdir '{}'; exec {} -- sh -c 'echo started'",
        rig.mount().display(),
        rig.data().display(),
        rig.bin("kvmd-pstrun").display()
    );
    let ended = private(&rig, "private", &script).end().must(1);
    assert!(
        !ended.text().contains("started"),
        "the command ran: {ended:?}"
    );
    rig.await_superblock("ro");
}

#[test]
fn p2_a_daemon_in_a_sandbox_of_its_own_serves_the_others() {
    needs_root!("a loop device");
    needs_mounts!();
    let mut rig = Setup::new(Fs::Ext4).own_namespace().stopped().start();
    let mut command = rig.command("unshare");
    command
        .args(["-m", "--propagation", "slave"])
        .arg(rig.bin("pst"));
    command.args(["daemon", "-c"]).arg(rig.config());
    rig.start_daemon_as(command);
    rig.sh("echo x > $KVMD_PST_DATA/y").must(0);
    assert_eq!(rig.superblock(), "ro");
    assert!(!rig.needs_recovery());
}
