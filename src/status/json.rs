//! The status for programs: one JSON object. Fields are only ever added.
//!
//! Times are in seconds, sizes in bytes. Foreign names are escaped as in the text form.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::snapshot::{self, Snapshot};
use crate::wire::{HolderKind, Incident};

#[derive(Serialize)]
struct Status<'a> {
    version: &'a str,
    daemon: Daemon,
    storage: Storage<'a>,
    sessions: Vec<Session<'a>>,
    holders: Vec<Holder<'a>>,
    past: Vec<Past<'a>>,
    totals: Totals,
    /// `null` for what is no ext4, or tells nothing.
    ext4: Option<Ext4<'a>>,
}

#[derive(Serialize)]
struct Daemon {
    pid: u32,
    uptime: f64,
}

#[derive(Serialize)]
struct Storage<'a> {
    state: &'static str,
    /// Why it is not well; `null` if it is.
    reason: Option<&'a str>,
    mount: &'a str,
    data: &'a str,
    device: &'a str,
    fstype: &'a str,
    size: u64,
    free: u64,
    state_age: f64,
}

#[derive(Serialize)]
struct Session<'a> {
    id: u64,
    pid: u32,
    uid: u32,
    user: &'a str,
    command: &'a str,
    age: f64,
    state: &'static str,
    long: bool,
}

#[derive(Serialize)]
struct Holder<'a> {
    kind: &'static str,
    /// `null` for what is no process.
    pid: Option<u32>,
    uid: Option<u32>,
    user: Option<&'a str>,
    command: Option<&'a str>,
    path: &'a str,
}

#[derive(Serialize)]
struct Past<'a> {
    id: u64,
    pid: u32,
    uid: u32,
    user: &'a str,
    command: &'a str,
    ended: &'static str,
    /// Seconds since 1970, by today's clock.
    at: u64,
    duration: f64,
    /// `null` where nobody counts them.
    written: Option<u64>,
}

#[derive(Serialize)]
struct Totals {
    sessions: u64,
    denials: u64,
    remounts: u64,
    failed_remounts: u64,
    writable: f64,
    written: Option<u64>,
}

#[derive(Serialize)]
struct Ext4<'a> {
    lifetime: u64,
    since_mount: u64,
    errors: u64,
    first_error: Option<Error<'a>>,
    last_error: Option<Error<'a>>,
}

#[derive(Serialize)]
struct Error<'a> {
    time: u64,
    function: &'a str,
    line: u32,
}

/// The object, and a newline.
pub(super) fn show(snapshot: &Snapshot) -> String {
    let status = Status {
        version: &snapshot.daemon_version,
        daemon: Daemon {
            pid: snapshot.daemon_pid,
            uptime: snapshot.started.age().as_secs_f64(),
        },
        storage: storage(snapshot),
        sessions: snapshot.sessions.iter().map(session).collect(),
        holders: snapshot.holders.iter().map(holder).collect(),
        past: snapshot.past.iter().map(past).collect(),
        totals: Totals {
            sessions: snapshot.totals.sessions,
            denials: snapshot.totals.denials,
            remounts: snapshot.totals.remounts,
            failed_remounts: snapshot.totals.failed_remounts,
            writable: Duration::from_millis(snapshot.totals.writable_ms).as_secs_f64(),
            written: snapshot.totals.written,
        },
        ext4: snapshot.figures.as_ref().map(|figures| Ext4 {
            lifetime: figures.lifetime,
            since_mount: figures.mounted,
            errors: figures.errors,
            first_error: figures.first.as_ref().map(error),
            last_error: figures.last.as_ref().map(error),
        }),
    };
    // It fails only for maps whose keys are no strings; there are none.
    let mut text = serde_json::to_string(&status).unwrap_or_default();
    text.push('\n');
    text
}

fn storage(snapshot: &Snapshot) -> Storage<'_> {
    Storage {
        state: snapshot.state.as_str(),
        reason: some(&snapshot.reason),
        mount: &snapshot.mount,
        data: &snapshot.data,
        device: &snapshot.device,
        fstype: &snapshot.fstype,
        size: snapshot.size,
        free: snapshot.free,
        state_age: snapshot.since.age().as_secs_f64(),
    }
}

fn session<'a>((id, session): (&u64, &'a snapshot::Session)) -> Session<'a> {
    Session {
        id: *id,
        pid: session.pid,
        uid: session.uid,
        user: &session.user,
        command: &session.command,
        age: session.opened.age().as_secs_f64(),
        state: session.phase.as_str(),
        long: session.is_long(),
    }
}

fn holder(holder: &snapshot::Holder) -> Holder<'_> {
    let process = holder.kind == HolderKind::Process;
    Holder {
        kind: holder.kind.as_str(),
        pid: (holder.pid != 0).then_some(holder.pid),
        uid: process.then_some(holder.uid),
        user: some(&holder.user),
        command: some(&holder.command),
        path: &holder.path,
    }
}

fn past(past: &snapshot::Past) -> Past<'_> {
    Past {
        id: past.id,
        pid: past.pid,
        uid: past.uid,
        user: &past.user,
        command: &past.command,
        ended: past.ended.as_str(),
        at: seconds(past.at.clock()),
        duration: past.lasted.as_secs_f64(),
        written: past.written,
    }
}

fn error(incident: &Incident) -> Error<'_> {
    Error {
        time: incident.time,
        function: &incident.function,
        line: incident.line,
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}
