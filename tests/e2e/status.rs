//! `pst status`: as text and as JSON.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::rig::{Rig, RunToEnd, Setup, wait_until};
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
        "state reason mount data device fstype size free free_inodes state_age",
    );
    keys(
        &status["sessions"][0],
        "id pid uid user command age state stopped",
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
fn status_as_text_has_what_the_json_has() {
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
fn a_stopped_client_is_shown_as_stopped() {
    needs_storage!();
    let rig = Rig::any();
    let session = rig.session();
    assert_eq!(rig.status()["sessions"][0]["stopped"], false);
    session.signal("STOP");
    wait_until("it is shown", || {
        rig.status()["sessions"][0]["stopped"] == true
    });
    let text = rig.pst(["status"]).to_end().must(0).text();
    assert!(text.contains(" granted, stopped "), "{text}");
    session.signal("CONT");
    session.end().must(0);
}

#[test]
fn the_screen_explains_how_a_session_ended_if_that_is_unusual() {
    needs_storage!();
    let rig = Rig::any();
    rig.sh("true").must(0);
    let text = || rig.pst(["status"]).to_end().must(0).text();
    assert!(!text().contains("durable:"), "{}", text());
    let session = rig.session();
    session.signal("KILL");
    wait_until("it is explained", || {
        text().contains("gone: the client ended without closing the session")
    });
    session.end();
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
        "state reason mount data device fstype size free free_inodes state_age",
    );
    assert!(
        status["storage"]["reason"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{status}"
    );
}

/// Collects the paths of all fields, such as `past[].id`.
fn paths(at: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = match at {
                    "" => name.clone(),
                    at => format!("{at}.{name}"),
                };
                if !matches!(&path[..], "daemon" | "storage" | "totals") && !value.is_array() {
                    found.insert(path.clone());
                }
                paths(&path, value, found);
            }
        }
        Value::Array(items) => {
            found.insert(format!("{at}[]"));
            for item in items {
                paths(&format!("{at}[]"), item, found);
            }
        }
        _ => {}
    }
}

#[test]
fn every_field_is_in_the_man_page_and_no_other() {
    needs_root!("a loop device, errors of ext4");
    let mut rig = Rig::ext4();
    let mut found = BTreeSet::new();
    rig.sh("true").must(0);
    let session = rig.session_with("exec 3>$KVMD_PST_DATA/held; sleep 1000 & echo $! >&3");
    paths("", &rig.status(), &mut found);
    session.end().must(0);
    rig.await_state("stuck");
    wait_until("its holder is named", || {
        rig.status()["holders"][0].is_object()
    });
    paths("", &rig.status(), &mut found);
    let holder = std::fs::read_to_string(rig.data().join("held")).expect("a pid");
    crate::rig::signal(holder.trim().parse().expect("a pid"), "KILL");
    rig.await_state("ro");
    rig.ends_anyhow();
    rig.trigger_fs_error();
    wait_until("ext4 counts the error", || {
        rig.status()["ext4"]["errors"] == 1
    });
    paths("", &rig.status(), &mut found);
    let page = include_str!("../../contrib/man/pst-status.1");
    let fields = page.lines().filter_map(|line| line.strip_prefix(".It Va "));
    let described: BTreeSet<String> = fields.map(str::to_owned).collect();
    assert_eq!(found, described);
}

/// Returns the last session that ended.
fn last(rig: &Rig) -> Value {
    let status = rig.status();
    let past = status["past"].as_array().expect("a list");
    past.last().cloned().unwrap_or_default()
}

#[test]
fn status_tells_how_sessions_ended_and_what_was_written() {
    needs_root!("a block device's statistics");
    let mut rig = Rig::ext4();
    rig.sh("head -c 300000 /dev/zero > $KVMD_PST_DATA/file")
        .must(0);
    let past = last(&rig);
    assert_eq!(
        (&past["id"], &past["ended"]),
        (&1.into(), &"durable".into())
    );
    assert_eq!((&past["uid"], &past["user"]), (&0.into(), &"root".into()));
    let command = past["command"].as_str().expect("text");
    assert!(command.starts_with("sh -c head -c 300000"), "{past}");
    let written = past["written"].as_u64().expect("counted");
    assert!((300_000..2_000_000).contains(&written), "{past}");
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .expect("a clock");
    let ago = now.as_secs() as i64 - past["at"].as_i64().expect("seconds");
    assert!((-1..60).contains(&ago), "{past}");
    let session = rig.session();
    let pid = u32::try_from(rig.status()["sessions"][0]["pid"].as_u64().expect("a pid"));
    // Kill all of its processes at once, so that none can close the session.
    let mut all = crate::rig::children(session.pid());
    all.extend([session.pid(), pid.expect("a pid")]);
    for pid in &all {
        crate::rig::signal(*pid, "STOP");
    }
    for pid in &all {
        let _ = std::process::Command::new("kill")
            .args(["-KILL", &pid.to_string()])
            .output();
    }
    session.end();
    wait_until("the session ended", || last(&rig)["ended"] == "gone");
    rig.await_state("ro");
    let totals = &rig.status()["totals"];
    assert_eq!(totals["sessions"], 2);
    assert_eq!(totals["remounts"], 4, "{totals}");
    assert_eq!(totals["failed_remounts"], 0);
    assert!(
        totals["written"].as_u64().expect("counted") > written,
        "{totals}"
    );
    assert!(totals["writable"].as_f64().expect("seconds") > 0.0);
    // The storage is lost under a session.
    rig.ends_anyhow();
    let session = rig.session();
    rig.trigger_fs_error();
    session.end().must(1);
    wait_until("it was revoked", || last(&rig)["ended"] != "gone");
    assert!(
        matches!(last(&rig)["ended"].as_str(), Some("revoked" | "failed")),
        "{}",
        last(&rig)
    );
    rig.sh("true").must(1);
    assert_eq!(last(&rig)["ended"], "denied");
    let status = rig.status();
    assert_eq!(status["totals"]["denials"], 1);
    assert_eq!(status["ext4"]["errors"], 1);
}
