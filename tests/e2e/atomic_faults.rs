//! P12: `pst run --atomic` under signals and errors at each of its system calls, and on a failing medium.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use crate::atomic::{RENEW, atomic, entries, inventory, must_be_clean, version, with_tree};
use crate::needs_root;
use crate::rig::{Fs, Job, Outcome, Rig, RunToEnd, Setup, signal, start, wait_until};

/// The process that pst starts in a session, run by hand while another session keeps the storage writable.
fn transaction(rig: &Rig, strace: &[String], script: &str) -> Outcome {
    let mut command = rig.command("strace");
    command.args(["-qq", "-o"]).arg(calls_file(rig));
    command.args(strace).arg(rig.bin("pst"));
    command.args([".atomic", "0", "0", "tree", "sh", "-c", script]);
    command.env("KVMD_PST_DATA", rig.data()).to_end()
}

/// The options that make strace do `what` at a system call.
pub(crate) fn inject(name: &str, what: &str, number: usize) -> [String; 2] {
    [
        format!("-etrace={name}"),
        format!("-einject={name}:{what}:when={number}"),
    ]
}

pub(crate) fn calls_file(rig: &Rig) -> PathBuf {
    rig.dir().join("calls")
}

/// Calls that change nothing that another process sees.
const ON_NO_FILE: [&str; 12] = [
    "execve",
    "exit_group",
    "brk",
    "mmap",
    "munmap",
    "mprotect",
    "rt_sigaction",
    "rt_sigprocmask",
    "sigaltstack",
    "fcntl",
    "close",
    "lseek",
];

/// Each other system call of the traced process: its name, and its number among those of that name.
pub(crate) fn calls(rig: &Rig) -> Vec<(String, usize)> {
    let text = fs::read_to_string(calls_file(rig)).expect("calls");
    let mut counts = BTreeMap::new();
    let names = text.lines().filter_map(|line| line.split_once('('));
    let is_name = |name: &str| {
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    names
        .filter(|(name, _)| is_name(name) && !ON_NO_FILE.contains(name))
        .map(|(name, _)| {
            let count = counts.entry(name.to_owned()).or_insert(0);
            *count += 1;
            (name.to_owned(), *count)
        })
        .collect()
}

/// The rig's processes that make a transaction, by the name that they give themselves.
fn transactions(rig: &Rig) -> Vec<u32> {
    let pids = fs::read_dir("/proc").expect("proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name == "atomic\n" && rig.is_mine(*pid)
    })
    .collect()
}

/// Makes the tree old again.
fn reset(rig: &Rig) {
    for name in ["a", "sub/b"] {
        fs::write(rig.data().join("tree").join(name), "old\n").expect("reset");
    }
}

/// Fails unless the next transaction succeeds, changes nothing, and removes all that the last one left.
#[track_caller]
fn next_must_clean(rig: &Rig, context: &str) {
    let before = version(rig);
    let next = transaction(rig, &[], "true");
    assert_eq!(next.code(), 0, "{context}: {next:?}");
    assert_eq!(
        (entries(rig), version(rig)),
        (vec!["tree".to_owned()], before),
        "{context}"
    );
}

/// How often the tree was old and new.
#[derive(Default)]
pub(crate) struct Tally {
    old: usize,
    new: usize,
}

impl Tally {
    pub(crate) fn count(&mut self, version: &str) {
        match version {
            "old" => self.old += 1,
            "new" => self.new += 1,
            other => panic!("{other}"),
        }
    }

    #[track_caller]
    pub(crate) fn must_have_both(self) {
        println!("old {}, new {}", self.old, self.new);
        assert!(self.old > 0 && self.new > 0);
    }
}

/// Every fifth call, or with `PST_EVERY_CALL` all of them: `make attack` has the time.
pub fn sample(calls: &[(String, usize)]) -> impl Iterator<Item = &(String, usize)> {
    let every = std::env::var_os("PST_EVERY_CALL").is_some();
    let last = calls.len() - 1;
    let all = calls.iter().enumerate();
    all.filter(move |(at, _)| every || (last - at) % 5 == 0)
        .map(|(_, call)| call)
}

#[test]
fn p12_a_signal_at_any_system_call_leaves_the_old_tree_or_the_new_one() {
    needs_root!("tracing another process");
    let rig = with_tree();
    let session = rig.session();
    transaction(&rig, &[], RENEW).must(0);
    let calls = calls(&rig);
    assert!(calls.len() > 200, "{}", calls.len());
    for signal in ["KILL", "TERM"] {
        let mut tally = Tally::default();
        for (name, number) in sample(&calls) {
            reset(&rig);
            let context = format!("{signal} at {name} {number}");
            let faults = inject(name, &format!("signal={signal}"), *number);
            let ended = transaction(&rig, &faults, RENEW);
            let version = version(&rig);
            if signal == "TERM" {
                let expected = if ended.status.success() { "new" } else { "old" };
                assert_eq!(version, expected, "{context}");
                assert_eq!(entries(&rig), ["tree"], "{context}");
            } else {
                next_must_clean(&rig, &context);
            }
            tally.count(&version);
        }
        tally.must_have_both();
    }
    session.end().must(0);
    must_be_clean(&rig, &["tree"]);
}

#[test]
fn p12_a_run_that_is_killed_at_any_system_call_leaves_the_old_tree_or_the_new_one() {
    needs_root!("tracing another process");
    let rig = with_tree();
    let run = |strace: &[String]| {
        let mut command = rig.command("strace");
        command.args(["-qq", "-o"]).arg(calls_file(&rig));
        command.args(strace).arg(rig.bin("pst"));
        command.args(["run", "--atomic", "tree", "--", "sh", "-c", RENEW]);
        command.to_end()
    };
    run(&[]).must(0);
    let mut tally = Tally::default();
    for (name, number) in sample(&calls(&rig)) {
        rig.sh("cd $KVMD_PST_DATA/tree && echo old >a && echo old >sub/b")
            .must(0);
        run(&inject(name, "signal=KILL", *number));
        wait_until("its processes are gone", || transactions(&rig).is_empty());
        rig.await_state("ro");
        let before = version(&rig);
        tally.count(&before);
        atomic(&rig, "tree", "true").to_end().must(0);
        assert_eq!(version(&rig), before);
        must_be_clean(&rig, &["tree"]);
    }
    tally.must_have_both();
}

/// The calls that do something with files …
const ON_FILES: [&str; 28] = [
    "openat",
    "openat2",
    "mkdirat",
    "mknodat",
    "fstat",
    "newfstatat",
    "statx",
    "pread64",
    "pwrite64",
    "ftruncate",
    "ioctl",
    "listxattr",
    "getxattr",
    "lsetxattr",
    "lgetxattr",
    "lremovexattr",
    "fchmodat",
    "fchmod",
    "fchownat",
    "utimensat",
    "getdents64",
    "syncfs",
    "renameat2",
    "fsync",
    "flock",
    "readlinkat",
    "symlinkat",
    "linkat",
];
/// … and those of them that need space.
const NEED_SPACE: [&str; 11] = [
    "openat",
    "mkdirat",
    "mknodat",
    "pwrite64",
    "lsetxattr",
    "fchownat",
    "symlinkat",
    "linkat",
    "renameat2",
    "syncfs",
    "fsync",
];

#[test]
fn p12_an_error_of_any_system_call_leaves_the_old_tree_or_the_new_one() {
    needs_root!("tracing another process");
    let rig = with_tree();
    rig.sh(
        "cd $KVMD_PST_DATA/tree && ln -s a link && mkfifo pipe && chown 7:8 sub/b && chmod 4750 sub/b && \
         ln a plain && chattr +d a",
    )
    .must(0);
    let session = rig.session();
    let value = rig.data().join("tree/a");
    rustix::fs::setxattr(
        value,
        "user.name",
        b"value",
        rustix::fs::XattrFlags::empty(),
    )
    .expect("xattr");
    transaction(&rig, &[], RENEW).must(0);
    let whole = inventory(&rig);
    let calls = calls(&rig);
    let mut tally = Tally::default();
    let first = calls
        .iter()
        .position(|(name, _)| name == "flock")
        .expect("the lock");
    for (name, number) in calls[first - 1..]
        .iter()
        .filter(|(name, _)| ON_FILES.contains(&name.as_str()))
    {
        let needs_space = NEED_SPACE.contains(&name.as_str());
        for error in ["EIO", "ENOSPC", "EDQUOT"] {
            if error != "EIO" && !needs_space {
                continue;
            }
            let context = format!("{error} from {name} {number}");
            if version(&rig) == "new" {
                transaction(&rig, &[], &RENEW.replace("new", "old")).must(0);
            }
            let faults = inject(name, &format!("error={error}"), *number);
            let ended = transaction(&rig, &faults, RENEW);
            let version = version(&rig);
            match (ended.code(), version.as_str()) {
                (0, "new") => assert_eq!(sorted(&inventory(&rig)), sorted(&whole), "{context}"),
                (1, "old") => assert!(ended.stderr.contains("ERROR"), "{context}: {ended:?}"),
                (1, "new") => assert!(
                    ended.stderr.contains("is replaced, but"),
                    "{context}: {ended:?}"
                ),
                other => panic!("{context}: {other:?} {ended:?}"),
            }
            if let Some(kept) = entries(&rig)
                .iter()
                .find(|name| name.starts_with("pst-kept-"))
            {
                assert!(ended.stderr.contains(kept.as_str()), "{context}: {ended:?}");
                fs::remove_dir_all(rig.data().join(kept)).expect("remove");
            }
            next_must_clean(&rig, &context);
            tally.count(&version);
        }
    }
    tally.must_have_both();
    session.end().must(0);
}

/// Without the times, which RENEW changes.
fn sorted(inventory: &str) -> Vec<String> {
    let is_time = |word: &&str| word.contains('+') && word.contains(':');
    let lines = inventory.lines().map(|line| {
        let words: Vec<&str> = line.split(' ').filter(|word| !is_time(word)).collect();
        words.join(" ")
    });
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    lines
}

/// The calls that change something on the storage, and waiting for the command.
const STEPS: [&str; 12] = [
    "flock",
    "mkdirat",
    "pwrite64",
    "fchmodat",
    "utimensat",
    "clone",
    "ppoll",
    "syncfs",
    "renameat2",
    "fsync",
    "unlinkat",
    "exit_group",
];

/// A transaction that stops itself at a system call, in a session.
fn stopped_at(rig: &Rig, name: &str, number: usize) -> Job {
    let mut command = rig.pst(["run", "--", "strace", "-qq", "-o"]);
    command.arg(calls_file(rig));
    command.args(inject(name, "signal=STOP", number));
    command.arg(rig.bin("pst"));
    command.args([".atomic", "0", "0", "tree", "sh", "-c", RENEW]);
    fs::write(calls_file(rig), "").expect("calls");
    let job = start(command.stdin(Stdio::null()));
    wait_until("it is stopped", || {
        let calls = fs::read_to_string(calls_file(rig)).expect("calls");
        calls.contains("--- stopped by SIGSTOP ---")
    });
    job
}

#[test]
fn p12_a_daemon_that_is_killed_at_any_step_leaves_the_old_tree_or_the_new_one() {
    needs_root!("tracing another process");
    let mut rig = with_tree();
    let session = rig.session();
    transaction(&rig, &[], RENEW).must(0);
    session.end().must(0);
    let calls = calls(&rig);
    let mut tally = Tally::default();
    for (name, number) in calls
        .iter()
        .filter(|(name, _)| STEPS.contains(&name.as_str()))
    {
        rig.sh("cd $KVMD_PST_DATA/tree && echo old >a && echo old >sub/b")
            .must(0);
        let job = stopped_at(&rig, name, *number);
        rig.kill_daemon();
        let ended = job.end();
        assert_ne!(ended.code(), 0, "{name} {number}: {ended:?}");
        rig.start_daemon();
        rig.await_state("ro");
        let before = version(&rig);
        tally.count(&before);
        atomic(&rig, "tree", "true").to_end().must(0);
        assert_eq!(version(&rig), before);
        must_be_clean(&rig, &["tree"]);
    }
    tally.must_have_both();
}

#[test]
fn p12_a_change_between_the_check_and_the_swap_is_not_lost() {
    needs_root!("tracing another process");
    let rig = with_tree();
    // Stopped after the call, when the old tree is in the working area.
    let job = stopped_at(&rig, "renameat2", 1);
    let names = entries(&rig);
    let area = names
        .iter()
        .find(|name| name.starts_with(".pst-"))
        .expect("the area");
    let old = rig.data().join(area).join("tree/a");
    assert_eq!(fs::read_to_string(&old).expect("old"), "old\n");
    fs::write(old, "changed\n").expect("change");
    for pid in transactions(&rig) {
        signal(pid, "CONT");
    }
    let refused = job.end().must(1);
    let text = "tree/a changed while the command ran, so tree is not replaced; the copy is kept as pst-kept-";
    assert!(refused.stderr.contains(text), "{refused:?}");
    let read = |name: &str| fs::read_to_string(rig.data().join(name)).expect("file");
    assert_eq!(
        (read("tree/a"), read("tree/sub/b")),
        ("changed\n".into(), "old\n".into())
    );
    rig.await_state("ro");
}

#[test]
fn p12_a_medium_that_refuses_writes_leaves_the_old_tree() {
    needs_root!("a loop device");
    let rig = Setup::new(Fs::Ext4).backed_by_ext4().start();
    rig.sh("cd $KVMD_PST_DATA && mkdir -p tree/sub && echo old >tree/a && echo old >tree/sub/b")
        .must(0);
    let script = format!("{RENEW}; echo started; exec cat >/dev/null");
    let job = start(atomic(&rig, "tree", &script).stdin(Stdio::piped()));
    job.await_stdout("started");
    rig.refuse_writes(true);
    let ended = job.end();
    assert_ne!(ended.code(), 0, "{ended:?}");
    assert!(ended.stderr.contains("ERROR"), "{ended:?}");
    rig.refuse_writes(false);
    rig.repair();
    rig.await_state("ro");
    assert_eq!(version(&rig), "old");
    atomic(&rig, "tree", RENEW).to_end().must(0);
    assert_eq!(version(&rig), "new");
    must_be_clean(&rig, &["tree"]);
}

#[test]
fn p12_a_command_that_fills_the_storage_leaves_the_old_tree() {
    needs_root!("a loop device");
    let rig = with_tree();
    let fill = "cat /dev/zero >$KVMD_PST_DATA/tree/full";
    let full = atomic(&rig, "tree", &format!("{RENEW}; {fill}"))
        .to_end()
        .must(1);
    assert!(full.stderr.contains("No space left"), "{full:?}");
    assert_eq!(version(&rig), "old");
    must_be_clean(&rig, &["tree"]);
    atomic(&rig, "tree", RENEW).to_end().must(0);
    assert_eq!(version(&rig), "new");
    must_be_clean(&rig, &["tree"]);
}
