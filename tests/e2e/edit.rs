//! P12: `pst edit` edits a private copy, and stores it all or nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::rig::{MEMBER, OUTSIDER, Outcome, Person, Rig, RunToEnd, Terminal, start, wait_until};
use crate::{needs_root, needs_storage, needs_tool};

impl Rig {
    /// `pst edit FILE` with this shell script as the editor, which finds the copy's path in `$1`.
    fn edit(&self, who: Option<Person>, script: &str, file: &str) -> Command {
        let editor = self.dir().join("editor");
        fs::write(&editor, format!("#!/bin/sh\n{script}\n")).expect("editor");
        fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).expect("chmod");
        let pst = self.bin("pst");
        let mut command = match who {
            Some(who) => self.command_as(who, pst),
            None => self.command(pst),
        };
        let private = self.dir().join("private");
        fs::create_dir_all(&private).expect("private");
        fs::set_permissions(&private, fs::Permissions::from_mode(0o777)).expect("chmod");
        command.env("TMPDIR", private).env_remove("VISUAL");
        command.env("EDITOR", format!("{} --", editor.display()));
        command.args(["edit", file]);
        command
    }

    /// The copies that are left.
    fn copies(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir().join("private")).expect("private");
        entries.map(|entry| entry.expect("entry").path()).collect()
    }

    /// Removes the one copy that is kept, which the message names and which has this content.
    #[track_caller]
    fn takes_kept_copy(&self, ended: &Outcome, file: &str, content: &str) {
        let kept = self.copies()[0].join(file);
        let named = format!("; the edited copy is kept as {}", kept.display());
        assert!(ended.stderr.contains(&named), "{ended:?}");
        assert_eq!(fs::read_to_string(&kept).expect("it is kept"), content);
        fs::remove_dir_all(&self.copies()[0]).expect("remove");
        assert_eq!(self.copies(), Vec::<PathBuf>::new());
    }

    fn granted(&self) -> u64 {
        let sessions = &self.status()["totals"]["sessions"];
        sessions.as_u64().expect("a number")
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.data().join(file)).expect("it is there")
    }
}

#[test]
fn p12_an_edited_file_is_stored_and_the_storage_stays_read_only_meanwhile() {
    needs_root!("another user's file");
    let rig = Rig::ext4();
    rig.sh("cd $KVMD_PST_DATA; echo one >f; chmod 640 f; chown 64101:64199 f")
        .must(0);
    let go = rig.dir().join("go");
    // The editor's option is passed, and the copy has the file's name.
    let script = format!(
        "[ \"$1\" = -- ] && [ \"${{2##*/}}\" = f ] && [ \"$(stat -c %a \"$2\" \"${{2%/f}}\" | tr '\\n' ' ')\" = '600 700 ' ] \
         || exit 9; echo two >>\"$2\"; until [ -e {} ]; do sleep 0.01; done",
        go.display()
    );
    let job = start(&mut rig.edit(None, &script, "f"));
    wait_until("the editor works", || {
        let copies = rig.copies();
        let copy = copies.first().map(|copy| copy.join("f"));
        copy.is_some_and(|copy| fs::read_to_string(copy).is_ok_and(|text| text == "one\ntwo\n"))
    });
    assert_eq!((rig.state().as_str(), rig.superblock()), ("ro", "ro"));
    fs::write(&go, "").expect("go");
    let ended = job.end().must(0);
    assert_eq!((ended.text(), ended.stderr.as_str()), (String::new(), ""));
    assert_eq!(rig.text("f"), "one\ntwo\n");
    let file = fs::metadata(rig.data().join("f")).expect("stat");
    assert_eq!(
        (file.uid(), file.gid(), file.mode() & 0o7777),
        (64101, 64199, 0o640)
    );
    assert_eq!(rig.copies(), Vec::<PathBuf>::new());
    let past = rig.status()["past"].to_string();
    assert!(past.contains("pst edit f"), "{past}");
}

#[test]
fn p12_without_a_change_no_session_is_opened() {
    needs_storage!();
    let rig = Rig::any();
    rig.sh("echo one >$KVMD_PST_DATA/f").must(0);
    let before = rig.granted();
    for (script, file) in [("true", "f"), ("touch \"$2\"", "f"), ("true", "new")] {
        let ended = rig.edit(None, script, file).to_end().must(0);
        assert_eq!(ended.text(), format!("{file} is unchanged"));
    }
    assert_eq!(rig.granted(), before);
    assert_eq!(rig.copies(), Vec::<PathBuf>::new());
    assert!(!rig.data().join("new").exists());
}

#[test]
fn p12_a_new_file_is_stored_also_if_the_editor_replaces_its_copy() {
    needs_storage!();
    let rig = Rig::any();
    let script = "echo new >\"$2.tmp\" && mv \"$2.tmp\" \"$2\" && echo backup >\"$2~\"";
    rig.edit(None, script, "new").to_end().must(0);
    assert_eq!(rig.text("new"), "new\n");
    assert_eq!(rig.copies(), Vec::<PathBuf>::new());
}

#[test]
fn p12_of_an_editor_that_fails_nothing_is_stored() {
    needs_storage!();
    let rig = Rig::any();
    rig.sh("echo one >$KVMD_PST_DATA/f").must(0);
    let before = rig.granted();
    for (script, why) in [
        (
            "echo two >\"$2\"; exit 3",
            "returned 3, so nothing is stored",
        ),
        (
            "echo two >\"$2\"; kill -TERM $$",
            "was ended by SIGTERM, so nothing is stored",
        ),
        (
            "rm \"$2\"",
            "no such file or directory; the editor removed it, so nothing is stored",
        ),
    ] {
        let ended = rig.edit(None, script, "f").to_end().must(1);
        assert!(ended.one_line().contains(why), "{ended:?}");
        // What was edited is not lost.
        if script.contains("two") {
            rig.takes_kept_copy(&ended, "f", "two\n");
        }
    }
    let mut none = rig.edit(None, "true", "f");
    let ended = none.env("EDITOR", "no-such-editor").to_end().must(1);
    assert!(
        ended
            .stderr
            .contains("the editor `no-such-editor` returned 127"),
        "{ended:?}"
    );
    assert_eq!((rig.text("f").as_str(), rig.granted()), ("one\n", before));
    assert_eq!(rig.copies(), Vec::<PathBuf>::new());
}

#[test]
fn p12_a_signal_during_the_edit_stores_nothing_and_keeps_the_copy() {
    needs_storage!();
    let rig = Rig::any();
    rig.sh("echo one >$KVMD_PST_DATA/f").must(0);
    let before = rig.granted();
    for name in ["TERM", "HUP"] {
        let script = format!("trap '' TERM HUP; echo two >\"$2\"; kill -{name} $PPID");
        let ended = rig.edit(None, &script, "f").to_end().must(1);
        let why = format!("interrupted by SIG{name}, so nothing is stored");
        assert!(ended.one_line().contains(&why), "{ended:?}");
        rig.takes_kept_copy(&ended, "f", "two\n");
    }
    assert_eq!((rig.text("f").as_str(), rig.granted()), ("one\n", before));
}

#[test]
fn p12_a_file_that_changed_meanwhile_is_kept_and_so_is_the_edited_copy() {
    needs_storage!();
    let rig = Rig::any();
    rig.sh("echo one >$KVMD_PST_DATA/f").must(0);
    for (file, change) in [
        ("f", "echo other >>$KVMD_PST_DATA/f"),
        ("f", "rm $KVMD_PST_DATA/f; echo other >$KVMD_PST_DATA/f"),
        ("g", "echo other >$KVMD_PST_DATA/g"),
        ("g", "rm $KVMD_PST_DATA/g"),
    ] {
        let script = format!("echo two >\"$2\"; pst run -q -- sh -c '{change}'");
        let ended = rig.edit(None, &script, file).to_end().must(1);
        assert!(
            ended
                .stderr
                .contains("was changed meanwhile, so nothing is stored"),
            "{ended:?}"
        );
        assert!(ended.stderr.contains(&format!("storing {file} failed")));
        rig.takes_kept_copy(&ended, file, "two\n");
    }
    assert_eq!(rig.text("f"), "other\n");
    assert!(!rig.data().join("g").exists());
}

#[test]
fn p12_what_cannot_be_edited_is_refused_before_the_editor_starts() {
    needs_root!("other users");
    let rig = Rig::ext4();
    rig.sh("cd $KVMD_PST_DATA; mkdir d; ln -s /etc/passwd absolute; mkfifo pipe; umask 077; echo x >roots")
        .must(0);
    for (who, file, why) in [
        (None, "d", "is a directory"),
        (None, "../x", "leaves the data directory"),
        (None, "/etc/passwd", "is not below the data directory"),
        (None, "absolute", "is a symlink to the absolute path"),
        (None, "pipe", "is a named pipe"),
        (None, "none/x", "no such file or directory"),
        (Some(MEMBER), "roots", "permission denied"),
        (Some(OUTSIDER), "f", "not allowed to open"),
    ] {
        let ended = rig.edit(who, "echo started >&2", file).to_end().must(1);
        assert!(ended.one_line().contains(why), "{ended:?}");
        assert!(!ended.stderr.contains("started"), "{ended:?}");
    }
    let mut unset = rig.edit(None, "true", "f");
    let nothing = rig.dir().join("nothing");
    fs::create_dir(&nothing).expect("a PATH without editors");
    unset.env_remove("EDITOR").env("PATH", nothing);
    let ended = unset.to_end().must(1);
    assert!(
        ended
            .one_line()
            .contains("no editor found; set EDITOR to one"),
        "{ended:?}"
    );
}

#[test]
fn p12_an_editor_has_the_terminal_and_its_keys() {
    needs_storage!();
    needs_tool!("nano", "tmux");
    let rig = Rig::any();
    let rc = rig.dir().join("nanorc");
    fs::write(&rc, "bind ^Z suspend main\n").expect("nanorc");
    let terminal = Terminal::new(&rig);
    let pst = rig.bin("pst");
    terminal.line(&format!(
        "EDITOR='nano --rcfile={}' {} edit notes",
        rc.display(),
        pst.display()
    ));
    terminal.await_screen("GNU nano");
    terminal.press(&["h", "e", "l", "l", "o"]);
    terminal.await_screen("hello");
    terminal.press(&["C-z"]);
    terminal.await_screen("Stopped");
    assert_eq!(rig.superblock(), "ro");
    terminal.line("fg");
    terminal.await_screen("GNU nano");
    // ^C is the editor's: it cancels the question for a name.
    terminal.press(&["C-o"]);
    terminal.await_screen("File Name to Write");
    terminal.press(&["C-c"]);
    terminal.await_screen("Cancelled");
    terminal.press(&["C-o", "Enter"]);
    terminal.await_screen("Wrote 1 line");
    terminal.press(&["C-x"]);
    terminal.line("echo code $?");
    terminal.await_screen("code 0");
    assert_eq!(rig.text("notes"), "hello\n");
    rig.await_superblock("ro");
}

#[test]
fn p12_an_interrupt_that_the_editor_survives_loses_nothing() {
    needs_storage!();
    needs_tool!("tmux");
    let rig = Rig::any();
    // As vim does: the terminal sends SIGINT to the whole group, and the editor catches it.
    let script =
        "trap got=1 INT; echo waits; while [ -z \"$got\" ]; do sleep 0.1; done; echo new >\"$2\"";
    drop(rig.edit(None, script, "f"));
    let terminal = Terminal::new(&rig);
    terminal.line(&format!(
        "EDITOR='{} --' {} edit f; echo code $?",
        rig.dir().join("editor").display(),
        rig.bin("pst").display()
    ));
    terminal.await_screen("waits");
    terminal.press(&["C-c"]);
    terminal.await_screen("code 0");
    assert_eq!(rig.text("f"), "new\n");
}

#[test]
fn p12_nothing_of_the_storage_is_open_while_the_editor_runs() {
    needs_storage!();
    let rig = Rig::any();
    rig.sh("echo one >$KVMD_PST_DATA/f").must(0);
    let job = start(
        rig.edit(None, "echo ready; cat >/dev/null", "f")
            .stdin(Stdio::piped()),
    );
    job.await_stdout("ready");
    for fd in fs::read_dir(format!("/proc/{}/fd", job.pid())).expect("fd") {
        let file = fs::read_link(fd.expect("fd").path()).unwrap_or_default();
        assert!(!file.starts_with(rig.mount()), "{file:?} is open");
    }
    job.end().must(0);
}
