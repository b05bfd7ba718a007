//! P4: what returned 0 is on the medium; what could not be committed returns 1.

use std::fs;

use crate::needs_root;
use crate::rig::{Fs, Rig, RunToEnd, Setup};

#[test]
fn p4_what_a_lone_session_wrote_is_on_the_medium() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    for round in 0..5 {
        let text = format!("round {round}");
        rig.sh(&format!("echo {text} > $KVMD_PST_DATA/file{round}"))
            .must(0);
        assert_eq!(rig.on_medium(&format!("/data/file{round}")), text);
    }
}

#[test]
fn p4_what_a_session_wrote_is_on_the_medium_while_another_goes_on() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let other = rig.session();
    rig.sh("echo synced > $KVMD_PST_DATA/file").must(0);
    // The journal has it, if not its place in the tree: as recovery sees it.
    let copy = rig.dir().join("copy");
    let mut dd = std::process::Command::new("dd");
    dd.args(["bs=1M", "status=none", &format!("if={}", rig.device())])
        .arg(format!("of={}", copy.display()));
    dd.to_end().must(0);
    let fsck = std::process::Command::new("e2fsck")
        .arg("-fy")
        .arg(&copy)
        .output()
        .expect("e2fsck");
    assert!(fsck.status.code().is_some_and(|code| code < 4), "{fsck:?}");
    let cat = std::process::Command::new("debugfs")
        .args(["-R", "cat /data/file"])
        .arg(&copy)
        .output();
    assert_eq!(
        String::from_utf8_lossy(&cat.expect("debugfs").stdout),
        "synced\n"
    );
    other.end().must(0);
}

#[test]
fn p4_a_medium_that_refuses_data_fails_every_session_that_was_open() {
    needs_root!("a loop device");
    let mut rig = Setup::new(Fs::Ext4).backed_by_tmpfs(12).start();
    rig.ends_anyhow();
    rig.sh("echo well > $KVMD_PST_DATA/file").must(0);
    fill(&rig);
    let write = "head -c 2M /dev/urandom > $KVMD_PST_DATA/$$";
    let first = rig.session_with(write);
    let second = rig.session_with(write);
    for session in [first, second] {
        let ended = session.end().must(1);
        assert!(ended.stderr.contains("ERROR"), "nobody was told: {ended:?}");
    }
    // Not called well, and nobody is surprised by it.
    rig.await_state("failed");
    let denied = rig.sh("echo started").must(1);
    assert_eq!(denied.text(), "");
}

#[test]
fn p4_a_lone_session_whose_data_the_medium_refuses_returns_1() {
    needs_root!("a loop device");
    let mut rig = Setup::new(Fs::Ext4).backed_by_tmpfs(12).start();
    rig.ends_anyhow();
    rig.sh("echo well > $KVMD_PST_DATA/file").must(0);
    fill(&rig);
    let ended = rig
        .sh("head -c 2M /dev/urandom > $KVMD_PST_DATA/lost")
        .must(1);
    assert!(ended.stderr.contains("ERROR"), "nobody was told: {ended:?}");
}

#[test]
fn p4_a_full_storage_is_the_commands_business() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let ended = rig.sh("head -c 100M /dev/urandom > $KVMD_PST_DATA/file");
    assert!(
        ended.code() != 0 && ended.stderr.contains("No space left"),
        "{ended:?}"
    );
    assert_eq!(rig.state(), "ro");
    rig.sh("rm $KVMD_PST_DATA/file; echo x > $KVMD_PST_DATA/other")
        .must(0);
}

/// Leaves the medium no room for what it does not have yet.
fn fill(rig: &Rig) {
    let mut filler = fs::File::create(rig.dir().join("backing/filler")).expect("filler");
    std::io::copy(&mut std::io::repeat(1), &mut filler).expect_err("a full tmpfs");
}
