//! P5 and P6: when the daemon or `pst run` goes, the command goes.

use crate::needs_storage;
use crate::rig::{Rig, RunToEnd, alive, await_death, children, signal, start, wait_until};

/// A session whose command writes its pid, and is that pid.
fn sleeper(rig: &Rig) -> (crate::rig::Job, u32) {
    let job = start(&mut rig.run(["sh", "-c", "echo pid $$.; exec sleep 1000"]));
    job.await_stdout(".");
    let pid = job
        .stdout()
        .trim()
        .trim_start_matches("pid ")
        .trim_end_matches('.')
        .parse()
        .expect("a pid");
    (job, pid)
}

#[test]
fn p5_a_stopped_daemon_ends_the_session_and_leaves_read_only() {
    needs_storage!();
    for signal in ["TERM", "INT"] {
        let mut rig = Rig::any();
        let (job, command) = sleeper(&rig);
        rig.signal_daemon(signal);
        let daemon = rig.end_daemon().must(0);
        assert_eq!(rig.superblock(), "ro", "{daemon:?}");
        let ended = job.end().must(143);
        assert!(
            ended.stderr.contains("ERROR"),
            "it does not say why: {ended:?}"
        );
        assert!(!alive(command));
        assert!(!rig.socket().exists(), "the socket is left");
    }
}

#[test]
fn p5_a_stopped_daemon_kills_what_ignores_term() {
    needs_storage!();
    let mut rig = Rig::any();
    let job = start(&mut rig.run([
        "sh",
        "-c",
        "trap '' TERM HUP INT; echo started; while :; do sleep 1000; done",
    ]));
    job.await_stdout("started");
    rig.stop_daemon();
    assert_eq!(rig.superblock(), "ro");
    assert_ne!(job.end().code(), 0);
}

#[test]
fn p5_a_killed_daemon_ends_the_session_and_touches_nobody_else() {
    needs_storage!();
    let mut rig = Rig::any();
    // The caller and the bystander are in one process group with `pst run`.
    let script = "sleep 1000 & echo bystander $!.; kvmd-pstrun -- sh -c 'echo command $$.; exec sleep 1000'; echo code $?.; kill $!; wait";
    let caller = start(rig.command("setsid").args(["-w", "sh", "-c", script]));
    caller.await_stdout("command ");
    wait_until("both are there", || {
        caller.stdout().matches('.').count() == 2
    });
    let pid = |name: &str| {
        let text = caller.stdout();
        let number = text
            .split_once(&format!("{name} "))
            .expect("it")
            .1
            .split('.')
            .next()
            .expect("it")
            .to_owned();
        number.parse::<u32>().expect("a number")
    };
    let (bystander, command) = (pid("bystander"), pid("command"));
    rig.kill_daemon();
    await_death(command);
    caller.await_stdout("code ");
    assert!(!caller.stdout().contains("code 0"), "{}", caller.stdout());
    let _ = bystander; // ended by its own shell's `kill`, which fails if it were dead
    let ended = caller.end().must(0);
    assert!(!ended.stderr.contains("No such process"), "{ended:?}");
    rig.start_daemon();
    rig.await_superblock("ro");
}

#[test]
fn p6_a_killed_client_ends_the_command_and_the_session() {
    needs_storage!();
    let rig = Rig::any();
    let (job, command) = sleeper(&rig);
    job.signal("KILL");
    await_death(command);
    rig.await_superblock("ro");
    assert_eq!(job.end().status.code(), None);
    assert_eq!(
        rig.status()["sessions"].as_array().expect("a list").len(),
        0
    );
}

#[test]
fn p6_a_terminated_client_passes_it_on() {
    needs_storage!();
    let rig = Rig::any();
    let script = "trap 'echo got TERM; exit 9' TERM; echo started; while :; do sleep 0.01; done";
    let job = start(&mut rig.run(["sh", "-c", script]));
    job.await_stdout("started");
    job.signal("TERM");
    let ended = job.end().must(9);
    assert_eq!(ended.text().matches("got TERM").count(), 1);
}

#[test]
fn p5_a_daemon_stopped_under_load_still_ends() {
    needs_storage!();
    let mut rig = Rig::any();
    let jobs: Vec<_> = (0..20)
        .map(|_| start(&mut rig.run(["sleep", "1000"])))
        .collect();
    wait_until("some are granted", || {
        rig.status()["sessions"]
            .as_array()
            .is_some_and(|s| s.len() > 10)
    });
    rig.stop_daemon();
    assert_eq!(rig.superblock(), "ro");
    for job in jobs {
        assert_ne!(job.end().code(), 0);
    }
}

#[test]
fn p6_a_killed_supervisor_ends_the_command_and_the_session() {
    needs_storage!();
    let rig = Rig::any();
    let (job, command) = sleeper(&rig);
    let supervisors = children(job.pid());
    assert_eq!(supervisors.len(), 1, "{supervisors:?}");
    signal(supervisors[0], "KILL");
    await_death(command);
    rig.await_superblock("ro");
    assert_ne!(job.end().code(), 0);
}

#[test]
fn p6_a_killed_client_takes_the_whole_tree_along() {
    needs_storage!();
    let rig = Rig::any();
    let script = "trap '' TERM
        setsid sleep 1001 &
        (sleep 1002 & wait) &
        sleep 1003 &
        until grep -q sleep /proc/$!/comm; do :; done
        kill -STOP $!
        echo started
        wait";
    let job = start(&mut rig.run(["sh", "-c", script]));
    job.await_stdout("started");
    let sleepers = || {
        let listed = rig
            .command("pgrep")
            .args(["-f", "^sleep 100[123]$"])
            .to_end()
            .text();
        listed
            .lines()
            .filter_map(|pid| pid.parse().ok())
            .filter(|pid| rig.is_mine(*pid))
            .count()
    };
    wait_until("the tree is there", || sleepers() == 3);
    job.signal("KILL");
    wait_until("the tree is gone", || sleepers() == 0);
    rig.await_superblock("ro");
}

#[test]
fn p4_a_daemon_that_was_frozen_loses_nothing_and_who_waits_says_so() {
    needs_storage!();
    let rig = Rig::any();
    let working = rig.session_with("echo worked > $KVMD_PST_DATA/working");
    let mut closing = rig.session_with("echo closed > $KVMD_PST_DATA/closing");
    rig.signal_daemon("STOP");
    let interrupted = start(&mut rig.run(["echo", "started"]));
    let opening = start(&mut rig.run(["sh", "-c", "echo opened > $KVMD_PST_DATA/opening"]));
    closing.release();
    for job in [&interrupted, &opening, &closing] {
        job.await_stderr("No answer from the daemon for 5 s");
    }
    assert!(
        !working.stderr().contains("No answer"),
        "it waits for nothing"
    );
    interrupted.signal("INT");
    assert_eq!(interrupted.end().must(130).text(), "");
    rig.signal_daemon("CONT");
    closing.end().must(0);
    opening.end().must(0);
    assert_eq!(rig.superblock(), "rw");
    working.end().must(0);
    rig.await_superblock("ro");
    for (name, text) in [
        ("working", "worked"),
        ("closing", "closed"),
        ("opening", "opened"),
    ] {
        let found = std::fs::read_to_string(rig.data().join(name)).expect(name);
        assert_eq!(found.trim_end(), text);
    }
}
