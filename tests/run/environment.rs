//! The command gets exactly what the caller gave, and nothing of pst's own.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Output;

use crate::rig::Rig;

/// What the script prints with `"$@"` in it run directly, and under `pst run`.
fn both(rig: &Rig, before: &str, words: &[&str]) -> (Output, Output) {
    let command = |prefix: &[&str]| {
        let mut command = rig.bash(before);
        command.arg("bash").args(prefix).args(words);
        command
    };
    let direct = command(&[]).output().unwrap();
    let under = command(&[env!("CARGO_BIN_EXE_pst"), "run", "-q", "--"]);
    (direct, rig.served(under))
}

#[track_caller]
fn is_same(before: &str, words: &[&str]) -> String {
    let rig = Rig::new();
    let (direct, under) = both(&rig, before, words);
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text(&direct), text(&under));
    assert_eq!(direct.status, under.status);
    assert!(!text(&under).is_empty());
    text(&under)
}

const SIGNALS: &[&str] = &["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"];

#[test]
fn signals_are_as_the_caller_left_them() {
    is_same("exec \"$@\"", SIGNALS);
}

#[test]
fn ignored_signals_stay_ignored() {
    let shown = is_same(
        "exec env --ignore-signal=HUP,INT,PIPE,CHLD,QUIT,TTOU,TSTP,USR1,XFSZ \"$@\"",
        SIGNALS,
    );
    let ignored = shown.split_once("SigIgn:\t").unwrap().1;
    let ignored = u64::from_str_radix(&ignored[..16], 16).unwrap();
    for signal in [
        libc::SIGHUP,
        libc::SIGPIPE,
        libc::SIGCHLD,
        libc::SIGTTOU,
        libc::SIGXFSZ,
    ] {
        assert!(ignored & (1 << (signal - 1)) != 0, "{signal}: {shown}");
    }
}

#[test]
fn a_file_that_may_not_grow_takes_no_message_and_ends_nobody() {
    let rig = Rig::new();
    let output = rig.served(rig.bash("ulimit -f 0; exec $PST run -- true 2>$F/said"));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(std::fs::read(rig.folder.join("said")).unwrap(), b"");
}

#[test]
fn blocked_signals_stay_blocked() {
    is_same(
        "exec env --block-signal=TERM,CHLD,USR1,WINCH \"$@\"",
        SIGNALS,
    );
}

#[test]
fn a_code_is_not_lost_with_sigchld_ignored() {
    let rig = Rig::new();
    let mut command = rig.command("env");
    command.args(["--ignore-signal=CHLD,HUP,PIPE", env!("CARGO_BIN_EXE_pst")]);
    command.args(["run", "--", "sh", "-c", "exit 7"]);
    assert_eq!(rig.served(command).status.code(), Some(7));
}

const DESCRIPTORS: &[&str] = &[
    "bash",
    "-c",
    "for f in /proc/$$/fd/*; do echo ${f##*/}; done",
];

#[test]
fn descriptors_are_the_callers() {
    let shown = is_same("exec \"$@\" 5<<<y 7>/dev/null", DESCRIPTORS);
    assert!(shown.contains("5\n7\n"), "{shown}");
    let shown = is_same("exec \"$@\" 5<<<y", &["cat", "/dev/fd/5"]);
    assert_eq!(shown, "y\n");
    is_same("exec \"$@\" <(echo x)", &["cat"]);
}

#[test]
fn closed_standard_descriptors_stay_closed() {
    for closed in ["<&-", "2>&-", "<&- 2>&-"] {
        is_same(&format!("exec \"$@\" {closed}"), DESCRIPTORS);
    }
    // All three, told through another.
    let told = &[
        "bash",
        "-c",
        "for f in /proc/$$/fd/*; do echo ${f##*/}; done >&9",
    ];
    is_same("exec 9>&1; exec \"$@\" <&- >&- 2>&-", told);
}

#[test]
fn a_closed_or_broken_stderr_stops_nothing() {
    let rig = Rig::new();
    for before in [
        "exec \"$@\" 2>&-",
        "exec \"$@\" 2>/dev/full",
        "exec \"$@\" 2> >(:)",
    ] {
        let mut command = rig.bash(before);
        command.args([
            "bash",
            env!("CARGO_BIN_EXE_pst"),
            "run",
            "sh",
            "-c",
            "exit 7",
        ]);
        assert_eq!(rig.served(command).status.code(), Some(7));
    }
}

#[test]
fn words_are_bytes() {
    let rig = Rig::new();
    let mut command = rig.run(&["printf", "%s"]);
    command.arg(OsStr::from_bytes(b"\xff\x80"));
    assert_eq!(rig.served(command).stdout, b"\xff\x80");
}

#[test]
fn variables_are_the_callers_and_kvmd_pst_data() {
    let rig = Rig::new();
    let before = "export KVMD_PST_DATA=/old A=$'\\xff' B=; cd $F; exec \"$@\"";
    let (direct, under) = both(&rig, before, &["env", "-0"]);
    let split = |output: &Output| -> Vec<Vec<u8>> {
        output
            .stdout
            .split(|&b| b == 0)
            .map(<[u8]>::to_vec)
            .collect()
    };
    let (mut direct, mut under) = (split(&direct), split(&under));
    let is_data = |variable: &Vec<u8>| variable.starts_with(b"KVMD_PST_DATA=");
    let data: Vec<_> = under.iter().filter(|v| is_data(v)).cloned().collect();
    let expected = [b"KVMD_PST_DATA=", rig.data().as_os_str().as_bytes()].concat();
    assert_eq!(data, [expected]);
    direct.retain(|v| !is_data(v));
    under.retain(|v| !is_data(v));
    assert_eq!(direct, under);
}

#[test]
fn the_command_is_told_to_the_daemon() {
    let rig = Rig::new();
    let child = rig.run(&["echo", "a  b", "é"]).spawn().unwrap();
    let client = rig.accept();
    assert_eq!(client.command, "echo a  b é".as_bytes());
    drop(client);
    child.wait_with_output().unwrap();
    let long = "x".repeat(5000);
    let child = rig.run(&["echo", &long]).spawn().unwrap();
    assert_eq!(rig.accept().command.len(), 1024);
    child.wait_with_output().unwrap();
}
