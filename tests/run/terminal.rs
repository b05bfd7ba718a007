//! `pst run` in a shell with job control, on a terminal.

use pst::wire::{ClientMessage, CloseResult};

use crate::rig::{Narrow, Rig, Terminal, becomes, child_of, comm, is_alive, signal, until};
use crate::signals::FIRST_LINE;

/// Writes each key's signal at once: see the same in `signals`.
const COUNTS: &str = "trap 'echo INT >> $F/got' INT; trap 'echo QUIT >> $F/got' QUIT
    trap 'kill -KILL $!; exit 0' TERM
    sleep 100 & echo $$ > $F/up; while :; do wait; done";

#[test]
fn keys_reach_the_command_once_and_do_not_end_run() {
    let rig = Rig::new();
    let terminal = Terminal::new(&rig);
    std::fs::write(rig.folder.join("counts"), COUNTS).unwrap();
    terminal.types("$PST run bash $F/counts; echo code=$?\n");
    let mut client = rig.accept();
    client.grant(&rig);
    rig.line_of("up");
    let got = |expected: &str| {
        until(expected, || {
            let got = std::fs::read_to_string(rig.folder.join("got")).ok()?;
            (got == expected).then_some(())
        });
    };
    terminal.types("\x03");
    got("INT\n");
    terminal.types("\x1c");
    got("INT\nQUIT\n");
    signal(rig.pid_of("up"), libc::SIGTERM);
    assert_eq!(client.next(), Some(ClientMessage::Close));
    client.close(CloseResult::Durable);
    terminal.shows("code=0");
    got("INT\nQUIT\n");
}

#[test]
fn an_interrupted_command_is_committed() {
    let rig = Rig::new();
    let terminal = Terminal::new(&rig);
    // The trap keeps bash from dropping the rest of its line after ^C.
    terminal.types("$PST run -- sh -c 'echo > $F/up; exec cat'\n");
    let mut client = rig.accept();
    client.grant(&rig);
    rig.line_of("up");
    terminal.types("\x03");
    assert_eq!(client.next(), Some(ClientMessage::Close));
    client.close(CloseResult::Durable);
    terminal.shows("returncode=130");
    terminal.types("echo code=$?\n");
    terminal.shows("code=130");
}

#[test]
fn between_the_grant_and_the_commands_start_the_key_waits_for_it() {
    let rig = Rig::new();
    let mut narrow = Narrow::new(&rig.folder.join("narrow"), FIRST_LINE.len());
    let terminal = Terminal::new(&rig);
    // The trap keeps bash from dropping the rest of its line after ^C.
    terminal.types("trap : INT; $PST run sleep 100 2>$F/narrow; echo code=$?\n");
    let mut client = rig.accept();
    client.grant(&rig);
    let marked = rig.marked();
    let run = marked.into_iter().find(|&pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name == "pst\n")
    });
    narrow.holds_up(run.expect("run"));
    terminal.types("\x03");
    terminal.shows("^C");
    narrow.read();
    assert_eq!(client.next(), Some(ClientMessage::Close));
    client.close(CloseResult::Durable);
    terminal.shows("code=130");
}

#[test]
fn before_the_grant_the_key_gives_up() {
    let rig = Rig::new();
    let terminal = Terminal::new(&rig);
    terminal.types("$PST run true\n");
    let mut client = rig.accept();
    terminal.types("\x03");
    assert_eq!(client.next(), None);
    terminal.shows("SIGINT");
    terminal.types("echo code=$?\n");
    terminal.shows("code=130");
}

#[test]
fn a_stopped_job_goes_on_in_the_foreground() {
    let rig = Rig::new();
    let terminal = Terminal::new(&rig);
    terminal.types("$PST run cat\n");
    let mut client = rig.accept();
    client.grant(&rig);
    terminal.shows("Running");
    terminal.types("one\n");
    terminal.shows("one\r\none");
    terminal.types("\x1a");
    terminal.shows("Stopped");
    // Until the command is stopped as well, it can read the line that is meant for the shell.
    let marked = rig.marked();
    let cat = marked.into_iter().find(|&pid| comm(pid) == "cat\n");
    becomes(cat.expect("cat"), "T");
    terminal.types("fg\n");
    terminal.shows("run cat");
    terminal.types("two\n");
    terminal.shows("two\r\ntwo");
    terminal.types("\x04");
    assert_eq!(client.next(), Some(ClientMessage::Close));
    client.close(CloseResult::Durable);
    terminal.shows("returncode=0");
}

#[test]
fn p5_the_daemon_dies_while_the_job_is_stopped() {
    let rig = Rig::new();
    let mut terminal = Terminal::new(&rig);
    terminal.types("stty tostop; sleep 1000 & $PST run sh -c 'trap \"\" TERM; setsid sleep 100 & echo > $F/up; sleep 100; sleep 100'\n");
    let mut client = rig.accept();
    client.grant(&rig);
    rig.line_of("up");
    terminal.types("\x1a");
    terminal.shows("Stopped");
    drop(client);
    // Left: the shell and its other job. `pst run` wrote to the terminal from the background.
    until("the end", || (rig.marked().len() == 2).then_some(()));
    terminal.shows("went away");
    assert!(is_alive(terminal.shell.id() as i32));
    terminal.types("wait %2; echo code=$?\n");
    terminal.shows("code=137");
    assert!(terminal.shell.try_wait().unwrap().is_none());
}

#[test]
fn a_stopped_opening_waits_for_the_foreground() {
    let rig = Rig::new();
    let terminal = Terminal::new(&rig);
    terminal.types("$PST run cat\n");
    let mut client = rig.accept();
    let shell = terminal.shell.id() as i32;
    let run = child_of(shell);
    terminal.types("\x1a");
    becomes(run, "T");
    terminal.shows("Stopped");
    client.grant(&rig);
    terminal.types("fg\n");
    terminal.shows("Running");
    terminal.types("\x04");
    assert_eq!(client.next(), Some(ClientMessage::Close));
    client.close(CloseResult::Durable);
    terminal.shows("returncode=0");
}
