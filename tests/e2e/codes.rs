//! P7: the return code tells what happened.

use std::process::Command;

use crate::needs_storage;
use crate::rig::{Rig, RunToEnd, Setup};

/// A command, the code that it returns, and whether it came to run.
fn table(rig: &Rig) -> Vec<(Vec<String>, i32)> {
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let dir = rig.dir().join("a-directory");
    std::fs::create_dir_all(&dir).expect("directory");
    let text = rig.dir().join("not-executable");
    std::fs::write(&text, "text").expect("file");
    vec![
        (words(&["true"]), 0),
        (words(&["sh", "-c", "exit 7"]), 7),
        (words(&["sh", "-c", "exit 255"]), 255),
        (words(&["sh", "-c", "kill -TERM $$"]), 143),
        (words(&["sh", "-c", "kill -KILL $$"]), 137),
        (words(&["sh", "-c", "kill -INT $$"]), 130),
        (words(&["/nonexistent"]), 127),
        (words(&["pst-no-such-command"]), 127),
        (words(&[dir.to_str().expect("UTF-8")]), 126),
        (words(&[text.to_str().expect("UTF-8")]), 126),
    ]
}

#[test]
fn p7_the_code_is_the_commands_own() {
    needs_storage!();
    let rig = Rig::any();
    for (words, code) in table(&rig) {
        let ended = rig.run(&words).to_end();
        assert_eq!(ended.status.code(), Some(code), "{words:?}: {ended:?}");
    }
}

#[test]
fn p7_the_code_survives_ignored_signals() {
    needs_storage!();
    let rig = Rig::any();
    for (words, code) in table(&rig) {
        let mut command = rig.command("env");
        command
            .arg("--ignore-signal=CHLD,HUP,PIPE")
            .arg(rig.bin("kvmd-pstrun"))
            .arg("--")
            .args(&words);
        let ended = command.to_end();
        assert_eq!(ended.status.code(), Some(code), "{words:?}: {ended:?}");
    }
}

#[test]
fn p7_no_daemon_is_one_line_and_1() {
    needs_storage!();
    let rig = Setup::any().stopped().start();
    let ended = rig
        .run(["sh", "-c", "echo started"])
        .arg("-q")
        .to_end()
        .must(1);
    assert_eq!(ended.text(), "");
    let ended = rig
        .pst(["run", "-q", "--", "echo", "started"])
        .to_end()
        .must(1);
    assert_eq!(ended.text(), "");
    assert!(
        ended
            .one_line()
            .contains(rig.socket().to_str().expect("UTF-8")),
        "{ended:?}"
    );
    // The same over a socket that nobody listens on any more.
    drop(std::os::unix::net::UnixListener::bind(rig.socket()).expect("bind"));
    let ended = rig
        .pst(["run", "-q", "--", "echo", "started"])
        .to_end()
        .must(1);
    ended.one_line();
}

#[test]
fn p7_bad_usage_is_2() {
    needs_storage!();
    let rig = Setup::any().unmounted().stopped().start();
    for words in [
        &["run", "--no-such-option"][..],
        &["run"],
        &["run", "--"],
        &["run", "--socket"],
    ] {
        let ended = rig.pst(words).to_end();
        assert_eq!(ended.status.code(), Some(2), "{words:?}: {ended:?}");
        ended.one_line();
    }
}

#[test]
fn p7_exactly_these_lines_are_written() {
    needs_storage!();
    let rig = Rig::any();
    let lines = |code: i32| {
        format!(
            "--    INFO -- Opening PST session ...\n\
             --    INFO -- PST write is allowed: {}\n\
             --    INFO -- Running the process ...\n\
             --    INFO -- Process finished: returncode={code}\n",
            rig.data().display()
        )
    };
    let ended = rig.run(["echo", "hello"]).to_end().must(0);
    assert_eq!(ended.stderr, lines(0));
    assert_eq!(ended.stdout, b"hello\n");
    assert_eq!(
        rig.run(["sh", "-c", "exit 7"]).to_end().must(7).stderr,
        lines(7)
    );
    let quiet = rig
        .pst(["run", "-q", "--", "echo", "hello"])
        .to_end()
        .must(0);
    assert_eq!(quiet.stderr, "");
    assert_eq!(quiet.stdout, b"hello\n");
}

#[test]
fn p7_the_documentations_script_works() {
    needs_storage!();
    let rig = Rig::any();
    let script = rig.dir().join("script.sh");
    let text = "#!/bin/bash\necho `date` + $@ > $KVMD_PST_DATA/foo\ncat $KVMD_PST_DATA/foo\n";
    std::fs::write(&script, text).expect("script");
    assert!(
        Command::new("chmod")
            .arg("755")
            .arg(&script)
            .status()
            .expect("chmod")
            .success()
    );
    let ended = rig
        .run([script.as_os_str(), "a".as_ref(), "b".as_ref()])
        .to_end()
        .must(0);
    assert!(ended.text().ends_with(" + a b"), "{ended:?}");
    let text = std::fs::read_to_string(rig.data().join("foo")).expect("foo");
    assert_eq!(text.trim_end(), ended.text());
}

#[test]
fn p7_a_script_on_the_storage_is_not_executable_and_the_way_to_run_it_is_told() {
    needs_storage!();
    let rig = Rig::any();
    rig.sh("cd $KVMD_PST_DATA; echo 'echo it runs' > script; chmod 755 script")
        .must(0);
    let script = rig.data().join("script").display().to_string();
    let refused = rig.run([&script]).to_end().must(126);
    let text = format!("mounted `noexec`: run it with its interpreter, like `bash {script}`");
    assert!(refused.stderr.contains(&text), "{refused:?}");
    let ran = rig.run(["bash", &script]).to_end().must(0);
    assert_eq!(ran.text(), "it runs");
}
