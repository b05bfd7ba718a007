//! P5, P6: whoever is lost, the command's whole tree ends, and nobody else.

use std::process::{Child, Command};

use pst::wire::{ClientMessage, CloseResult, RevokeReason};

use crate::rig::{
    Client, Narrow, Rig, becomes, child_of, is_alive, parent, signal, stopped_at_fork, until,
};
use crate::signals::FIRST_LINE;

/// A shell that ignores TERM, with children that do not want to die either.
const STUBBORN: &str = "trap '' TERM HUP INT
    setsid sleep 1001 &
    (setsid bash -c 'sleep 1002 & echo $! > $F/double' &) &
    bash -c 'trap \"\" TERM; sleep 1003 & wait' &
    sleep 1004 & stopped=$!; kill -STOP $stopped; echo $stopped > $F/stopped
    while [ ! -s $F/double ]; do sleep 0.01; done
    echo $$ > $F/up
    while :; do sleep 0.01; done";

struct Started {
    child: Child,
    client: Client,
    run: i32,
    supervisor: i32,
}

impl Started {
    fn new(rig: &Rig, mut command: Command) -> Self {
        let child = command.spawn().unwrap();
        let mut client = rig.accept();
        client.grant(rig);
        rig.line_of("up");
        let run = child.id() as i32;
        let supervisor = child_of(run);
        Self {
            child,
            client,
            run,
            supervisor,
        }
    }

    fn stubborn(rig: &Rig) -> Self {
        Self::new(rig, rig.run(&["bash", "-c", STUBBORN]))
    }

    /// The session ends, and by then nothing of it is left.
    #[track_caller]
    fn ends_with_all(mut self, rig: &Rig, expected: Option<i32>) -> String {
        assert_eq!(
            self.client.next(),
            None,
            "the session ends by its connection's end"
        );
        let alive: Vec<_> = rig.marked();
        let own: Vec<_> = alive
            .into_iter()
            .filter(|&pid| pid != self.run && pid != self.supervisor)
            .collect();
        assert_eq!(own, [0; 0], "the session outlived its tree");
        let output = self.child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), expected);
        rig.all_end();
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn p5_the_daemon_dies() {
    let rig = Rig::new();
    let started = Started::stubborn(&rig);
    // As SIGKILL does it: without a word. The session's end is not to be seen then.
    let Started { child, client, .. } = started;
    drop(client);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(137));
    rig.all_end();
}

#[test]
fn p5_the_daemon_stops() {
    let rig = Rig::new();
    let mut started = Started::stubborn(&rig);
    started.client.revoke(RevokeReason::Stopping);
    started.ends_with_all(&rig, Some(137));
}

#[test]
fn p5_the_storage_is_lost() {
    let rig = Rig::new();
    let mut started = Started::stubborn(&rig);
    started.client.revoke(RevokeReason::Lost);
    started.ends_with_all(&rig, Some(1));
}

#[test]
fn p6_run_is_killed() {
    let rig = Rig::new();
    let started = Started::stubborn(&rig);
    signal(started.run, libc::SIGKILL);
    let stderr = started.ends_with_all(&rig, None);
    assert!(stderr.contains("`pst run` was killed"));
}

#[test]
fn p6_the_supervisor_is_killed() {
    let rig = Rig::new();
    let started = Started::stubborn(&rig);
    signal(started.supervisor, libc::SIGKILL);
    let stderr = started.ends_with_all(&rig, Some(1));
    assert!(stderr.contains("supervisor was lost"));
}

/// Starts a command whose stderr, and that of all who watch it, takes nothing any more.
fn unheard(rig: &Rig) -> (Started, Narrow) {
    unheard_script(rig, "echo > $F/up; exec sleep 100")
}

fn unheard_script(rig: &Rig, script: &str) -> (Started, Narrow) {
    let narrow = Narrow::new(&rig.folder.join("narrow"), 0);
    let mut command = rig.command(env!("CARGO_BIN_EXE_pst"));
    command.args(["run", "-q", "--", "bash", "-c", script]);
    command.stderr(narrow.end());
    (Started::new(rig, command), narrow)
}

#[test]
fn p6_run_is_killed_and_nobody_reads_that_it_was() {
    let rig = Rig::new();
    let (mut started, mut narrow) = unheard(&rig);
    signal(started.run, libc::SIGKILL);
    assert_eq!(started.client.next(), None, "the session ends");
    narrow.holds_up(started.supervisor);
    started.child.wait().unwrap();
    assert_eq!(rig.marked(), [started.supervisor]);
    narrow.read();
    rig.all_end();
    assert!(narrow.read().contains("`pst run` was killed"));
}

#[test]
fn p6_run_is_killed_and_nobody_reads_that_the_command_was_not_found() {
    let rig = Rig::new();
    let mut narrow = Narrow::new(&rig.folder.join("narrow"), 0);
    let mut command = rig.command(env!("CARGO_BIN_EXE_pst"));
    command.args(["run", "-q", "--", "no-such-command"]);
    let mut child = command.stderr(narrow.end()).spawn().unwrap();
    let mut client = rig.accept();
    client.grant(&rig);
    until("somebody writes in vain", || {
        let places = rig
            .marked()
            .into_iter()
            .map(|pid| std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default());
        places
            .into_iter()
            .find(|place| place.contains("pipe_write"))
    });
    signal(child.id() as i32, libc::SIGKILL);
    child.wait().unwrap();
    assert_eq!(client.next(), None, "the session ends");
    narrow.read();
    rig.all_end();
}

#[test]
fn p6_the_supervisor_is_killed_and_nobody_reads_that_it_was() {
    let rig = Rig::new();
    let (mut started, mut narrow) = unheard(&rig);
    signal(started.supervisor, libc::SIGKILL);
    assert_eq!(started.client.next(), None, "the session ends");
    narrow.holds_up(started.run);
    assert_eq!(rig.marked(), [started.run]);
    narrow.read();
    assert_eq!(started.child.wait().unwrap().code(), Some(1));
    rig.all_end();
    assert!(narrow.read().contains("supervisor was lost"));
}

#[test]
fn p5_the_storage_is_lost_and_nobody_reads_that_it_is() {
    let rig = Rig::new();
    let (mut started, mut narrow) = unheard(&rig);
    started.client.revoke(RevokeReason::Lost);
    narrow.holds_up(started.run);
    until("only that is left", || {
        (rig.marked() == [started.run]).then_some(())
    });
    narrow.read();
    assert_eq!(started.child.wait().unwrap().code(), Some(1));
    assert!(narrow.read().contains("PST write is revoked"));
}

#[test]
fn p3_a_daemon_that_dies_just_before_the_start_leaves_nothing_started() {
    let rig = Rig::new();
    let lines = format!(
        "{FIRST_LINE}--    INFO -- PST write is allowed: {}\n",
        rig.data().display()
    );
    let mut narrow = Narrow::new(&rig.folder.join("narrow"), lines.len());
    let mut command = rig.run(&["sh", "-c", "echo > $F/up"]);
    let mut child = command.stderr(narrow.end()).spawn().unwrap();
    let mut client = rig.accept();
    client.grant(&rig);
    narrow.holds_up(child.id() as i32); // with what it says before the start
    drop(client);
    narrow.read();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    rig.all_end();
    assert!(!rig.folder.join("up").exists());
    assert!(narrow.read().contains("PST write is over"));
}

#[test]
fn p6_the_supervisor_is_killed_while_run_is_stopped() {
    let rig = Rig::new();
    let started = Started::stubborn(&rig);
    signal(started.run, libc::SIGSTOP);
    becomes(started.run, "T");
    signal(started.supervisor, libc::SIGKILL);
    let stderr = started.ends_with_all(&rig, Some(1));
    assert!(stderr.contains("supervisor was lost"));
}

#[test]
fn p6_run_is_killed_while_the_supervisor_is_stopped_at_its_fork() {
    for kill in [true, false] {
        let rig = Rig::new();
        let script = "kill -STOP $$; exec $PST run sh -c 'echo > $F/up'";
        let mut child = rig.bash(script).spawn().unwrap();
        let run = child.id() as i32;
        becomes(run, "T");
        let tracer = std::thread::spawn(move || stopped_at_fork(run));
        let mut client = rig.accept();
        client.grant(&rig);
        let supervisor = tracer.join().unwrap();
        becomes(supervisor, "T");
        match kill {
            true => signal(run, libc::SIGKILL),
            false => client.revoke(RevokeReason::Stopping),
        }
        assert_eq!(client.next(), None, "the session ends");
        let code = child.wait().unwrap().code();
        assert_eq!(code, (!kill).then_some(1));
        if kill {
            becomes(supervisor, "T"); // it holds nothing, and nobody has continued it
            signal(supervisor, libc::SIGCONT);
        }
        rig.all_end();
        assert!(!rig.folder.join("up").exists());
    }
}

#[test]
fn p5_the_daemon_dies_while_all_is_stopped() {
    let rig = Rig::new();
    let started = Started::stubborn(&rig);
    let stopped: Vec<_> = rig.marked();
    for pid in &stopped {
        signal(*pid, libc::SIGSTOP);
    }
    becomes(started.run, "T");
    becomes(started.supervisor, "T");
    let Started { child, client, .. } = started;
    drop(client);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(137));
    rig.all_end();
}

#[test]
fn p5_a_stopped_command_is_asked_before_it_is_killed() {
    let mut rig = Rig::new();
    rig.kill_grace_ms = 15_000; // that SIGKILL is not what ends it
    let script = "echo > $F/up; exec sleep 100";
    let Started { child, client, .. } = Started::new(&rig, rig.run(&["sh", "-c", script]));
    for pid in rig.marked() {
        signal(pid, libc::SIGSTOP);
    }
    drop(client);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
    rig.all_end();
}

#[test]
fn p6_run_is_killed_while_all_is_stopped() {
    let rig = Rig::new();
    let started = Started::stubborn(&rig);
    for pid in rig.marked() {
        signal(pid, libc::SIGSTOP);
    }
    becomes(started.supervisor, "T");
    signal(started.run, libc::SIGKILL);
    started.ends_with_all(&rig, None);
}

/// Keeps a process stopped until it is dropped.
struct Stopper {
    alive: Option<std::sync::Arc<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Stopper {
    fn new(pid: i32) -> Self {
        let alive = std::sync::Arc::new(());
        let stop = std::sync::Arc::downgrade(&alive);
        let thread = std::thread::spawn(move || {
            while stop.upgrade().is_some() {
                signal(pid, libc::SIGSTOP);
                std::thread::yield_now();
            }
        });
        becomes(pid, "T");
        Self {
            alive: Some(alive),
            thread: Some(thread),
        }
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.alive.take();
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn p5_a_supervisor_that_stays_stopped_is_replaced() {
    let rig = Rig::new();
    let mut started = Started::stubborn(&rig);
    let _stopper = Stopper::new(started.supervisor);
    started.client.revoke(RevokeReason::Stopping);
    started.ends_with_all(&rig, Some(1));
}

#[test]
fn p5_a_supervisor_that_stays_stopped_is_replaced_while_nobody_reads_why() {
    let rig = Rig::new();
    let (mut started, mut narrow) = unheard_script(&rig, STUBBORN);
    let stopper = Stopper::new(started.supervisor);
    started.client.revoke(RevokeReason::Stopping);
    assert_eq!(started.client.next(), None, "the session ends");
    until("only `pst run` is left", || {
        (rig.marked() == [started.run]).then_some(())
    });
    drop(stopper);
    narrow.read();
    assert_eq!(started.child.wait().unwrap().code(), Some(1));
    assert!(narrow.read().contains("supervisor was lost"));
}

#[test]
fn p6_a_command_that_cannot_be_forked_ends_the_session_though_nobody_reads_why() {
    needs_root!("other users");
    let rig = Rig::new();
    let narrow = Narrow::new(&rig.folder.join("narrow"), 0);
    // A user of its own: the limit counts all processes of a user. The supervisor is the second.
    let script = "chmod 755 $F && chmod 777 $F/data $F/sock && exec 9<$PST || exit
        exec setpriv --reuid 64321 --clear-groups prlimit --nproc=2 /proc/self/fd/9 run -q true";
    let mut child = rig.bash(script).stderr(narrow.end()).spawn().unwrap();
    let mut client = rig.accept();
    client.grant(&rig);
    assert_eq!(client.next(), Some(ClientMessage::Close));
    client.close(CloseResult::Durable);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    rig.all_end();
}

#[test]
fn p5_a_fork_storm_ends() {
    let rig = Rig::new();
    let storm = "for i in 1 2 3 4 5 6 7 8; do
            (trap '' TERM; while :; do (sleep 100 &); sleep 0.02; done) &
        done; trap '' TERM; echo > $F/up; while :; do wait; done";
    let mut started = Started::new(&rig, rig.run(&["bash", "-c", storm]));
    until("many", || (rig.marked().len() > 60).then_some(()));
    started.client.revoke(RevokeReason::Stopping);
    started.ends_with_all(&rig, Some(137));
}

#[test]
fn p5_a_large_tree_ends() {
    let rig = Rig::new();
    let script = "for i in $(seq 400); do sleep 1000 & done; echo > $F/up; wait";
    let mut started = Started::new(&rig, rig.run(&["bash", "-c", script]));
    started.client.revoke(RevokeReason::Stopping);
    started.ends_with_all(&rig, Some(143));
}

#[test]
fn p5_the_tree_is_asked_before_it_is_killed() {
    let rig = Rig::new();
    let script =
        "(trap 'echo bye > $F/bye; exit' TERM; echo > $F/up; while :; do sleep 0.01; done) & wait";
    let mut started = Started::new(&rig, rig.run(&["bash", "-c", script]));
    started.client.revoke(RevokeReason::Stopping);
    started.ends_with_all(&rig, Some(143));
    assert_eq!(rig.line_of("bye"), "bye");
}

#[test]
fn p5_without_proc_the_command_itself_still_dies() {
    needs_namespaces!();
    let rig = Rig::new();
    let mut command = rig.command("unshare");
    command.args(["-rm", "bash", "-c"]);
    command.arg("umount -l /proc; mount -t tmpfs none /proc; exec $PST run bash -c 'echo > $F/up; exec sleep 100'");
    let mut child = command.spawn().unwrap();
    let mut client = rig.accept();
    client.grant(&rig);
    rig.line_of("up");
    client.revoke(RevokeReason::Stopping);
    assert_eq!(client.next(), None);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    rig.all_end();
}

#[test]
fn p5_with_the_proc_of_another_pid_namespace_it_says_that_some_may_be_left() {
    needs_namespaces!();
    let rig = Rig::new();
    let mut command = rig.command("unshare");
    command.args(["-rpf", "bash", "-c"]);
    let script = "bash -c 'trap \"\" TERM; sleep 1001 & sleep 1002 & echo > $F/up; wait'";
    command.arg(format!(
        "$PST run {script}; echo $? > $F/code; exec >&- 2>&-; sleep 100"
    ));
    let child = command.spawn().unwrap();
    let mut client = rig.accept();
    client.grant(&rig);
    rig.line_of("up");
    client.revoke(RevokeReason::Stopping);
    assert_eq!(client.next(), None);
    assert_eq!(rig.line_of("code"), "137");
    let sleeps = || {
        let marked = rig.marked().into_iter();
        let comm = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm"));
        marked
            .filter(|pid| comm(pid).is_ok_and(|name| name == "sleep\n"))
            .count()
    };
    until("the two are left, and the script's own", || {
        (sleeps() == 3).then_some(())
    });
    drop(rig);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("Can't find processes that the command left running"),
        "{stderr}"
    );
}

#[test]
fn what_outlives_a_command_that_ended_by_itself_is_left_alone() {
    let rig = Rig::new();
    let script = "sleep 100 & echo $! > $F/left";
    let mut child = rig
        .run(&["sh", "-c", script])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    child.stderr.take();
    let mut client = rig.accept();
    client.grant(&rig);
    assert_eq!(client.next(), Some(ClientMessage::Close));
    client.close(CloseResult::Durable);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(is_alive(rig.pid_of("left")));
}

#[test]
fn p5_the_callers_group_and_children_are_left_alone() {
    // In one process group with the caller and its other child; and the latter
    // is a child of `pst run`, which the caller becomes by exec.
    for kill_supervisor in [false, true] {
        let rig = Rig::new();
        let mut command = rig.command("setsid");
        command.args(["-w", "bash", "-c"]);
        command.arg(
            "bash -c 'sleep 100 & sleep 100 & wait' & echo $! > $F/other
             bash -c 'sleep 100 & echo $! > $F/child; exec $PST run bash -c \"echo \\$PPID > $F/supervisor; echo > $F/up; sleep 100\"'
             echo $? > $F/code; wait",
        );
        let child = command.spawn().unwrap();
        let mut client = rig.accept();
        client.grant(&rig);
        rig.line_of("up");
        let (other, left) = (rig.pid_of("other"), rig.pid_of("child"));
        if kill_supervisor {
            let run = parent(left);
            let supervisor = rig.pid_of("supervisor");
            let comm = std::fs::read_to_string(format!("/proc/{supervisor}/comm"));
            assert_eq!(comm.unwrap(), "supervisor\n");
            let guard = parent(supervisor).unwrap();
            assert_eq!(parent(guard), run);
            signal(supervisor, libc::SIGKILL);
            assert_eq!(client.next(), None);
            assert_eq!(rig.line_of("code"), "1");
        } else {
            drop(client);
            assert_eq!(rig.line_of("code"), "143");
        }
        assert!(is_alive(left) && is_alive(other));
        // The child's two may not be there yet.
        until(
            "setsid, bash, its child with two, one more are left",
            || (rig.marked().len() == 6 - 1).then_some(()),
        );
        drop(rig);
        child.wait_with_output().unwrap();
    }
}

#[test]
fn p5_what_the_callers_child_starts_later_is_left_alone() {
    // The caller's child is a child of `pst run`, which must not take its orphans for the command's.
    for (lost, code) in [
        ("supervisor", Some(1)),
        ("its guard", Some(1)),
        ("a stopped supervisor", Some(1)),
        ("daemon", Some(137)),
        ("run", None),
        ("run while all is stopped", None),
    ] {
        let rig = Rig::new();
        let script = "(while [ ! -e $F/go ]; do sleep 0.01; done
                (sleep 1001 & echo $! > $F/late); sleep 1002) &
            echo $! > $F/child; exec $PST run bash -c \"echo \\$\\$ > $F/shell
                echo \\$PPID > $F/supervisor; $STUBBORN\"";
        let mut command = rig.bash(script);
        command.env("STUBBORN", STUBBORN);
        let mut started = Started::new(&rig, command);
        std::fs::write(rig.folder.join("go"), "").unwrap();
        let (old, late) = (rig.pid_of("child"), rig.pid_of("late"));
        until("an orphan", || {
            (parent(parent(late)?) != Some(old)).then_some(())
        });
        let supervisor = rig.pid_of("supervisor");
        let _stopper = (lost == "a stopped supervisor").then(|| Stopper::new(supervisor));
        match lost {
            "supervisor" => signal(supervisor, libc::SIGKILL),
            "its guard" => signal(parent(supervisor).unwrap(), libc::SIGKILL),
            "run" => signal(started.run, libc::SIGKILL),
            "run while all is stopped" => {
                for pid in [parent(supervisor).unwrap(), supervisor, rig.pid_of("shell")] {
                    signal(pid, libc::SIGSTOP);
                    becomes(pid, "T");
                }
                signal(started.run, libc::SIGKILL);
            }
            _ => started.client.revoke(RevokeReason::Stopping),
        }
        assert_eq!(started.client.next(), None, "{lost}");
        assert_eq!(started.child.wait().unwrap().code(), code, "{lost}");
        let is_callers = |pid: &i32| [old, late].contains(pid) || parent(*pid) == Some(old);
        until("only the caller's are left", || {
            rig.marked().iter().all(is_callers).then_some(())
        });
        assert!(is_alive(old) && is_alive(late), "{lost}");
    }
}

#[test]
fn p5_what_may_not_be_signalled_is_named() {
    needs_root!("other users");
    let rig = Rig::new();
    // A member's command that becomes root, as sudo does: really root, not only effectively.
    let script = "cp $(command -v setpriv) $F/su && chmod 4755 $F/su && chmod 755 $F && chmod 777 $F/data $F/sock
        exec 9<$PST
        exec setpriv --reuid 65534 --clear-groups /proc/self/fd/9 run $F/su --reuid 0 bash -c 'echo $$ > $F/up; exec sleep 100'";
    let mut started = Started::new(&rig, rig.bash(script));
    let root = rig.pid_of("up");
    started.client.revoke(RevokeReason::Stopping);
    assert_eq!(started.client.next(), None);
    let Started { mut child, .. } = started;
    let mut stderr = String::new();
    let code = child.wait().unwrap().code();
    signal(root, libc::SIGKILL); // it holds stderr
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).unwrap();
    assert_eq!(code, Some(1));
    let named = format!("Can't end process {root} (sleep) of user root");
    assert!(stderr.contains(&named), "{stderr}");
}
