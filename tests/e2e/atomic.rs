//! P12: `pst run --atomic` leaves the old tree or the new one, whole.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lsetxattr};

use crate::needs_root;
use crate::rig::{
    Job, MEMBER, OUTSIDER, Outcome, PRIMARY, Person, Rig, RunToEnd, Setup, Terminal, signal, start,
    tool,
};

/// `pst run --atomic DIRECTORY -- sh -c SCRIPT`
pub(crate) fn atomic(rig: &Rig, directory: &str, script: &str) -> Command {
    rig.pst(["run", "--atomic", directory, "--", "sh", "-c", script])
}

fn atomic_as(rig: &Rig, who: Person, directory: &str, script: &str) -> Command {
    let mut command = rig.command_as(who, rig.bin("pst"));
    command.args(["run", "--atomic", directory, "--", "sh", "-c", script]);
    command
}

/// A rig with the tree `tree`, whose two files both say `old`.
pub(crate) fn with_tree() -> Rig {
    let rig = Rig::ext4();
    rig.sh("cd $KVMD_PST_DATA && mkdir -p tree/sub && echo old >tree/a && echo old >tree/sub/b")
        .must(0);
    rig
}

/// Makes the tree's two files say `new`.
pub(crate) const RENEW: &str = "cd $KVMD_PST_DATA/tree && echo new >a && echo new >sub/b";

/// What the two files say, which must be the same.
#[track_caller]
pub(crate) fn version(rig: &Rig) -> String {
    let read = |name| fs::read_to_string(rig.data().join("tree").join(name)).expect(name);
    let (a, b) = (read("a"), read("sub/b"));
    assert_eq!(a, b, "a mixture");
    a.trim_end().to_owned()
}

/// The names in the data directory, in order, without the lock file.
pub(crate) fn entries(rig: &Rig) -> Vec<String> {
    let list = fs::read_dir(rig.data()).expect("data").flatten();
    let mut names: Vec<String> = list
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != ".pst-lock")
        .collect();
    names.sort();
    names
}

#[track_caller]
pub(crate) fn must_be_clean(rig: &Rig, expected: &[&str]) {
    assert_eq!(entries(rig), expected);
    rig.await_state("ro");
    assert_eq!(rig.superblock(), "ro");
    assert!(!rig.needs_recovery());
}

/// Waits for the session's end, and lets the next transaction remove what it left.
#[track_caller]
fn must_be_clean_after_the_next(rig: &Rig) {
    rig.await_state("ro");
    let before = version(rig);
    atomic(rig, "tree", "true").to_end().must(0);
    assert_eq!(version(rig), before);
    must_be_clean(rig, &["tree"]);
}

#[test]
fn p12_a_command_that_returns_0_replaces_the_tree() {
    needs_root!("a loop device");
    let rig = with_tree();
    let script = format!("{RENEW}; cat {}/tree/a; pwd", rig.data().display());
    let done = atomic(&rig, "tree", &script).to_end().must(0);
    let text = done.text();
    let (before, area) = text.split_once('\n').expect("two lines");
    assert_eq!(before, "old", "the tree itself was changed");
    assert!(
        area.starts_with(&format!("{}/.pst-", rig.data().display())),
        "{area}"
    );
    let lines: Vec<&str> = done.stderr.lines().collect();
    assert_eq!(
        lines,
        [
            "--    INFO -- Opening PST session ...".to_owned(),
            format!(
                "--    INFO -- PST write is allowed: {}",
                rig.data().display()
            ),
            "--    INFO -- Running the process ...".to_owned(),
            "--    INFO -- Process finished: returncode=0".to_owned(),
        ]
    );
    assert_eq!(version(&rig), "new");
    must_be_clean(&rig, &["tree"]);
    assert_eq!(rig.on_medium("data/tree/sub/b"), "new");
}

#[test]
fn p12_the_directory_is_named_below_the_data_directory() {
    needs_root!("a loop device");
    let rig = with_tree();
    let absolute = rig.data().join("tree/sub");
    let absolute = absolute.to_str().expect("UTF-8");
    for directory in [absolute, "tree/sub", "./tree//sub/"] {
        let script = "cd $KVMD_PST_DATA/tree/sub && test ! -e ../a && date +%N >>b";
        atomic(&rig, directory, script).to_end().must(0);
    }
    let text = fs::read_to_string(rig.data().join("tree/sub/b")).expect("b");
    assert_eq!(text.lines().count(), 4);
    fs::create_dir(rig.dir().join("outside")).expect("mkdir");
    for (directory, reason) in [
        ("..", "is not below"),
        ("tree/../../x", "is not below"),
        ("/etc", "is not below"),
        (".", "cannot replace"),
        (rig.data().to_str().expect("UTF-8"), "cannot replace"),
        ("tree/a", "is not a directory"),
        ("none/x", "cannot open none"),
    ] {
        let refused = atomic(&rig, directory, "echo started").to_end().must(1);
        assert_eq!(refused.text(), "", "the command was started");
        assert!(refused.stderr.contains(reason), "{refused:?}");
        must_be_clean(&rig, &["tree"]);
    }
    rig.sh("ln -s /etc $KVMD_PST_DATA/link; ln -s tree $KVMD_PST_DATA/near")
        .must(0);
    for directory in ["link", "near", "near/sub", "link/ssl"] {
        let refused = atomic(&rig, directory, "echo started").to_end().must(1);
        assert_eq!(refused.text(), "", "the command was started");
    }
    must_be_clean(&rig, &["link", "near", "tree"]);
}

#[test]
fn p12_a_new_directory_appears_whole_and_an_empty_result_is_none() {
    needs_root!("a loop device");
    let rig = with_tree();
    let fill = "mkdir $KVMD_PST_DATA/new && echo x >$KVMD_PST_DATA/new/x";
    atomic(&rig, "new", &format!("{fill}; exit 3"))
        .to_end()
        .must(3);
    must_be_clean(&rig, &["tree"]);
    atomic(&rig, "new", fill).to_end().must(0);
    assert_eq!(rig.on_medium("data/new/x"), "x");
    must_be_clean(&rig, &["new", "tree"]);
    atomic(&rig, "none", "true").to_end().must(0);
    must_be_clean(&rig, &["new", "tree"]);
    atomic(&rig, "new", "rm -r $KVMD_PST_DATA/new")
        .to_end()
        .must(0);
    must_be_clean(&rig, &["tree"]);
}

#[test]
fn p12_a_command_that_fails_leaves_the_tree_as_it_was() {
    needs_root!("a loop device");
    let rig = with_tree();
    let before = fs::metadata(rig.data().join("tree")).expect("stat").ino();
    for (end, code) in [
        ("exit 7", 7),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -INT $$", 130),
        ("exec no-such-command", 127),
    ] {
        atomic(&rig, "tree", &format!("{RENEW}; {end}"))
            .to_end()
            .must(code);
        assert_eq!(version(&rig), "old");
        must_be_clean(&rig, &["tree"]);
    }
    let mut missing = rig.pst(["run", "--atomic", "tree", "--", "no-such-command"]);
    missing.to_end().must(127);
    must_be_clean(&rig, &["tree"]);
    let after = fs::metadata(rig.data().join("tree")).expect("stat").ino();
    assert_eq!(before, after);
}

#[test]
fn p12_what_the_command_leaves_beside_the_copy_is_kept_and_named() {
    needs_root!("a loop device");
    let rig = with_tree();
    let script = format!("{RENEW}; echo lost >$KVMD_PST_DATA/other");
    let refused = atomic(&rig, "tree", &script).to_end().must(1);
    assert!(
        refused.stderr.contains("the command created other"),
        "{refused:?}"
    );
    assert_eq!(version(&rig), "old");
    let kept = kept(&rig, &refused);
    assert_eq!(
        fs::read_to_string(kept.join("../other")).expect("kept"),
        "lost\n"
    );
}

/// The kept copy, which must be named.
#[track_caller]
fn kept(rig: &Rig, refused: &Outcome) -> std::path::PathBuf {
    let names = entries(rig);
    let name = names.iter().find(|name| name.starts_with("pst-kept-"));
    let name = name.unwrap_or_else(|| panic!("nothing is kept: {names:?} {refused:?}"));
    assert!(
        refused.stderr.contains(&format!("{name}/tree")),
        "{refused:?}"
    );
    rig.data().join(name).join("tree")
}

#[test]
fn p12_a_tree_that_changed_meanwhile_is_not_replaced_and_the_copy_is_kept() {
    needs_root!("a loop device");
    let rig = with_tree();
    let real = rig.data().join("tree");
    for change in [
        "echo other >sub/b",
        "touch sub/b",
        "chmod 600 a",
        "touch sub/c",
        "mv a c; mv c a",
        "rm a",
        "cd .. && mv tree x && cp -a x tree",
        "cd .. && rm -r tree",
    ] {
        rig.sh("cd $KVMD_PST_DATA && rm -rf * && mkdir -p tree/sub && echo old >tree/a && echo old >tree/sub/b")
            .must(0);
        let script = format!("{RENEW}; cd {} && {change}", real.display());
        let refused = atomic(&rig, "tree", &script).to_end().must(1);
        assert!(
            refused.stderr.contains("changed while the command ran"),
            "{change}: {refused:?}"
        );
        let copy = kept(&rig, &refused);
        assert_eq!(fs::read_to_string(copy.join("a")).expect("kept"), "new\n");
        // Not by the next one, either.
        let name = copy.parent().expect("area").to_owned();
        rig.sh("mkdir -p $KVMD_PST_DATA/tree/sub; echo old >$KVMD_PST_DATA/tree/a")
            .must(0);
        atomic(&rig, "tree", "true").to_end().must(0);
        assert!(name.join("tree/sub/b").exists(), "{change}");
        rig.await_state("ro");
    }
}

/// A transaction whose command has changed the copy and waits for its input's end.
fn waiting(rig: &Rig, directory: &str) -> Job {
    let script = format!("{RENEW}; echo started; exec cat >/dev/null");
    let job = start(atomic(rig, directory, &script).stdin(Stdio::piped()));
    job.await_stdout("started");
    job
}

#[test]
fn p12_two_transactions_take_turns() {
    needs_root!("a loop device");
    let rig = with_tree();
    let first = waiting(&rig, "tree");
    let append = "cd $KVMD_PST_DATA/tree && for f in a sub/b; do echo more >>$f; done";
    let mut second = start(&mut atomic(&rig, "tree", append));
    second.await_stderr("Waiting for another");
    assert!(second.is_running());
    assert!(!second.stderr().contains("Opening"), "a session is open");
    first.end().must(0);
    second.end().must(0);
    assert_eq!(version(&rig), "new\nmore");
    must_be_clean(&rig, &["tree"]);
    // A signal ends the wait.
    let first = waiting(&rig, "tree");
    let second = start(&mut atomic(&rig, "tree", append));
    second.await_stderr("Waiting for another");
    second.signal("INT");
    assert_eq!(second.end().status.signal(), Some(2));
    first.end().must(0);
    must_be_clean(&rig, &["tree"]);
}

#[test]
fn p12_only_those_who_may_write_can_hold_the_lock() {
    needs_root!("other users");
    let rig = with_tree();
    atomic(&rig, "tree", "true").to_end().must(0);
    let lock = rig.data().join(".pst-lock");
    let (data, file) = (
        fs::metadata(rig.data()).expect("stat"),
        fs::metadata(&lock).expect("stat"),
    );
    assert_eq!(
        (file.uid(), file.gid(), file.mode() & 0o7777),
        (data.uid(), data.gid(), 0o440)
    );
    let holds = |who| {
        let mut flock = rig.command_as(who, "flock");
        let outcome = flock.arg("-n").arg(&lock).arg("true").to_end();
        outcome.code() == 0
    };
    assert!(holds(MEMBER) && !holds(OUTSIDER));
    // One that a crash left before it was shared is shared by the next.
    rig.sh("cd $KVMD_PST_DATA && rm -f .pst-lock && umask 0377 && touch .pst-lock")
        .must(0);
    assert!(!holds(MEMBER));
    atomic(&rig, "tree", "true").to_end().must(0);
    assert!(holds(MEMBER) && !holds(OUTSIDER));
    // A file with content is none.
    rig.sh("cd $KVMD_PST_DATA && rm -f .pst-lock && umask 0377 && echo secret >.pst-lock")
        .must(0);
    atomic(&rig, "tree", "true").to_end().must(0);
    assert!(!holds(MEMBER));
    // One that another user made first is respected.
    rig.sh("rm -f $KVMD_PST_DATA/.pst-lock").must(0);
    let make = "mkdir -p $KVMD_PST_DATA/own";
    atomic_as(&rig, MEMBER, "own", make).to_end().must(0);
    assert_eq!(fs::metadata(&lock).expect("stat").uid(), MEMBER.uid);
    assert!(holds(PRIMARY) && !holds(OUTSIDER));
    atomic(&rig, "tree", RENEW).to_end().must(0);
    assert_eq!(version(&rig), "new");
}

#[test]
fn p12_signals_reach_the_command_once_and_its_code_decides() {
    needs_root!("a loop device");
    let rig = with_tree();
    let script = format!(
        r#"{RENEW}; trap "echo got >>../got" $2; mv a ../a2; mv ../a2 a; echo started
        until [ -e ../got ]; do sleep .01; done; mv ../got got; exit $1"#
    );
    // After a signal that asks the command to end, 0 does not mean that it has done its work.
    for (signal, code, end, expected) in [
        ("USR1", "0", 0, "new"),
        ("USR1", "9", 9, "old"),
        ("TERM", "0", 1, "old"),
        ("TERM", "9", 9, "old"),
        ("HUP", "0", 1, "old"),
    ] {
        rig.sh("cd $KVMD_PST_DATA/tree && rm -f got && echo old >a && echo old >sub/b")
            .must(0);
        let mut command = rig.pst(["run", "--atomic", "tree", "--", "sh", "-c", &script, "sh"]);
        let job = start(command.args([code, signal]));
        job.await_stdout("started");
        job.signal(signal);
        let ended = job.end().must(end);
        assert_eq!(version(&rig), expected);
        let interrupted = format!("interrupted by SIG{signal}, so tree is unchanged");
        assert_eq!(ended.stderr.contains(&interrupted), end == 1, "{ended:?}");
        if expected == "new" {
            let got = fs::read_to_string(rig.data().join("tree/got")).expect("got");
            assert_eq!(got, "got\n");
        }
        must_be_clean(&rig, &["tree"]);
    }
}

#[test]
fn p12_a_command_that_ends_with_0_because_pst_run_was_killed_does_not_count() {
    needs_root!("a loop device");
    let rig = with_tree();
    let script = format!("trap 'exit 0' TERM; {RENEW}; echo started; while :; do sleep .01; done");
    let job = start(&mut atomic(&rig, "tree", &script));
    job.await_stdout("started");
    job.signal("KILL");
    job.end();
    must_be_clean_after_the_next(&rig);
    assert_eq!(version(&rig), "old");
}

#[test]
fn p12_a_signal_to_the_process_group_reaches_the_command_once() {
    needs_root!("a loop device");
    let rig = with_tree();
    // Its parent is stopped until the command has seen the first signal, so that a second one is not merged with it.
    let script = r#"trap "echo USR1" USR1; trap "echo USR2; exit 5" USR2; kill -STOP $PPID; echo "parent $PPID"
        while :; do sleep .01; done"#;
    let mut command = rig.command("setsid");
    command.arg(rig.bin("pst"));
    command.args(["run", "--atomic", "tree", "--", "sh", "-c", script]);
    let job = start(&mut command);
    job.await_stdout("parent ");
    let group = format!("kill -USR1 -{}", job.pid());
    rig.command("sh").args(["-c", &group]).to_end().must(0);
    job.await_stdout("USR1");
    let parent = job.stdout();
    let parent = parent.lines().find_map(|line| line.strip_prefix("parent "));
    signal(parent.expect("a pid").parse().expect("a pid"), "CONT");
    job.signal("USR2"); // reaches the command after all that was sent before
    let ended = job.end().must(5);
    assert_eq!(ended.text().matches("USR1").count(), 1, "{ended:?}");
}

#[test]
fn p12_keys_reach_the_command_once() {
    needs_root!("a loop device");
    let rig = with_tree();
    let terminal = Terminal::new(&rig);
    let script = r#"trap "echo; echo INTERRUPTED" INT; echo READY; until [ "$x" = stop ]; do read x; done; exit 5"#;
    let pst = rig.bin("pst");
    terminal.line(&format!(
        "{} run --atomic tree -- bash -c '{script}'",
        pst.display()
    ));
    terminal.await_screen("\nREADY");
    terminal.press(&["C-z"]);
    terminal.await_screen("Stopped");
    terminal.line("fg");
    terminal.press(&["C-c"]);
    terminal.await_screen("\nINTERRUPTED");
    terminal.line("stop");
    terminal.await_screen("returncode=5");
    let screen = terminal.screen();
    assert_eq!(screen.matches("\nINTERRUPTED").count(), 1, "{screen}");
    must_be_clean(&rig, &["tree"]);
}

#[test]
fn p12_the_command_may_change_its_user() {
    needs_root!("other users");
    let rig = with_tree();
    rig.sh(&format!(
        "cd $KVMD_PST_DATA && mkdir -p own/sub && chown -R {0}:{0} own",
        MEMBER.uid
    ))
    .must(0);
    for directory in ["own", "own/sub"] {
        let script = format!("echo new >$KVMD_PST_DATA/{directory}/f");
        let mut command = rig.pst(["run", "--atomic", directory, "--"]);
        command.args(MEMBER.prefix()).args(["sh", "-c", &script]);
        command.to_end().must(0);
        let file = fs::metadata(rig.data().join(directory).join("f")).expect("stat");
        assert_eq!(file.uid(), MEMBER.uid);
    }
    must_be_clean(&rig, &["own", "tree"]);
}

#[test]
fn p12_who_may_not_enter_the_directories_above_may_not_read_the_copy() {
    needs_root!("other users");
    let rig = Rig::ext4();
    rig.sh("cd $KVMD_PST_DATA && umask 022 && mkdir -pm 700 private && mkdir private/c && echo secret >private/c/k")
        .must(0);
    let job = start(atomic(&rig, "private/c", "echo started; cat").stdin(Stdio::piped()));
    job.await_stdout("started");
    let read = format!("cat {}/.pst-*/private/c/k", rig.data().display());
    for who in [MEMBER, OUTSIDER] {
        let mut cat = rig.command_as(who, "sh");
        let read = cat.args(["-c", &read]).to_end();
        assert_eq!((read.code(), read.text().as_str()), (1, ""), "{read:?}");
    }
    job.end().must(0);
    must_be_clean(&rig, &["private"]);
}

#[test]
fn p12_the_directories_above_the_copy_have_the_owner_and_permissions_of_the_real_ones() {
    needs_root!("other users");
    let rig = Rig::ext4();
    let session = rig.session_with(&format!(
        "cd $KVMD_PST_DATA && mkdir -p a/b/c/tree && chown 12:34 a && chmod 2751 a &&
        chown {0}:{0} a/b && chmod 1777 a/b/c",
        MEMBER.uid
    ));
    let (access, default) = ("system.posix_acl_access", "system.posix_acl_default");
    let b = rig.data().join("a/b");
    for name in [access, default] {
        lsetxattr(&b, name, &acl(7, 5), XattrFlags::empty()).expect("setxattr");
    }
    session.end().must(0);
    let list = r#"cd "$KVMD_PST_DATA" && stat -c '%n %u:%g %a' a a/b a/b/c"#;
    let done = atomic(&rig, "a/b/c/tree", list).to_end().must(0);
    let expected = format!("a 12:34 2751\na/b {0}:{0} 751\na/b/c 0:0 1755", MEMBER.uid);
    assert_eq!(done.text(), expected);
    let script = "cd $KVMD_PST_DATA && getfattr -Rdm system.posix a";
    let acls = |prefix: &str| {
        let script = script.replace("$KVMD_PST_DATA", prefix);
        atomic(&rig, "a/b/c/tree", &script).to_end().must(0).text()
    };
    let (real, copied) = (
        acls(&rig.data().display().to_string()),
        acls("$KVMD_PST_DATA"),
    );
    assert_eq!(real.matches("system.posix").count(), 2, "{real}");
    assert_eq!(copied.matches("system.posix").count(), 2, "{copied}");
    // Whose owner the caller may not set is the caller's alone.
    rig.sh(&format!(
        "cd $KVMD_PST_DATA && mkdir -p shared/own && chmod 777 shared && chown {0}:{0} shared/own",
        MEMBER.uid
    ))
    .must(0);
    let list = r#"stat -c '%u %a' "$KVMD_PST_DATA/shared""#;
    let done = atomic_as(&rig, MEMBER, "shared/own", list).to_end().must(0);
    assert_eq!(done.text(), format!("{} 700", MEMBER.uid));
    must_be_clean(&rig, &["a", "shared"]);
}

#[test]
fn p12_a_new_directory_gets_the_data_directorys_default_acl_and_a_copy_only_its_own() {
    needs_root!("a loop device");
    let rig = with_tree();
    let session = rig.session_with("chmod g+s $KVMD_PST_DATA");
    let default = "system.posix_acl_default";
    lsetxattr(rig.data(), default, &acl(7, 5), XattrFlags::empty()).expect("setxattr");
    session.end().must(0);
    let acls = |name: &str| {
        let path = rig.data().join(name);
        let values = ["system.posix_acl_access", default].map(|acl| {
            let mut value = vec![0; 4096];
            let length = lgetxattr(&path, acl, &mut value[..]).unwrap_or(0);
            value.truncate(length);
            value
        });
        (values, fs::metadata(&path).expect("stat").mode())
    };
    let before = ["tree", "tree/a", "tree/sub"].map(acls);
    assert!(before[0].0[0].is_empty());
    atomic(&rig, "tree", "true").to_end().must(0);
    assert_eq!(["tree", "tree/a", "tree/sub"].map(acls), before);
    let make = |directory: &str| {
        format!(
            "umask 022; mkdir $KVMD_PST_DATA/{directory} && echo x >$KVMD_PST_DATA/{directory}/f"
        )
    };
    atomic(&rig, "new", &make("new")).to_end().must(0);
    rig.sh(&make("plain")).must(0);
    assert_eq!(["new", "new/f"].map(acls), ["plain", "plain/f"].map(acls));
    assert!(!acls("new").0[1].is_empty());
    let group = |name: &str| fs::metadata(rig.data().join(name)).expect("stat").gid();
    assert_eq!(group("new/f"), group("plain/f"));
    must_be_clean(&rig, &["new", "plain", "tree"]);
}

#[test]
fn p12_no_descriptor_of_the_transaction_reaches_the_command() {
    needs_root!("a loop device");
    let rig = with_tree();
    let list = "exec ls -l /proc/self/fd";
    let without = rig.sh(list).must(0).text();
    for _ in 0..2 {
        let listed = atomic(&rig, "tree", list).to_end().must(0).text();
        assert_eq!(listed.lines().count(), without.lines().count(), "{listed}");
    }
}

#[test]
fn p12_a_daemon_that_dies_leaves_the_old_tree() {
    needs_root!("a loop device");
    let mut rig = with_tree();
    for end in ["TERM", "KILL"] {
        let job = waiting(&rig, "tree");
        rig.signal_daemon(end);
        rig.end_daemon();
        let ended = job.end();
        assert_ne!(ended.code(), 0, "{ended:?}");
        rig.start_daemon();
        assert_eq!(version(&rig), "old");
        must_be_clean_after_the_next(&rig);
    }
}

#[test]
fn p12_a_member_replaces_its_own_tree_and_is_told_the_right_that_is_missing_for_others() {
    needs_root!("other users");
    let rig = with_tree();
    let make = "mkdir $KVMD_PST_DATA/own && echo 1 >$KVMD_PST_DATA/own/f";
    atomic_as(&rig, MEMBER, "own", make).to_end().must(0);
    let own = fs::metadata(rig.data().join("own")).expect("stat");
    assert_eq!(own.uid(), MEMBER.uid);
    let change = "echo started >>$KVMD_PST_DATA/own/f";
    atomic_as(&rig, MEMBER, "own", change).to_end().must(0);
    must_be_clean(&rig, &["own", "tree"]);
    // A file of root's, deep in it.
    let file = rig.data().join("own/f");
    rig.sh(&format!("chown 0:0 {}", file.display())).must(0);
    let refused = atomic_as(&rig, MEMBER, "own", "echo started")
        .to_end()
        .must(1);
    assert_eq!(refused.text(), "", "the command was started");
    assert!(
        refused
            .stderr
            .contains("cannot copy own/f, which belongs to root:root")
            && refused.stderr.contains("run it as root"),
        "{refused:?}"
    );
    must_be_clean(&rig, &["own", "tree"]);
    let refused = atomic_as(&rig, MEMBER, "tree", "echo started")
        .to_end()
        .must(1);
    assert_eq!(refused.text(), "", "the command was started");
    assert!(
        refused
            .stderr
            .contains("cannot write to tree: permission denied"),
        "{refused:?}"
    );
    must_be_clean(&rig, &["own", "tree"]);
}

#[test]
fn p12_a_member_replaces_a_tree_with_directories_that_even_the_owner_may_not_write_to() {
    needs_root!("other users");
    let rig = with_tree();
    let make = "cd $KVMD_PST_DATA && mkdir -p own/r/deep && touch own/f own/r/f own/r/deep/f && chmod 500 own/r/deep own/r";
    rig.run_as(MEMBER, ["sh", "-c", make]).to_end().must(0);
    for (script, code) in [
        ("true", 0),
        ("false", 1),
        // The copy is removed. It can be neither listed nor entered.
        ("chmod 0 $KVMD_PST_DATA/own/r/deep; false", 1),
    ] {
        let done = atomic_as(&rig, MEMBER, "own", script).to_end().must(code);
        assert!(!done.stderr.contains("WARNING"), "{done:?}");
        must_be_clean(&rig, &["own", "tree"]);
    }
    let mode = fs::metadata(rig.data().join("own/r")).expect("stat").mode();
    assert_eq!(mode & 0o7777, 0o500);
}

#[test]
fn p12_without_room_for_the_copy_the_command_is_not_started() {
    needs_root!("a loop device");
    let rig = with_tree();
    rig.sh("head -c 14M /dev/urandom >$KVMD_PST_DATA/tree/big")
        .must(0);
    let refused = atomic(&rig, "tree", "echo started").to_end().must(1);
    assert_eq!(refused.text(), "", "the command was started");
    assert!(
        refused
            .stderr
            .contains("PST write is denied: a copy of tree needs ")
            && refused.stderr.contains(" MiB) are free"),
        "{refused:?}"
    );
    must_be_clean(&rig, &["tree"]);
    rig.sh("rm $KVMD_PST_DATA/tree/big; cd $KVMD_PST_DATA/tree/sub; seq 5000 | xargs touch")
        .must(0);
    let refused = atomic(&rig, "tree", "echo started").to_end().must(1);
    assert_eq!(refused.text(), "", "the command was started");
    assert!(refused.stderr.contains(" needs 500"), "{refused:?}");
    assert!(refused.stderr.contains(" inodes, "), "{refused:?}");
    must_be_clean(&rig, &["tree"]);
}

#[test]
fn p12_the_copy_keeps_everything() {
    needs_root!("owners and attributes");
    let rig = Setup::any().start();
    let make = "cd $KVMD_PST_DATA && mkdir tree tree/d && cd tree &&
        echo x >plain && chown 12:34 plain && chmod 4751 plain && touch -d '2001-02-03 04:05:06.789' plain &&
        ln plain hard && ln hard d/hard && ln -s plain link && ln -s /none/x dangling && chown -h 5:6 dangling &&
        mkfifo -m 640 fifo && truncate -s 3M holes && printf x | dd of=holes bs=1 seek=1M conv=notrunc status=none &&
        printf '%s' \"$(head -c 300 /dev/zero | tr '\\0' a)\" >d/300 && chmod 0 d/300 &&
        touch 'new
line' && mkdir -m 1777 d/sticky && chmod 2750 d && chown 7:8 d &&
        chattr +d d/300 &&
        touch -h -d '2002-01-01 00:00:00.5' link d/300 fifo && touch -d '2003-01-01' d .";
    let session = rig.session_with(make);
    let tree = rig.data().join("tree");
    let set = |path: &str, name: &str, value: &[u8]| {
        let path = tree.join(path);
        lsetxattr(&path, name, value, XattrFlags::empty()).expect("setxattr");
    };
    set("plain", "user.name", b"value");
    set("d", "trusted.name", &[7; 600]);
    set("link", "trusted.name", b"of a symlink");
    set("plain", "system.posix_acl_access", &acl(6, 4));
    set("d", "system.posix_acl_access", &acl(7, 5));
    set("d", "system.posix_acl_default", &acl(7, 5));
    session.end().must(0);
    let before = inventory(&rig);
    atomic(&rig, "tree", "true").to_end().must(0);
    let after = inventory(&rig);
    assert_eq!(before, after);
    for name in [
        "user.name",
        "trusted.name",
        "posix_acl_access",
        "posix_acl_default",
    ] {
        assert!(before.contains(name), "{before}");
    }
    must_be_clean(&rig, &["tree"]);
}

/// An access control list with one named user and one named group; linux/posix_acl_xattr.h.
fn acl(user: u16, group: u16) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in [
        (0x01, 7, u32::MAX),
        (0x02, user, 77),
        (0x04, 5, u32::MAX),
        (0x08, group, 78),
        (0x10, 7, u32::MAX),
        (0x20, 1, u32::MAX),
    ] {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// All that can be seen of the tree, without the inodes' numbers and ctimes.
pub(crate) fn inventory(rig: &Rig) -> String {
    let tree = rig.data().join("tree");
    let script = "cd \"$1\" && find . -printf '%p %y %m %U:%G %s %n %T+ %l\\n' | sort &&
        find . -type f -exec stat -c '%n %b' {} + | sort && find . -samefile plain | sort &&
        find . -type f | sort | xargs -d '\\n' cat | cksum && lsattr -R . | sort";
    let mut text = tool(rig.command("sh").args(["-c", script, "sh"]).arg(&tree));
    let names = tool(
        rig.command("find")
            .arg(&tree)
            .args(["-not", "-name", "new*"]),
    );
    for path in names.lines().filter(|path| !path.is_empty()).map(Path::new) {
        let mut list = vec![0; 4096];
        let Ok(length) = llistxattr(path, &mut list[..]) else {
            continue; // the second line of a name
        };
        let mut names: Vec<&[u8]> = list[..length].split(|byte| *byte == 0).collect();
        names.sort();
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            let mut value = vec![0; 4096];
            let length = lgetxattr(path, name, &mut value[..]).expect("getxattr");
            let (name, value) = (String::from_utf8_lossy(name), &value[..length]);
            writeln!(text, "{} {name} {value:?}", path.display()).expect("text");
        }
    }
    text
}

#[test]
fn p12_what_a_copy_cannot_keep_is_refused_before_the_command() {
    needs_root!("a loop device");
    let rig = with_tree();
    for (make, unmake, reason) in [
        (
            "ln tree/a outside",
            "rm outside",
            "tree/a has 2 hard links, only 1 of them",
        ),
        (
            "chattr +i tree/a",
            "chattr -i tree/a",
            "tree/a: operation not permitted",
        ),
    ] {
        rig.sh(&format!("cd $KVMD_PST_DATA && {make}")).must(0);
        let refused = atomic(&rig, "tree", "echo started").to_end().must(1);
        assert_eq!(refused.text(), "", "the command was started");
        assert!(refused.stderr.contains(reason), "{refused:?}");
        rig.sh(&format!("cd $KVMD_PST_DATA && {unmake}")).must(0);
        must_be_clean(&rig, &["tree"]);
    }
    let over = rig.data().join("tree/sub");
    tool(
        rig.command("mount")
            .args(["-t", "tmpfs", "tmpfs"])
            .arg(&over),
    );
    let refused = atomic(&rig, "tree", "echo started").to_end();
    tool(rig.command("umount").arg(&over));
    assert_eq!(refused.must(1).text(), "", "the command was started");
    must_be_clean(&rig, &["tree"]);
}
