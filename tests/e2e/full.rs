//! P4 and P7: a full storage is the command's business, not the storage's fault.

use crate::needs_root;
use crate::rig::{Rig, tool};

/// Runs `fill` in a session until there is no room; sessions go on.
fn assert_sessions_go_on(rig: &Rig, fill: &str) {
    let other = rig.session();
    let ended = rig.sh(&format!("cd $KVMD_PST_DATA; {fill}"));
    assert!(
        ended.stderr.contains("No space left") && ended.code() != 0,
        "it is not full: {ended:?}"
    );
    assert_eq!(rig.state(), "rw");
    other.end().must(0);
    assert_eq!((rig.state().as_str(), rig.superblock()), ("ro", "ro"));
    assert!(!rig.needs_recovery());
    rig.sh("true").must(0);
    rig.sh("exit 7").must(7);
    let refused = rig.sh(
        "> $KVMD_PST_DATA/one-more && head -c 64K /dev/zero > $KVMD_PST_DATA/one-more || exit 9",
    );
    assert!(refused.must(9).stderr.contains("No space left"));
    assert_eq!((rig.state().as_str(), rig.superblock()), ("ro", "ro"));
    rig.sh("rm -r $KVMD_PST_DATA/fill*").must(0);
    rig.must_serve();
}

#[test]
fn p4_a_full_partition_is_the_commands_business() {
    needs_root!("a loop device");
    assert_sessions_go_on(&Rig::ext4(), "head -c 100M /dev/urandom > fill");
}

#[test]
fn p4_a_partition_without_inodes_is_the_commands_business() {
    needs_root!("a loop device");
    assert_sessions_go_on(&Rig::ext4(), "mkdir fill; cd fill; seq 20000 | xargs touch");
}

#[test]
fn p3_a_full_partition_without_a_data_root_denies_and_says_why() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    rig.must_serve();
    rig.sh("cd $KVMD_PST_DATA/..; rm -r data; head -c 100M /dev/urandom > fill; seq 20000 | xargs touch");
    rig.must_deny("No space left");
    rig.await_superblock("ro");
    rig.umount(&[]);
    let aside = rig.dir().join("aside");
    std::fs::create_dir(&aside).expect("aside");
    tool(rig.command("mount").arg(rig.device()).arg(&aside));
    std::fs::remove_file(aside.join("fill")).expect("remove");
    tool(rig.command("umount").arg(&aside));
    rig.do_mount();
    rig.prepare().must(0);
    rig.await_state("ro");
    rig.sh("rm -f $KVMD_PST_DATA/../[0-9]*").must(0);
    rig.must_serve();
}
