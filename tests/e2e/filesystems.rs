//! What else than ext4 takes the calls.

use crate::needs_storage;
use crate::rig::{Fs, Setup};
use crate::{needs_root, needs_tool};

fn serves(fs: Fs) {
    let rig = Setup::new(fs).start();
    assert_eq!((rig.mount_flag(), rig.superblock()), ("rw", "ro"));
    let session = rig.session();
    rig.sh("echo first > $KVMD_PST_DATA/file").must(0);
    assert_eq!(rig.superblock(), "rw");
    session.end().must(0);
    assert_eq!(rig.superblock(), "ro");
    let text = rig.sh("cat $KVMD_PST_DATA/file").must(0).text();
    assert_eq!(text, "first");
    assert_eq!(rig.superblock(), "ro");
    assert_eq!(rig.state(), "ro");
}

#[test]
fn p2_a_tmpfs_serves() {
    needs_storage!();
    serves(Fs::Tmpfs);
}

#[test]
fn p2_xfs_serves() {
    needs_root!("a loop device");
    needs_tool!("mkfs.xfs");
    serves(Fs::Xfs);
}

#[test]
fn p2_btrfs_on_its_own_device_serves() {
    needs_root!("a loop device");
    needs_tool!("mkfs.btrfs");
    serves(Fs::Btrfs);
}
