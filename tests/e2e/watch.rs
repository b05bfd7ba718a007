//! `pst status --watch`: each change is shown as it happens.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use pst::wire::{ClientMessage, DaemonMessage, MAGIC, Message, VERSION};
use serde_json::Value;

use crate::rig::{BOUND, Job, Rig, RunToEnd, Terminal, start, wait_until};
use crate::{needs_storage, needs_tool};

fn watch(rig: &Rig) -> Job {
    start(&mut rig.pst(["status", "--watch", "--json"]))
}

/// Returns the last whole line as JSON.
fn last(job: &Job) -> Option<Value> {
    let text = job.stdout();
    let whole = text.rsplit_once('\n')?.0;
    serde_json::from_str(whole.lines().last()?).ok()
}

/// Waits until the last line passes `test`, and returns it.
#[track_caller]
fn await_last(what: &str, job: &Job, test: impl Fn(&Value) -> bool) -> Value {
    wait_until(what, || last(job).is_some_and(|status| test(&status)));
    last(job).expect("a line")
}

fn numbers(sessions: &Value) -> Vec<u64> {
    let sessions = sessions.as_array().expect("a list");
    let numbers = sessions.iter().map(|session| session["id"].as_u64());
    numbers.map(|id| id.expect("a number")).collect()
}

/// Returns the first bytes that a client sends.
fn greeting(message: &ClientMessage) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    message.encode(&mut bytes);
    bytes
}

/// Opens and closes sessions one after another, as fast as possible.
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
fn half_an_update_is_not_shown() {
    needs_storage!();
    let rig = Rig::any();
    let socket = rig.dir().join("other.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let mut command = rig.pst(["status", "--watch", "--json", "--socket"]);
    let job = start(command.arg(&socket));
    let (mut client, _) = listener.accept().expect("a client");
    client.read_exact(&mut [0; 4]).expect("it begins");
    let document = |sessions: u64| {
        let mut status = rig.status();
        status["totals"]["sessions"] = sessions.into();
        status.to_string().into_bytes()
    };
    let (first, second) = (document(5), document(6));
    let (half, rest) = first.split_at(first.len() / 2);
    let mut bytes = Vec::new();
    for (last, part) in [(false, half), (true, rest), (false, &second[..])] {
        let message = DaemonMessage::Status {
            version: VERSION,
            last,
            bytes: part.to_vec(),
        };
        message.encode(&mut bytes);
    }
    client.write_all(&bytes).expect("sent");
    let status = await_last("the update", &job, |s| s["totals"].is_object());
    assert_eq!(status["totals"]["sessions"], 5);
    drop(client);
    assert_eq!(job.end().must(3).text().lines().count(), 1);
}

#[test]
fn each_change_is_one_json_object_on_one_line() {
    needs_storage!();
    let rig = Rig::any();
    let job = watch(&rig);
    await_last("the first status", &job, |s| s["storage"]["state"] == "ro");
    let session = rig.session();
    let status = await_last("it is writable", &job, |s| s["storage"]["state"] == "rw");
    let status = match numbers(&status["sessions"])[..] {
        [] => await_last("the session is open", &job, |s| {
            s["sessions"][0].is_object()
        }),
        _ => status,
    };
    assert_eq!(status["sessions"][0]["pid"], session.pid());
    session.end().must(0);
    let status = await_last("the session ended", &job, |s| s["storage"]["state"] == "ro");
    assert_eq!(status["sessions"], Value::Array(Vec::new()));
    assert_eq!(status["past"][0]["ended"], "durable");
    for line in job.stdout().lines() {
        let line: Value = serde_json::from_str(line).expect("an object");
        assert!(line.is_object());
    }
    job.signal("INT");
    assert_eq!(job.end().stderr, "");
}

#[test]
fn a_watch_that_could_not_keep_up_ends_with_the_right_status() {
    needs_storage!();
    let rig = Rig::any();
    let held = rig.session();
    let job = watch(&rig);
    await_last("the first status", &job, |_| true);
    // More sessions than the daemon remembers end between two updates, and again while the watch is stopped.
    burst(&rig, 200);
    job.signal("STOP");
    burst(&rig, 200);
    job.signal("CONT");
    let status = await_last("all sessions are counted", &job, |s| {
        s["totals"]["sessions"] == 401
    });
    let status = match numbers(&status["sessions"]).len() {
        1 => status,
        _ => await_last("the sessions ended", &job, |s| {
            numbers(&s["sessions"]).len() == 1
        }),
    };
    let now = rig.status();
    for list in ["sessions", "past"] {
        assert_eq!(numbers(&status[list]), numbers(&now[list]), "{list}");
    }
    assert_eq!(numbers(&status["past"]).len(), 64);
    held.end().must(0);
    await_last("the session ended", &job, |s| {
        numbers(&s["sessions"]).is_empty()
    });
    let lines = job.stdout().lines().count();
    assert!(lines < 100, "{lines} updates for 400 sessions");
}

#[test]
fn without_a_terminal_a_watch_needs_json() {
    needs_storage!();
    let rig = Rig::any();
    let pst = rig.bin("pst").display().to_string();
    let dumb = format!(
        "TERM=dumb {pst} status --watch --socket {}",
        rig.socket().display()
    );
    let mut on_a_dumb_terminal = rig.command("script");
    on_a_dumb_terminal.args(["-qec", &dumb, "/dev/null"]);
    let said = on_a_dumb_terminal.to_end().must(2).text();
    assert!(said.contains("needs a terminal"), "{said}");
    let ended = rig.pst(["status", "--watch"]).to_end().must(2);
    assert_eq!(ended.text(), "");
    let expected = "pst: --watch needs a terminal; use --watch --json";
    assert_eq!(ended.one_line(), expected);
}

#[test]
fn a_watch_ends_with_its_reader_and_with_its_daemon() {
    needs_storage!();
    let mut rig = Rig::any();
    let pst = rig.bin("pst").display().to_string();
    // Nothing changes meanwhile, so only the pipe reports that its reader ended.
    let mut shell = rig.command("bash");
    shell.args([
        "-c",
        &format!("{pst} status --watch --json | head -n 1; echo ${{PIPESTATUS[0]}}"),
    ]);
    let ended = shell.to_end().must(0);
    assert_eq!(ended.stderr, "");
    assert_eq!(ended.text().lines().count(), 2, "{ended:?}");
    assert_eq!(ended.text().lines().last(), Some("0"));
    let job = watch(&rig);
    await_last("the first status", &job, |_| true);
    rig.stop_daemon();
    let ended = job.end().must(3);
    assert!(ended.one_line().contains("daemon went away"), "{ended:?}");
    watch(&rig).end().must(3).one_line();
}

#[test]
fn a_message_during_a_watch_breaks_the_protocol() {
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
fn on_a_terminal_the_screen_is_redrawn_in_place() {
    needs_storage!();
    needs_tool!("tmux");
    let rig = Rig::any();
    let terminal = Terminal::new(&rig);
    let pst = rig.bin("pst").display().to_string();
    terminal.line(&format!("{pst} status --watch"));
    terminal.await_screen("state     ro: read-only");
    let session = rig.session();
    terminal.await_screen("state     rw: writable");
    let count = |what: &str| terminal.screen().matches(what).count();
    wait_until("the old state is gone", || count("state ") == 1);
    // While it is stopped others write to the terminal. It continues below their lines.
    terminal.press(&["C-z"]);
    terminal.await_screen("Stopped");
    terminal.line("clear; echo elsewhere");
    terminal.await_screen("elsewhere\n$");
    terminal.line("fg");
    terminal.await_screen("state     rw: writable");
    assert!(count("elsewhere") == 1, "{}", terminal.screen());
    // On a narrower terminal no line is too wide, and nothing of the old drawing is left.
    terminal.resize(50, 20);
    wait_until("it is drawn for the new size", || {
        let screen = terminal.screen();
        let lines = screen.lines().map(|line| line.chars().count());
        lines.max() <= Some(50) && count("state ") == 1 && count("elsewhere") == 0
    });
    // The last line says how to leave, also in a window that is too low.
    terminal.await_screen("^C ends the watch");
    terminal.resize(50, 6);
    wait_until("it is cut to the window", || {
        let screen = terminal.screen();
        let last = screen.trim_end().lines().next_back().unwrap_or_default();
        last.ends_with("more lines do not fit; ^C ends the watch") && count("state ") == 1
    });
    terminal.resize(50, 40);
    session.end().must(0);
    terminal.await_screen("state     ro: read-only");
    wait_until("there is one drawing", || count("state ") == 1);
    terminal.press(&["C-c"]);
    terminal.await_screen("^C\n$");
    terminal.line("echo code $?");
    terminal.await_screen("code 130");
    assert_eq!(count("state     ro"), 1, "{}", terminal.screen());
    // The terminal is left as it was.
    terminal.line("echo still $((40 + 2))");
    terminal.await_screen("still 42");
}

#[test]
fn colours_are_for_terminals_without_no_color() {
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
