//! `pst status`: for people and for programs.

use serde_json::Value;

use crate::rig::{Rig, RunToEnd, Setup};
use crate::{needs_root, needs_storage};

#[track_caller]
fn keys(value: &Value, expected: &str) {
    let mut found: Vec<&str> = value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    found.sort_unstable();
    let mut expected: Vec<&str> = expected.split_whitespace().collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn status_json_has_exactly_these_fields() {
    needs_storage!();
    let rig = Rig::any();
    let session = rig.session();
    let status = rig.status();
    keys(
        &status,
        "version daemon storage sessions holders past totals ext4",
    );
    keys(&status["daemon"], "pid uptime");
    keys(
        &status["storage"],
        "state reason mount data device fstype size free state_age",
    );
    keys(
        &status["sessions"][0],
        "id pid uid user command age state long",
    );
    assert_eq!(status["daemon"]["pid"], rig.daemon_pid());
    assert!(status["daemon"]["uptime"].is_number());
    assert_eq!(status["storage"]["state"], "rw");
    assert_eq!(
        status["storage"]["mount"],
        rig.mount().to_str().expect("UTF-8")
    );
    assert_eq!(
        status["storage"]["data"],
        rig.data().to_str().expect("UTF-8")
    );
    assert!(status["storage"]["size"].as_u64().expect("size") > 0);
    assert!(status["storage"]["free"].is_u64());
    let sessions = status["sessions"].as_array().expect("a list");
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0]["uid"], 0);
    assert_eq!(sessions[0]["user"], "root");
    assert_eq!(sessions[0]["pid"], session.pid());
    assert!(
        sessions[0]["command"]
            .as_str()
            .expect("text")
            .starts_with("sh -c "),
        "{status}"
    );
    assert!(sessions[0]["age"].is_number());
    assert_eq!(sessions[0]["state"], "granted");
    assert_eq!(sessions[0]["long"], false);
    assert_eq!(status["holders"], Value::Array(Vec::new()));
    assert_eq!(status["past"], Value::Array(Vec::new()));
    session.end().must(0);
    let status = rig.status();
    keys(
        &status["past"][0],
        "id pid uid user command ended at duration written",
    );
    keys(
        &status["totals"],
        "sessions denials remounts failed_remounts writable written",
    );
    assert_eq!(status["sessions"], Value::Array(Vec::new()));
    assert_eq!(status["storage"]["state"], "ro");
}

#[test]
fn status_names_device_and_filesystem() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let status = rig.status();
    assert_eq!(status["storage"]["device"], rig.device());
    assert_eq!(status["storage"]["fstype"], "ext4");
    let size = status["storage"]["size"].as_u64().expect("size");
    assert!((16 << 20..=32 << 20).contains(&size), "{size}");
}

#[test]
fn status_for_people_says_the_same() {
    needs_storage!();
    let rig = Rig::any();
    let session = rig.session();
    let ended = rig.pst(["status"]).to_end().must(0);
    let text = ended.text();
    for part in [
        "rw",
        rig.mount().to_str().expect("UTF-8"),
        rig.data().to_str().expect("UTF-8"),
        "root",
        "sh -c",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(text.contains(&session.pid().to_string()), "{text}");
    assert_eq!(ended.stderr, "");
    session.end().must(0);
}

#[test]
fn status_without_a_daemon_is_one_line_and_3() {
    needs_storage!();
    let rig = Setup::any().stopped().start();
    let ended = rig.pst(["status"]).to_end().must(3);
    assert_eq!(ended.text(), "");
    ended.one_line();
    rig.pst(["status", "--json"]).to_end().must(3);
}

#[test]
fn status_is_1_when_unprepared_or_absent() {
    needs_storage!();
    // Not root in the host's namespace, or it would prepare by itself.
    let rig = Setup::any().unmounted().start();
    let ended = rig.pst(["status"]).to_end().must(1);
    assert!(ended.text().contains("absent"), "{ended:?}");
    let status = rig.status();
    assert_eq!(status["storage"]["state"], "absent");
    keys(
        &status["storage"],
        "state reason mount data device fstype size free state_age",
    );
    assert!(
        status["storage"]["reason"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{status}"
    );
}
