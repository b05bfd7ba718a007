//! `pst run`: one session and its command.
//!
//! Three processes: `pst run` itself, which alone talks with the daemon; its child, the supervisor,
//! which starts the command; and the command. When either of the first two loses the other, or the
//! daemon, it ends every descendant of the command: no single SIGKILL leaves one unwatched.

mod command;
mod control;
mod output;
mod session;
mod supervisor;
mod tree;
mod verify;
mod watch;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::escape::escape_path;
use crate::problem::Problem;
use crate::sys::process;
use crate::sys::signal::{self, Signals};
use session::Session;

#[derive(Debug)]
pub(crate) struct Options {
    pub socket: PathBuf,
    pub quiet: bool,
    /// Bytes that must be free on the storage; 0 skips the check.
    pub need: u64,
    /// The command and its arguments; never empty.
    pub command: Vec<OsString>,
}

/// One run, from the grant on. The supervisor has a copy, since it is a fork.
struct Context {
    options: Options,
    session: Session,
    /// A signalfd: each process reads its own signals from it.
    signals: Signals,
    /// Descriptors that are kept free for [`tree::end`].
    reserve: Vec<OwnedFd>,
}

/// Why `pst run` fails, and its exit code unless the command's own code goes first.
struct RunError {
    problem: Problem,
    code: u8,
}

impl From<Problem> for RunError {
    fn from(problem: Problem) -> Self {
        Self { problem, code: 1 }
    }
}

/// Runs the command while the storage is writable. `main` must have called
/// [`signal::begin`] first and started no thread.
///
/// The exit code is the command's own if it is not 0 (128+N if signal N killed
/// it); 126 if it is not executable; 127 if it is not found; 1 if the storage was
/// denied or lost, or the data not synced; 128+N if signal N ended the wait for the
/// grant, or for the sync after a successful command.
pub(crate) fn main(options: Options) -> ExitCode {
    let code = run(options).unwrap_or_else(|error| {
        output::error(error.problem);
        error.code
    });
    code.into()
}

fn run(options: Options) -> Result<u8, RunError> {
    let quiet = options.quiet;
    let signals = Signals::new(signal::handled().chain([libc::SIGCHLD]))
        .map_err(|error| Problem::io("cannot read signals", &error))?;
    // Before the grant: without descriptors the storage need not become writable.
    let reserve = tree::reserve_descriptors(&signals).map_err(supervisor::cannot_watch)?;
    output::info(quiet, "Opening PST session ...");
    let mut session = session::open(&options, &signals)?;
    let data = escape_path(&session.data);
    let space = verify::inspect_data_directory(&session)?;
    if let Err(problem) = verify::check_free_space(options.need, &space, &data) {
        session.send_close();
        let _ = session.await_closed(&signals); // nothing was written
        return Err(problem.into());
    }
    output::info(quiet, format_args!("PST write is allowed: {data}"));
    let mut context = Context {
        options,
        session,
        signals,
        reserve,
    };
    let code = watch::run(&mut context)?;
    // Leaves no zombie to a slow init: the supervisor has usually ended by now.
    while let Ok(Some(_)) = process::reap() {}
    Ok(code)
}

/// Closes the session of a command that returned `code`; returns the exit code.
fn close(context: &mut Context, code: u8) -> u8 {
    // These signals were for the command: ^C must not end the wait.
    while context.signals.next().is_some() {}
    context.session.send_close();
    let text = format!("Process finished: returncode={code}");
    output::info(context.options.quiet, text);
    match context.session.await_closed(&context.signals) {
        Ok(()) => code,
        Err(error) => {
            output::error(error.problem);
            or(code, error.code)
        }
    }
}

/// The command's own code if it is not 0.
fn or(code: u8, otherwise: u8) -> u8 {
    if code == 0 { otherwise } else { code }
}
