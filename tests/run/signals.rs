//! Signals to `pst run`: before the grant, during the command, during the close.

use std::os::unix::net::UnixStream;

use pst::wire::{ClientMessage, CloseResult};

use crate::rig::{Client, Narrow, Rig, child_of, is_alive, open_pty, signal, until};

/// The first line of a `run` that is not quiet; after the second the command is started.
pub const FIRST_LINE: &str = "--    INFO -- Opening PST session ...\n";

/// Writes each signal that it gets into a file, at once (`wait` is interrupted; a
/// program in the foreground would make two of a kind look like one); ends with USR2.
const COUNTS: &str = "for s in TERM HUP INT QUIT USR1 ALRM; do
    trap \"echo $s >> $F/got\" $s; done
    trap 'echo USR2 >> $F/got; kill -KILL $!; exit 9' USR2
    sleep 100 >/dev/null 2>&1 &
    echo $$ > $F/up
    while :; do wait; done";

#[test]
fn before_the_grant_a_signal_gives_up() {
    for number in [
        libc::SIGTERM,
        libc::SIGINT,
        libc::SIGHUP,
        libc::SIGQUIT,
        libc::SIGUSR1,
    ] {
        let rig = Rig::new();
        let child = rig.run(&["true"]).spawn().unwrap();
        let mut client = rig.accept();
        signal(child.id() as i32, libc::SIGWINCH); // resizing is no reason
        signal(child.id() as i32, number);
        assert_eq!(client.next(), None);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(128 + number));
    }
}

#[test]
fn between_the_grant_and_the_commands_start_a_signal_waits_for_it() {
    for round in 0..10 {
        let rig = Rig::new();
        let mut narrow = Narrow::new(&rig.folder.join("narrow"), FIRST_LINE.len());
        let mut command = rig.run(&["sleep", "100"]);
        let mut child = command.stderr(narrow.end()).spawn().unwrap();
        let mut client = rig.accept();
        client.grant(&rig);
        let run = child.id() as i32;
        narrow.holds_up(run); // with its second line
        signal(run, libc::SIGTERM);
        narrow.read();
        assert_eq!(client.next(), Some(ClientMessage::Close), "round {round}");
        client.close(CloseResult::Durable);
        assert_eq!(child.wait().unwrap().code(), Some(143));
        assert!(narrow.read().contains("Running the process"));
    }
}

#[test]
fn a_full_backlog_is_waited_for_and_left_by_a_signal() {
    let rig = Rig::new();
    // The listener that std makes has the longest backlog: one more, with none.
    let socket = rig.folder.join("narrow");
    let narrow = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    // SAFETY: takes integers; listening again only changes the backlog.
    unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&narrow), 0) };
    let _first = UnixStream::connect(&socket).unwrap();
    let mut command = rig.run(&["true"]);
    let child = command.env("PST_SOCKET", &socket).spawn().unwrap();
    let stack = format!("/proc/{}/status", child.id());
    until("signals blocked", || {
        let status = std::fs::read_to_string(&stack).ok()?;
        let blocked = status.lines().find(|l| l.starts_with("SigBlk:"))?;
        (!blocked.ends_with("0000000000000000")).then_some(())
    });
    signal(child.id() as i32, libc::SIGTERM);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
}

/// Starts the counting command, has `send` send something, then ends all: the
/// command got that once.
#[track_caller]
fn gets_once(rig: &Rig, prefix: &[&str], expected: &str, send: impl FnOnce(i32)) {
    let words = [prefix, &["bash", "-c", COUNTS]].concat();
    gets_once_from(rig, &words, expected, send);
}

#[track_caller]
fn gets_once_from(rig: &Rig, words: &[&str], expected: &str, send: impl FnOnce(i32)) {
    let mut command = rig.command("setsid"); // a process group of our own to signal
    command
        .arg(env!("CARGO_BIN_EXE_pst"))
        .arg("run")
        .args(words);
    let child = command.spawn().unwrap();
    let mut client = rig.accept();
    client.grant(rig);
    rig.line_of("up");
    send(child.id() as i32);
    got_once(rig, expected, child.id() as i32);
    finish(&mut client);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(9));
}

/// The command gets this, and then one more from `run`, which ends it.
#[track_caller]
fn got_once(rig: &Rig, expected: &str, run: i32) {
    let file = rig.folder.join("got");
    let wait_for = |name: &str| {
        until(name, || {
            let text = std::fs::read_to_string(&file).ok()?;
            text.contains(name).then_some(text)
        })
    };
    wait_for(expected);
    // Another one takes the same way: what was doubled would be there by now.
    signal(run, libc::SIGUSR2);
    let text = wait_for("USR2\n");
    assert_eq!(text.lines().collect::<Vec<_>>(), [expected, "USR2"]);
}

fn finish(client: &mut Client) {
    assert_eq!(client.next(), Some(ClientMessage::Close));
    client.close(CloseResult::Durable);
}

#[test]
fn what_kill_sends_is_passed_on_once() {
    for (name, number) in [
        ("TERM", libc::SIGTERM),
        ("HUP", libc::SIGHUP),
        ("INT", libc::SIGINT),
        ("QUIT", libc::SIGQUIT),
        ("USR1", libc::SIGUSR1),
        ("ALRM", libc::SIGALRM),
    ] {
        let rig = Rig::new();
        gets_once(&rig, &[], name, |pid| signal(pid, number));
    }
}

fn kill_group(rig: &Rig, pid: i32) {
    let script = format!("kill -TERM -- -{pid}");
    assert!(rig.bash(&script).status().unwrap().success());
}

#[test]
fn what_is_sent_to_the_whole_group_is_not_doubled() {
    let rig = Rig::new();
    gets_once(&rig, &[], "TERM", |pid| kill_group(&rig, pid));
}

#[test]
fn what_is_sent_to_the_group_reaches_a_command_outside_of_it_once() {
    let rig = Rig::new();
    gets_once(&rig, &["setsid"], "TERM", |pid| kill_group(&rig, pid));
}

#[test]
fn a_group_signal_from_the_commands_own_tree_is_not_doubled() {
    let rig = Rig::new();
    let script = "(while [ ! -e $F/go ]; do sleep 0.01; done; kill 0) &";
    let script = format!("{script} {COUNTS}");
    gets_once_from(&rig, &["bash", "-c", &script], "TERM", |_| {
        std::fs::write(rig.folder.join("go"), "").unwrap();
    });
}

#[test]
fn who_looks_for_run_by_its_words_finds_it_alone() {
    let rig = Rig::new();
    let words = format!("--socket={}", rig.socket().display());
    gets_once_from(&rig, &[&words, "bash", "-c", COUNTS], "TERM", |run| {
        // As `pkill -f` does it.
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap() {
            let path = entry.unwrap().path().join("cmdline");
            let line = std::fs::read(&path).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&words) {
                let pid = path.parent().and_then(|path| path.file_name()?.to_str());
                found.extend(pid.and_then(|pid| pid.parse::<i32>().ok()));
            }
        }
        assert_eq!(found, [run]);
        signal(run, libc::SIGTERM);
    });
}

#[test]
fn a_hang_up_reaches_the_command_once() {
    // The kernel tells the session's leader alone, and if that dies the group in the foreground.
    for (script, leads) in [
        ("exec $PST run bash -c \"$COUNTS\"", true),
        ("$PST run bash -c \"$COUNTS\"; :", false),
    ] {
        let rig = Rig::new();
        let (terminal, inside) = open_pty();
        let mut leader = rig
            .command("setsid")
            .args(["--ctty", "sh", "-c", script])
            .env("COUNTS", COUNTS)
            .stdin(inside.try_clone().unwrap())
            .stdout(inside.try_clone().unwrap())
            .stderr(inside)
            .spawn()
            .unwrap();
        let mut client = rig.accept();
        client.grant(&rig);
        rig.line_of("up");
        let pid = leader.id() as i32;
        let run = if leads { pid } else { child_of(pid) };
        drop(terminal);
        got_once(&rig, "HUP", run);
        finish(&mut client);
        leader.wait().unwrap();
    }
}

#[test]
fn signals_that_the_caller_ignored_are_nobodys() {
    let rig = Rig::new();
    let mut command = rig.command("env");
    command.args(["--ignore-signal=HUP", env!("CARGO_BIN_EXE_pst"), "run"]);
    let child = command
        .args(["sh", "-c", "echo > $F/up; exec sleep 100"])
        .spawn()
        .unwrap();
    let pid = child.id() as i32;
    let mut client = rig.accept();
    signal(pid, libc::SIGHUP);
    client.grant(&rig);
    rig.line_of("up");
    signal(pid, libc::SIGHUP);
    signal(pid, libc::SIGTERM);
    finish(&mut client);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
}

#[test]
fn p4_during_the_close_a_signal_gives_up_and_says_so() {
    for (script, number, expected) in [
        ("exit 0", libc::SIGTERM, 143),
        ("exit 0", libc::SIGINT, 130),
        ("exit 0", libc::SIGHUP, 129),
        ("exit 7", libc::SIGTERM, 7),
    ] {
        let rig = Rig::new();
        let child = rig.run(&["sh", "-c", script]).spawn().unwrap();
        let mut client = rig.accept();
        client.grant(&rig);
        assert_eq!(client.next(), Some(ClientMessage::Close));
        assert!(is_alive(child.id() as i32));
        signal(child.id() as i32, number);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(expected));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("the data may not be on stable storage"));
    }
}
