//! P10: whatever keeps it from going read-only is named; and what does not, does not.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::rig::{
    Fs, Job, MEMBER, Rig, RunToEnd, Setup, attach, promptly, signal, start, tool, wait_until,
};
use crate::{needs_root, needs_tool};

/// So many tries refused: the next one that a timer triggers is then more than
/// [`crate::rig::promptly`]'s bound away, so that it is the kernel's word that counts.
const TRIES: usize = 6;

/// With a log that shows each try.
fn rig() -> Rig {
    let mut rig = Setup::new(Fs::Ext4).stopped().start();
    let mut daemon = rig.daemon_command();
    daemon.env("RUST_LOG", "debug");
    rig.start_daemon_as(daemon);
    rig
}

fn tries(rig: &Rig) -> usize {
    rig.log().matches("remount: Busy").count()
}

/// A process that holds something of the storage, taken while a session lives.
fn hold(rig: &Rig, mut command: std::process::Command, what: &str) -> (Job, String) {
    let path = rig.data().join("held").to_str().expect("UTF-8").to_owned();
    let script = script(rig);
    std::fs::write(&script, include_str!("hold.py")).expect("script");
    command.args([&script, what, &path]);
    let holder = start(command.stdin(Stdio::piped()));
    holder.await_stdout("holding");
    (holder, path)
}

fn script(rig: &Rig) -> String {
    rig.dir()
        .join("hold.py")
        .to_str()
        .expect("UTF-8")
        .to_owned()
}

fn holders(rig: &Rig) -> Value {
    rig.status()["holders"].clone()
}

/// What a status says of a holder without its process.
fn nobody(command: Option<&str>, path: &str) -> Value {
    let kind = if command.is_some() { "loop" } else { "swap" };
    json!({"kind": kind, "pid": null, "uid": null, "user": null, "command": command, "path": path})
}

/// It is stuck by `holder`, named in status and log; gone, it goes read-only.
#[track_caller]
fn assert_named_until(rig: &Rig, holder: impl Fn(&Value) -> bool, logged: &[&str]) {
    rig.await_state("stuck");
    assert_eq!(rig.superblock(), "rw");
    wait_until("it is named in the status", || {
        holders(rig).as_array().is_some_and(|all| !all.is_empty())
    });
    let named = holders(rig);
    assert_eq!(named.as_array().map(Vec::len), Some(1), "{named}");
    assert!(holder(&named[0]), "{named}");
    let log = rig.log();
    let line = log
        .lines()
        .find(|line| line.contains("kept from read-only"));
    let line = line.unwrap_or_else(|| panic!("nothing in the log:\n{log}"));
    for part in logged {
        assert!(line.contains(part), "no {part:?} in {line:?}");
    }
    rig.pst(["status"]).to_end().must(1);
    wait_until("it is tried again and again", || tries(rig) >= TRIES);
    // Named once, not at each try.
    assert_eq!(rig.log().matches("kept from read-only").count(), 1);
}

#[track_caller]
fn assert_free(rig: &Rig) {
    promptly("the superblock is ro", || rig.superblock() == "ro");
    rig.await_state("ro");
    assert!(!rig.needs_recovery());
    assert_eq!(holders(rig), json!([]));
    rig.must_serve();
}

/// One that a process holds, of which the kernel tells when it is gone.
#[track_caller]
fn assert_process_named(what: &str, shown: impl Fn(&str, &str) -> bool) {
    let rig = rig();
    let session = rig.session();
    let (mut holder, path) = hold(&rig, rig.command("python3"), what);
    session.end().must(0);
    let pid = holder.pid();
    let command = format!("python3 {} {what} {path}", script(&rig));
    assert_named_until(
        &rig,
        |named| {
            (&named["pid"], &named["user"], &named["command"])
                == (&json!(pid), &json!("root"), &json!(command))
                && named["path"]
                    .as_str()
                    .is_some_and(|said| shown(said, &path))
        },
        &[&format!("pid {pid} of user 0, `{command}`: ")],
    );
    holder.release();
    assert_free(&rig);
}

fn deleted(said: &str, path: &str) -> bool {
    said == format!("{path} (deleted)")
}

#[test]
fn p10_a_descriptor_open_for_writing_is_named() {
    needs_root!("a look at other processes");
    needs_tool!("python3");
    assert_process_named("writer", |said, path| said == path);
}

/// Runs `script`, which leaves writers behind, and `pst status` at once. Both must name the first writer.
#[track_caller]
fn assert_leftover_named(rig: &Rig, script: &str, json: bool, others: &str) {
    let ended = rig.pst(["run", "-q", "sh", "-c", script]).to_end().must(0);
    let status: &[&str] = if json {
        &["status", "--json"]
    } else {
        &["status"]
    };
    let shown = rig.pst(status).to_end();
    let path = rig.data().join("log").display().to_string();
    let read = |name: &str| std::fs::read_to_string(rig.dir().join(name)).expect("a pid");
    let pids: Vec<String> = read("pids").lines().map(str::to_owned).collect();
    let named = pids.iter().any(|pid| {
        let open = format!("sleep (pid {pid}, user root) still has {path} open{others}");
        ended.stderr == format!("-- WARNING -- The storage stays writable: {open}\n")
    });
    assert!(named, "{pids:?}: {}", ended.stderr);
    let screen = String::from_utf8(shown.stdout).expect("UTF-8");
    for pid in &pids {
        let wanted = match json {
            true => format!("\"pid\":{pid},\"uid\":0,\"user\":\"root\",\"command\":\"sleep 1000\""),
            false => format!("sleep 1000 (pid {pid}, user root): {path}"),
        };
        assert!(screen.contains(&wanted), "no {wanted} in {screen}");
        signal(pid.parse().expect("a number"), "KILL");
    }
    rig.await_state("ro");
}

#[test]
fn p10_a_leftover_writer_is_named_by_run_and_status_at_once() {
    needs_root!("a look at other processes");
    let rig = Setup::new(Fs::Ext4).start();
    let pids = rig.dir().join("pids");
    let leave = format!(
        "sleep 1000 >$KVMD_PST_DATA/log 2>&1 & echo $! >>{}; \
         until [ $(cat /proc/$!/comm) = sleep ]; do :; done",
        pids.display()
    );
    let start = format!("rm -f {}; {leave}", pids.display());
    for time in 0..20 {
        assert_leftover_named(&rig, &start, time % 2 == 1, "");
    }
    let three = format!("{start}; {leave}; {leave}");
    assert_leftover_named(&rig, &three, false, " and 2 more, see `pst status`");
}

#[test]
fn p10_what_stays_writable_without_a_session_is_logged_once() {
    needs_root!("mounts");
    needs_tool!("python3");
    let mut rig = rig();
    let session = rig.session();
    let (mut holder, _) = hold(&rig, rig.command("python3"), "writer");
    session.end().must(0);
    rig.await_state("stuck");
    rig.kill_daemon();
    let mut daemon = rig.daemon_command();
    daemon.env("RUST_LOG", "debug");
    rig.start_daemon_as(daemon);
    rig.await_state("stuck");
    let other = rig.dir().join("other");
    std::fs::create_dir(&other).expect("other");
    for _ in 0..5 {
        let before = looks(&rig);
        tool(
            rig.command("mount")
                .args(["-t", "tmpfs", "none"])
                .arg(&other),
        );
        tool(rig.command("umount").arg(&other));
        wait_until("it has looked", || looks(&rig) > before);
    }
    let log = rig.log();
    assert_eq!(
        log.matches("although no session is open").count(),
        1,
        "{log}"
    );
    holder.release();
    assert_free(&rig);
}

/// How often the daemon has looked.
fn looks(rig: &Rig) -> usize {
    rig.log().matches("Inspected(").count()
}

#[test]
fn p10_a_descriptor_of_a_thread_alone_is_named() {
    needs_root!("a look at other processes");
    needs_tool!("python3");
    assert_process_named("thread", |said, path| said == path);
}

#[test]
fn p10_another_users_descriptor_is_named() {
    needs_root!("a look at other processes");
    needs_tool!("python3");
    let rig = rig();
    let session = rig.session();
    let (mut holder, path) = hold(&rig, rig.command_as(MEMBER, "python3"), "writer");
    session.end().must(0);
    let (pid, user) = (holder.pid(), MEMBER.uid.to_string());
    assert_named_until(
        &rig,
        |named| named["pid"] == pid && named["user"] == *user && named["path"] == *path,
        &[&format!("pid {pid} of user {user}"), &path],
    );
    holder.release();
    assert_free(&rig);
}

#[test]
fn p10_a_reader_of_a_deleted_file_is_named() {
    needs_root!("a look at other processes");
    needs_tool!("python3");
    assert_process_named("deleted", deleted);
}

#[test]
fn p10_a_path_descriptor_of_a_deleted_file_is_named() {
    needs_root!("a look at other processes");
    needs_tool!("python3");
    assert_process_named("deleted-path", deleted);
}

#[test]
fn p10_a_working_directory_that_was_deleted_is_named() {
    needs_root!("a look at other processes");
    needs_tool!("python3");
    assert_process_named("deleted-cwd", deleted);
}

#[test]
fn p10_a_mapping_of_a_deleted_file_is_named() {
    needs_root!("a look at other processes");
    needs_tool!("python3");
    assert_process_named("deleted-mapping", deleted);
}

#[test]
fn p10_a_file_without_a_name_is_named() {
    needs_root!("a look at other processes");
    needs_tool!("python3");
    assert_process_named("unnamed", |said, path| {
        said.starts_with(path.trim_end_matches("held")) && said.ends_with(" (deleted)")
    });
}

#[test]
fn p10_a_shared_mapping_without_a_descriptor_is_named() {
    needs_root!("a look at other processes");
    needs_tool!("python3");
    assert_process_named("shared-mapping", |said, path| said == path);
}

#[test]
fn p10_of_a_descriptor_in_flight_it_says_that_nothing_was_found() {
    needs_root!("a look at other processes");
    needs_tool!("python3");
    let rig = rig();
    let session = rig.session();
    let (mut holder, _) = hold(&rig, rig.command("python3"), "in-flight");
    session.end().must(0);
    assert_named_until(
        &rig,
        |named| {
            named["pid"].is_null()
                && named["path"]
                    .as_str()
                    .is_some_and(|path| path.starts_with("nothing found"))
        },
        &["nothing found", "in flight"],
    );
    holder.release();
    assert_free(&rig);
}

/// A file of the storage with nothing in it.
fn make_file(rig: &Rig, name: &str) -> String {
    let path = rig.data().join(name).to_str().expect("UTF-8").to_owned();
    let zeroes = format!("head -c 2M /dev/zero > '{path}'; chmod 600 '{path}'");
    tool(rig.command("sh").args(["-c", &zeroes]));
    path
}

#[test]
fn p10_a_writable_loop_device_is_named() {
    needs_root!("a loop device");
    let rig = rig();
    let session = rig.session();
    let path = make_file(&rig, "image");
    let device = attach(path.as_ref());
    session.end().must(0);
    assert_named_until(
        &rig,
        |named| *named == nobody(Some(&device), &path),
        &[&format!("{device}: {path}")],
    );
    tool(rig.command("losetup").args(["-d", &device]));
    rig.await_superblock("ro");
    assert_free(&rig);
}

/// Ends a swap file's use, also when the test fails: nobody else would.
struct Swap(String);

impl Swap {
    fn on(path: &str) -> Swap {
        tool(std::process::Command::new("mkswap").args(["-q", path]));
        tool(std::process::Command::new("swapon").arg(path));
        Swap(path.to_owned())
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let off = std::process::Command::new("swapoff").arg(&self.0).output();
        assert!(off.is_ok_and(|off| off.status.success()) || std::thread::panicking());
    }
}

#[test]
fn p10_a_swap_file_is_named() {
    needs_root!("a swap file");
    let rig = rig();
    let session = rig.session();
    let path = make_file(&rig, "swap");
    let swap = Swap::on(&path);
    session.end().must(0);
    assert_named_until(
        &rig,
        |named| *named == nobody(None, &path),
        &["swap file", &path],
    );
    drop(swap);
    rig.await_superblock("ro");
    assert_free(&rig);
}

/// What does not keep it: read-only at once, with it still there.
#[track_caller]
fn assert_not_kept(rig: &Rig, session: Job) {
    session.end().must(0);
    assert_eq!(rig.superblock(), "ro");
    assert!(!rig.needs_recovery());
    assert_eq!((rig.state().as_str(), tries(rig)), ("ro", 0));
    rig.must_serve();
}

#[test]
fn p1_readers_locks_and_special_files_do_not_keep_it() {
    needs_root!("a loop device");
    needs_tool!("python3");
    for what in ["reader", "fifo", "socket"] {
        let rig = rig();
        let session = rig.session();
        let (holder, _) = hold(&rig, rig.command("python3"), what);
        assert_not_kept(&rig, session);
        holder.end().must(0);
    }
}

#[test]
fn p1_bind_mounts_do_not_keep_it() {
    needs_root!("a loop device");
    let rig = rig();
    let bind = rig.dir().join("bind");
    std::fs::create_dir(&bind).expect("bind");
    let session = rig.session();
    tool(
        rig.command("mount")
            .arg("--bind")
            .arg(rig.mount())
            .arg(&bind),
    );
    assert_not_kept(&rig, session);
    tool(rig.command("umount").arg(&bind));
}

#[test]
fn p1_a_read_only_loop_device_does_not_keep_it() {
    needs_root!("a loop device");
    let rig = rig();
    let session = rig.session();
    let path = make_file(&rig, "image");
    let device = tool(rig.command("flock").args([
        "/dev/loop-control",
        "losetup",
        "-r",
        "-f",
        "--show",
        &path,
    ]));
    assert_not_kept(&rig, session);
    tool(rig.command("losetup").args(["-d", &device]));
}

#[test]
fn p3_a_data_root_that_was_removed_is_there_again_for_who_comes_while_it_is_stuck() {
    needs_root!("a loop device");
    let rig = rig();
    let leftover =
        "exec 7>$KVMD_PST_DATA/../held; sleep 1000 >/dev/null 2>&1 & rm -r $KVMD_PST_DATA";
    rig.sh(leftover).must(0);
    rig.await_state("stuck");
    rig.sh("echo x > $KVMD_PST_DATA/served").must(0);
    rig.await_state("stuck");
    wait_until("it is named", || holders(&rig).get(0).is_some());
    let holder = holders(&rig)[0]["pid"].as_u64().expect("it is named");
    signal(u32::try_from(holder).expect("a pid"), "KILL");
    rig.await_state("ro");
    rig.sh("rm $KVMD_PST_DATA/../held").must(0);
}
