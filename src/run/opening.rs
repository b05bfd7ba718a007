//! From nothing to a granted session.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Failure;
use super::output::Output;
use crate::client::{self, Connection, OUT_OF_PLACE};
use crate::escape::escape;
use crate::problem::Problem;
use crate::sys::poll::{self, Watch};
use crate::sys::signal::{self, Signals};
use crate::wire::{ClientMessage, DaemonMessage, DenyReason};

/// So long without an answer is worth a line. See also [`super::closing`].
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Grant {
    pub data: Vec<u8>,
    /// The device that must be seen there.
    pub device: u64,
    /// From SIGTERM to SIGKILL for a command that must die.
    pub kill_grace: Duration,
}

/// Asks for a session, as long as it takes to be heard, or until a signal comes.
pub(super) fn ask(
    socket: &Path,
    open: &ClientMessage,
    signals: &Signals,
    patience: &mut Patience,
) -> Result<Connection, Failure> {
    let connected = client::connect(socket, || {
        patience.left();
        match signal_to_give_up(signals) {
            Some(failure) => ControlFlow::Break(failure),
            None => ControlFlow::Continue(()),
        }
    });
    let connection = match connected {
        ControlFlow::Continue(Ok(connection)) => connection,
        ControlFlow::Continue(Err(error)) => {
            // To put it in words may take long, and there is nothing left to pass signals on to.
            signal::restore_mask();
            signal::block([libc::SIGTTOU]); // that it is said must stop nobody
            return Err(Failure::new(client::cannot_connect(socket, &error)));
        }
        ControlFlow::Break(failure) => return Err(failure),
    };
    // A daemon that is gone already is seen at the answer, perhaps with its reason.
    let _ = connection.greet(open);
    Ok(connection)
}

/// Waits for the grant as long as it takes, or until a signal comes.
pub(super) fn await_grant(
    connection: &mut Connection,
    signals: &Signals,
    patience: &mut Patience,
) -> Result<Grant, Failure> {
    loop {
        let mut watches = [
            Watch::new(signals, libc::POLLIN),
            Watch::new(&*connection, libc::POLLIN),
        ];
        patience.wait(&mut watches);
        let signal = watches[0].seen();
        if let Some(failure) = signal.then(|| signal_to_give_up(signals)).flatten() {
            return Err(failure);
        }
        let answer = connection.receive().map_err(Problem::from);
        if let Some(answer) = answer.map_err(Failure::new)? {
            return grant(answer);
        }
    }
}

fn grant(answer: DaemonMessage) -> Result<Grant, Failure> {
    match answer {
        DaemonMessage::Granted {
            data,
            device,
            kill_grace_ms,
            ..
        } => Ok(Grant {
            data,
            device,
            kill_grace: Duration::from_millis(kill_grace_ms.into()),
        }),
        DaemonMessage::Denied { reason, text, .. } => {
            let next = match reason {
                DenyReason::Stopping => "; try again when `pst status` shows a daemon",
                _ => "", // the text says what to do
            };
            let text = escape(&text);
            Err(Failure::new(format_args!(
                "PST write is denied: {text}{next}"
            )))
        }
        DaemonMessage::Error { text, .. } => Err(Failure::new(format_args!(
            "the daemon refused: {}",
            escape(&text)
        ))),
        _ => Err(Failure::new(OUT_OF_PLACE)),
    }
}

/// Before the grant every signal that would end a program ends the waiting.
fn signal_to_give_up(signals: &Signals) -> Option<Failure> {
    let signal = ending_signal(signals)?;
    Some(Failure {
        code: code_of(signal),
        text: format!(
            "given up, {} came before the storage was granted",
            signal::name(signal)
        ),
    })
}

/// The next pending signal that asks for an end; others are passed over.
pub(super) fn ending_signal(signals: &Signals) -> Option<libc::c_int> {
    while let Ok(Some(received)) = signals.next() {
        if !matches!(received.signal, libc::SIGCHLD | libc::SIGWINCH) {
            return Some(received.signal);
        }
    }
    None
}

/// The exit code for an end by this signal, as a shell says it.
pub(super) fn code_of(signal: libc::c_int) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Waits, and says once if it takes long.
pub(super) struct Patience {
    output: Output,
    until: Option<Instant>,
}

impl Patience {
    pub(super) fn new(output: Output) -> Self {
        Self {
            output,
            until: Some(Instant::now() + PATIENCE),
        }
    }

    /// Waits until something is seen.
    pub(super) fn wait(&mut self, watches: &mut [Watch<'_>]) {
        let left = self.left();
        // It fails for want of kernel memory only; the callers then look and come again.
        let _ = poll::wait(watches, left);
    }

    /// How long it still has patience; `None`: for ever, once it is said that it takes long.
    fn left(&mut self) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.until = None;
            self.output.warning(format_args!(
                "No answer from the daemon for {} s, waiting on ... (`pst status` shows what it does)",
                PATIENCE.as_secs()
            ));
            return None;
        }
        Some(left)
    }
}
