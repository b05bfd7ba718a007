//! The command line and the files: help, version, mistakes.

use std::process::Command;

use crate::rig::RunToEnd;

fn pst(words: &[&str]) -> crate::rig::Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pst"));
    command
        .args(words)
        .env_remove("PST_SOCKET")
        .env_remove("PST_CONFIG")
        .to_end()
}

#[test]
fn help_and_version_are_everywhere() {
    for words in [
        &["help"][..],
        &["--help"],
        &["run", "--help"],
        &["put", "--help"],
        &["daemon", "--help"],
        &["status", "--help"],
        &["prepare", "--help"],
    ] {
        let said = pst(words).must(0);
        assert!(said.text().lines().count() > 1, "{words:?}: {said:?}");
        assert_eq!(said.stderr, "", "{words:?}");
    }
    for command in ["run", "put", "daemon", "status", "prepare"] {
        assert!(pst(&["help"]).text().contains(command));
    }
    let version = pst(&["--version"]).must(0);
    assert!(
        version.text().contains(env!("CARGO_PKG_VERSION")),
        "{version:?}"
    );
}

#[test]
fn mistakes_are_one_line_and_2() {
    for words in [
        &["no-such-command"][..],
        &["--no-such-option"],
        &["status", "--no-such-option"],
        &["status", "extra"],
        &["daemon", "-c"],
        &["prepare", "extra"],
        &["put"],
        &["put", "file", "source", "extra"],
        &["put", "-m", "u=rw", "file"],
        &["put", "-o", "no-such-user", "file"],
        &["put", "-o", ":", "file"],
    ] {
        let said = pst(words);
        assert_eq!(said.status.code(), Some(2), "{words:?}: {said:?}");
        assert_eq!(said.text(), "", "{words:?}");
        said.one_line();
    }
}

#[test]
fn a_word_that_is_no_utf8_is_no_crash() {
    use std::os::unix::ffi::OsStrExt;
    let word = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    let said = Command::new(env!("CARGO_BIN_EXE_pst"))
        .arg(word)
        .to_end()
        .must(2);
    said.one_line();
    Command::new(env!("CARGO_BIN_EXE_pst"))
        .arg("status")
        .arg(word)
        .to_end()
        .must(2);
}

#[test]
fn a_mistake_in_the_config_is_named_with_its_place() {
    let dir = std::env::temp_dir();
    for (n, text) in [
        "no_such_key = 1\n",
        "\n[session]\nkill_grace = \"soon\"\n",
        "[session]\nkill_grace = inf\n",
        "[session]\nkill_grace = -1.0\n",
        "[session]\nlimit = -1\n",
        "socket_mode = 0o1777\n",
        "socket = \n",
        "[nowhere]\n",
    ]
    .iter()
    .enumerate()
    {
        let path = dir.join(format!("pst-config-{}-{n}.toml", std::process::id()));
        std::fs::write(&path, text).expect("config");
        let said = pst(&["daemon", "-c", path.to_str().expect("UTF-8")]);
        let again = pst(&["prepare", "-c", path.to_str().expect("UTF-8")]);
        std::fs::remove_file(&path).expect("remove");
        for said in [said, again] {
            assert_eq!(said.status.code(), Some(2), "{text:?}: {said:?}");
            let line = text
                .lines()
                .position(|l| l.contains('=') || l.contains("nowhere"))
                .expect("it")
                + 1;
            let place = format!("{}:{line}:", path.display());
            assert!(said.one_line().contains(&place), "no {place} in {said:?}");
        }
    }
    let said = pst(&["daemon", "-c", "/nonexistent/pst.toml"]).must(2);
    said.one_line();
}
