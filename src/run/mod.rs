//! `pst run`: one session and its command.
//!
//! Three processes: this one, which the caller knows and which alone talks with
//! the daemon; its child, the keeper, which starts the command; the command.
//! Whichever of the first two loses the other, or the daemon, ends everything
//! that descends from the command, so no single SIGKILL leaves it unwatched.

mod closing;
mod command;
mod control;
mod opening;
mod output;
mod supervisor;
mod tree;
mod verify;
mod watch;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::client::Connection;
use crate::escape::escape;
use crate::problem::Problem;
use crate::sys::process::{self, Reaped};
use crate::sys::signal::{self, Signals};
use crate::wire::{ClientMessage, VERSION};
use opening::Patience;
use output::Output;
use supervisor::Means;
use tree::Reserve;
use watch::Ending;

#[derive(Debug)]
pub(crate) struct Options {
    pub socket: PathBuf,
    pub quiet: bool,
    /// So many bytes must be free; 0: it does not matter.
    #[allow(dead_code)] // checked by the client from the next commit on
    pub need: u64,
    /// The command and its arguments; at least the former.
    pub command: Vec<OsString>,
}

/// Why there is no session, in a line for the user, and the exit code.
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    fn new(text: impl std::fmt::Display) -> Self {
        let text = text.to_string();
        Self { code: 1, text }
    }
}

/// Runs the command while the storage is writable. `main` must have called
/// [`signal::begin`] first, and started no thread.
///
/// The exit code is the command's own if it is not 0 (128+N if signal N killed
/// it); 126 if it is not executable; 127 if it is not found; 1 if the storage was
/// denied, revoked, or its data not committed; 128+N if signal N came before the
/// storage was granted, or while a successful command's data was being committed.
pub(crate) fn main(options: Options) -> ExitCode {
    let output = Output {
        quiet: options.quiet,
    };
    match run(options, output) {
        Ok(code) => code.into(),
        Err(failure) => {
            output.error(failure.text);
            failure.code.into()
        }
    }
}

fn run(options: Options, output: Output) -> Result<u8, Failure> {
    let signals = Signals::new(signal::HANDLED.into_iter().chain([libc::SIGCHLD]))
        .map_err(|error| Failure::new(Problem::io("cannot read signals", &error)))?;
    output.info("Opening PST session ...");
    let command = options.command.join(OsStr::new(" "));
    let open = ClientMessage::Open {
        version: VERSION,
        command: command.into_vec(),
    };
    let mut patience = Patience::new(output);
    let mut connection = opening::ask(&options.socket, &open, &signals, &mut patience)?;
    let reserve = Reserve::new(&signals).map_err(watch::failed)?;
    let means = Means {
        connection: &connection,
        signals: &signals,
        output,
        reserve: &reserve,
    };
    let prepared = watch::prepare(means, options.command)?;
    let granted = opening::await_grant(&mut connection, &signals, &mut patience);
    let grant = match granted.and_then(|grant| verify::check(&grant).map(|()| grant)) {
        Ok(grant) => grant,
        Err(failure) => {
            prepared.dismiss();
            return Err(failure);
        }
    };
    output.info(format_args!(
        "PST write is allowed: {}",
        escape(&grant.data)
    ));
    let ending = watch::run(
        &mut connection,
        &signals,
        prepared,
        &grant,
        output,
        &reserve,
    )?;
    let code = finish(ending, connection, &signals, output);
    // The keeper has ended by now, mostly: no zombie for a slow init.
    while let Reaped::Child(..) = process::reap() {}
    Ok(code)
}

/// From how the command ended to the exit code: P7.
fn finish(ending: Ending, connection: Connection, signals: &Signals, output: Output) -> u8 {
    match ending {
        Ending::Finished(status) => closing::close(connection, status.code(), signals, output),
        Ending::Revoked(Some(status)) => or(status.code(), 1),
        Ending::Revoked(None) | Ending::Failed => 1,
    }
}

/// The command's own code if it is not 0.
fn or(code: u8, otherwise: u8) -> u8 {
    if code == 0 { otherwise } else { code }
}
