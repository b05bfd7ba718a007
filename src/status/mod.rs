//! `pst status`: asks the daemon how things stand, and shows it. It never waits for long, and
//! needs no rights beyond those on the socket.

mod json;
mod text;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::client::{self, Connection};
use crate::escape::escape;
use crate::sys::poll::{self, Watch};
use crate::sys::{signal, user};
use crate::wire::{ClientMessage, DaemonMessage, HolderKind, State, VERSION};

/// No answer by then is no answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The applet's options.
#[derive(Debug)]
pub struct Options {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// For programs.
    pub json: bool,
}

/// All that the daemon said.
#[derive(Debug)]
pub struct Snapshot {
    daemon_version: String,
    daemon_pid: u32,
    uptime: Duration,
    state: State,
    reason: String,
    mount: String,
    data: String,
    device: String,
    fstype: String,
    size: u64,
    free: u64,
    sessions: Vec<Session>,
    holders: Vec<Holder>,
}

#[derive(Debug)]
struct Session {
    id: u64,
    pid: u32,
    uid: u32,
    user: String,
    command: String,
    age: Duration,
}

#[derive(Debug)]
struct Holder {
    kind: HolderKind,
    pid: u32,
    user: String,
    command: String,
    path: String,
}

/// Exit code 0 when all is well; 1 when the storage is stuck, failed, unprepared or absent; 3 when
/// no daemon answers.
pub fn main(options: Options) -> ExitCode {
    signal::restore_mask(); // ^C ends this as it ends any program
    let snapshot = match fetch(&options.socket) {
        Ok(snapshot) => snapshot,
        Err(text) => {
            let _ = writeln!(io::stderr(), "pst: {text}");
            return ExitCode::from(3);
        }
    };
    let shown = if options.json {
        json::show(&snapshot)
    } else {
        text::show(&snapshot)
    };
    if let Err(error) = io::stdout().write_all(shown.as_bytes()) {
        if error.kind() != io::ErrorKind::BrokenPipe {
            let _ = writeln!(io::stderr(), "pst: cannot write: {error}");
        }
        return ExitCode::from(2);
    }
    match snapshot.state {
        State::Stuck | State::Failed | State::Unprepared | State::Absent => ExitCode::from(1),
        State::ReadOnly | State::ReadWrite | State::GoingRo | State::GoingRw => ExitCode::SUCCESS,
    }
}

fn fetch(socket: &Path) -> Result<Snapshot, String> {
    let start = Instant::now();
    let silent = || {
        format!(
            "no answer from the daemon at {} for {} s; see `systemctl status pst`",
            escape(socket.as_os_str().as_encoded_bytes()),
            PATIENCE.as_secs()
        )
    };
    let connected = client::connect(socket, || match start.elapsed() > PATIENCE {
        true => ControlFlow::Break(silent()),
        false => ControlFlow::Continue(()),
    });
    let mut connection = match connected {
        ControlFlow::Continue(result) => result.map_err(|error| error.to_string())?,
        ControlFlow::Break(text) => return Err(text),
    };
    let ask = ClientMessage::Status {
        version: VERSION,
        watch: false,
    };
    // A daemon that is gone already is seen below, perhaps with its reason.
    let _ = connection.greet(&ask);
    let mut snapshot = None;
    loop {
        match next(&mut connection, start)?.ok_or_else(silent)? {
            DaemonMessage::End => break,
            DaemonMessage::Error { text, .. } | DaemonMessage::Denied { text, .. } => {
                return Err(format!("the daemon refused: {}", escape(&text)));
            }
            message => take(&mut snapshot, message)?,
        }
    }
    snapshot.ok_or_else(out_of_place)
}

/// The next message; `None` if it does not come in time.
fn next(connection: &mut Connection, start: Instant) -> Result<Option<DaemonMessage>, String> {
    loop {
        let message = connection.receive().map_err(|error| error.to_string())?;
        if message.is_some() {
            return Ok(message);
        }
        let left = PATIENCE.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        let mut watches = [Watch::new(connection, libc::POLLIN)];
        poll::wait(&mut watches, Some(left)).map_err(|error| format!("cannot wait: {error}"))?;
    }
}

fn out_of_place() -> String {
    "the daemon's answer is out of place".into()
}

fn take(snapshot: &mut Option<Snapshot>, message: DaemonMessage) -> Result<(), String> {
    match message {
        DaemonMessage::Storage {
            daemon_version,
            pid,
            uptime_ms,
            state,
            reason,
            mount,
            data,
            device,
            fstype,
            size,
            free,
            ..
        } if snapshot.is_none() => {
            *snapshot = Some(Snapshot {
                daemon_version: escape(&daemon_version).to_string(),
                daemon_pid: pid,
                uptime: Duration::from_millis(uptime_ms),
                state,
                reason: escape(&reason).to_string(),
                mount: escape(&mount).to_string(),
                data: escape(&data).to_string(),
                device: escape(&device).to_string(),
                fstype: escape(&fstype).to_string(),
                size,
                free,
                sessions: Vec::new(),
                holders: Vec::new(),
            });
            Ok(())
        }
        message => take_part(snapshot.as_mut().ok_or_else(out_of_place)?, message),
    }
}

fn take_part(snapshot: &mut Snapshot, message: DaemonMessage) -> Result<(), String> {
    match message {
        DaemonMessage::Session {
            id,
            pid,
            uid,
            age_ms,
            command,
            ..
        } => snapshot.sessions.push(Session {
            id,
            pid,
            uid,
            user: user_of(uid),
            command: escape(&command).to_string(),
            age: Duration::from_millis(age_ms),
        }),
        DaemonMessage::Holder {
            kind,
            pid,
            uid,
            command,
            path,
        } => snapshot.holders.push(Holder {
            kind,
            pid,
            user: if kind == HolderKind::Process {
                user_of(uid)
            } else {
                String::new()
            },
            command: escape(&command).to_string(),
            path: escape(&path).to_string(),
        }),
        DaemonMessage::Figures { .. }
        | DaemonMessage::Totals { .. }
        | DaemonMessage::Past { .. } => {}
        _ => return Err(out_of_place()),
    }
    Ok(())
}

fn user_of(uid: u32) -> String {
    let name = user::user_name(uid).unwrap_or_else(|| uid.to_string());
    escape(&name).to_string()
}
