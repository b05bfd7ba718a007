//! `pst prepare`: what it does, and what it refuses.

use std::process::Command;

use crate::rig::{self, ACCESS_GROUP, Fs, MEMBER, Outcome, Rig, RunToEnd, STORAGE_USER, Setup};
use crate::{needs_mounts, needs_root, needs_storage, needs_tool};

fn tool(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().expect(program);
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
}

/// A rig whose storage is left to the test.
fn bare() -> Rig {
    Setup::any().unmounted().stopped().start()
}

#[track_caller]
fn refused(outcome: Outcome, reason: &str) {
    let outcome = outcome.must(1);
    let line = outcome.one_line();
    assert!(
        line.to_lowercase().contains(reason),
        "no {reason:?}: {line}"
    );
}

#[test]
fn p2_prepare_clears_the_mounts_flag_and_leaves_the_superblock() {
    needs_storage!();
    let rig = Setup::any().unprepared().stopped().start();
    assert_eq!((rig.mount_flag(), rig.superblock()), ("ro", "ro"));
    rig.prepare().must(0);
    assert_eq!((rig.mount_flag(), rig.superblock()), ("rw", "ro"));
    let options = rig.mount_options();
    assert!(
        options.split(',').any(|word| word == "noatime"),
        "{options}"
    );
    for kept in ["nodev", "nosuid", "noexec"] {
        assert!(options.split(',').any(|word| word == kept), "{options}");
    }
    rig.prepare().must(0); // again: nothing to do, no harm
    assert_eq!((rig.mount_flag(), rig.superblock()), ("rw", "ro"));
}

#[test]
fn p2_prepare_keeps_an_atime_option_of_fstab() {
    needs_storage!();
    let rig = Setup::any().unprepared().stopped().start();
    let at = rig.dir().join("fstab");
    let fstab = std::fs::read_to_string(&at).expect("fstab");
    std::fs::write(&at, fstab.replace("noexec", "noexec,relatime")).expect("fstab");
    rig.prepare().must(0);
    assert!(!rig.mount_options().contains("noatime"));
}

#[test]
fn p2_prepare_under_a_running_daemon_leaves_the_sessions_alone() {
    needs_storage!();
    let rig = Rig::any();
    let session = rig.session();
    rig.prepare().must(0);
    assert_eq!(rig.superblock(), "rw");
    session.end().must(0);
    rig.prepare().must(0);
    assert_eq!(rig.superblock(), "ro");
}

#[test]
fn p8_prepare_refuses_what_is_no_mount_point() {
    needs_storage!();
    let rig = bare();
    refused(rig.prepare(), "mount");
}

#[test]
fn p8_prepare_refuses_a_tmpfs_unless_volatile() {
    needs_storage!();
    let rig = bare();
    let config = std::fs::read_to_string(rig.config()).expect("config");
    std::fs::write(
        rig.config(),
        config.replace("volatile = true", "volatile = false"),
    )
    .expect("config");
    tool(
        "mount",
        &[
            "-t",
            "tmpfs",
            "-o",
            "ro",
            "tmpfs",
            rig.mount().to_str().expect("UTF-8"),
        ],
    );
    refused(rig.prepare(), "tmpfs");
    assert_eq!((rig.mount_flag(), rig.superblock()), ("ro", "ro"));
}

#[test]
fn p8_prepare_refuses_an_overlay() {
    needs_root!("an overlay");
    let rig = bare();
    // Its upper layer in RAM, as overlayroot has it.
    let ram = rig.dir().join("ram");
    std::fs::create_dir(&ram).expect("directory");
    let ram = ram.to_str().expect("UTF-8");
    tool("mount", &["-t", "tmpfs", "tmpfs", ram]);
    for name in ["lower", "upper", "work"] {
        std::fs::create_dir(format!("{ram}/{name}")).expect("directory");
    }
    let options = format!("ro,lowerdir={ram}/lower,upperdir={ram}/upper,workdir={ram}/work");
    tool(
        "mount",
        &[
            "-t",
            "overlay",
            "-o",
            &options,
            "overlay",
            rig.mount().to_str().expect("UTF-8"),
        ],
    );
    refused(rig.prepare(), "overlay");
    assert_eq!(rig.mount_flag(), "ro");
}

#[test]
fn p8_prepare_refuses_a_directory_of_another_filesystem() {
    needs_root!("a loop device");
    let mut rig = Setup::new(Fs::Ext4).unmounted().stopped().start();
    rig.ends_anyhow();
    let whole = rig.dir().join("whole");
    std::fs::create_dir(&whole).expect("directory");
    let whole = whole.to_str().expect("UTF-8");
    tool("mount", &[rig.device(), whole]);
    std::fs::create_dir(format!("{whole}/part")).expect("directory");
    tool(
        "mount",
        &[
            "--bind",
            &format!("{whole}/part"),
            rig.mount().to_str().expect("UTF-8"),
        ],
    );
    // With and without a mount that shows the whole.
    refused(rig.prepare(), "filesystem");
    tool("umount", &[whole]);
    refused(rig.prepare(), "filesystem");
    assert_eq!(rig.superblock(), "rw");
}

#[test]
fn p8_prepare_refuses_a_filesystem_with_a_part_mounted_elsewhere() {
    needs_root!("a loop device");
    let mut rig = Setup::new(Fs::Ext4).stopped().unprepared().start();
    rig.ends_anyhow();
    let part = rig.dir().join("part");
    std::fs::create_dir(&part).expect("directory");
    tool(
        "mount",
        &[
            "--bind",
            rig.mount().join("lost+found").to_str().expect("UTF-8"),
            part.to_str().expect("UTF-8"),
        ],
    );
    refused(rig.prepare(), "filesystem");
    assert_eq!((rig.mount_flag(), rig.superblock()), ("ro", "ro"));
}

#[test]
fn p8_prepare_refuses_a_btrfs_subvolume_beside_others() {
    needs_root!("a loop device");
    needs_tool!("mkfs.btrfs");
    let mut rig = Setup::new(Fs::Btrfs).unmounted().stopped().start();
    rig.ends_anyhow();
    let (mount, beside) = (rig.mount(), rig.dir().join("beside"));
    std::fs::create_dir(&beside).expect("directory");
    let (mount, beside) = (
        mount.to_str().expect("UTF-8"),
        beside.to_str().expect("UTF-8"),
    );
    tool("mount", &[rig.device(), beside]);
    for name in ["a", "b"] {
        tool(
            "btrfs",
            &["-q", "subvolume", "create", &format!("{beside}/{name}")],
        );
    }
    tool("umount", &[beside]);
    // `b` stands for the system's root, `a` for the storage.
    tool("mount", &["-o", "subvol=b", rig.device(), beside]);
    tool("mount", &["-o", "subvol=a", rig.device(), mount]);
    refused(rig.prepare(), "filesystem");
    tool("umount", &[mount]);
    // The whole tree as the storage, but a subvolume of it elsewhere.
    tool("mount", &["-o", "subvol=/", rig.device(), mount]);
    refused(rig.prepare(), "filesystem");
    tool("touch", &[&format!("{beside}/still-writable")]);
}

#[test]
fn p8_prepare_without_any_storage_in_fstab_says_what_to_write() {
    needs_storage!();
    let rig = bare();
    std::fs::write(rig.dir().join("fstab"), "# nothing\n").expect("fstab");
    refused_config(rig.prepare(), "x-kvmd.pst-user");
}

#[test]
fn p8_with_only_a_user_in_fstab_members_of_kvmd_pst_can_create_files() {
    needs_root!("other users");
    needs_mounts!();
    let setup = Setup::new(Fs::Ext4).own_namespace().clients_have_config();
    let mut rig = setup.unprepared().stopped().start();
    let fstab = rig.dir().join("fstab");
    let text = std::fs::read_to_string(&fstab).expect("fstab");
    let only_user = text.replace(&format!(",X-kvmd.pst-group={ACCESS_GROUP}"), "");
    assert_ne!(only_user, text);
    std::fs::write(&fstab, only_user).expect("fstab");
    // The group has this name, in this namespace.
    let groups = rig.dir().join("group");
    let others = std::fs::read_to_string("/etc/group").expect("groups");
    std::fs::write(&groups, format!("kvmd-pst:x:{ACCESS_GROUP}:\n{others}")).expect("group");
    rig::tool(
        rig.command("mount")
            .arg("--bind")
            .arg(groups)
            .arg("/etc/group"),
    );
    rig.prepare().must(0);
    rig.start_daemon();
    rig.run_as(MEMBER, ["sh", "-c", "echo x > $KVMD_PST_DATA/file"])
        .to_end()
        .must(0);
    let stat = rig::tool(rig.command("stat").args(["-c", "%u:%g %a"]).arg(rig.data()));
    assert_eq!(stat, format!("{STORAGE_USER}:{ACCESS_GROUP} 1775"));
}

#[test]
fn the_first_of_two_entries_of_fstab_counts_and_prepare_and_the_daemon_warn() {
    needs_storage!();
    let mut rig = Setup::any().stopped().start();
    let fstab = rig.dir().join("fstab");
    let line = std::fs::read_to_string(&fstab).expect("fstab");
    let other = "/dev/b /b ext4 X-kvmd.pst-user=0 0 2\n";
    std::fs::write(&fstab, line + other).expect("fstab");
    let warning = "lines 2, 3 have X-kvmd.pst-* options: only line 2 counts";
    let said = rig.prepare().must(0);
    assert!(said.stderr.contains(warning), "{said:?}");
    rig.start_daemon();
    assert!(rig.log().contains(warning), "{}", rig.log());
    rig.must_serve();
}

#[track_caller]
fn refused_config(outcome: Outcome, reason: &str) {
    assert_ne!(outcome.code(), 0);
    let line = outcome.one_line();
    assert!(
        line.to_lowercase().contains(reason),
        "no {reason:?}: {line}"
    );
}
