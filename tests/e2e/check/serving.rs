//! What `pst check` finds between the clients and the storage: groups, socket, daemon, units and programs.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Command;

use pst::sys::mount::Mode;
use pst::wire::{DaemonMessage, Message, VERSION};

use super::{check, findings, inside, machine, must_be_well, must_find, unit, word};
use crate::rig::{Fs, Rig, Setup, tool};
use crate::{needs_mounts, needs_root};

#[test]
fn check_finds_groups_and_owners_that_there_are_not() {
    needs_root!("ext4");
    needs_mounts!();
    let setup = Setup::new(Fs::Ext4)
        .stopped()
        .head("group = \"no-such-group-here\"");
    let rig = machine(setup);
    must_find(&rig, &[("error", "group"), ("error", "daemon")]);
    let config = fs::read_to_string(rig.config()).expect("config");
    let other = config.replace("no-such-group-here", "64199");
    fs::write(rig.config(), other).expect("config");
    must_find(&rig, &[("warning", "owner"), ("error", "daemon")]);
    fs::write(rig.config(), config).expect("config");
    let fstab = rig.dir().join("fstab");
    let text = fs::read_to_string(&fstab).expect("fstab");
    fs::write(fstab, text.replace("user=64110", "user=no-such-user-here")).expect("fstab");
    let silent = ("error", "daemon");
    must_find(&rig, &[("error", "owner"), ("error", "group"), silent]);
}

#[test]
fn check_finds_a_socket_of_the_wrong_mode_and_what_is_none() {
    needs_root!("ext4");
    needs_mounts!();
    let mut rig = machine(Setup::new(Fs::Ext4));
    let socket = rig.socket().display().to_string();
    inside(&rig, &format!("chmod 666 {socket} && chgrp 64199 {socket}"));
    let screen = must_find(&rig, &[("warning", "socket")]);
    assert!(screen.contains("64199 0666, but the config file wants the group 64100 and 0660"));
    inside(&rig, &format!("chown 64102 {socket}"));
    must_find(&rig, &[("error", "socket")]);
    inside(
        &rig,
        &format!("chown 64110:64100 {socket} && chmod 660 {socket}"),
    );
    must_be_well(&rig);
    rig.kill_daemon();
    must_find(&rig, &[("error", "daemon")]);
    inside(&rig, &format!("rm {socket} && echo >{socket}"));
    let screen = must_find(&rig, &[("error", "daemon")]);
    assert!(screen.contains("-> not a socket: "), "{screen}");
}

#[test]
fn check_finds_settings_of_kvmds_daemon_and_names_their_counterparts() {
    needs_root!("ext4");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4));
    let etc = rig.dir().join("etc/kvmd");
    fs::create_dir_all(&etc).expect("mkdir");
    let text = "pst:\n    ro_retries_delay: 5.0\n    server:\n        unix_mode: 0666\n";
    fs::write(etc.join("override.yaml"), text).expect("override");
    let lower = rig.dir().join("etc").display().to_string();
    inside(
        &rig,
        &format!("mount -t overlay overlay -o lowerdir={lower}:/etc /etc"),
    );
    let warning = ("warning", "kvmd-config");
    let screen = must_find(&rig, &[warning, warning]);
    let text = "override.yaml, line 4: pst/server/unix_mode has no effect on pst";
    assert!(screen.contains(text), "{screen}");
    assert!(screen.contains("set `socket_mode` in pst.toml"), "{screen}");
    inside(&rig, "umount /etc");
    must_be_well(&rig);
}

#[test]
fn check_finds_that_kvmds_clients_and_ours_use_different_directories() {
    needs_root!("ext4");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4));
    let programs = rig.dir().join("programs");
    fs::create_dir(&programs).expect("mkdir");
    fs::write(programs.join("kvmd"), "").expect("kvmd");
    let programs = programs.display();
    inside(
        &rig,
        &format!("mount -t overlay overlay -o lowerdir={programs}:/usr/bin /usr/bin"),
    );
    let screen = must_find(&rig, &[("warning", "kvmd-data")]);
    let data = rig.data().display().to_string();
    let text = format!("KVMD_PST_DATA is {data}, but kvmd's API and clients name ");
    assert!(screen.contains(&text), "{screen}");
    let config = fs::read_to_string(rig.config()).expect("config");
    let same = config.replace("[kvmd_api]", "[kvmd_api]\npath = \"data\"");
    fs::write(rig.config(), same).expect("config");
    must_be_well(&rig);
}

#[test]
fn check_finds_a_storage_that_a_dead_daemon_left_writable() {
    needs_root!("ext4");
    needs_mounts!();
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
fn check_finds_a_daemon_that_takes_no_more_connections() {
    needs_root!("ext4");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4).session("limit = 1"));
    let session = rig.session();
    let screen = must_find(&rig, &[("error", "daemon")]); // it knows why the storage is writable
    assert!(
        screen.contains("too many connections: 1 in all"),
        "{screen}"
    );
    assert!(
        screen.contains("as root, `pst status` names them"),
        "{screen}"
    );
    session.end().must(0);
    rig.await_superblock("ro");
    must_be_well(&rig);
}

#[test]
fn check_finds_a_daemon_whose_program_was_replaced() {
    needs_root!("ext4");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4));
    let pst = rig.bin("pst").display().to_string();
    inside(&rig, &format!("cp {pst} {pst}.new && mv {pst}.new {pst}"));
    must_find(&rig, &[("warning", "daemon-version")]);
}

#[test]
fn check_finds_a_daemon_without_its_capabilities() {
    needs_root!("ext4");
    needs_mounts!();
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
    needs_mounts!();
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
    needs_mounts!();
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
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4).stopped());
    let _silent = UnixListener::bind(rig.socket()).expect("bind");
    let (list, code) = findings(&mut check(&rig));
    let silent = list.iter().find(|finding| word(finding, "id") == "daemon");
    let text = word(silent.expect("a finding"), "text");
    assert!(
        text.starts_with("no answer from the daemon at ") && text.ends_with(" for 5 s"),
        "{text}"
    );
    assert_eq!(code, 2);
}

#[test]
fn check_finds_units_that_are_not_enabled_and_the_old_daemon() {
    needs_root!("ext4");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4));
    let enabled = "LoadState=loaded\nUnitFileState=enabled\nActiveState=active";
    unit(&rig, "pst.service", &enabled.replace("enabled", "disabled"));
    unit(&rig, "pst.socket", "LoadState=masked\nUnitFileState=masked");
    let screen = must_find(&rig, &[("warning", "units"), ("error", "units")]);
    for text in ["pst.service is not enabled", "pst.socket is masked"] {
        assert!(screen.contains(text), "{screen}");
    }
    unit(&rig, "pst.service", enabled);
    unit(&rig, "pst.socket", enabled);
    let old = "LoadState=loaded\nUnitFileState=enabled\nActiveState=inactive";
    unit(&rig, "kvmd-pst.service", old);
    must_find(&rig, &[("error", "kvmd-pst")]);
    unit(&rig, "x.mount", "Wants=other.service");
    let screen = must_find(&rig, &[("warning", "units"), ("error", "kvmd-pst")]);
    assert!(
        screen.contains("Wants=pst.service pst-mounted@x.service"),
        "{screen}"
    );
    unit(&rig, "kvmd-pst.service", &old.replace("inactive", "active"));
    must_find(&rig, &[("warning", "units"), ("error", "kvmd-pst")]);
    let systemctl = rig.dir().join("bin/systemctl");
    fs::write(systemctl, "#!/bin/sh\nexit 1\n").expect("script");
    must_find(&rig, &[("skipped", "units")]);
}

#[test]
fn check_finds_programs_that_come_first_in_path() {
    needs_root!("ext4");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4));
    let old = rig.dir().join("old");
    let script = "mkdir $0 $0/systemd && echo '#!/usr/bin/python3' >$0/kvmd-pstrun &&
        chmod 755 $0/kvmd-pstrun && cp $0/../bin/systemctl $0/systemd";
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
    let first = format!("path kvmd-pstrun is another program: {old}/kvmd-pstrun");
    assert_eq!(found, (vec![first], 1));
    let (found, code) = path(format!("{old}:{old}/systemd:/usr/bin:/bin"));
    assert!(
        found[0].starts_with("path kvmd-pstrun is another program: "),
        "{found:?}"
    );
    assert_eq!((found.len(), code), (1, 1));
    let (found, _) = path(format!("{old}/systemd:/usr/bin:/bin"));
    assert!(
        found[0].starts_with("path there is no kvmd-pstrun"),
        "{found:?}"
    );
}
