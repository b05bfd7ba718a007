//! P4 and P7: signals to `pst run` while it waits for the real daemon: before
//! the grant and during the close. What the command gets is tested in tests/run.

use crate::rig::{Job, Rig, Terminal, start, wait_until};
use crate::{needs_storage, needs_tool};

const SIGNALS: [(&str, i32); 5] = [
    ("TERM", 143),
    ("HUP", 129),
    ("INT", 130),
    ("QUIT", 131),
    ("USR1", 138),
];

/// Afterwards the daemon, which was stopped, has nothing left of it.
#[track_caller]
fn await_nothing_left(rig: &Rig) {
    rig.signal_daemon("CONT");
    wait_until("no session is left", || {
        rig.status()["sessions"] == serde_json::json!([])
    });
    rig.await_superblock("ro");
    rig.sh("true").must(0);
}

#[test]
fn p7_before_the_grant_a_signal_gives_up() {
    needs_storage!();
    let rig = Rig::any();
    rig.signal_daemon("STOP");
    let jobs: Vec<Job> = SIGNALS
        .iter()
        .map(|_| start(&mut rig.run(["echo", "started"])))
        .collect();
    for (job, (name, code)) in jobs.into_iter().zip(SIGNALS) {
        job.await_stderr("Opening"); // its signals are its own from before that
        job.signal(name);
        let ended = job.end().must(code);
        assert_eq!(ended.text(), "");
        assert!(ended.stderr.contains(&format!("SIG{name}")), "{ended:?}");
    }
    await_nothing_left(&rig);
}

#[test]
fn p4_during_the_close_a_signal_gives_up_and_says_so() {
    needs_storage!();
    let rig = Rig::any();
    let mut jobs: Vec<Job> = SIGNALS.iter().map(|_| rig.session()).collect();
    rig.signal_daemon("STOP");
    for job in &mut jobs {
        job.release();
        job.await_stderr("returncode=0");
    }
    for (mut job, (name, code)) in jobs.into_iter().zip(SIGNALS) {
        assert!(job.is_running(), "it did not wait for the answer");
        job.signal(name);
        let ended = job.end().must(code);
        assert!(
            ended
                .stderr
                .contains("the data may not be on stable storage"),
            "{ended:?}"
        );
    }
    await_nothing_left(&rig);
}

#[test]
fn p7_keys_before_the_grant_give_up() {
    needs_storage!();
    needs_tool!("tmux");
    let rig = Rig::any();
    for (key, code) in [("C-c", 130), ("C-\\", 131)] {
        let terminal = Terminal::new(&rig);
        rig.signal_daemon("STOP");
        terminal.line("kvmd-pstrun -- echo started");
        terminal.await_screen("Opening");
        terminal.press(&[key]);
        terminal.await_screen("Gave up waiting");
        terminal.line("echo code $?");
        terminal.await_screen(&format!("\ncode {code}"));
        assert!(!terminal.screen().contains("\nstarted"));
        drop(terminal);
        await_nothing_left(&rig);
    }
}

#[test]
fn p4_keys_during_the_close_give_up_and_say_so() {
    needs_storage!();
    needs_tool!("tmux");
    let rig = Rig::any();
    for (key, code) in [("C-c", 130), ("C-\\", 131)] {
        let terminal = Terminal::new(&rig);
        terminal.line("kvmd-pstrun -- cat");
        terminal.await_screen("Running");
        rig.signal_daemon("STOP");
        terminal.press(&["C-d"]);
        terminal.await_screen("returncode=0");
        terminal.press(&[key]);
        terminal.await_screen("the data may not be on stable storage");
        terminal.line("echo code $?");
        terminal.await_screen(&format!("\ncode {code}"));
        drop(terminal);
        await_nothing_left(&rig);
    }
}
