//! `pst run`: one session and its command.
//!
//! `pst run` itself talks with the daemon. Its child, the supervisor, starts the command. There may be a guard
//! between the two; see [`supervisor`]. With `--atomic`, the supervisor's command is pst again, which starts the
//! caller's command. If `pst run` or the supervisor loses the other one, or the daemon, it ends the command and all
//! its descendants: a single SIGKILL leaves none unwatched.

pub(crate) mod command;
mod control;
mod leftover;
pub(crate) mod output;
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
use session::GrantedSession;
use supervisor::cannot_watch;

#[derive(Debug)]
pub(crate) struct RunOptions {
    pub socket: PathBuf,
    /// The config file, which may name the storage's owner.
    pub config: PathBuf,
    pub quiet: bool,
    /// The bytes that must be free on the storage; 0 skips the check.
    pub need: u64,
    /// The command and its arguments; never empty.
    pub command: Vec<OsString>,
    /// What `pst status` shows as the session's command, if it is not `command`.
    pub shown_command: Option<OsString>,
}

/// One run. The supervisor has a copy, because it is a fork.
struct RunContext {
    options: RunOptions,
    signals: Signals,
    /// Descriptors that [`tree::end`] closes so that it can open others.
    reserve: Vec<OwnedFd>,
    /// This process had children before it executed pst. Their orphans must not count as the command's,
    /// so a guard adopts the command's; see [`supervisor`].
    guarded: bool,
}

/// Why `pst run` fails, and its exit code. The command's own code has precedence if it is not 0.
struct RunError {
    problem: Problem,
    code: u8,
}

impl From<Problem> for RunError {
    fn from(problem: Problem) -> Self {
        Self { problem, code: 1 }
    }
}

/// Runs the command while the storage is writable. `main` must have called [`signal::begin`] and
/// started no thread.
///
/// Exit codes:
/// - the command's own if it is not 0; 128+N if signal N killed it
/// - 126 if the command is not executable, 127 if it is not found
/// - 1 if the storage was denied or lost, or the data was not synced
/// - 128+N if signal N ended the wait for the grant, or for the sync after a successful command
pub(crate) fn main(options: RunOptions) -> ExitCode {
    let code = run(options).unwrap_or_else(|error| {
        output::error(error.problem);
        error.code
    });
    code.into()
}

fn run(options: RunOptions) -> Result<u8, RunError> {
    let signals = Signals::new(signal::handled().chain([libc::SIGCHLD]))
        .map_err(|error| Problem::io("cannot read signals", &error))?;
    // Before the session opens: without descriptors, the storage need not become writable.
    let reserve = tree::reserve_descriptors(&signals).map_err(cannot_watch)?;
    let mut context = RunContext {
        options,
        signals,
        reserve,
        guarded: process::reap().is_ok(),
    };
    if !context.guarded {
        process::become_subreaper().map_err(cannot_watch)?;
    }
    let mut supervisor = supervisor::start(&mut context).map_err(cannot_watch)?;
    let ended = open(&context).and_then(|session| {
        let code = watch::run(&mut context, session, &mut supervisor)?;
        Ok(code)
    });
    if ended.is_err() {
        supervisor.dismiss();
    }
    // The supervisor has usually ended by now. Do not leave a zombie to a slow init.
    while let Ok(Some(_)) = process::reap() {}
    ended
}

/// Opens a session whose data directory can be written to.
fn open(context: &RunContext) -> Result<GrantedSession, RunError> {
    let RunContext {
        options, signals, ..
    } = context;
    output::info(options.quiet, "Opening PST session ...");
    let mut session = session::open(options, signals)?;
    let data = escape_path(&session.data);
    let space = verify::inspect_data_directory(&session)?;
    if let Err(problem) = verify::check_free_space(options.need, &space, &data) {
        let sent = session.send_close();
        let _ = sent.and_then(|()| session.await_closed(&options.socket, signals)); // nothing was written
        return Err(problem.into());
    }
    output::info(options.quiet, format_args!("PST write is allowed: {data}"));
    Ok(session)
}

/// Closes the session of a command that returned `code`; returns the exit code.
fn close(context: &RunContext, session: &mut GrantedSession, code: u8) -> u8 {
    // These signals were for the command: ^C must not end the wait.
    while context.signals.next().is_some() {}
    let sent = session.send_close();
    let text = format!("Process finished: returncode={code}");
    output::info(context.options.quiet, text);
    let socket = &context.options.socket;
    let closed = sent.and_then(|()| session.await_closed(socket, &context.signals));
    match closed {
        Ok(()) => code,
        Err(error) => {
            output::error(error.problem);
            code_or(code, error.code)
        }
    }
}

/// Returns the command's own code if it is not 0.
fn code_or(code: u8, otherwise: u8) -> u8 {
    if code == 0 { otherwise } else { code }
}
