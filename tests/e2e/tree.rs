//! P5 and P6 on whole process trees: whoever is lost, all of the command's tree
//! dies, its session ends only after it, and nobody else notices.

use std::process::Command;

use crate::rig::{
    Job, MEMBER, Rig, RunToEnd, Setup, Terminal, alive, await_death, children, signal, start,
    wait_until,
};
use crate::{needs_root, needs_storage, needs_tool};

/// A shell that ignores what asks it to end, and whose descendants have left it
/// in every way: by a session of their own, by a double fork, and stopped. None
/// holds a file of the storage: nothing but its session keeps it writable.
const STUBBORN: &str = "trap '' TERM HUP INT
    setsid sleep 1001 &
    (setsid sh -c 'sleep 1002 & exec true' &) &
    sh -c 'sleep 1003 & wait' &
    sleep 1004 &
    until grep -q sleep /proc/$!/comm; do :; done
    kill -STOP $!
    echo started
    wait; wait; while :; do sleep 1000; done";

const SLEEPERS: [&str; 4] = ["sleep 1001", "sleep 1002", "sleep 1003", "sleep 1004"];

fn sleepers(rig: &Rig) -> Vec<u32> {
    let found = SLEEPERS.iter().flat_map(|words| rig.running(words));
    found.collect()
}

/// Waits for the command's word and its whole tree.
#[track_caller]
fn await_tree(rig: &Rig, job: &Job) {
    job.await_stdout("started");
    wait_until("the tree is there", || sleepers(rig).len() == 4);
}

#[track_caller]
fn start_stubborn(rig: &Rig) -> Job {
    let job = start(&mut rig.run(["sh", "-c", STUBBORN]));
    await_tree(rig, &job);
    job
}

fn supervisor_of(run: &Job) -> u32 {
    match children(run.pid())[..] {
        [supervisor] => supervisor,
        ref other => panic!("not one supervisor: {other:?}"),
    }
}

/// Waits for the tree's end. Until then its session lives: the storage is writable.
#[track_caller]
fn await_end_of_tree_and_then_read_only(rig: &Rig) {
    wait_until("the tree is gone", || {
        let superblock = rig.superblock(); // first: the tree may end in between
        let left = sleepers(rig).len();
        assert!(
            left == 0 || superblock == "rw",
            "the session ended before {left} of its tree did"
        );
        left == 0
    });
    rig.await_superblock("ro");
    assert_eq!(rig.status()["sessions"], serde_json::json!([]));
}

#[test]
fn p6_the_session_of_a_killed_client_ends_after_its_tree() {
    needs_storage!();
    let rig = Setup::any().session("kill_grace = 0.3").start();
    let job = start_stubborn(&rig);
    job.signal("KILL");
    await_end_of_tree_and_then_read_only(&rig);
    assert_eq!(job.end().status.code(), None);
}

#[test]
fn p6_the_session_of_a_killed_supervisor_ends_after_its_tree() {
    needs_storage!();
    let rig = Setup::any().session("kill_grace = 0.3").start();
    let job = start_stubborn(&rig);
    signal(supervisor_of(&job), "KILL");
    await_end_of_tree_and_then_read_only(&rig);
    let ended = job.end().must(1);
    assert!(ended.stderr.contains("supervisor"), "{ended:?}");
}

#[test]
fn p5_a_killed_daemon_ends_the_whole_tree() {
    needs_storage!();
    let mut rig = Setup::any().session("kill_grace = 0.3").start();
    let job = start_stubborn(&rig);
    rig.kill_daemon();
    wait_until("the tree is gone", || sleepers(&rig).is_empty());
    let ended = job.end().must(137);
    assert!(ended.stderr.contains("ERROR"), "{ended:?}");
    rig.start_daemon();
    rig.await_superblock("ro");
}

#[test]
fn p1_a_new_daemon_waits_for_nobody() {
    needs_storage!();
    // So long that the old daemon's session is still about to end.
    let mut rig = Setup::any().session("kill_grace = 1000").start();
    let job = start_stubborn(&rig);
    rig.kill_daemon();
    assert_eq!(rig.superblock(), "rw");
    rig.start_daemon();
    rig.await_superblock("ro");
    assert_eq!(sleepers(&rig).len(), 4, "it came late: the tree was ended");
    // The next one has a session, beside what is left of the last.
    rig.sh("echo well > $KVMD_PST_DATA/file").must(0);
    let supervisor = supervisor_of(&job);
    wait_until("the old tree is gone", || {
        for pid in children(supervisor) {
            let _ = Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .output();
        }
        !alive(supervisor)
    });
    job.end().must(137);
}

#[test]
fn p3_a_new_daemon_grants_also_while_the_old_ones_writers_are_there() {
    needs_storage!();
    let mut rig = Setup::any().session("kill_grace = 1000").start();
    let script = "trap '' TERM; exec 3> $KVMD_PST_DATA/held; echo started; exec sleep 1001";
    let job = start(&mut rig.run(["sh", "-c", script]));
    job.await_stdout("started");
    wait_until("it sleeps", || rig.running("sleep 1001").len() == 1);
    rig.kill_daemon();
    rig.start_daemon();
    rig.await_state("stuck");
    rig.sh("echo well > $KVMD_PST_DATA/file").must(0);
    rig.await_state("stuck");
    signal(rig.running("sleep 1001")[0], "KILL");
    job.end().must(137);
    rig.await_state("ro");
    let text = std::fs::read_to_string(rig.data().join("file"));
    assert_eq!(text.expect("file"), "well\n");
}

#[test]
fn p5_p6_roots_tree_dies_also_where_it_is_somebody_elses() {
    needs_root!("other users' processes");
    let mut rig = Setup::any().session("kill_grace = 0.3").start();
    // Each way clears the signal that a parent's death could send.
    let script = "runuser -u nobody -- sleep 1001 &
        setpriv --reuid 64103 --regid 64103 --clear-groups sleep 1002 &
        setpriv --reuid 64103 --clear-groups setsid -f sleep 1003
        setpriv --reuid 64103 --clear-groups sh -c 'trap \"\" TERM; sleep 1004; sleep 1004' &
        echo started
        wait";
    let begin = |rig: &Rig| {
        let job = start(&mut rig.run(["sh", "-c", script]));
        await_tree(rig, &job);
        job
    };
    let job = begin(&rig);
    job.signal("KILL");
    await_end_of_tree_and_then_read_only(&rig);
    drop(job);
    let job = begin(&rig);
    signal(supervisor_of(&job), "KILL");
    await_end_of_tree_and_then_read_only(&rig);
    job.end().must(1);
    let job = begin(&rig);
    rig.kill_daemon();
    wait_until("the tree is gone", || sleepers(&rig).is_empty());
    assert_ne!(job.end().code(), 0);
    rig.start_daemon();
    rig.await_superblock("ro");
}

#[test]
fn p6_what_a_member_may_not_signal_is_named_and_not_waited_for() {
    needs_root!("other users' processes");
    let rig = Setup::any().session("kill_grace = 0.3").start();
    let helper = rig.dir().join("su");
    let make = "cp \"$(command -v setpriv)\" \"$1\" && chmod 4755 \"$1\"";
    let mut sh = rig.command("sh");
    sh.args(["-c", make, "sh"]).arg(&helper).to_end().must(0);
    // As sudo does it: it is root, not only effectively; it holds a file of the storage.
    let script = "exec 3> $KVMD_PST_DATA/held
        \"$0\" --reuid 0 sh -c 'echo root $$.; exec sleep 1001' &
        exec sleep 1002";
    let words = ["sh", "-c", script, helper.to_str().expect("UTF-8")];
    let job = start(&mut rig.run_as(MEMBER, words));
    job.await_stdout(".");
    let text = job.stdout();
    let number = text.trim().trim_start_matches("root ");
    let survivor: u32 = number.trim_end_matches('.').parse().expect("a pid");
    wait_until("it sleeps", || rig.running("sleep 1001") == [survivor]);
    signal(supervisor_of(&job), "KILL");
    let ended = job.end().must(1);
    let named = format!("Can't end process {survivor} (sleep) of user root");
    assert!(ended.stderr.contains(&named), "{ended:?}");
    assert!(alive(survivor));
    assert!(rig.running("sleep 1002").is_empty());
    rig.await_state("stuck");
    wait_until("the holder is named", || {
        rig.status()["holders"]
            .to_string()
            .contains(&survivor.to_string())
    });
    signal(survivor, "KILL");
    rig.await_superblock("ro");
    rig.await_state("ro");
}

#[test]
fn p5_a_stopped_job_of_a_killed_daemon_dies_and_its_group_stays_stopped() {
    needs_storage!();
    needs_tool!("tmux");
    let mut rig = Setup::any().session("kill_grace = 0.3").start();
    let script = rig.dir().join("stubborn");
    std::fs::write(&script, STUBBORN).expect("script");
    let code = rig.dir().join("code");
    let next;
    {
        let terminal = Terminal::new(&rig);
        terminal.line("stty -ixon; stty -g");
        terminal.await_screen(":");
        let settings = terminal.screen();
        // One job: the subshell, a bystander, and the session.
        terminal.line(&format!(
            "(sleep 1005 & kvmd-pstrun -- sh {}; echo $? > {}; sleep 1006)",
            script.display(),
            code.display()
        ));
        terminal.await_screen("\nstarted");
        wait_until("the tree is there", || sleepers(&rig).len() == 4);
        terminal.press(&["C-z"]);
        terminal.await_screen("Stopped");
        assert_eq!(rig.superblock(), "rw");
        rig.signal_daemon("KILL");
        wait_until("the tree is gone", || sleepers(&rig).is_empty());
        let bystander = rig.running("sleep 1005");
        assert_eq!(bystander.len(), 1, "the bystander was touched");
        assert_eq!(state(bystander[0]), "T", "the bystander was touched");
        assert!(!code.exists(), "the caller was woken");
        next = start(&mut rig.daemon_command());
        rig.await_superblock("ro");
        // The terminal is the shell's, and as it was.
        terminal.line("clear; stty -g; echo well");
        terminal.await_screen("\nwell");
        let line = settings
            .lines()
            .rfind(|line| line.contains(":"))
            .expect("settings");
        assert!(terminal.screen().contains(line), "{}", terminal.screen());
        terminal.line("fg");
        wait_until("the caller goes on", || code.exists());
        wait_until("the caller has its code", || {
            std::fs::read_to_string(&code).is_ok_and(|text| text == "137\n")
        });
        wait_until("it is at its end", || rig.running("sleep 1006").len() == 1);
        terminal.press(&["C-c"]);
        for pid in bystander {
            let _ = Command::new("kill").arg(pid.to_string()).output(); // ^C has it
            await_death(pid);
        }
    }
    rig.end_daemon();
    next.signal("TERM");
    next.end().must(0);
}

#[test]
fn p5_a_daemon_stopped_with_fifty_sessions_ends_them_all() {
    needs_storage!();
    let mut rig = Rig::any(); // with the default grace
    let jobs: Vec<Job> = (0..50)
        .map(|number| {
            let trap = if number % 5 == 0 { "trap '' TERM;" } else { "" };
            let script = format!("{trap} sleep 1001 & echo started; wait; wait");
            start(&mut rig.run(["sh", "-c", &script]))
        })
        .collect();
    for job in &jobs {
        job.await_stdout("started");
    }
    wait_until("all sleep", || rig.running("sleep 1001").len() == 50);
    rig.signal_daemon("TERM");
    let asked = std::time::Instant::now();
    rig.end_daemon().must(0);
    let took = asked.elapsed();
    assert_eq!(rig.superblock(), "ro");
    assert!(took < STOP_BOUND, "the stop took {took:?}");
    assert_eq!(rig.running("sleep 1001"), [0; 0]);
    for job in jobs {
        let code = job.end().code();
        assert!([137, 143].contains(&code), "{code}");
    }
}

/// What systemd's users would call prompt.
const STOP_BOUND: std::time::Duration = std::time::Duration::from_secs(5);

/// A process's state, as proc_pid_stat(5) has it.
fn state(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let (_, rest) = stat.rsplit_once(") ").expect("stat");
    rest[..1].to_owned()
}

/// `pst run` of `true`, with these faults injected into it; with `-f`, also into its other processes.
fn run_with(rig: &Rig, options: &[&str], faults: &str) -> Job {
    let mut strace = rig.command("strace");
    strace.args(options);
    strace.args(["-e", &format!("inject={faults}"), "-o"]);
    strace.arg(rig.dir().join("calls"));
    strace
        .arg(rig.bin("kvmd-pstrun"))
        .args(["-q", "--", "true"]);
    start(&mut strace)
}

#[test]
fn p6_a_close_that_cannot_be_sent_ends_the_session_and_is_reported() {
    needs_root!("tracing another process");
    needs_tool!("strace");
    let rig = Rig::ext4();
    // The first message is Open, the second is Close. send(2) is a call of its own on some processors.
    for error in ["ENOBUFS", "ENOMEM"] {
        let ended = run_with(&rig, &[], &format!("?send,sendto:error={error}:when=2")).end();
        let expected = "The data may not be on stable storage: cannot close the session: ";
        assert!(ended.must(1).stderr.contains(expected));
        rig.await_superblock("ro");
    }
    rig.must_serve();
}

#[test]
fn p6_a_supervisor_that_is_stopped_at_its_start_ends_if_pst_run_is_killed() {
    needs_root!("tracing another process");
    needs_tool!("strace");
    let rig = Rig::ext4();
    // Each process is stopped after its first prctl, by which it becomes a subreaper.
    let job = run_with(&rig, &["-f"], "prctl:signal=STOP:when=1");
    let calls = || std::fs::read_to_string(rig.dir().join("calls")).unwrap_or_default();
    let stopped = || {
        let calls = calls();
        let lines = calls
            .lines()
            .filter(|line| line.contains("--- stopped by SIGSTOP"));
        let pids = lines.filter_map(|line| line.split(' ').next()?.parse().ok());
        pids.collect::<Vec<u32>>()
    };
    wait_until("pst run is stopped", || stopped().len() == 1);
    let run = stopped()[0];
    signal(run, "CONT");
    wait_until("the supervisor is stopped", || stopped().len() == 2);
    let supervisor = stopped()[1];
    wait_until("pst run asks for a session", || {
        calls().contains(" connect(")
    });
    assert_ne!(run, supervisor);
    signal(run, "KILL");
    await_death(supervisor);
    rig.await_superblock("ro");
    job.end();
    rig.must_serve();
}
