//! kvmd's own API, used by independent clients as kvmd uses it.

mod refusals;

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::rig::{Job, Person, Rig, RunToEnd, Setup, start, wait_until};
use crate::{needs_root, needs_storage, needs_tool};

/// Python with aiohttp, which `make aiohttp` installs.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/aiohttp/bin/python");
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/kvmd_client.py");

/// Skips the test where aiohttp is missing.
macro_rules! needs_aiohttp {
    () => {
        needs_storage!();
        if !Path::new(PYTHON).exists() {
            crate::rig::leave_out("aiohttp from PyPI; `make test` gets it, if it can");
            return;
        }
    };
}

/// Returns the command that runs the aiohttp client.
fn client(rig: &Rig, words: &[&str]) -> Command {
    let mut command = rig.command(PYTHON);
    command.arg(CLIENT).arg(rig.socket()).args(words);
    command.stdin(Stdio::piped());
    command
}

/// Starts a client and waits until its session is granted.
fn granted(rig: &Rig, what: &str) -> Job {
    let job = start(&mut client(rig, &[what]));
    job.await_stdout("\"write_allowed\": true");
    job
}

/// Returns the status and the body that curl gets.
fn curl(rig: &Rig, who: Option<Person>, words: &[&str]) -> (String, Value) {
    let mut command = match who {
        Some(who) => rig.command_as(who, "curl"),
        None => rig.command("curl"),
    };
    let outcome = command
        .args(["-sS", "--http1.1", "-w", "\n%{http_code}", "--unix-socket"])
        .arg(rig.socket())
        .args(words)
        .to_end();
    let text = outcome.text();
    let (body, status) = text
        .rsplit_once('\n')
        .unwrap_or_else(|| panic!("{outcome:?}"));
    let body = serde_json::from_str(body).unwrap_or(Value::Null);
    (status.to_owned(), body)
}

fn storage(rig: &Rig, clients: u32, write_allowed: bool) -> Value {
    let path = rig.mount();
    json!({"clients": clients, "data": {"path": path, "write_allowed": write_allowed}})
}

fn sessions(rig: &Rig) -> usize {
    rig.status()["sessions"].as_array().map_or(0, Vec::len)
}

#[test]
fn kvmd_api_state_tells_the_truth() {
    needs_storage!();
    needs_tool!("curl");
    let rig = Rig::any();
    let state = || curl(&rig, None, &["http://x/state"]);
    let expected = |clients, allowed| {
        let result = storage(&rig, clients, allowed);
        ("200".to_owned(), json!({"ok": true, "result": result}))
    };
    assert_eq!(state(), expected(0, false));
    let session = rig.session();
    assert_eq!(state(), expected(1, true));
    session.end().must(0);
    wait_until("the state changes", || state() == expected(0, false));
    // Made writable by hand, it is writable for a moment, but no session may write.
    rig.remount_by_hand("rw");
    assert_eq!(state(), expected(0, false));
    rig.await_superblock("ro");
}

#[test]
fn kvmd_api_a_link_made_by_one_client_to_a_file_of_the_other_does_not_dangle() {
    needs_storage!();
    needs_tool!("curl");
    let rig = Setup::any().storage("data = \"\"").start();
    let (_, said) = curl(&rig, None, &["http://x/state"]);
    let path = said["result"]["data"]["path"].as_str().expect("a path");
    rig.sh(&format!("echo certificate >{path}/cert")).must(0);
    rig.sh("ln -s $KVMD_PST_DATA/cert $KVMD_PST_DATA/data/link")
        .must(0);
    let text = std::fs::read_to_string(rig.data().join("link")).expect("it dangles");
    assert_eq!(text, "certificate\n");
}

#[test]
fn kvmd_api_the_path_is_what_the_config_says() {
    needs_storage!();
    needs_tool!("curl");
    let rig = Setup::any().kvmd_api("path = \"a/b\"").start();
    let (_, said) = curl(&rig, None, &["http://x/state"]);
    let path = rig.mount().join("a/b");
    assert_eq!(said["result"]["data"]["path"], json!(path));
}

#[test]
fn kvmd_api_a_client_like_kvmd_writes() {
    needs_aiohttp!();
    let rig = Rig::any();
    let said = client(&rig, &["state"]).to_end().must(0).text();
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said, storage(&rig, 0, false));
    for round in 0..5 {
        let text = format!("round {round}");
        let said = client(&rig, &["write", "file", &text]).to_end().must(0);
        let said: Value = serde_json::from_str(&said.text()).expect("JSON");
        assert_eq!(said, storage(&rig, 1, true));
        // The closing handshake is complete, so the session is over.
        assert_eq!(rig.superblock(), "ro", "round {round}");
        let found = std::fs::read_to_string(rig.data().join("file")).expect("the file");
        assert_eq!(found, text);
    }
}

#[test]
fn p4_kvmd_api_a_close_is_answered_when_the_data_is_on_the_medium() {
    needs_root!("a block device");
    needs_aiohttp!();
    let rig = Rig::ext4();
    let other = rig.session(); // the last close is answered only after the remount
    client(&rig, &["write", "file", "safe"]).to_end().must(0);
    assert_eq!(rig.superblock(), "rw");
    assert_eq!(rig.on_medium("/data/file"), "safe");
    other.end().must(0);
    assert!(!rig.needs_recovery());
}

#[test]
fn kvmd_api_a_hundred_clients_write_at_once() {
    needs_aiohttp!();
    let rig = Rig::any();
    client(&rig, &["many", "100"]).to_end().must(0);
    assert_eq!(rig.superblock(), "ro");
    for n in 0..100 {
        let found = std::fs::read_to_string(rig.data().join(format!("file{n}")));
        assert_eq!(found.expect("the file"), n.to_string());
    }
}

#[test]
fn kvmd_api_a_killed_client_ends_its_session() {
    needs_aiohttp!();
    let rig = Rig::any();
    let (first, second) = (granted(&rig, "hold"), granted(&rig, "hold"));
    assert_eq!(rig.superblock(), "rw");
    // The first client gets an event for each session that opens or closes.
    first.await_stdout("\"clients\": 2");
    second.signal("KILL");
    second.end();
    wait_until("the first client gets the event", || {
        first
            .stdout()
            .lines()
            .last()
            .is_some_and(|l| l.contains("\"clients\": 1"))
    });
    assert_eq!(rig.superblock(), "rw");
    first.signal("KILL");
    first.end();
    rig.await_superblock("ro");
    assert_eq!(sessions(&rig), 0);
}

#[test]
fn kvmd_api_sessions_of_both_kinds_share_one_period() {
    needs_root!("the kernel's log");
    needs_aiohttp!();
    let rig = Rig::ext4();
    let before = rig.kernel_remounts().len();
    let ours = rig.session();
    let theirs = granted(&rig, "close_on_input");
    assert!(theirs.stdout().contains("\"clients\": 2"));
    ours.end().must(0);
    assert_eq!(rig.superblock(), "rw");
    let ended = theirs.end().must(0);
    assert!(ended.text().contains("code 1000"), "{ended:?}");
    assert_eq!(rig.superblock(), "ro");
    assert_eq!(rig.kernel_remounts()[before..], ["r/w", "ro"]);
}

#[test]
fn p5_kvmd_api_a_stopped_daemon_says_so_and_leaves_read_only() {
    needs_aiohttp!();
    let mut rig = Rig::any();
    let client = granted(&rig, "hold");
    rig.stop_daemon();
    assert_eq!(rig.superblock(), "ro");
    let ended = client.end().must(0);
    let said = ended.text();
    let last: Vec<&str> = said.lines().rev().take(2).collect();
    assert!(last[0].starts_with("closed 1001 "), "{said}");
    assert!(last[1].contains("\"write_allowed\": false"), "{said}");
}

#[test]
fn p5_kvmd_api_a_lost_storage_is_told() {
    needs_root!("ext4");
    needs_tool!("curl");
    needs_aiohttp!();
    let mut rig = Rig::ext4();
    rig.ends_anyhow();
    let job = granted(&rig, "hold");
    rig.trigger_fs_error();
    let ended = job.end().must(0);
    let said = ended.text();
    assert!(said.contains("closed 1011 "), "{said}");
    assert!(said.contains("\"write_allowed\": false"), "{said}");
    // Later clients are denied.
    let denied = client(&rig, &["hold"]).to_end().must(0).text();
    assert!(!denied.contains("\"write_allowed\": true"), "{denied}");
    let (_, state) = curl(&rig, None, &["http://x/state"]);
    assert_eq!(state["result"]["data"]["write_allowed"], false);
}

#[test]
fn kvmd_api_a_denial_is_a_storage_event_and_a_close() {
    needs_aiohttp!();
    let rig = Setup::any().unmounted().start();
    let said = client(&rig, &["hold"]).to_end().must(0).text();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert_eq!(lines[0], "loop {}");
    assert!(lines[1].contains("\"write_allowed\": false"), "{said}");
    assert!(lines[2].starts_with("closed 1013 "), "{said}");
    assert!(lines[2].contains("nothing is mounted"), "{said}");
}

#[test]
fn p9_kvmd_api_invalid_events_are_passed_over_and_long_messages_refused() {
    needs_aiohttp!();
    let rig = Rig::any();
    let said = client(&rig, &["talk"]).to_end().must(0).text();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert_eq!(lines[..2], ["pong", "pong"]);
    assert!(lines[2].starts_with("closed 1009 "), "{said}");
    assert!(rig.log().contains("an event was ignored"), "{}", rig.log());
    rig.await_superblock("ro");
}

#[test]
fn kvmd_api_status_shows_its_sessions_like_any_other() {
    needs_aiohttp!();
    let rig = Rig::any();
    let job = granted(&rig, "close_on_input");
    let status = rig.status();
    let session = &status["sessions"][0];
    assert_eq!(session["pid"], job.pid(), "{status}");
    assert_eq!(session["command"], "kvmd API: KVMD-PSTRun/4.20", "{status}");
    job.end().must(0);
}
