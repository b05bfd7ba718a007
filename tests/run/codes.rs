//! P4 and P7: what is returned, and what is said of it.

use std::fs;
use std::io::BufRead;
use std::process::{Child, Output};

use pst::wire::{ClientMessage, CloseResult, RevokeReason};

use crate::rig::{Rig, child_of};

pub fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn finish(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

/// One line at ERROR with this in it, and 1.
#[track_caller]
pub fn is_refused(output: &Output, text: &str) {
    let stderr = stderr(output);
    let errors: Vec<_> = stderr.lines().filter(|l| !l.contains("INFO")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    assert!(errors[0].starts_with("--   ERROR -- "), "{stderr}");
    assert!(errors[0].contains(text), "{stderr}");
    assert_eq!(code(output), Some(1));
}

#[test]
fn p7_a_session_without_trouble_says_exactly_four_lines() {
    let rig = Rig::new();
    let output = rig.served(rig.run(&["true"]));
    assert_eq!(code(&output), Some(0));
    let data = rig.data();
    let expected = format!(
        "--    INFO -- Opening PST session ...\n\
         --    INFO -- PST write is allowed: {}\n\
         --    INFO -- Running the process ...\n\
         --    INFO -- Process finished: returncode=0\n",
        data.display()
    );
    assert_eq!(stderr(&output), expected);
}

#[test]
fn quiet_says_nothing_below_warning() {
    let rig = Rig::new();
    let mut command = rig.command(env!("CARGO_BIN_EXE_pst"));
    command.args(["run", "-q", "--", "true"]);
    assert_eq!(stderr(&rig.served(command)), "");
}

#[test]
fn p7_the_commands_own_code_is_returned() {
    let rig = Rig::new();
    let script = rig.folder.join("not-executable");
    fs::write(&script, "").unwrap();
    for (words, expected) in [
        (&["sh", "-c", "exit 7"][..], 7),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["/nonexistent"], 127),
        (&["nonexistent-in-path"], 127),
        (&[""], 127),
        (&["/"], 126),
        (&[script.to_str().unwrap()], 126),
    ] {
        let output = rig.served(rig.run(words));
        assert_eq!(code(&output), Some(expected), "{words:?}");
        let line = format!("returncode={expected}\n");
        assert!(stderr(&output).ends_with(&line), "{words:?}");
        let said = stderr(&output).matches("ERROR -- Can't run").count();
        assert_eq!(
            said,
            usize::from(matches!(expected, 126 | 127)),
            "{words:?}"
        );
    }
}

/// What is said of a command that cannot be run; it returned `expected`.
#[track_caller]
fn why_not(rig: &Rig, command: std::process::Command, expected: i32) -> String {
    let output = rig.served(command);
    assert_eq!(code(&output), Some(expected));
    let stderr = stderr(&output);
    let line = stderr.lines().find(|l| l.contains("ERROR -- Can't run "));
    line.unwrap_or_else(|| panic!("{stderr}")).to_owned()
}

#[test]
fn p7_what_cannot_be_executed_is_told_why_and_what_to_do() {
    let rig = Rig::new();
    let path = |name: &str| rig.folder.join(name).display().to_string();
    // Not by this process: another test's fork could hold it open for writing (ETXTBSY).
    let make =
        "cd $F; echo x > plain; (echo '#!/no/such/thing'; echo x) > lost-script; chmod 755 lost-script;
        mkdir closed";
    assert!(rig.bash(make).status().unwrap().success());
    let (plain, script) = (path("plain"), path("lost-script"));
    for (name, expected, text) in [
        ("nonexistent-in-path", 127, ": command not found".to_owned()),
        (&path("none"), 127, ": no such file or directory".into()),
        (
            &script,
            127,
            "; it exists, but its interpreter is missing".into(),
        ),
        (&path("closed"), 126, "; it is a directory".into()),
        (
            &plain,
            126,
            format!("; it is not executable: `chmod +x {plain}`, or `bash {plain}`"),
        ),
        (&format!("{plain}/x"), 127, ": not a directory".into()),
    ] {
        let said = why_not(&rig, rig.run(&[name]), expected);
        assert!(said.contains(&text), "{name}: {said}");
        assert!(said.contains(&format!("Can't run {name}: ")), "{said}");
    }
    let mut in_path = rig.run(&["lost-script"]);
    in_path.env("PATH", format!("/usr/bin:/bin:{}", rig.folder.display()));
    let said = why_not(&rig, in_path, 127);
    assert!(
        said.contains("; it is in PATH, but its interpreter is missing"),
        "{said}"
    );
    let busy = "cp /bin/true $F/busy; exec 9>>$F/busy; exec $PST run $F/busy";
    let said = why_not(&rig, rig.bash(busy), 126);
    assert!(
        said.contains("; some process has it open for writing: see `fuser -v "),
        "{said}"
    );
}

#[test]
fn p7_on_a_mount_without_execution_the_way_to_run_a_script_is_told() {
    needs_namespaces!();
    let rig = Rig::new();
    let mut command = rig.command("unshare");
    command.args([
        "-rm",
        "sh",
        "-c",
        "cd $F/data && echo echo it runs > script && chmod 755 script && \
         mount --bind . . && mount -o remount,bind,noexec . && $PST run $F/data/script",
    ]);
    let script = rig.data().join("script").display().to_string();
    let said = why_not(&rig, command, 126);
    let text = format!("mounted `noexec`: run it with its interpreter, like `bash {script}`");
    assert!(said.contains(&text), "{said}");
    let output = rig.served(rig.run(&["bash", &script]));
    assert_eq!(output.stdout, b"it runs\n");
}

#[test]
fn a_script_that_names_no_interpreter_is_the_shells() {
    let rig = Rig::new();
    let script = rig.folder.join("script");
    // Not by this process: another test's fork could hold it open for writing (ETXTBSY).
    let write = "echo '[ $# = 20000 ] && exit 9' > $F/script; chmod 755 $F/script";
    assert!(rig.bash(write).status().unwrap().success());
    let mut command = rig.run(&[script.to_str().unwrap()]);
    command.args(vec!["x"; 20000]);
    assert_eq!(code(&rig.served(command)), Some(9));
}

#[test]
fn p4_a_close_that_fails_returns_1_or_the_commands_code() {
    let rig = Rig::new();
    for (script, expected) in [("exit 0", 1), ("exit 7", 7)] {
        for answer in [Some(CloseResult::Failed), None] {
            let child = rig.run(&["sh", "-c", script]).spawn().unwrap();
            let mut client = rig.accept();
            client.grant(&rig);
            assert_eq!(client.next(), Some(ClientMessage::Close));
            if let Some(answer) = answer {
                client.close(answer);
            }
            drop(client);
            let output = finish(child);
            assert_eq!(code(&output), Some(expected));
            assert!(stderr(&output).contains("may not be on stable storage"));
        }
    }
}

#[test]
fn p7_a_revoked_session_never_returns_0() {
    let loops = "echo > $F/up; while :; do sleep 0.01; done";
    for (reason, trap, expected) in [
        (RevokeReason::Stopping, "", 143),
        (RevokeReason::Stopping, "trap '' TERM;", 137),
        (RevokeReason::Stopping, "trap 'exit 5' TERM;", 5),
        (RevokeReason::Stopping, "trap 'exit 0' TERM;", 1),
        (RevokeReason::Lost, "", 1),
        (RevokeReason::Lost, "trap 'exit 5' TERM;", 1),
    ] {
        let rig = Rig::new();
        let script = format!("{trap} {loops}");
        let child = rig.run(&["bash", "-c", &script]).spawn().unwrap();
        let mut client = rig.accept();
        client.grant(&rig);
        rig.line_of("up");
        client.revoke(reason);
        assert_eq!(client.next(), None);
        let output = finish(child);
        assert_eq!(code(&output), Some(expected), "{reason:?} {trap}");
        let line = match reason {
            RevokeReason::Stopping => {
                "PST write is revoked: for this test: ending the command; \
                 run it again when `pst status` shows"
            }
            // The daemon's text says how.
            RevokeReason::Lost => {
                "PST write is revoked: the storage failed, so the command was ended; \
                 an administrator must repair the storage: for this test\n"
            }
        };
        assert!(stderr(&output).contains(line), "{}", stderr(&output));
        rig.all_end();
    }
}

#[test]
fn p7_a_daemon_that_dies_gives_the_killed_commands_code() {
    let rig = Rig::new();
    let child = rig.run(&["sleep", "100"]).spawn().unwrap();
    let mut client = rig.accept();
    client.grant(&rig);
    child_of(child_of(child.id() as i32));
    drop(client);
    let output = finish(child);
    assert_eq!(code(&output), Some(143));
    assert!(stderr(&output).contains("went away"));
}

#[test]
fn quiet_says_that_a_daemon_does_not_answer() {
    let rig = Rig::new();
    let mut command = rig.command(env!("CARGO_BIN_EXE_pst"));
    let mut child = command.args(["run", "-q", "true"]).spawn().unwrap();
    let _client = rig.accept();
    let mut said = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
    let line = said.next().unwrap().unwrap();
    assert!(line.contains("WARNING -- No answer"), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_daemon_that_does_not_answer_is_said_and_waited_for() {
    let rig = Rig::new();
    let mut child = rig.run(&["true"]).spawn().unwrap();
    let mut client = rig.accept();
    let mut said = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
    let mut next = || said.next().unwrap().unwrap();
    assert!(next().contains("Opening"));
    assert!(next().contains("WARNING -- No answer"));
    client.grant(&rig);
    assert_eq!(client.next(), Some(ClientMessage::Close));
    while !next().contains("finished") {}
    assert!(next().contains("WARNING -- No answer"));
    client.close(CloseResult::Durable);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(said.next().is_none());
}
