//! `pst repair`: a storage whose superblock a power cut has torn, and what it must leave alone.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::needs_root;
use crate::rig::{Fs, MEMBER, Rig, RunToEnd, Setup, sparse, tool};

/// The sectors of the superblock.
const SECTORS: [u64; 2] = [1024, 1536];

/// An unmounted storage with a file, and its superblock as mkfs made it.
fn storage(block_size: &str) -> (Rig, [u8; 1024]) {
    let large = |rig: &Rig| sparse(&rig.dir().join("image"), 160);
    let rig = Setup::new(Fs::Ext4).on(large).unmounted().stopped().start();
    let mut mkfs = rig.command("mkfs.ext4");
    mkfs.args(["-q", "-b", block_size, "-L", &label(&rig)]);
    tool(mkfs.args(["-E", "lazy_itable_init=0,lazy_journal_init=0", rig.device()]));
    let mut made = [0; 1024];
    device(&rig)
        .read_exact_at(&mut made, 1024)
        .expect("a superblock");
    names(&rig, &format!("LABEL={}", label(&rig)));
    rig.do_mount();
    rig.prepare().must(0);
    let mut rig = rig;
    rig.start_daemon();
    rig.sh("echo kept >$KVMD_PST_DATA/file").must(0);
    rig.stop_daemon().must(0);
    rig.umount(&[]);
    (rig, made)
}

fn label(rig: &Rig) -> String {
    rig.device().trim_start_matches("/dev/").to_owned() + "-torn"
}

fn device(rig: &Rig) -> File {
    let mut options = File::options();
    options
        .read(true)
        .write(true)
        .open(rig.device())
        .expect("the device")
}

/// Writes the storage's line in fstab.
fn names(rig: &Rig, spec: &str) {
    let mount = rig.mount();
    let marks = "X-kvmd.pst-user=64110,X-kvmd.pst-group=64100";
    let line = format!("{spec} {} ext4 ro,{marks} 0 2\n", mount.display());
    fs::write(rig.dir().join("fstab"), line).expect("fstab");
}

/// Puts one sector back to what mkfs wrote, so that the checksum is wrong.
fn tear(rig: &Rig, made: &[u8; 1024], sector: usize) {
    let device = device(rig);
    let half = &made[sector * 512..][..512];
    device
        .write_all_at(half, SECTORS[sector])
        .expect("a sector");
    device.sync_all().expect("fsync");
}

fn repair(rig: &Rig, options: &[&str]) -> std::process::Command {
    let mut command = rig.pst(["repair", "-c"]);
    command.arg(rig.config()).args(options);
    command
}

#[track_caller]
fn must_be_whole(rig: &mut Rig) {
    rig.do_mount();
    rig.prepare().must(0);
    rig.start_daemon();
    let file = rig.sh("cat $KVMD_PST_DATA/file").must(0);
    assert_eq!(file.text(), "kept");
    rig.stop_daemon().must(0);
    rig.umount(&[]);
}

/// Removes the undo files of this storage.
struct UndoFiles(String);

impl Drop for UndoFiles {
    fn drop(&mut self) {
        for file in fs::read_dir("/run").into_iter().flatten().flatten() {
            if file.file_name().to_string_lossy().starts_with(&self.0) {
                let _ = fs::remove_file(file.path());
            }
        }
    }
}

fn undo_files(rig: &Rig) -> UndoFiles {
    UndoFiles(format!(
        "pst-repair-{}-",
        rig.device().trim_start_matches("/dev/")
    ))
}

#[test]
fn a_torn_superblock_is_found_and_repaired() {
    needs_root!("ext4");
    for block_size in ["1024", "4096"] {
        let (mut rig, made) = storage(block_size);
        let _undo = undo_files(&rig);
        for sector in [0, 1] {
            tear(&rig, &made, sector);
            let before = superblock(&rig);
            let found = repair(&rig, &[]).to_end().must(0);
            let command = format!(
                "e2fsck -fy -b {} -B {block_size} {}",
                backup(block_size),
                rig.device()
            );
            assert!(found.text().contains(&command), "{found:?}");
            assert_eq!(superblock(&rig), before, "it only says what it would do");
            let check = rig.pst(["check", "-c"]).arg(rig.config()).to_end();
            assert!(
                check
                    .text()
                    .replace("\n", " ")
                    .contains("with a torn superblock"),
                "{check:?}"
            );
            let repaired = repair(&rig, &["--yes"]).to_end().must(0);
            assert!(repaired.text().contains("is repaired"), "{repaired:?}");
            must_be_whole(&mut rig);
            let nothing = repair(&rig, &["--yes"]).to_end();
            assert!(!nothing.text().contains("e2fsck 1."), "{nothing:?}");
        }
    }
}

fn backup(block_size: &str) -> &str {
    match block_size {
        "1024" => "8193",
        _ => "32768",
    }
}

fn superblock(rig: &Rig) -> [u8; 1024] {
    let mut bytes = [0; 1024];
    device(rig)
        .read_exact_at(&mut bytes, 1024)
        .expect("a superblock");
    bytes
}

#[test]
fn the_command_that_check_advises_repairs_and_repair_can_be_undone() {
    needs_root!("ext4");
    let (mut rig, made) = storage("1024");
    let _undo = undo_files(&rig);
    tear(&rig, &made, 0);
    names(&rig, rig.device());
    let torn = superblock(&rig);
    let repaired = repair(&rig, &["--yes"]).to_end().must(0).text();
    let (_, undo) = repaired
        .split_once('`')
        .and_then(|(_, rest)| rest.split_once("`e2undo "))
        .expect("advice");
    tool(
        rig.command("e2undo")
            .args(undo.trim_end().trim_end_matches('`').split(' ')),
    );
    assert_eq!(superblock(&rig), torn);
    let found = repair(&rig, &[]).to_end().must(0).text();
    let command = found.lines().last().expect("a command").trim();
    let by_hand = rig.command("sh").args(["-c", command]).to_end();
    assert!(by_hand.code() < 4, "{by_hand:?}");
    must_be_whole(&mut rig);
}

#[test]
fn what_is_not_the_torn_storage_is_left_alone() {
    needs_root!("ext4");
    let (rig, made) = storage("1024");
    let _undo = undo_files(&rig);
    // Sound.
    names(&rig, rig.device());
    let sound = repair(&rig, &["--yes"]).to_end().must(0);
    assert!(sound.text().contains("is not torn"), "{sound:?}");
    // Of another name.
    tear(&rig, &made, 1);
    let before = superblock(&rig);
    for spec in [
        "LABEL=another",
        "UUID=00000000-0000-0000-0000-000000000000",
        "PARTLABEL=another",
    ] {
        names(&rig, spec);
        let other = repair(&rig, &["--yes"]).to_end().must(1);
        assert!(other.one_line().contains("there is no device"), "{other:?}");
    }
    // Somebody who may not read devices.
    names(&rig, rig.device());
    let mut member = rig.command_as(MEMBER, rig.bin("pst"));
    let member = member
        .args(["repair", "-c"])
        .arg(rig.config())
        .to_end()
        .must(1);
    assert!(member.one_line().contains("run this as root"), "{member:?}");
    assert_eq!(superblock(&rig), before);
    // Used for something else since.
    tool(rig.command("mkswap").args(["-L", "other", rig.device()]));
    device(&rig)
        .write_all_at(&[0; 1024], 1024)
        .expect("no magic");
    tool(rig.command("mkswap").args(["-L", "other", rig.device()]));
    let before = superblock(&rig);
    let other = repair(&rig, &["--yes"]).to_end().must(1);
    assert!(
        other.one_line().contains("something else than a torn ext4"),
        "{other:?}"
    );
    assert_eq!(superblock(&rig), before);
}
