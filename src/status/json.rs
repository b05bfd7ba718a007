//! The status for programs: one JSON object. Fields are only ever added.
//!
//! Times are in seconds, sizes in bytes. Foreign names are escaped as in the text form.

use serde::Serialize;

use super::Snapshot;

#[derive(Serialize)]
struct Status<'a> {
    version: &'a str,
    daemon: Daemon,
    storage: Storage<'a>,
    sessions: Vec<Session<'a>>,
    holders: Vec<Holder<'a>>,
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
}

#[derive(Serialize)]
struct Session<'a> {
    id: u64,
    pid: u32,
    uid: u32,
    user: &'a str,
    command: &'a str,
    age: f64,
}

#[derive(Serialize)]
struct Holder<'a> {
    /// `null` for what is no process.
    pid: Option<u32>,
    user: Option<&'a str>,
    command: Option<&'a str>,
    path: &'a str,
}

/// The object, and a newline.
pub fn show(snapshot: &Snapshot) -> String {
    let sessions = snapshot.sessions.iter().map(|session| Session {
        id: session.id,
        pid: session.pid,
        uid: session.uid,
        user: &session.user,
        command: &session.command,
        age: session.age.as_secs_f64(),
    });
    let holders = snapshot.holders.iter().map(|holder| Holder {
        pid: (holder.pid != 0).then_some(holder.pid),
        user: some(&holder.user),
        command: some(&holder.command),
        path: &holder.path,
    });
    let status = Status {
        version: &snapshot.daemon_version,
        daemon: Daemon {
            pid: snapshot.daemon_pid,
            uptime: snapshot.uptime.as_secs_f64(),
        },
        storage: Storage {
            state: snapshot.state.as_str(),
            reason: some(&snapshot.reason),
            mount: &snapshot.mount,
            data: &snapshot.data,
            device: &snapshot.device,
            fstype: &snapshot.fstype,
            size: snapshot.size,
            free: snapshot.free,
        },
        sessions: sessions.collect(),
        holders: holders.collect(),
    };
    // It fails only for maps whose keys are no strings; there are none.
    let mut text = serde_json::to_string(&status).unwrap_or_default();
    text.push('\n');
    text
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}
