//! `pst check`: a machine where all is well, then one fault after another. Each fault is found
//! under its own id and no other, with advice.

mod serving;
mod storage;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::rig::{Fs, MEMBER, OUTSIDER, Rig, RunToEnd, Setup, Terminal, tool};
use crate::{needs_mounts, needs_root, needs_tool};

const WELL: &str = "ro,nodev,nosuid,noexec,errors=remount-ro,nofail";
/// Levels and ids of the findings that are not ok.
type Bad<'a> = &'a [(&'a str, &'a str)];

/// A machine where all is well: systemd runs, the units are enabled, and the entry in fstab has
/// every option.
fn machine(setup: Setup) -> Rig {
    let rig = setup.own_namespace().start();
    // A tmpfs in this namespace only.
    let script =
        "mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/system";
    inside(&rig, script);
    for name in LINKS {
        link_protection(&rig, name, 1);
    }
    // There is no systemd to ask: this prints a file for each unit.
    let units = rig.dir().join("units");
    fs::create_dir(&units).expect("mkdir");
    let systemctl = format!(
        "#!/bin/sh
        while [ \"$1\" != -- ]; do shift; done; shift
        cd '{}' || exit
        for unit; do
            case $unit in /*) unit=x.mount;; esac
            cat \"$unit\" && echo
        done\n",
        units.display()
    );
    let path = rig.dir().join("bin/systemctl");
    fs::write(&path, systemctl).expect("script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    for name in ["pst.service", "pst.socket"] {
        unit(
            &rig,
            name,
            "LoadState=loaded\nUnitFileState=enabled\nActiveState=active",
        );
    }
    unit(
        &rig,
        "kvmd-pst.service",
        "LoadState=not-found\nActiveState=inactive",
    );
    unit(&rig, "x.mount", "Wants=pst-mounted@x.service");
    entry(&rig, WELL);
    rig
}

const LINKS: [&str; 2] = ["protected_hardlinks", "protected_symlinks"];

/// Sets what this namespace reads of a setting in /proc/sys/fs.
fn link_protection(rig: &Rig, name: &str, value: u8) {
    let file = rig.dir().join(name);
    fs::write(&file, format!("{value}\n")).expect("a setting");
    let file = file.display();
    inside(rig, &format!("mount --bind {file} /proc/sys/fs/{name}"));
}

/// Writes what `systemctl show` prints for a unit.
fn unit(rig: &Rig, name: &str, properties: &str) {
    let file = rig.dir().join("units").join(name);
    fs::write(file, format!("Id={name}\n{properties}\n")).expect("unit");
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
        let well = ["ok", "skipped"].contains(&word(finding, "level"));
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
    needs_mounts!();
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

/// Returns the advice of a finding.
fn advice(rig: &Rig, id: &str) -> String {
    let (found, _) = findings(&mut check(rig));
    let found = found.iter().find(|finding| finding["id"] == id);
    let advice = found.and_then(|finding| finding["advice"].as_str());
    advice
        .unwrap_or_else(|| panic!("no advice for {id}"))
        .to_owned()
}

#[test]
fn check_gives_no_advice_about_systemd_where_it_does_not_run() {
    needs_root!("a mount namespace");
    needs_mounts!();
    let mut rig = machine(Setup::new(Fs::Ext4));
    inside(&rig, "rmdir /run/systemd/system");
    must_be_well(&rig);
    inside(
        &rig,
        &format!("mount -o remount,bind,exec {}", rig.mount().display()),
    );
    rig.stop_daemon();
    let (found, _) = findings(&mut check(&rig));
    let advice = |finding: &Value| finding["advice"].as_str().map(str::to_owned);
    let advice: Vec<String> = found.iter().filter_map(advice).collect();
    assert!(advice.len() >= 2, "{advice:?}");
    assert!(
        advice.iter().any(|text| text.contains("pst daemon")),
        "{advice:?}"
    );
    assert!(
        advice
            .iter()
            .all(|text| !text.contains("systemctl") && !text.contains("journalctl")),
        "{advice:?}"
    );
}

#[test]
fn check_finds_links_that_are_not_restricted() {
    needs_root!("a mount namespace");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4));
    for name in LINKS {
        link_protection(&rig, name, 0);
        must_find(&rig, &[("warning", "links")]);
        link_protection(&rig, name, 1);
    }
    must_be_well(&rig);
}

#[test]
fn check_succeeds_when_its_reader_stops_early() {
    needs_root!("a mount namespace");
    needs_mounts!();
    let rig = machine(Setup::new(Fs::Ext4));
    let mut child = check(&rig).stdout(Stdio::piped()).spawn().expect("check");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("its end").code(), Some(0));
}

#[test]
fn check_skips_what_only_root_can_see() {
    needs_root!("other users");
    needs_mounts!();
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
    let hidden = "skipped fs-health, skipped fs-journal";
    assert_eq!(
        seen(MEMBER),
        (format!("{hidden}, skipped daemon-version"), 0)
    );
    assert_eq!(
        seen(OUTSIDER),
        (format!("{hidden}, warning access, skipped daemon"), 1)
    );
}

#[test]
fn check_json_has_exactly_these_fields() {
    needs_root!("ext4");
    needs_mounts!();
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
    needs_mounts!();
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
    needs_mounts!();
    needs_tool!("tmux");
    let rig = machine(Setup::new(Fs::Ext4).mount_name("a mount\u{1b}[31m\u{202e}point"));
    let fstab = rig.dir().join("fstab");
    let text = fs::read_to_string(&fstab).expect("fstab");
    let (path, rest) = text.split_once(" ext4").expect("an entry");
    let (spec, path) = path.split_once(' ').expect("two fields");
    let rest = rest.replace(",nofail", "");
    let line = format!("{spec} {} ext4{rest}", path.replace(' ', "\\040"));
    fs::write(&fstab, line).expect("fstab");
    let screen = must_find(&rig, &[("warning", "fstab-options")]);
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
    assert!(shown.contains("warning  fstab-options"), "{shown}");
    assert!(!coloured.contains("\x1b["), "{coloured:?}");
}
