//! P12: `pst put` under signals and errors at each of its system calls, on a failing medium, without inodes, and against
//! a member of the group who swaps names.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::atomic_faults::{Tally, calls, calls_file, inject, sample};
use crate::rig::{Fs, Job, MEMBER, Outcome, Rig, RunToEnd, Setup, alive, start, tool, wait_until};
use crate::{needs_root, needs_tool};

/// What is stored: more than one block of it.
const SIZE: usize = (1 << 20) + 5;

/// A rig with the file `f`, and another name of it.
fn with_file() -> Rig {
    let rig = Rig::ext4();
    fs::write(rig.dir().join("input"), vec![b'n'; SIZE]).expect("input");
    rig.sh("cd $KVMD_PST_DATA && echo old >f && setfattr -n user.note -v kept f && ln f link")
        .must(0);
    rig
}

/// The words of the process that stores the input as `file`, and makes its directories.
fn words(file: &str) -> Vec<String> {
    let size = SIZE.to_string();
    [".store", "0", &size, "", "", "", "1", "", file]
        .map(str::to_owned)
        .to_vec()
}

/// That process, run by hand while another session keeps the storage writable.
fn store(rig: &Rig, strace: &[String], file: &str) -> Outcome {
    let mut command = rig.command("strace");
    command.args(["-qq", "-o"]).arg(calls_file(rig));
    command.args(strace).arg(rig.bin("pst")).args(words(file));
    command.env("KVMD_PST_DATA", rig.data());
    command.stdin(input(rig)).to_end()
}

/// `pst put f`, perhaps behind strace.
fn put(rig: &Rig, strace: Option<&[String]>) -> Command {
    let pst = rig.bin("pst");
    let mut command = match strace {
        Some(options) => {
            let mut command = rig.command("strace");
            command.args(["-qq", "-o"]).arg(calls_file(rig));
            command.args(options).arg(pst);
            command
        }
        None => rig.command(pst),
    };
    command.args(["put", "f"]).stdin(input(rig));
    command
}

fn input(rig: &Rig) -> File {
    File::open(rig.dir().join("input")).expect("input")
}

/// Whether a file is as before or new. Fails if it is neither.
#[track_caller]
fn version(rig: &Rig, file: &str) -> &'static str {
    match fs::read(rig.data().join(file)) {
        Err(_) if file != "f" => "old",
        Ok(content) if content == b"old\n" && file == "f" => "old",
        Ok(content) if content == vec![b'n'; SIZE] => "new",
        other => panic!("{file}: {:?}", other.map(|content| content.len())),
    }
}

/// Makes all files old again.
fn reset(rig: &Rig) {
    if version(rig, "f") == "new" {
        fs::remove_file(rig.data().join("f")).expect("remove");
        fs::hard_link(rig.data().join("link"), rig.data().join("f")).expect("link");
    }
    let _ = fs::remove_dir_all(rig.data().join("a")); // it may be absent
}

/// The temporary files on the storage.
fn remains(rig: &Rig) -> Vec<PathBuf> {
    fn search(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("list").flatten() {
            let path = entry.path();
            if entry.file_type().expect("type").is_dir() {
                search(&path, found);
            } else if entry.file_name().to_string_lossy().starts_with(".pst-") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    search(&rig.data(), &mut found);
    found
}

/// Fails unless the next transaction succeeds and removes what the last one left.
#[track_caller]
fn next_must_clean(rig: &Rig, file: &str, context: &str) {
    let next = store(rig, &[], file);
    assert_eq!(next.code(), 0, "{context}: {next:?}");
    assert_eq!(version(rig, file), "new", "{context}");
    assert_eq!(remains(rig), Vec::<PathBuf>::new(), "{context}");
    let old = fs::read_to_string(rig.data().join("link")).expect("link");
    assert_eq!(
        old, "old\n",
        "{context}: the other name has another content"
    );
}

/// The calls from the one that opens the data directory on.
fn calls_on_storage(rig: &Rig, file: &str) -> Vec<(String, usize)> {
    reset(rig);
    store(rig, &[], file).must(0);
    let text = fs::read_to_string(calls_file(rig)).expect("calls");
    let data = format!("\"{}\"", rig.data().display());
    let begin = text.lines().position(|line| line.contains(&data));
    let before = text
        .lines()
        .take(begin.expect("it opens the data directory"));
    let before = before.filter(|line| line.starts_with("openat(")).count();
    let calls = calls(rig);
    let begin = calls
        .iter()
        .position(|call| *call == ("openat".to_owned(), before + 1));
    calls[begin.expect("it is among them")..].to_vec()
}

/// A file that is replaced, and one that needs new directories.
const FILES: [&str; 2] = ["f", "a/b/new"];

#[test]
fn p12_a_signal_at_any_call_of_the_process_that_stores_leaves_the_old_file_or_the_new_one() {
    needs_root!("a loop device");
    needs_tool!("strace", "setfattr");
    let rig = with_file();
    let session = rig.session();
    for file in FILES {
        let calls = calls_on_storage(&rig, file);
        println!("{file}: {} calls", calls.len());
        for signal in ["KILL", "TERM"] {
            let mut tally = Tally::default();
            for (name, number) in &calls {
                reset(&rig);
                let context = format!("{signal} at {name} {number} for {file}");
                let faults = inject(name, &format!("signal={signal}"), *number);
                let ended = store(&rig, &faults, file);
                tally.count(version(&rig, file));
                if signal == "TERM" {
                    let stored = version(&rig, file) == "new";
                    assert_eq!(ended.code(), i32::from(!stored), "{context}: {ended:?}");
                    assert_eq!(remains(&rig), Vec::<PathBuf>::new(), "{context}");
                }
                next_must_clean(&rig, file, &context);
            }
            tally.must_have_both();
        }
    }
    session.end().must(0);
    rig.await_state("ro");
}

#[test]
fn p12_a_put_that_is_killed_at_any_call_leaves_the_old_file_or_the_new_one() {
    needs_root!("a loop device");
    needs_tool!("strace", "setfattr");
    let rig = with_file();
    put(&rig, Some(&[])).to_end().must(0);
    let calls = calls(&rig);
    let mut tally = Tally::default();
    for (name, number) in sample(&calls) {
        let session = rig.session();
        reset(&rig);
        session.end().must(0);
        let _ = put(&rig, Some(&inject(name, "signal=KILL", *number))).to_end();
        rig.await_state("ro"); // its processes have ended
        tally.count(version(&rig, "f"));
        put(&rig, None).to_end().must(0);
        assert_eq!(version(&rig, "f"), "new");
        assert_eq!(remains(&rig), Vec::<PathBuf>::new(), "{name} {number}");
    }
    tally.must_have_both();
}

/// The calls that do something with files …
const ON_FILES: [&str; 22] = [
    "openat",
    "openat2",
    "mkdirat",
    "newfstatat",
    "fstat",
    "statx",
    "readlinkat",
    "getdents64",
    "listxattr",
    "getxattr",
    "fgetxattr",
    "fsetxattr",
    "fremovexattr",
    "fchown",
    "fchmod",
    "flock",
    "read",
    "write",
    "fsync",
    "linkat",
    "renameat",
    "renameat2",
];
/// … and those of them that need space.
const NEED_SPACE: [&str; 8] = [
    "openat",
    "mkdirat",
    "fsetxattr",
    "write",
    "fsync",
    "linkat",
    "renameat",
    "renameat2",
];

#[test]
fn p12_an_error_of_any_call_of_the_process_that_stores_leaves_the_old_file_or_the_new_one() {
    needs_root!("a loop device");
    needs_tool!("strace", "setfattr");
    let rig = with_file();
    let session = rig.session();
    for file in FILES {
        let calls = calls_on_storage(&rig, file);
        let mut tally = Tally::default();
        for (name, number) in calls
            .iter()
            .filter(|(name, _)| ON_FILES.contains(&name.as_str()))
        {
            for error in ["EIO", "ENOSPC", "EDQUOT"] {
                if error != "EIO" && !NEED_SPACE.contains(&name.as_str()) {
                    continue;
                }
                reset(&rig);
                let context = format!("{error} from {name} {number} for {file}");
                let faults = inject(name, &format!("error={error}"), *number);
                let ended = store(&rig, &faults, file);
                let version = version(&rig, file);
                match (ended.code(), version) {
                    (0, "new") => {}
                    (1, "old") => assert!(
                        ended.one_line().starts_with("pst: "),
                        "{context}: {ended:?}"
                    ),
                    (1, "new") => assert!(
                        ended
                            .one_line()
                            .contains("has its new content, but it may not be"),
                        "{context}: {ended:?}"
                    ),
                    other => panic!("{context}: {other:?} {ended:?}"),
                }
                assert_eq!(remains(&rig), Vec::<PathBuf>::new(), "{context}");
                if version == "old" {
                    assert!(
                        !rig.data().join("a").exists(),
                        "{context}: a directory is left"
                    );
                }
                if (ended.code(), file) == (0, "f") {
                    let mut note = [0; 16];
                    let path = rig.data().join("f");
                    let length = rustix::fs::getxattr(&path, "user.note", &mut note);
                    assert_eq!(length, Ok(4), "{context}: the attribute is lost");
                }
                tally.count(version);
                next_must_clean(&rig, file, &context);
            }
        }
        tally.must_have_both();
    }
    reset(&rig);
    let unlocked = store(&rig, &["-einject=flock:error=ENOLCK".to_owned()], "f");
    assert_eq!(unlocked.code(), 1, "{unlocked:?}");
    assert_eq!(remains(&rig), Vec::<PathBuf>::new());
    session.end().must(0);
}

/// The calls that change something on the storage, and the end.
const STEPS: [&str; 8] = [
    "mkdirat",
    "openat",
    "fchmod",
    "write",
    "fsync",
    "renameat2",
    "unlinkat",
    "exit_group",
];

/// The same process in a session, stopped by itself at a call.
fn stopped_at(rig: &Rig, name: &str, number: usize, file: &str) -> (Job, u32) {
    let mut command = rig.pst(["run", "-q", "--", "strace", "-qq", "-o"]);
    command.arg(calls_file(rig));
    command.args(inject(name, "signal=STOP", number));
    command.arg(rig.bin("pst")).args(words(file));
    fs::write(calls_file(rig), "").expect("calls");
    let job = start(command.stdin(input(rig)));
    wait_until("it is stopped", || {
        let calls = fs::read_to_string(calls_file(rig)).expect("calls");
        calls.contains("--- stopped by SIGSTOP ---")
    });
    let pids = fs::read_dir("/proc").expect("proc").flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let found = pids.find(|pid| {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.contains("\0.store\0") && !words.contains("strace") && rig.is_mine(*pid)
    });
    (job, found.expect("a process"))
}

#[test]
fn p12_a_daemon_that_is_killed_at_any_step_of_a_put_leaves_the_old_file_or_the_new_one() {
    needs_root!("a loop device");
    needs_tool!("strace", "setfattr");
    let mut rig = with_file();
    let session = rig.session();
    let calls = calls_on_storage(&rig, "f");
    session.end().must(0);
    let mut tally = Tally::default();
    for (name, number) in calls
        .iter()
        .filter(|(name, _)| STEPS.contains(&name.as_str()))
    {
        let session = rig.session();
        reset(&rig);
        session.end().must(0);
        let (job, pid) = stopped_at(&rig, name, *number, "f");
        rig.kill_daemon();
        let ended = job.end();
        assert_ne!(ended.code(), 0, "{name} {number}: {ended:?}");
        wait_until("it is gone", || !alive(pid));
        rig.start_daemon();
        rig.await_state("ro");
        tally.count(version(&rig, "f"));
        put(&rig, None).to_end().must(0);
        assert_eq!(version(&rig, "f"), "new");
        assert_eq!(remains(&rig), Vec::<PathBuf>::new(), "{name} {number}");
    }
    tally.must_have_both();
}

#[test]
fn p12_a_medium_that_refuses_writes_leaves_the_old_file() {
    needs_root!("a loop device");
    let rig = Setup::new(Fs::Ext4).backed_by_ext4().start();
    fs::write(rig.dir().join("input"), vec![b'n'; SIZE]).expect("input");
    rig.sh("cd $KVMD_PST_DATA && echo old >f").must(0);
    let session = rig.session();
    rig.refuse_writes(true);
    let failed = put(&rig, None).to_end();
    assert_ne!(failed.code(), 0, "{failed:?}");
    assert!(!failed.stderr.is_empty());
    drop(session);
    rig.refuse_writes(false);
    rig.repair();
    rig.await_state("ro");
    assert_eq!(version(&rig, "f"), "old");
    put(&rig, None).to_end().must(0);
    assert_eq!(version(&rig, "f"), "new");
    assert_eq!(remains(&rig), Vec::<PathBuf>::new());
}

#[test]
fn p12_the_last_inode_stores_a_file_but_not_its_directories() {
    needs_root!("a loop device");
    needs_tool!("setfattr");
    let rig = with_file();
    let fill = "mkdir fill && cd fill && seq 20000 | xargs touch; rm $(ls | head -n 1)";
    let filled = rig.sh(&format!("cd $KVMD_PST_DATA && {fill}"));
    assert!(filled.stderr.contains("No space left"), "{filled:?}");
    let source = rig.dir().join("input");
    let put = |words: &[&str]| {
        let mut command = rig.pst(["put"]);
        command
            .args(words)
            .arg(&source)
            .stdin(Stdio::null())
            .to_end()
    };
    let refused = put(&["-p", "a/b/new"]).must(1);
    let line = refused.one_line();
    assert!(
        line.contains("cannot make the directory") && line.contains("no space left on device"),
        "{line}"
    );
    assert!(line.contains("see `df` and `df -i`"), "{line}");
    assert!(!rig.data().join("a").exists());
    // The old file's inode is still in use, as `link` and until the new one takes its place.
    put(&["f"]).must(0);
    assert_eq!(version(&rig, "f"), "new");
    let none = put(&["f"]).must(1);
    assert!(none.one_line().contains("no inode is free"), "{none:?}");
    assert_eq!(version(&rig, "f"), "new");
    assert_eq!(remains(&rig), Vec::<PathBuf>::new());
    rig.await_state("ro");
}

/// Swaps the directory `top/real`, its files and root's temporary files with symlinks that lead out of the storage's data.
const SWAPPER: &str = r#"
import ctypes, os, select, sys
os.chdir(sys.argv[1] + "/top")
outside = sys.argv[2]
exchange = lambda one, two: ctypes.CDLL(None).renameat2(-100, one, -100, two, 2)
def attempt(act, *arguments):
    try:
        return act(*arguments)
    except OSError:
        return []
os.mkdir("real/sub")
for name, target in ("out", ""), ("real/link", "/f"), ("real/sub/link", "/f"):
    os.symlink(outside + target, name)
print("begun", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    exchange(b"real", b"out")
    exchange(b"real/f", b"real/link")
    exchange(b"real/sub", b"out")
    for directory in "real", "real/sub":
        for name in attempt(os.listdir, directory):
            path = directory + "/" + name
            if name.startswith(".pst-") and attempt(os.rename, path, path + ".taken") is None:
                attempt(os.symlink, outside + "/f", path)
"#;

#[test]
fn p8_a_member_who_swaps_names_gains_nothing_against_a_put_of_root() {
    needs_root!("another user");
    needs_tool!("python3", "strace", "setfattr");
    let rig = with_file();
    let session = rig.session();
    // On the same filesystem, so that nothing but its place protects it.
    let outside = rig.mount().join("outside");
    fs::create_dir(&outside).expect("outside");
    fs::write(outside.join("f"), "SECRET\n").expect("outside");
    fs::set_permissions(outside.join("f"), fs::Permissions::from_mode(0o600)).expect("chmod");
    let no_flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(outside.join("f"), "user.secret", b"SECRET", no_flags).expect("xattr");
    let look = || {
        let format = "%p %y %m %U:%G %s %n %T+ %C+ %l\n";
        tool(Command::new("find").arg(&outside).args(["-printf", format]))
    };
    let before = look();
    let top = rig.data().join("top");
    fs::create_dir_all(top.join("real")).expect("top");
    for directory in [&top, &top.join("real")] {
        chown(directory, Some(MEMBER.uid), None).expect("chown");
    }
    let mut swapper = rig.command_as(MEMBER, "python3");
    swapper.args(["-uc", SWAPPER]).arg(rig.data()).arg(&outside);
    let swapper = start(swapper.stdin(Stdio::piped()));
    swapper.await_stdout("begun");
    let mut codes = [0, 0];
    for round in 0..600 {
        let new = format!("top/real/new{round}/f");
        let files = ["top/real/f", "top/real/sub/f", "top/real/link", &new];
        let mut command = rig.command(rig.bin("pst"));
        command
            .args(words(files[round % files.len()]))
            .env("KVMD_PST_DATA", rig.data());
        let code = command.stdin(input(&rig)).to_end().code();
        codes[usize::try_from(code).expect("0 or 1")] += 1;
    }
    swapper.end().must(0);
    println!("stored, refused: {codes:?}");
    assert!(codes[0] > 0 && codes[1] > 0, "{codes:?}");
    assert_eq!(look(), before);
    let found = rig
        .command("grep")
        .args(["-rl", "SECRET"])
        .arg(rig.data())
        .to_end();
    assert_eq!(found.text(), "", "copied in");
    let attributes = tool(Command::new("getfattr").args(["-RPhd"]).arg(rig.data()));
    assert!(
        !attributes.contains("user.secret"),
        "copied in: {attributes}"
    );
    session.end().must(0);
    rig.await_state("ro");
}
