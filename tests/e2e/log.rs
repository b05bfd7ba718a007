//! The daemon's log: a line for each event, which an operator can search for.

use crate::needs_root;
use crate::needs_storage;
use crate::rig::{MEMBER, OUTSIDER, Rig, RunToEnd, Setup, start, wait_until};

/// The lines with this in them.
fn lines(log: &str, part: &str) -> Vec<String> {
    let lines = log.lines().filter(|line| line.contains(part));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_session_is_a_line_as_it_opens_and_a_line_as_it_closes() {
    needs_root!("other users, a block device's statistics");
    let rig = Rig::ext4();
    let session = rig.session_as(MEMBER);
    let pid = rig.status()["sessions"][0]["pid"].clone();
    let who = format!("session 1 of user {}, pid {pid}, `sh -c ", MEMBER.uid);
    let opened = lines(&rig.log(), &who);
    assert_eq!(opened.len(), 1, "{}", rig.log());
    assert!(opened[0].starts_with("pst: INFO ") && opened[0].ends_with(", opened"));
    rig.sh("head -c 100000 /dev/zero > $KVMD_PST_DATA/file")
        .must(0);
    session.end().must(0);
    let both = lines(&rig.log(), &who);
    assert_eq!(both.len(), 2, "{}", rig.log());
    let (_, end) = both[1].split_once(", closed (after ").expect("closed");
    let (time, written) = end.split_once(" s, ").expect("a time");
    assert!(time.parse::<f64>().is_ok(), "{both:?}");
    // Others' bytes count, too: they were written meanwhile.
    let kibibytes = written.split_once(" KiB written)").expect("an amount").0;
    assert!(
        kibibytes.parse::<f64>().expect("a number") > 97.0,
        "{both:?}"
    );
}

#[test]
fn a_remount_is_a_line_with_its_time() {
    needs_storage!();
    let rig = Rig::any();
    rig.sh("true").must(0);
    wait_until("both are logged", || {
        let log = rig.log();
        lines(&log, "pst: INFO storage made writable in ").len() == 1
            && lines(&log, "pst: INFO storage made read-only in ").len() == 1
    });
    for line in lines(&rig.log(), "storage made ") {
        let time = line.split_once(" in ").expect("a time").1;
        assert!(time.starts_with(|c: char| c.is_ascii_digit()), "{line}");
        assert!(time.contains("ms") || time.contains("µs"), "{line}");
    }
}

#[test]
fn a_refusal_names_who_and_why() {
    needs_root!("other users");
    let rig = Setup::any().head("socket_mode = 0o666").start();
    rig.run_as(OUTSIDER, ["true"]).to_end().must(1);
    let refused = lines(&rig.log(), "was refused: not in the group");
    assert_eq!(refused.len(), 1, "{}", rig.log());
    let who = format!("pst: WARN user {}, pid ", OUTSIDER.uid);
    assert!(refused[0].starts_with(&who), "{refused:?}");
    assert_eq!(rig.status()["totals"]["denials"], 1);
}

#[test]
fn a_denial_names_who_and_why() {
    needs_storage!();
    let rig = Setup::any().unmounted().start();
    rig.sh("true").must(1);
    let denied = lines(&rig.log(), "`sh -c true`, denied: ");
    assert_eq!(denied.len(), 1, "{}", rig.log());
    assert!(denied[0].starts_with("pst: WARN session 1 of user 0, pid "));
    assert!(denied[0].contains("mounted"), "{denied:?}");
    let status = rig.status();
    assert_eq!(status["totals"]["denials"], 1);
    assert_eq!(status["past"][0]["ended"], "denied");
}

#[test]
fn the_option_goes_before_the_environment() {
    needs_storage!();
    let mut rig = Setup::any().stopped().start();
    for (option, variable, info, debug) in [
        (None, None, true, false),
        (Some("warn"), None, false, false),
        (None, Some("warn"), false, false),
        (Some("debug"), Some("error"), true, true),
        (Some("error"), Some("debug"), false, false),
    ] {
        let mut command = rig.daemon_command();
        command.env_remove("RUST_LOG");
        if let Some(level) = option {
            command.arg(format!("--log-level={level}"));
        }
        if let Some(level) = variable {
            command.env("RUST_LOG", level);
        }
        rig.start_daemon_as(command);
        rig.sh("true").must(0);
        let log = rig.stop_daemon().stderr;
        assert_eq!(log.contains("pst: INFO session 1"), info, "{log}");
        assert_eq!(log.contains("pst: DEBUG "), debug, "{log}");
    }
    let mut wrong = rig.pst(["daemon", "--log-level", "loud", "-c"]);
    let ended = start(wrong.arg(rig.config())).end().must(2);
    assert!(ended.one_line().contains("loud"), "{ended:?}");
}
