//! What the command gets: exactly what the caller gave, and KVMD_PST_DATA.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::needs_storage;
use crate::rig::{Rig, RunToEnd};

#[test]
fn p7_bytes_that_are_no_utf8_are_passed_on() {
    needs_storage!();
    let rig = Rig::any();
    let word = OsStr::from_bytes(b"\xff\x01\xfe");
    let ended = rig
        .run([OsStr::new("printf"), OsStr::new("%s"), word])
        .to_end()
        .must(0);
    assert_eq!(ended.stdout, b"\xff\x01\xfe");
    // And in the status, which must stay text.
    let mut command = rig.run([
        OsStr::new("sh"),
        OsStr::new("-c"),
        OsStr::new("echo started; cat"),
        word,
    ]);
    let session = crate::rig::start(command.stdin(std::process::Stdio::piped()));
    session.await_stdout("started");
    assert!(
        rig.status()["sessions"][0]["command"]
            .as_str()
            .expect("text")
            .contains("started")
    );
    session.end().must(0);
}

#[test]
fn p7_descriptors_are_passed_on_and_none_of_ours() {
    needs_storage!();
    let rig = Rig::any();
    let bash = |script: String| rig.command("bash").args(["-c", &script]).to_end().must(0);
    let run = rig.bin("kvmd-pstrun");
    let run = run.display();
    let ended = bash(format!("{run} -- cat <(echo x) /dev/fd/5 5<<<y"));
    assert_eq!(ended.text(), "x\ny");
    let list = |before: &str| {
        let ended = bash(format!(
            "cd /; {before} ls /proc/self/fd 5</dev/null 7</dev/null 0</dev/null"
        ));
        ended.text()
    };
    assert_eq!(list(&format!("{run} --")), list(""));
}

#[test]
fn p7_signals_are_as_the_caller_set_them() {
    needs_storage!();
    let rig = Rig::any();
    let signals = |options: &[&str], with_us: bool| {
        let mut command = rig.command("env");
        command.args(options);
        if with_us {
            command.arg(rig.bin("kvmd-pstrun")).arg("--");
        }
        command
            .args(["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"])
            .to_end()
            .must(0)
            .text()
    };
    for options in [
        &[][..],
        &["--ignore-signal=CHLD,HUP,PIPE,INT"],
        &["--ignore-signal=TERM,USR1"],
        &["--block-signal=USR1,TERM,CHLD"],
    ] {
        assert_eq!(
            signals(options, true),
            signals(options, false),
            "{options:?}"
        );
    }
}

#[test]
fn p7_the_environment_gains_one_variable() {
    needs_storage!();
    let rig = Rig::any();
    let sorted = |text: String| {
        let mut lines: Vec<String> = text
            .lines()
            .filter(|line| !line.starts_with("_="))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let with = sorted(rig.run(["env"]).env("A", "b c").to_end().must(0).text());
    let mut expected = sorted(rig.command("env").env("A", "b c").to_end().must(0).text());
    expected.push(format!("KVMD_PST_DATA={}", rig.data().display()));
    expected.sort();
    assert_eq!(with, expected);
}

#[test]
fn p7_directory_input_and_group_are_the_callers() {
    needs_storage!();
    let rig = Rig::any();
    let run = rig.bin("kvmd-pstrun");
    let script = format!(
        "cd /usr; echo input | {} -- sh -c 'pwd; cat; umask'",
        run.display()
    );
    let ended = rig
        .command("sh")
        .args(["-c", &format!("umask 027; {script}")])
        .to_end()
        .must(0);
    assert_eq!(ended.text(), "/usr\ninput\n0027");
    let pgrp = |before: &str| {
        let script = format!(
            "{before} sh -c 'cut -d\" \" -f5 /proc/self/stat'; cut -d' ' -f5 /proc/$$/stat"
        );
        rig.command("setsid")
            .args(["-w", "sh", "-c", &script])
            .to_end()
            .must(0)
            .text()
    };
    let text = pgrp(&format!("{} --", run.display()));
    let groups: Vec<&str> = text.lines().collect();
    assert_eq!(groups[0], groups[1], "another process group");
}

#[test]
fn p7_the_socket_is_found_through_the_config() {
    needs_storage!();
    let rig = Rig::any();
    let mut command = rig.run(["echo", "x"]);
    command
        .env_remove("PST_SOCKET")
        .env("PST_CONFIG", rig.config());
    command.to_end().must(0);
    let mut command = rig.pst(["status"]);
    command
        .env_remove("PST_SOCKET")
        .env("PST_CONFIG", rig.config());
    command.to_end().must(0);
}

#[test]
fn p7_options_end_at_the_command() {
    needs_storage!();
    let rig = Rig::any();
    let said = |words: &[&str]| rig.pst(words).to_end().must(0).text();
    assert_eq!(
        said(&["run", "echo", "-q", "--", "--socket"]),
        "-q -- --socket"
    );
    assert_eq!(said(&["run", "-q", "--", "echo", "--"]), "--");
    let socket = format!("--socket={}", rig.socket().display());
    let ended = rig
        .pst(["run", &socket, "echo", "x"])
        .env("PST_SOCKET", "/nonexistent")
        .to_end();
    assert_eq!(ended.must(0).text(), "x");
}
