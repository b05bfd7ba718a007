//! P2: sessions share one writable period.

use crate::rig::{MEMBER, Rig, RunToEnd, start};
use crate::{needs_root, needs_storage};

#[test]
fn p2_overlapping_sessions_share_one_remount() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let before = rig.kernel_remounts().len();
    let first = rig.session();
    let second = rig.session_as(MEMBER);
    first.end().must(0);
    assert_eq!(rig.superblock(), "rw");
    rig.sh("echo third > $KVMD_PST_DATA/file").must(0);
    assert_eq!(rig.superblock(), "rw");
    second.end().must(0);
    assert_eq!(rig.superblock(), "ro");
    assert_eq!(rig.kernel_remounts()[before..], ["r/w", "ro"]);
}

#[test]
fn p2_it_stays_writable_until_the_last_of_many_ends() {
    needs_storage!();
    let rig = Rig::any();
    let mut sessions: Vec<_> = (0..10).map(|_| rig.session()).collect();
    while let Some(session) = sessions.pop() {
        assert_eq!(rig.superblock(), "rw");
        session.end().must(0);
    }
    assert_eq!(rig.superblock(), "ro");
}

#[test]
fn p2_sessions_one_after_another_are_all_served() {
    needs_storage!();
    let rig = Rig::any();
    for round in 0..50 {
        let said = rig.sh(&format!(
            "echo {round} > $KVMD_PST_DATA/f && cat $KVMD_PST_DATA/f"
        ));
        assert_eq!(said.must(0).text(), round.to_string());
        assert_eq!(rig.superblock(), "ro");
    }
}

#[test]
fn p2_sessions_that_come_and_go_at_once_are_all_served() {
    needs_storage!();
    let rig = Rig::any();
    for round in 0..5 {
        let jobs: Vec<_> = (0..8)
            .map(|n| {
                start(&mut rig.run(["sh", "-c", &format!("echo {round} > $KVMD_PST_DATA/f{n}")]))
            })
            .collect();
        for job in jobs {
            job.end().must(0);
        }
        assert_eq!(rig.superblock(), "ro");
        for n in 0..8 {
            let text = std::fs::read_to_string(rig.data().join(format!("f{n}"))).expect("file");
            assert_eq!(text.trim(), round.to_string());
        }
    }
}

#[test]
fn p2_another_process_writes_while_a_session_lives() {
    needs_storage!();
    let rig = Rig::any();
    let beside = rig.data().join("beside");
    let write = || {
        rig.command("sh")
            .args(["-c", &format!("echo x > {beside:?}")])
            .to_end()
            .code()
    };
    assert_ne!(write(), 0);
    let session = rig.session();
    assert_eq!(write(), 0);
    session.end().must(0);
    assert_ne!(write(), 0);
}

#[test]
fn p3_a_data_root_that_another_session_has_removed_is_told_as_that() {
    needs_storage!();
    let rig = Rig::any();
    let other = rig.session_with("rm -r $KVMD_PST_DATA");
    rig.must_deny("is missing on it: it was removed, and is created again when all sessions");
    other.end().must(0);
    rig.must_serve();
}
