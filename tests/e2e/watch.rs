//! `pst status --watch`: what changes is told as it happens, to whoever can take it.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use pst::wire::{ClientMessage, DaemonMessage, MAGIC, Message, VERSION};
use serde_json::Value;

use crate::needs_storage;
use crate::rig::{BOUND, Job, Rig, RunToEnd, Terminal, start, wait_until};

fn watch(rig: &Rig, words: &[&str]) -> Job {
    start(rig.pst(["status", "--watch"]).args(words))
}

/// The last whole line, as JSON.
fn last(job: &Job) -> Option<Value> {
    let text = job.stdout();
    let whole = text.rsplit_once('\n')?.0;
    serde_json::from_str(whole.lines().last()?).ok()
}

/// Waits until the last line is so.
#[track_caller]
fn await_last(what: &str, job: &Job, so: impl Fn(&Value) -> bool) -> Value {
    wait_until(what, || last(job).is_some_and(|status| so(&status)));
    last(job).expect("a line")
}

fn numbers(sessions: &Value) -> Vec<u64> {
    let sessions = sessions.as_array().expect("a list");
    let numbers = sessions.iter().map(|session| session["id"].as_u64());
    numbers.map(|id| id.expect("a number")).collect()
}

/// The first bytes of a client.
fn greeting(message: &ClientMessage) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    message.encode(&mut bytes);
    bytes
}

/// Many sessions in the protocol's own bytes, one after another, as fast as it goes.
fn burst(rig: &Rig, count: u64) {
    for _ in 0..count {
        let mut stream = UnixStream::connect(rig.socket()).expect("connect");
        stream.set_read_timeout(Some(BOUND)).expect("timeout");
        let open = ClientMessage::Open {
            version: VERSION,
            command: b"vi".to_vec(),
        };
        stream.write_all(&greeting(&open)).expect("open");
        let mut granted = [0; 3];
        stream.read_exact(&mut granted).expect("an answer");
        assert_eq!(granted[2], 0x81, "granted");
        stream.write_all(b"\x01\x00\x02").expect("close");
        stream.read_to_end(&mut Vec::new()).expect("closed");
    }
}

#[test]
fn what_has_come_of_the_next_change_is_not_shown_before_all_of_it_has() {
    needs_storage!();
    let rig = Rig::any();
    let socket = rig.dir().join("other.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let mut command = rig.pst(["status", "--watch", "--json", "--socket"]);
    let job = start(command.arg(&socket));
    let (mut client, _) = listener.accept().expect("a client");
    client.read_exact(&mut [0; 4]).expect("it begins");
    let json = rig.pst(["status", "--json"]).to_end().must(0).text();
    let (first, second) = json.as_bytes().split_at(json.len() / 2);
    let mut bytes = Vec::new();
    for (last, part) in [(false, first), (true, second), (false, first)] {
        let message = DaemonMessage::Status {
            version: VERSION,
            last,
            bytes: part.to_vec(),
        };
        message.encode(&mut bytes);
    }
    client.write_all(&bytes).expect("sent");
    let told = await_last("it is told", &job, |s| s["totals"].is_object());
    let whole: Value = serde_json::from_str(&json).expect("a status");
    assert_eq!(told["totals"], whole["totals"]);
    drop(client);
    assert_eq!(job.end().must(3).text().lines().count(), 1);
}

#[test]
fn what_changes_is_told_as_one_object_a_line() {
    needs_storage!();
    let rig = Rig::any();
    let job = watch(&rig, &["--json"]);
    await_last("it begins", &job, |s| s["storage"]["state"] == "ro");
    let session = rig.session();
    let told = await_last("it is writable", &job, |s| s["storage"]["state"] == "rw");
    let told = match numbers(&told["sessions"])[..] {
        [] => await_last("it is open", &job, |s| s["sessions"][0].is_object()),
        _ => told,
    };
    assert_eq!(told["sessions"][0]["pid"], session.pid());
    session.end().must(0);
    let told = await_last("it is over", &job, |s| s["storage"]["state"] == "ro");
    assert_eq!(told["sessions"], Value::Array(Vec::new()));
    assert_eq!(told["past"][0]["ended"], "durable");
    for line in job.stdout().lines() {
        let line: Value = serde_json::from_str(line).expect("an object");
        assert!(line.is_object());
    }
    job.signal("INT");
    assert_eq!(job.end().stderr, "");
}

#[test]
fn a_watch_that_could_not_keep_up_is_right_in_the_end() {
    needs_storage!();
    let rig = Rig::any();
    let held = rig.session();
    let job = watch(&rig, &["--json"]);
    await_last("it begins", &job, |_| true);
    // More than is remembered ends between two updates, and again while it sleeps.
    burst(&rig, 200);
    job.signal("STOP");
    burst(&rig, 200);
    job.signal("CONT");
    let told = await_last("all is told", &job, |s| s["totals"]["sessions"] == 401);
    let told = match numbers(&told["sessions"]).len() {
        1 => told,
        _ => await_last("they are over", &job, |s| {
            numbers(&s["sessions"]).len() == 1
        }),
    };
    let now = rig.status();
    for list in ["sessions", "past"] {
        assert_eq!(numbers(&told[list]), numbers(&now[list]), "{list}");
    }
    assert_eq!(numbers(&told["past"]).len(), 64);
    held.end().must(0);
    await_last("it is over", &job, |s| numbers(&s["sessions"]).is_empty());
    let lines = job.stdout().lines().count();
    assert!(lines < 100, "{lines} updates for 400 sessions");
}

#[test]
fn to_a_file_it_is_a_line_for_each_change() {
    needs_storage!();
    let rig = Rig::any();
    let job = watch(&rig, &[]);
    job.await_stdout("state ro: read-only");
    let session = rig.session();
    job.await_stdout(&format!(
        " open: session 1 of root, pid {}: sh -c ",
        session.pid()
    ));
    job.await_stdout(" state rw: writable");
    session.end().must(0);
    job.await_stdout(&format!(
        " ended: session 1 of root, pid {}: well after ",
        {
            let status = rig.status();
            status["past"][0]["pid"].as_u64().expect("a pid")
        }
    ));
    wait_until("it is read-only again", || {
        job.stdout().matches("state ro:").count() == 2
    });
    let text = job.stdout();
    assert_eq!(text.matches("open: ").count(), 1, "{text}");
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn a_watch_ends_with_its_reader_and_with_its_daemon() {
    needs_storage!();
    let mut rig = Rig::any();
    let pst = rig.bin("pst").display().to_string();
    // Nothing changes meanwhile: that nobody reads any more is told by the pipe alone.
    let mut shell = rig.command("bash");
    shell.args([
        "-c",
        &format!("{pst} status --watch --json | head -n 1; echo ${{PIPESTATUS[0]}}"),
    ]);
    let ended = shell.to_end().must(0);
    assert_eq!(ended.stderr, "");
    assert_eq!(ended.text().lines().count(), 2, "{ended:?}");
    assert_eq!(ended.text().lines().last(), Some("0"));
    let job = watch(&rig, &["--json"]);
    await_last("it begins", &job, |_| true);
    rig.stop_daemon();
    let ended = job.end().must(3);
    assert!(ended.one_line().contains("daemon went away"), "{ended:?}");
    watch(&rig, &[]).end().must(3).one_line();
}

#[test]
fn a_watch_that_says_more_breaks_the_protocol() {
    needs_storage!();
    let rig = Rig::any();
    let mut stream = UnixStream::connect(rig.socket()).expect("connect");
    stream.set_read_timeout(Some(BOUND)).expect("timeout");
    let watch = ClientMessage::Status {
        version: VERSION,
        watch: true,
    };
    stream.write_all(&greeting(&watch)).expect("status");
    stream.read_exact(&mut [0; 3]).expect("an answer");
    stream.write_all(b"\x01\x00\x02").expect("close");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("until it is closed");
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("a message during a watch"), "{said:?}");
}

#[test]
fn on_a_terminal_it_stays_in_its_place() {
    needs_storage!();
    let rig = Rig::any();
    let terminal = Terminal::new(&rig);
    let pst = rig.bin("pst").display().to_string();
    terminal.line(&format!("{pst} status --watch"));
    terminal.await_screen("state     ro: read-only");
    let session = rig.session();
    terminal.await_screen("state     rw: writable");
    let count = |what: &str| terminal.screen().matches(what).count();
    wait_until("the old state is gone", || count("state ") == 1);
    // Stopped, others write on the terminal; it goes on below that.
    terminal.press(&["C-z"]);
    terminal.await_screen("Stopped");
    terminal.line("clear; echo elsewhere");
    terminal.await_screen("elsewhere\n$");
    terminal.line("fg");
    terminal.await_screen("state     rw: writable");
    assert!(count("elsewhere") == 1, "{}", terminal.screen());
    // Narrower, nothing is wider than it, and nothing of the old size is left.
    terminal.resize(50, 20);
    wait_until("it is drawn for the new size", || {
        let screen = terminal.screen();
        let lines = screen.lines().map(|line| line.chars().count());
        lines.max() <= Some(50) && count("state ") == 1 && count("elsewhere") == 0
    });
    session.end().must(0);
    terminal.await_screen("state     ro: read-only");
    wait_until("it stays in its place", || count("state ") == 1);
    terminal.press(&["C-c"]);
    terminal.await_screen("^C\n$");
    terminal.line("echo code $?");
    terminal.await_screen("code 130");
    assert_eq!(count("state     ro"), 1, "{}", terminal.screen());
    // It leaves the terminal as it was.
    terminal.line("echo still $((40 + 2))");
    terminal.await_screen("still 42");
}

#[test]
fn colours_are_for_terminals_and_for_who_wants_them() {
    needs_storage!();
    let rig = Rig::any();
    let pst = rig.bin("pst").display().to_string();
    let on_a_terminal = |before: &str| {
        let mut command = rig.command("script");
        let script = format!("{before} {pst} status --socket {}", rig.socket().display());
        command.args(["-qec", &script, "/dev/null"]);
        command.env("TERM", "xterm").env_remove("NO_COLOR");
        command.to_end().must(0).text()
    };
    assert!(on_a_terminal("").contains("\x1b[1;32mro\x1b[0m"));
    assert!(!on_a_terminal("NO_COLOR=1").contains('\x1b'));
    assert!(!on_a_terminal("TERM=dumb").contains('\x1b'));
    assert!(!rig.pst(["status"]).to_end().must(0).text().contains('\x1b'));
}
