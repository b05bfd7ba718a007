//! `pst check`: a machine where all is well, and what breaks it, one thing after another. Each is
//! found, under its own id and no other, and something is said to do about it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use pst::sys::mount::Mode;
use pst::wire::{DaemonMessage, Message, VERSION};
use serde_json::Value;

use crate::needs_root;
use crate::rig::{Fs, MEMBER, OUTSIDER, Rig, RunToEnd, Setup, Terminal, tool};

const WELL: &str = "ro,nodev,nosuid,noexec,errors=remount-ro,nofail";
/// What is not well, worst first where it matters not.
type Bad<'a> = &'a [(&'a str, &'a str)];

/// A machine of its own, as it should be: with systemd's directories, units that are enabled, and
/// an entry in fstab that has every option.
fn machine(setup: Setup) -> Rig {
    let rig = setup.own_namespace().start();
    // An empty tmpfs over each, in this namespace only.
    let script = "
        mkdir -p /etc/systemd/system /run/systemd || exit
        mount -t tmpfs tmpfs /etc/systemd/system && mount -t tmpfs tmpfs /run/systemd || exit
        cd /etc/systemd/system && mkdir /run/systemd/system multi-user.target.wants sockets.target.wants || exit
        touch pst.service pst.socket
        ln -s ../pst.service multi-user.target.wants/ && ln -s ../pst.socket sockets.target.wants/
        mkdir \"$0.mount.wants\" && ln -s x \"$0.mount.wants/pst-mounted@$0.service\"";
    tool(rig.command("sh").args(["-c", script, &unit_name(&rig)]));
    entry(&rig, WELL);
    rig
}

/// The storage's mount point as `systemd-escape -p` has it, as far as rigs go.
fn unit_name(rig: &Rig) -> String {
    let mut name = String::new();
    for byte in rig.mount().as_os_str().as_bytes().iter().skip(1) {
        match byte {
            b'/' => name.push('-'),
            b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => name.push(char::from(*byte)),
            other => name.push_str(&format!("\\x{other:02x}")),
        }
    }
    name
}

/// Runs a script in the machine, as root.
fn inside(rig: &Rig, script: &str) -> String {
    tool(rig.command("sh").args(["-c", script]))
}

/// Writes the storage's line in fstab.
fn entry(rig: &Rig, options: &str) {
    entry_of(rig, rig.device(), options);
}

fn entry_of(rig: &Rig, spec: &str, options: &str) {
    let marks = "X-kvmd.pst-user=64110,X-kvmd.pst-group=64100";
    let mount = rig.mount();
    let line = format!("{spec} {} ext4 {options},{marks} 0 2\n", mount.display());
    fs::write(rig.dir().join("fstab"), line).expect("fstab");
}

fn check(rig: &Rig) -> Command {
    let mut command = rig.pst(["check", "-c"]);
    command.arg(rig.config());
    command
}

/// The findings by their JSON, and the exit code.
fn findings(command: &mut Command) -> (Vec<Value>, i32) {
    let ended = command.arg("--json").to_end();
    assert_eq!(ended.stderr, "");
    let report: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    let list = report["findings"].as_array().expect("a list");
    (list.clone(), ended.code())
}

fn word<'a>(finding: &'a Value, key: &str) -> &'a str {
    finding[key].as_str().expect(key)
}

/// Fails unless exactly these are found, in this order; gives the screen.
#[track_caller]
fn must_find(rig: &Rig, bad: Bad<'_>) -> String {
    let (list, code) = findings(&mut check(rig));
    let found: Vec<(&str, &str)> = list
        .iter()
        .filter(|finding| word(finding, "level") != "ok")
        .map(|finding| (word(finding, "level"), word(finding, "id")))
        .collect();
    let ended = check(rig).to_end();
    let screen = ended.text();
    println!("$ pst check\n{screen}\n$ echo $?\n{}\n", ended.code());
    assert_eq!(found, bad, "{screen}");
    for finding in &list {
        let well = word(finding, "level") == "ok";
        assert_eq!(finding["advice"].is_null(), well, "{finding}");
        let named = screen.lines().any(|line| {
            line.split_whitespace()
                .take(2)
                .eq([word(finding, "level"), word(finding, "id")])
        });
        assert!(named, "{finding}\n{screen}");
    }
    let has = |level| bad.iter().any(|(found, _)| *found == level);
    let expected = match (has("error"), has("warning")) {
        (true, _) => 2,
        (false, true) => 1,
        _ => 0,
    };
    assert_eq!((code, ended.code()), (expected, expected), "{screen}");
    assert_eq!(ended.stderr, "");
    screen
}

#[track_caller]
fn must_be_well(rig: &Rig) -> String {
    must_find(rig, &[])
}

#[test]
fn check_finds_nothing_on_a_healthy_machine_and_disturbs_nothing() {
    needs_root!("ext4");
    let rig = machine(Setup::new(Fs::Ext4));
    rig.must_serve();
    let device = rig.device().trim_start_matches("/dev/").to_owned();
    let written = || {
        let stat = fs::read_to_string(format!("/sys/block/{device}/stat")).expect("stat");
        stat.split_whitespace().nth(6).map(str::to_owned)
    };
    let before = (written(), rig.mount_options(), rig.log());
    let screen = must_be_well(&rig);
    assert!(screen.ends_with("All is well."), "{screen}");
    for part in [rig.device(), "Linux", "64100", "CAP_SYS_ADMIN"] {
        assert!(screen.contains(part), "no {part} in {screen}");
    }
    assert_eq!((written(), rig.mount_options(), rig.log()), before);
    assert_eq!(rig.superblock(), "ro");
    let session = rig.session();
    must_be_well(&rig);
    session.end().must(0);
}

#[test]
fn check_is_well_also_for_who_reads_its_first_line_only() {
    needs_root!("a mount namespace");
    let rig = machine(Setup::new(Fs::Ext4));
    let mut child = check(&rig).stdout(Stdio::piped()).spawn().expect("check");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("its end").code(), Some(0));
}

#[test]
fn check_finds_each_option_that_fstab_lacks() {
    needs_root!("ext4");
    let rig = machine(Setup::new(Fs::Ext4));
    for (option, id) in [
        ("nofail", "fstab-nofail"),
        ("nodev", "fstab-nodev"),
        ("nosuid", "fstab-nosuid"),
        ("noexec", "fstab-noexec"),
        ("errors=remount-ro", "fstab-errors"),
        ("ro", "fstab-ro"),
    ] {
        let rest: Vec<&str> = WELL.split(',').filter(|word| *word != option).collect();
        entry(&rig, &rest.join(","));
        let screen = must_find(&rig, &[("warning", id)]);
        assert!(screen.contains(&format!("-> add {option} to")), "{screen}");
    }
    entry(&rig, &format!("{WELL},X-kvmd.pst-ownr=1"));
    must_find(&rig, &[("warning", "fstab-kvmd")]);
    entry(&rig, WELL);
    must_be_well(&rig);
}

#[test]
fn check_finds_an_fstab_without_the_storage() {
    needs_root!("ext4");
    let rig = machine(Setup::new(Fs::Ext4));
    fs::write(rig.dir().join("fstab"), "proc /proc proc defaults 0 0\n").expect("fstab");
    must_find(&rig, &[("error", "fstab")]);
    fs::write(rig.dir().join("fstab"), "one two\n").expect("fstab");
    let screen = must_find(&rig, &[("error", "fstab")]);
    assert!(
        screen.contains("fstab:1: 2 of at least 4 fields"),
        "{screen}"
    );
}

#[test]
fn check_finds_a_config_that_is_not_understood() {
    needs_root!("ext4");
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
    let unit = "touch \"/etc/systemd/system/$0.mount\"";
    tool(rig.command("sh").args(["-c", unit, &unit_name(&rig)]));
    must_be_well(&rig);
    entry(&rig, WELL);
    fs::write(
        rig.config(),
        config.replace("[storage]", "[storage]\ndata = \"x\""),
    )
    .expect("config");
    must_find(&rig, &[("warning", "roots"), ("warning", "daemon-config")]);
}

#[test]
fn check_finds_a_device_that_is_another_or_has_another_label() {
    needs_root!("ext4");
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
    must_find(&rig, &[("warning", "device-label")]);
    entry_of(&rig, "LABEL=OTHER", WELL);
    must_find(&rig, &[("warning", "device"), ("warning", "device-label")]);
    entry_of(&rig, "LABEL=NOBODYS", WELL);
    must_find(&rig, &[("error", "device"), ("warning", "device-label")]);
    inside(&rig, "cd /dev/disk/by-label && mv NOTES PIPST");
    entry_of(&rig, "LABEL=PIPST", WELL);
    must_be_well(&rig);
    inside(&rig, "umount /dev");
}

#[test]
fn check_finds_a_device_that_takes_no_writes() {
    needs_root!("ext4");
    let rig = machine(Setup::new(Fs::Ext4));
    inside(&rig, &format!("blockdev --setro {}", rig.device()));
    must_find(&rig, &[("error", "device-read-only")]);
    inside(&rig, &format!("blockdev --setrw {}", rig.device()));
    must_be_well(&rig);
}

#[test]
fn check_finds_a_card_that_does_not_empty_its_cache() {
    needs_root!("ext4");
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
        screen.contains("Kingston Canvas Go! Plus of 11/2019"),
        "{screen}"
    );
    inside(&rig, "umount /sys/dev/block");
    must_be_well(&rig);
}

#[test]
fn check_finds_a_storage_that_is_not_mounted() {
    needs_root!("ext4");
    let mut rig = machine(Setup::new(Fs::Ext4));
    rig.ends_anyhow();
    rig.umount(&[]);
    rig.await_state("absent");
    let screen = must_find(&rig, &[("error", "mount"), ("error", "state")]);
    let advice = format!("-> run `mount {}`", rig.mount().display());
    assert!(screen.contains(&advice), "{screen}");
}

#[test]
fn check_finds_a_mount_that_is_not_prepared() {
    needs_root!("ext4");
    let mut rig = machine(Setup::new(Fs::Ext4).unprepared().stopped());
    must_find(
        &rig,
        &[
            ("error", "mount-prepared"),
            ("warning", "roots"),
            ("error", "socket"),
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
    let silent = [("error", "socket"), ("error", "daemon")];
    let bad = [("error", "mount-overlay"), ("warning", "roots")];
    must_find(&rig, &[&bad[..], &silent[..]].concat());
    rig.umount(&[]);
    rig.mount_over(&["-t", "tmpfs", "-o", "nodev,nosuid,noexec", "tmpfs"]);
    must_find(&rig, &[&bad[..], &silent[..]].concat());
    rig.ends_anyhow();
}

#[test]
fn check_finds_a_filesystem_that_others_share() {
    needs_root!("btrfs");
    let rig = machine(Setup::new(Fs::Btrfs));
    must_be_well(&rig);
    let other = rig.dir().join("other");
    fs::create_dir(&other).expect("mkdir");
    inside(
        &rig,
        &format!("mount --bind {} {}", rig.data().display(), other.display()),
    );
    must_find(&rig, &[("error", "mount-shared")]);
    inside(&rig, &format!("umount {}", other.display()));
    must_be_well(&rig);
}

#[test]
fn check_finds_a_filesystem_that_the_kernel_gave_up() {
    needs_root!("ext4");
    let mut rig = machine(Setup::new(Fs::Ext4));
    let victim = rig.victim();
    rig.trigger_fs_error();
    victim.must_be_lost("given it up");
    rig.await_state("failed");
    let screen = must_find(
        &rig,
        &[
            ("error", "fs-alive"),
            ("warning", "fs-errors"),
            ("error", "state"),
        ],
    );
    assert!(
        screen.contains("1 error since it was last checked, the last "),
        "{screen}"
    );
    assert!(screen.contains(" UTC in trigger_test_error"), "{screen}");
    rig.repair();
    rig.await_state("ro");
    must_be_well(&rig);
    rig.ends_anyhow();
}

#[test]
fn check_finds_a_journal_that_is_not_empty() {
    needs_root!("ext4");
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
    let silent = [("error", "socket"), ("error", "daemon")];
    must_find(
        &rig,
        &[&[("warning", "fs-recovery")][..], &silent[..]].concat(),
    );
}

#[test]
fn check_finds_a_storage_that_is_nearly_full() {
    needs_root!("ext4");
    let rig = machine(Setup::new(Fs::Ext4));
    rig.sh("head -c 22M /dev/zero > $KVMD_PST_DATA/large")
        .must(0);
    must_find(&rig, &[("warning", "fs-space")]);
    rig.sh("cd $KVMD_PST_DATA && rm large && seq 7800 | xargs touch")
        .must(0);
    must_find(&rig, &[("warning", "fs-inodes")]);
    rig.sh("cd $KVMD_PST_DATA && seq 7800 | xargs rm").must(0);
    must_be_well(&rig);
}

#[test]
fn check_finds_groups_and_owners_that_there_are_not() {
    needs_root!("ext4");
    let setup = Setup::new(Fs::Ext4)
        .stopped()
        .head("group = \"no-such-group-here\"");
    let rig = machine(setup);
    let silent = [("error", "socket"), ("error", "daemon")];
    must_find(&rig, &[&[("error", "group")][..], &silent[..]].concat());
    let config = fs::read_to_string(rig.config()).expect("config");
    let other = config.replace("no-such-group-here", "64199");
    fs::write(rig.config(), other).expect("config");
    must_find(&rig, &[&[("warning", "owner")][..], &silent[..]].concat());
    fs::write(rig.config(), config).expect("config");
    let fstab = rig.dir().join("fstab");
    let text = fs::read_to_string(&fstab).expect("fstab");
    fs::write(fstab, text.replace("user=64110", "user=no-such-user-here")).expect("fstab");
    let bad = [("error", "owner"), ("error", "group")];
    must_find(&rig, &[&bad[..], &silent[..]].concat());
}

#[test]
fn check_finds_a_socket_of_the_wrong_mode_and_what_is_none() {
    needs_root!("ext4");
    let mut rig = machine(Setup::new(Fs::Ext4));
    let socket = rig.socket().display().to_string();
    inside(&rig, &format!("chmod 666 {socket} && chgrp 64199 {socket}"));
    let screen = must_find(&rig, &[("warning", "socket-mode")]);
    assert!(screen.contains("64199 0666, but the config file wants the group 64100 and 0660"));
    inside(&rig, &format!("chown 64102 {socket}"));
    must_find(&rig, &[("error", "socket-mode")]);
    inside(
        &rig,
        &format!("chown 64110:64100 {socket} && chmod 660 {socket}"),
    );
    must_be_well(&rig);
    rig.kill_daemon();
    must_find(&rig, &[("error", "daemon")]);
    inside(&rig, &format!("rm {socket} && echo >{socket}"));
    must_find(&rig, &[("error", "socket"), ("error", "daemon")]);
}

#[test]
fn check_finds_a_storage_that_a_dead_daemon_left_writable() {
    needs_root!("ext4");
    let mut rig = machine(Setup::new(Fs::Ext4));
    rig.kill_daemon();
    rig.switch_by_hand(Mode::ReadWrite);
    must_find(&rig, &[("error", "daemon"), ("error", "state")]);
    inside(&rig, &format!("rm {}", rig.socket().display()));
    rig.start_daemon();
    rig.await_superblock("ro");
    must_be_well(&rig);
}

#[test]
fn check_finds_a_daemon_whose_program_was_replaced() {
    needs_root!("ext4");
    let rig = machine(Setup::new(Fs::Ext4));
    let pst = rig.bin("pst").display().to_string();
    inside(&rig, &format!("cp {pst} {pst}.new && mv {pst}.new {pst}"));
    must_find(&rig, &[("warning", "daemon-version")]);
}

#[test]
fn check_finds_a_daemon_without_its_capabilities() {
    needs_root!("ext4");
    let mut rig = machine(Setup::new(Fs::Ext4).stopped());
    let mut command = rig.command("setpriv");
    command.args(["--bounding-set", "-sys_ptrace", "--"]);
    command.args(rig.daemon_words());
    rig.start_daemon_as(command);
    let screen = must_find(&rig, &[("warning", "daemon-capabilities")]);
    assert!(
        screen.contains("without CAP_SYS_PTRACE: it cannot name"),
        "{screen}"
    );
}

#[test]
fn check_finds_a_storage_that_is_stuck() {
    needs_root!("ext4");
    let rig = machine(Setup::new(Fs::Ext4));
    let mut command = rig.command("sh");
    let script = "exec 3>$0/held; echo open; cat";
    command.args(["-c", script]).arg(rig.data());
    let session = rig.session();
    let mut holder = crate::rig::start(command.stdin(std::process::Stdio::piped()));
    holder.await_stdout("open");
    session.end().must(0);
    rig.await_state("stuck");
    must_find(&rig, &[("error", "state")]);
    holder.release();
    holder.end().must(0);
    rig.await_state("ro");
    must_be_well(&rig);
}

/// Somebody else at the socket, who answers one client with these bytes.
fn answers(rig: &Rig, bytes: Vec<u8>) {
    let _ = fs::remove_file(rig.socket());
    let listener = UnixListener::bind(rig.socket()).expect("bind");
    tool(Command::new("chgrp").arg("64100").arg(rig.socket()));
    tool(Command::new("chmod").arg("660").arg(rig.socket()));
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            let mut asked = [0; 64];
            let got = client.read(&mut asked).unwrap_or(0);
            if got == 0 {
                break;
            }
            let _ = client.write_all(&bytes);
        }
    });
}

#[test]
fn check_finds_a_daemon_that_speaks_something_else() {
    needs_root!("ext4");
    let rig = machine(Setup::new(Fs::Ext4).stopped());
    let http = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
    answers(&rig, http);
    let screen = must_find(&rig, &[("error", "daemon")]);
    assert!(screen.contains("is not pst's daemon"), "{screen}");
    answers(&rig, Vec::new());
    must_find(&rig, &[("error", "daemon")]);
    let mut newer = Vec::new();
    let error = DaemonMessage::Error {
        version: VERSION + 1,
        text: "no".into(),
    };
    error.encode(&mut newer);
    answers(&rig, newer);
    let screen = must_find(&rig, &[("error", "daemon-version")]);
    let said = format!(
        "speaks version {} of the protocol, this program {VERSION}",
        VERSION + 1
    );
    assert!(screen.contains(&said), "{screen}");
}

#[test]
fn check_finds_a_daemon_that_is_silent() {
    needs_root!("ext4");
    let rig = machine(Setup::new(Fs::Ext4).stopped());
    let _silent = UnixListener::bind(rig.socket()).expect("bind");
    let (list, code) = findings(&mut check(&rig));
    let silent = list.iter().find(|finding| word(finding, "id") == "daemon");
    let text = word(silent.expect("a finding"), "text");
    assert!(
        text.starts_with("no answer at ") && text.ends_with(" for 5 s"),
        "{text}"
    );
    assert_eq!(code, 2);
}

#[test]
fn check_finds_units_that_are_not_enabled_and_the_old_daemon() {
    needs_root!("ext4");
    let rig = machine(Setup::new(Fs::Ext4));
    inside(
        &rig,
        "cd /etc/systemd/system && rm */pst.service && ln -sf /dev/null pst.socket",
    );
    must_find(
        &rig,
        &[("warning", "unit-service"), ("error", "unit-socket")],
    );
    let old = "cd /etc/systemd/system && rm pst.socket && touch pst.socket &&
        ln -s ../pst.service multi-user.target.wants/ &&
        ln -s /usr/lib/systemd/system/kvmd-pst.service multi-user.target.wants/";
    inside(&rig, old);
    must_find(&rig, &[("warning", "unit-kvmd-pst")]);
    inside(&rig, "rm -r /etc/systemd/system/*.mount.wants");
    let bad = [("warning", "unit-mounted"), ("warning", "unit-kvmd-pst")];
    let screen = must_find(&rig, &bad);
    assert!(
        screen.contains("Wants=pst.service pst-mounted@"),
        "{screen}"
    );
    let running = "mount -t tmpfs tmpfs /sys/fs/cgroup && cd /sys/fs/cgroup &&
        mkdir -p system.slice/kvmd-pst.service && echo 7 >system.slice/kvmd-pst.service/cgroup.procs";
    inside(&rig, running);
    let bad = [("warning", "unit-mounted"), ("error", "unit-kvmd-pst")];
    must_find(&rig, &bad);
}

#[test]
fn check_finds_programs_that_come_first_in_path() {
    needs_root!("ext4");
    let rig = machine(Setup::new(Fs::Ext4));
    let old = rig.dir().join("old");
    let script =
        "mkdir $0 && echo '#!/usr/bin/python3' >$0/kvmd-pstrun && chmod 755 $0/kvmd-pstrun";
    tool(Command::new("sh").args(["-c", script]).arg(&old));
    let path = |path: String| {
        let mut command = check(&rig);
        let (list, code) = findings(command.env("PATH", path));
        let bad: Vec<String> = list
            .iter()
            .filter(|finding| word(finding, "level") != "ok")
            .map(|finding| format!("{} {}", word(finding, "id"), word(finding, "text")))
            .collect();
        (bad, code)
    };
    let (old, bin) = (old.display(), rig.dir().join("bin"));
    let bin = bin.display();
    let found = path(format!("{old}:{bin}:/usr/bin:/bin"));
    let first = format!("path-order {old}/kvmd-pstrun comes before {bin}/kvmd-pstrun in PATH");
    assert_eq!(found, (vec![first], 1));
    let (found, code) = path(format!("{old}:/usr/bin:/bin"));
    assert!(
        found[0].starts_with("symlinks kvmd-pstrun is another program: "),
        "{found:?}"
    );
    assert_eq!((found.len(), code), (1, 1));
    let (found, _) = path("/usr/bin:/bin".into());
    assert!(
        found[0].starts_with("symlinks there is no kvmd-pstrun"),
        "{found:?}"
    );
}

#[test]
fn check_says_what_who_is_not_root_cannot_see() {
    needs_root!("other users");
    let rig = machine(Setup::new(Fs::Ext4));
    let seen = |who| {
        let mut command = rig.command_as(who, rig.bin("pst"));
        let (list, code) = findings(command.args(["check", "-c"]).arg(rig.config()));
        let bad = list.iter().filter(|finding| word(finding, "level") != "ok");
        let bad: Vec<String> = bad
            .map(|finding| format!("{} {}", word(finding, "level"), word(finding, "id")))
            .collect();
        (bad.join(", "), code)
    };
    let hidden = "unseen fs-alive, unseen fs-recovery";
    assert_eq!(
        seen(MEMBER),
        (format!("{hidden}, unseen daemon-version"), 0)
    );
    assert_eq!(
        seen(OUTSIDER),
        (format!("{hidden}, warning access, unseen daemon"), 1)
    );
}

#[test]
fn check_json_has_exactly_these_fields() {
    needs_root!("ext4");
    let rig = machine(Setup::new(Fs::Ext4));
    let ended = check(&rig).arg("--json").to_end().must(0);
    assert_eq!(ended.text().lines().count(), 1);
    let report: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    let keys = |value: &Value| {
        let keys = value.as_object().expect("an object").keys();
        keys.cloned().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(keys(&report), "findings version");
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    let screen = check(&rig).to_end().text();
    for finding in report["findings"].as_array().expect("a list") {
        assert_eq!(keys(finding), "advice id level text");
        assert!(screen.contains(word(finding, "text")), "{screen}");
    }
}

#[test]
fn check_does_what_its_manual_shows() {
    needs_root!("ext4");
    let rig = machine(Setup::new(Fs::Ext4));
    let manual = include_str!("../../contrib/man/pst-check.8");
    let examples = manual.lines().filter_map(|line| line.strip_prefix(".Dl "));
    let mut count = 0;
    for example in examples {
        count += 1;
        let mut bash = rig.command("bash");
        bash.args(["-c", &format!("set -o pipefail; {example}")]);
        let ended = bash.env("PST_CONFIG", rig.config()).to_end().must(0);
        assert!(!ended.text().is_empty(), "{example}");
        assert_eq!(ended.stderr, "", "{example}");
    }
    assert!(count > 2, "the examples are not found");
}

#[test]
fn check_fits_a_terminal_and_is_coloured_there_only() {
    needs_root!("ext4");
    let rig = machine(Setup::new(Fs::Ext4).mount_name("a mount\u{1b}[31m\u{202e}point"));
    let fstab = rig.dir().join("fstab");
    let text = fs::read_to_string(&fstab).expect("fstab");
    let (path, rest) = text.split_once(" ext4").expect("an entry");
    let (spec, path) = path.split_once(' ').expect("two fields");
    let rest = rest.replace(",nofail", "");
    let line = format!("{spec} {} ext4{rest}", path.replace(' ', "\\040"));
    fs::write(&fstab, line).expect("fstab");
    let screen = must_find(&rig, &[("warning", "fstab-nofail")]);
    assert!(screen.contains(r"a mount\x1b[31m\u{202e}point"), "{screen}");
    assert!(!screen.contains(['\x1b', '\u{202e}']), "{screen}");
    let terminal = Terminal::new(&rig);
    let run = rig.dir().join("run-check");
    let script = format!(
        "{} check -c {}\n",
        rig.bin("pst").display(),
        rig.config().display()
    );
    fs::write(&run, script).expect("script");
    let on_screen = |columns: u32, before: &str, mark: &str| {
        terminal.resize(columns, 200);
        // tmux tells the shell's terminal when it comes to it.
        terminal.line(&format!(
            "until [ \"$(stty size)\" = '200 {columns}' ]; do :; done; clear; {before} sh {}; echo ended''{mark}",
            run.display()
        ));
        terminal.await_screen(&format!("\nended{mark}"));
        let shown = terminal.screen();
        for line in shown.lines() {
            assert!(
                line.chars().count() <= columns as usize,
                "{line:?}\n{shown}"
            );
        }
        (shown, terminal.screen_with_colours())
    };
    let (shown, coloured) = on_screen(80, "", "1");
    let advice = "-> add nofail to the entry's options";
    assert!(shown.contains(advice), "{shown}");
    assert!(coloured.contains("\x1b[33mwarning"), "{coloured:?}");
    let (shown, coloured) = on_screen(60, "NO_COLOR=1", "2");
    assert!(shown.contains("warning  fstab-nofail"), "{shown}");
    assert!(!coloured.contains("\x1b["), "{coloured:?}");
}
