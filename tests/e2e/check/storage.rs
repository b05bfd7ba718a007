//! What `pst check` finds of the storage: config, fstab, device, mount and filesystem.

use std::fs;

use super::{WELL, advice, entry, entry_of, inside, machine, must_be_well, must_find, unit};
use crate::rig::{Fs, RunToEnd, Setup};
use crate::{needs_mounts, needs_root, needs_tool};

#[test]
fn check_finds_each_option_that_fstab_lacks() {
    needs_root!("ext4");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4));
    let options = [
        "nofail",
        "nodev",
        "nosuid",
        "noexec",
        "errors=remount-ro",
        "ro",
    ];
    for option in options {
        let rest: Vec<&str> = WELL.split(',').filter(|word| *word != option).collect();
        entry(&rig, &rest.join(","));
        let screen = must_find(&rig, &[("warning", "fstab-options")]);
        assert!(screen.contains(&format!("-> add {option} to")), "{screen}");
    }
    entry(&rig, &format!("{WELL},X-kvmd.pst-ownr=1"));
    let screen = must_find(&rig, &[("warning", "fstab-options")]);
    assert!(
        screen.contains("X-kvmd.pst-ownr=1 has no effect"),
        "{screen}"
    );
    entry(&rig, WELL);
    must_be_well(&rig);
}

#[test]
fn check_finds_an_fstab_without_the_storage() {
    needs_root!("ext4");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4));
    fs::write(rig.dir().join("fstab"), "proc /proc proc defaults 0 0\n").expect("fstab");
    must_find(&rig, &[("error", "fstab")]);
    let advised = advice(&rig, "fstab");
    assert!(
        advised.contains(" /var/lib/kvmd/pst ext4 nodev,"),
        "{advised}"
    );
    fs::write(rig.dir().join("fstab"), "one two\n").expect("fstab");
    let screen = must_find(&rig, &[("error", "fstab")]);
    assert!(
        screen.contains("fstab:1: 2 of at least 4 fields"),
        "{screen}"
    );
}

#[test]
fn check_finds_a_second_entry_in_fstab() {
    needs_root!("ext4");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4));
    let fstab = rig.dir().join("fstab");
    let line = fs::read_to_string(&fstab).expect("fstab");
    let other = "/dev/b /b ext4 X-kvmd.pst-user=kvmd-pst 0 2\n";
    fs::write(&fstab, line + other).expect("fstab");
    let screen = must_find(&rig, &[("warning", "fstab")]);
    let text = "lines 1, 2 have X-kvmd.pst-* options: only line 1 counts";
    assert!(screen.contains(text), "{screen}");
}

#[test]
fn check_finds_a_config_that_is_not_understood() {
    needs_root!("ext4");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4));
    let config = fs::read_to_string(rig.config()).expect("config");
    fs::write(rig.config(), format!("sokcet = 1\n{config}")).expect("config");
    let screen = must_find(&rig, &[("error", "config")]);
    assert!(screen.contains("pst.toml:1:1: unknown key"), "{screen}");
    fs::remove_file(rig.config()).expect("remove");
    must_find(&rig, &[("error", "config")]);
    let mount = format!("[storage]\nmount = {:?}", rig.mount());
    fs::write(rig.config(), config.replace("[storage]", &mount)).expect("config");
    must_be_well(&rig);
    fs::write(rig.dir().join("fstab"), "").expect("fstab");
    let named = "user = \"64110\"\ngroup = \"64100\"";
    let text = config.replace("[storage]", &format!("{mount}\n{named}"));
    fs::write(rig.config(), text).expect("config");
    must_find(&rig, &[("warning", "fstab")]);
    let (mount, device) = (rig.mount().display().to_string(), rig.device());
    let line = format!(
        "add this line: `{device} {mount} ext4 nodev,nosuid,noexec,nofail,ro,errors=remount-ro,\
         X-kvmd.pst-user=64110,X-kvmd.pst-group=64100 0 2`, or"
    );
    assert_eq!(advice(&rig, "fstab").find(&line), Some(0));
    let mounts = "FragmentPath=/etc/systemd/system/x.mount";
    unit(
        &rig,
        "x.mount",
        &format!("Wants=pst-mounted@x.service\n{mounts}"),
    );
    must_be_well(&rig);
    entry(&rig, WELL);
    fs::write(
        rig.config(),
        config.replace("[storage]", "[storage]\ndata = \"x\""),
    )
    .expect("config");
    must_find(
        &rig,
        &[("warning", "directories"), ("warning", "daemon-config")],
    );
}

#[test]
fn check_finds_a_device_that_is_missing_or_another() {
    needs_root!("ext4");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4));
    // A /dev with links as udev makes them.
    let links = format!(
        "mkdir {0}/dev && mount -t tmpfs tmpfs {0}/dev && cp -a /dev/null {1} {0}/dev/ || exit
         mount --bind {0}/dev /dev && mkdir -p /dev/disk/by-label && cd /dev/disk/by-label || exit
         ln -s {1} NOTES && ln -s /dev/null OTHER",
        rig.dir().display(),
        rig.device()
    );
    inside(&rig, &links);
    entry_of(&rig, "LABEL=NOTES", WELL);
    must_be_well(&rig);
    entry_of(&rig, "LABEL=OTHER", WELL);
    must_find(&rig, &[("warning", "device")]);
    entry_of(&rig, "LABEL=NOBODYS", WELL);
    must_find(&rig, &[("error", "device")]);
    inside(&rig, "umount /dev");
}

#[test]
fn check_finds_a_device_that_takes_no_writes() {
    needs_root!("ext4");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4));
    inside(&rig, &format!("blockdev --setro {}", rig.device()));
    must_find(&rig, &[("error", "device")]);
    inside(&rig, &format!("blockdev --setrw {}", rig.device()));
    must_be_well(&rig);
}

#[test]
fn check_finds_a_card_that_does_not_flush_its_cache() {
    needs_root!("ext4");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4));
    let name = rig.device().trim_start_matches("/dev/").to_owned();
    // A card instead of the loop device, as /sys would show it; see /sys/dev/block.
    let script = format!(
        "n=$(cat /sys/block/{name}/dev) && cd {} && mkdir -p card/{name}/device card/{name}/queue links || exit
         cd card/{name} && echo 0 >ro && echo 'write back' >queue/write_cache && cd device || exit
         echo SD64G >name; echo 0x00009f >manfid; echo 0x5449 >oemid; echo 11/2019 >date
         ln -s {0}/card/{name} {0}/links/$n && mount --bind {0}/links /sys/dev/block",
        rig.dir().display()
    );
    inside(&rig, &script);
    let screen = must_find(&rig, &[("warning", "card")]);
    assert!(
        screen.contains(" of 11/2019: such cards are known not to flush their write cache"),
        "{screen}"
    );
    inside(&rig, "umount /sys/dev/block");
    must_be_well(&rig);
}

#[test]
fn check_finds_a_storage_that_is_not_mounted() {
    needs_root!("ext4");
    needs_mounts!();
    let mut rig = machine(Setup::new(Fs::Ext4));
    rig.ends_anyhow();
    rig.umount(&[]);
    rig.await_state("absent");
    let screen = must_find(&rig, &[("error", "mount"), ("error", "state")]);
    let mount = rig.mount();
    let mount = mount.display();
    let advice = format!("-> run `mount {mount}`");
    assert!(screen.contains(&advice), "{screen}");
    fs::remove_dir(rig.mount()).expect("remove");
    let denied = rig.sh("true").must(1);
    let screen = must_find(&rig, &[("error", "mount"), ("error", "state")]);
    fs::create_dir(rig.mount()).expect("make"); // as the rig takes it away
    let advice = format!("run `mkdir -p {mount} && mount {mount}`");
    for said in [denied.stderr, screen] {
        assert!(said.contains(&advice), "{said}");
    }
}

#[test]
fn check_finds_a_mount_that_is_not_prepared() {
    needs_root!("ext4");
    needs_mounts!();
    let mut rig = machine(Setup::new(Fs::Ext4).unprepared().stopped());
    must_find(
        &rig,
        &[
            ("error", "mount-prepared"),
            ("warning", "directories"),
            ("error", "daemon"),
        ],
    );
    rig.prepare().must(0);
    rig.start_daemon();
    must_be_well(&rig);
    let mount = rig.mount();
    let by_hand = format!(
        "mount -o remount,bind,rw,nodev,nosuid,exec {}",
        mount.display()
    );
    inside(&rig, &by_hand);
    must_find(&rig, &[("warning", "mount-options")]);
}

#[test]
fn check_finds_an_overlay_and_a_tmpfs() {
    needs_root!("overlayfs");
    needs_mounts!();
    let mut rig = machine(Setup::new(Fs::Ext4).unmounted().stopped());
    let dir = rig.dir().display().to_string();
    let script = format!(
        "mkdir {dir}/lower {dir}/back && mount -t tmpfs tmpfs {dir}/back && mkdir {dir}/back/u {dir}/back/w"
    );
    inside(&rig, &script);
    let options = format!(
        "nodev,nosuid,noexec,lowerdir={dir}/lower,upperdir={dir}/back/u,workdir={dir}/back/w"
    );
    rig.mount_over(&["-t", "overlay", "-o", &options, "overlay"]);
    let bad = [
        ("error", "mount-filesystem"),
        ("warning", "directories"),
        ("error", "daemon"),
    ];
    must_find(&rig, &bad);
    rig.umount(&[]);
    rig.mount_over(&["-t", "tmpfs", "-o", "nodev,nosuid,noexec", "tmpfs"]);
    must_find(&rig, &bad);
    rig.ends_anyhow();
}

#[test]
fn check_finds_a_filesystem_that_others_share() {
    needs_root!("btrfs");
    needs_tool!("mkfs.btrfs");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Btrfs));
    must_be_well(&rig);
    let other = rig.dir().join("other");
    fs::create_dir(&other).expect("mkdir");
    inside(
        &rig,
        &format!("mount --bind {} {}", rig.data().display(), other.display()),
    );
    must_find(&rig, &[("error", "mount-filesystem")]);
    inside(&rig, &format!("umount {}", other.display()));
    must_be_well(&rig);
}

#[test]
fn check_finds_a_filesystem_that_the_kernel_gave_up() {
    needs_root!("ext4");
    needs_mounts!();
    let mut rig = machine(Setup::new(Fs::Ext4));
    let victim = rig.victim();
    rig.trigger_fs_error();
    victim.must_be_lost("shut the filesystem down");
    rig.await_state("failed");
    let screen = must_find(
        &rig,
        &[
            ("error", "fs-health"),
            ("warning", "fs-errors"),
            ("error", "state"),
        ],
    );
    assert!(
        screen.contains("1 error since the last e2fsck: "),
        "{screen}"
    );
    assert!(screen.contains(" s ago in trigger_test_error:"), "{screen}");
    rig.repair();
    rig.await_state("ro");
    must_be_well(&rig);
    rig.ends_anyhow();
}

#[test]
fn check_finds_a_journal_that_is_not_empty() {
    needs_root!("ext4");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4).stopped());
    // A session was open when the power went, and it was mounted without the replay.
    let mount = rig.mount();
    let mount = mount.display();
    let (copy, device) = (rig.dir().join("copy"), rig.device().to_owned());
    inside(
        &rig,
        &format!(
            "mount -o remount,rw {mount} && echo x >{mount}/data/x && sync -f {mount} && cp {device} {0} &&
             mount -o remount,ro {mount} && umount {mount} && cp {0} {device} &&
             mount -o {WELL},noload {device} {mount}",
            copy.display()
        ),
    );
    rig.prepare().must(0);
    must_find(&rig, &[("warning", "fs-journal"), ("error", "daemon")]);
}

#[test]
fn check_names_what_an_interrupted_transaction_left() {
    needs_root!("ext4");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4));
    let kill = "cd $KVMD_PST_DATA; mkdir tree; head -c 20000 /dev/zero >tree/f; kill -KILL $PPID";
    let atomic = |script| rig.pst(["run", "--atomic", "tree", "--", "sh", "-c", script]);
    let interrupted = atomic(kill).to_end();
    assert_ne!(interrupted.code(), 0, "{interrupted:?}");
    let screen = must_find(&rig, &[("warning", "remains")]);
    assert!(
        screen.contains("an interrupted command left ") && screen.contains(" KiB)"),
        "{screen}"
    );
    atomic("true").to_end().must(0);
    must_be_well(&rig);
}

#[test]
fn check_finds_a_storage_that_is_nearly_full() {
    needs_root!("ext4");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4));
    rig.sh("head -c 22M /dev/zero > $KVMD_PST_DATA/large")
        .must(0);
    must_find(&rig, &[("warning", "fs-space")]);
    rig.sh("cd $KVMD_PST_DATA && rm large && seq 7800 | xargs touch")
        .must(0);
    must_find(&rig, &[("warning", "fs-space")]);
    rig.sh("cd $KVMD_PST_DATA && seq 7800 | xargs rm").must(0);
    must_be_well(&rig);
}
