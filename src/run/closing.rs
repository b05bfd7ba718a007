//! From a command that ended to data that is on the medium, or is said not to be.

use super::opening::{Patience, code_of, ending_signal};
use super::or;
use super::output::Output;
use crate::client::{Connection, OUT_OF_PLACE};
use crate::escape::escape;
use crate::problem::Problem;
use crate::sys::poll::Watch;
use crate::sys::signal::{self, Signals};
use crate::wire::{ClientMessage, CloseResult, DaemonMessage};

/// Closes the session of a command that returned `code`, and waits until the
/// daemon has answered; gives the exit code.
pub(super) fn close(mut connection: Connection, code: u8, signals: &Signals, output: Output) -> u8 {
    // What came while the command lived was for it: ^C must not end the wait.
    while ending_signal(signals).is_some() {}
    // A daemon that is gone already is seen below.
    let _ = connection.send(&ClientMessage::Close);
    output.info(format_args!("Process finished: returncode={code}"));
    let mut patience = Patience::new(output);
    loop {
        let mut watches = [
            Watch::new(signals, libc::POLLIN),
            Watch::new(&connection, libc::POLLIN),
        ];
        patience.wait(&mut watches);
        let (signal, answer) = (watches[0].seen(), watches[1].seen());
        if answer {
            match answer_of(&mut connection) {
                None => {}
                Some(Ok(())) => return code,
                Some(Err(text)) => {
                    output.error(format_args!("The data may not be on the medium: {text}"));
                    return or(code, 1);
                }
            }
        }
        if let Some(signal) = signal.then(|| ending_signal(signals)).flatten() {
            output.error(format_args!(
                "Given up waiting because of {}: the data may not be on the medium yet; \
                 it is once `pst status` says `ro`",
                signal::name(signal)
            ));
            return or(code, code_of(signal));
        }
    }
}

fn answer_of(connection: &mut Connection) -> Option<Result<(), String>> {
    Some(match connection.receive() {
        Ok(None) => return None,
        Ok(Some(DaemonMessage::Closed { result, text })) => match result {
            CloseResult::Durable => Ok(()),
            CloseResult::Failed => Err(format!("PST close failed: {}", escape(&text))),
        },
        Ok(Some(DaemonMessage::Revoked { text, .. })) => {
            Err(format!("PST write is revoked: {}", escape(&text)))
        }
        Ok(Some(DaemonMessage::Error { text, .. })) => {
            Err(format!("the daemon refused: {}", escape(&text)))
        }
        Ok(Some(_)) => Err(OUT_OF_PLACE.into()),
        Err(error) => Err(Problem::from(error).to_string()),
    })
}
