//! The session with the daemon: opening it, closing it, and waiting for the daemon's answers.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
use std::net::Shutdown;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::{RunError, RunOptions, leftover, output, verify};
use crate::client::{self, ClientError, DaemonConnection};
use crate::escape::escape;
use crate::problem::Problem;
use crate::sys::poll;
use crate::sys::signal::{self, Received, Signals};
use crate::wire::{ClientMessage, CloseResult, DaemonMessage, DenyReason, VERSION};

/// A wait for the daemon that takes longer prints a warning.
const SLOW: Duration = Duration::from_secs(5);

pub(super) struct GrantedSession {
    pub connection: DaemonConnection,
    /// The data directory, which the command gets as KVMD_PST_DATA.
    pub data: PathBuf,
    /// Its `st_dev`, as the daemon sees it.
    pub device: u64,
    /// The time between SIGTERM and SIGKILL if the command must end.
    pub kill_grace: Duration,
}

/// Opens a session. Waits for the grant without a limit, or until a signal arrives.
pub(super) fn open(options: &RunOptions, signals: &Signals) -> Result<GrantedSession, RunError> {
    let mut wait = DaemonWait::new(signals, "the storage was not granted yet");
    let joined = || options.command.join(OsStr::new(" "));
    let shown = options.shown_command.clone().unwrap_or_else(joined);
    let open = ClientMessage::Open {
        version: VERSION,
        command: shown.into_vec(),
    };
    let mut connection = connect(&options.socket, &open, &mut wait)?;
    verify::check_daemon(&connection.stream, options)?;
    let problem = match wait.answer(&mut connection)? {
        Ok(DaemonMessage::Granted {
            data,
            device,
            kill_grace_ms,
            ..
        }) => {
            return Ok(GrantedSession {
                connection,
                data: OsString::from_vec(data).into(),
                device,
                kill_grace: Duration::from_millis(kill_grace_ms.into()),
            });
        }
        Ok(DaemonMessage::Denied { reason, text, .. }) => {
            let denied = Problem::new(format!("PST write is denied: {}", escape(&text)));
            match reason {
                DenyReason::Stopping => denied.hint("try again when `pst status` shows a daemon"),
                _ => denied, // the text includes the next step
            }
        }
        other => unexpected(other),
    };
    Err(problem.into())
}

/// Connects and sends `open`. Waits in line while the daemon's backlog is full.
fn connect(
    socket: &Path,
    open: &ClientMessage,
    wait: &mut DaemonWait<'_>,
) -> Result<DaemonConnection, RunError> {
    loop {
        let connected = client::connect(socket, open).map_err(|error| {
            // Looking up user and group names for the message may take long, so let signals end it.
            signal::restore_mask();
            signal::block([libc::SIGTTOU]); // writing from the background must not stop this process
            client::cannot_connect(socket, &error)
        })?;
        if let Some(connection) = connected {
            return Ok(connection);
        }
        wait.time_until_warning(); // prints the warning if it is time
        wait.check_signals()?;
    }
}

impl GrantedSession {
    /// Asks the daemon to close the session.
    ///
    /// # Errors
    /// The kernel could not send the message. The connection is closed, which ends the session.
    pub(super) fn send_close(&self) -> Result<(), RunError> {
        match self.connection.send(&ClientMessage::Close) {
            Ok(()) => Ok(()),
            // The daemon has hung up. `await_closed` returns its reason.
            Err(error) if matches!(error.kind(), BrokenPipe | ConnectionReset) => Ok(()),
            Err(error) => {
                let _ = self.connection.stream.shutdown(Shutdown::Both); // cannot fail for an open socket
                let what = "The data may not be on stable storage: cannot close the session";
                Err(Problem::io(what, &error).into())
            }
        }
    }

    /// Waits for the daemon's answer to [`GrantedSession::send_close`], or until a signal arrives. Warns if the storage
    /// stays writable.
    ///
    /// # Errors
    /// The data may not be on stable storage.
    pub(super) fn await_closed(
        &mut self,
        socket: &Path,
        signals: &Signals,
    ) -> Result<(), RunError> {
        let consequence =
            "the data may not be on stable storage yet; it is once `pst status` shows `ro`";
        let mut wait = DaemonWait::new(signals, consequence);
        let reason = match wait.answer(&mut self.connection)? {
            Ok(DaemonMessage::Closed { result, text }) => match result {
                CloseResult::Durable => {
                    if !text.is_empty() {
                        leftover::warn(socket);
                    }
                    return Ok(());
                }
                CloseResult::Failed => format!("PST close failed: {}", escape(&text)),
            },
            Ok(DaemonMessage::Revoked { text, .. }) => {
                format!("PST write is revoked: {}", escape(&text))
            }
            other => unexpected(other).to_string(),
        };
        let text = format!("The data may not be on stable storage: {reason}");
        Err(Problem::new(text).into())
    }
}

/// Explains an unexpected message or the end of the connection.
pub(super) fn unexpected(answer: Result<DaemonMessage, ClientError>) -> Problem {
    answer.map_or_else(Problem::from, |message| ClientError::from(message).into())
}

/// A wait for the daemon. Prints one warning if it is slow. Signals that would end a program end it.
struct DaemonWait<'a> {
    signals: &'a Signals,
    /// The time of the warning; `None` after it.
    warn_at: Option<Instant>,
    /// The consequence if a signal ends the wait, for the message.
    consequence: &'static str,
}

impl<'a> DaemonWait<'a> {
    fn new(signals: &'a Signals, consequence: &'static str) -> Self {
        Self {
            signals,
            warn_at: Some(Instant::now() + SLOW),
            consequence,
        }
    }

    /// Waits for the next message or the end of the connection.
    fn answer(
        &mut self,
        connection: &mut DaemonConnection,
    ) -> Result<Result<DaemonMessage, ClientError>, RunError> {
        loop {
            if let Some(answer) = connection.receive().transpose() {
                return Ok(answer);
            }
            self.check_signals()?;
            let watched = [
                PollFd::new(self.signals, PollFlags::IN),
                PollFd::new(&*connection, PollFlags::IN),
            ];
            poll::wait(watched, self.time_until_warning());
        }
    }

    /// Returns an error if a signal arrived that would end a program. Drops other signals.
    fn check_signals(&self) -> Result<(), RunError> {
        while let Some(Received { signal, .. }) = self.signals.next() {
            if !matches!(signal, libc::SIGCHLD | libc::SIGWINCH) {
                let name = signal::name(signal);
                let text = format!("Gave up waiting because of {name}: {}", self.consequence);
                return Err(RunError {
                    problem: Problem::new(text),
                    code: u8::try_from(128 + signal).unwrap_or(u8::MAX), // as in a shell
                });
            }
        }
        Ok(())
    }

    /// Prints the warning if it is time. Returns `None` after it.
    fn time_until_warning(&mut self) -> Option<Duration> {
        let left = self.warn_at?.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.warn_at = None;
            output::try_warning(format_args!(
                "No answer from the daemon for {} s, still waiting ... (see `pst status`)",
                SLOW.as_secs()
            ));
            return None;
        }
        Some(left)
    }
}
