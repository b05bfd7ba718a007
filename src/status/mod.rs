//! `pst status`: asks the daemon how things stand, and shows it, once or as it changes. It needs no
//! rights beyond those on the socket.

mod json;
mod layout;
mod lines;
mod snapshot;
mod text;
mod watch;
mod words;

use std::env;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use self::layout::Page;
use self::snapshot::Collector;
use self::watch::Display;
use crate::client::{self, Connection, OUT_OF_PLACE, PATIENCE, ReceiveError};
use crate::escape::escape;
use crate::sys::{signal, terminal};
use crate::wire::{DaemonMessage, State};

#[derive(Debug)]
pub(crate) struct Options {
    pub socket: PathBuf,
    pub json: bool,
    /// Go on with what changes.
    pub watch: bool,
}

/// Why the status ends before its time.
#[derive(Debug)]
enum Fault {
    /// No daemon answers, or not what it should.
    Daemon(String),
    /// Nobody reads what is written.
    NoReader,
    Output(io::Error),
}

impl Fault {
    fn waiting(error: io::Error) -> Fault {
        Fault::Daemon(format!("cannot wait for the daemon: {error}"))
    }
}

impl From<ReceiveError> for Fault {
    fn from(error: ReceiveError) -> Fault {
        Fault::Daemon(error.to_string())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        match error.kind() {
            ErrorKind::BrokenPipe => Fault::NoReader,
            _ => Fault::Output(error),
        }
    }
}

/// Exit code 0 when all is well; 1 when the storage is stuck, failed, unprepared or absent; 2 when
/// the output cannot be written; 3 when no daemon answers, or none any more.
pub(crate) fn main(options: Options) -> ExitCode {
    signal::restore_mask(); // ^C ends this as it ends any program
    let mut collector = Collector::default();
    let fault = show(&options, &mut collector).err();
    let complain = |text: &str| {
        let _ = writeln!(io::stderr(), "pst: {text}");
    };
    match fault {
        Some(Fault::Daemon(text)) => {
            complain(&text);
            return ExitCode::from(3);
        }
        Some(Fault::Output(error)) => {
            complain(&format!("cannot write: {error}"));
            return ExitCode::from(2);
        }
        Some(Fault::NoReader) | None => {}
    }
    match collector.snapshot().map(|snapshot| snapshot.state) {
        Some(State::Stuck | State::Failed | State::Unprepared | State::Absent) => ExitCode::from(1),
        _ => ExitCode::SUCCESS,
    }
}

fn show(options: &Options, collector: &mut Collector) -> Result<(), Fault> {
    let mut connection = ask(options, collector)?;
    let terminal = io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|t| t != "dumb");
    let colour = terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if options.watch {
        let display = Display::new(options.json, terminal, colour).map_err(Fault::waiting)?;
        return watch::follow(&mut connection, collector, display);
    }
    let Some(snapshot) = collector.snapshot() else {
        return Err(out_of_place());
    };
    let shown = if options.json {
        json::show(snapshot)
    } else {
        let size = terminal.then(|| terminal::size(io::stdout())).flatten();
        let page = Page::new(size.map(|size| size.columns), colour);
        let mut lines = text::show(snapshot, page, true).join("\n");
        lines.push('\n');
        lines
    };
    Ok(io::stdout().write_all(shown.as_bytes())?)
}

/// Asks for the status; what is told at once is collected.
fn ask(options: &Options, collector: &mut Collector) -> Result<Connection, Fault> {
    let deadline = Instant::now() + PATIENCE;
    let silent = || silent(&options.socket);
    let connected = client::ask_status(&options.socket, options.watch, deadline);
    let connected = connected.ok_or_else(silent)?;
    let mut connection = connected.map_err(|error| Fault::Daemon(error.to_string()))?;
    loop {
        let message = connection.receive_until(deadline)?.ok_or_else(silent)?;
        // Of what is watched, the first of it must come in time.
        if take(collector, message)? || options.watch {
            return Ok(connection);
        }
    }
}

fn silent(socket: &Path) -> Fault {
    Fault::Daemon(format!(
        "no answer from the daemon at {} for {} s; see `systemctl status pst`",
        escape(socket.as_os_str().as_encoded_bytes()),
        PATIENCE.as_secs()
    ))
}

/// Takes one message; true: what was told is complete.
fn take(collector: &mut Collector, message: DaemonMessage) -> Result<bool, Fault> {
    match message {
        DaemonMessage::Error { text, .. } | DaemonMessage::Denied { text, .. } => Err(
            Fault::Daemon(format!("the daemon refused: {}", escape(&text))),
        ),
        message => collector.take(message).map_err(|_| out_of_place()),
    }
}

fn out_of_place() -> Fault {
    Fault::Daemon(OUT_OF_PLACE.into())
}
