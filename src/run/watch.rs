//! While the command lives: signals are passed on, the daemon and the keeper are
//! watched, and whichever is lost, the command's whole tree ends.

use std::ffi::OsString;
use std::io;
use std::time::{Duration, Instant};

use super::Failure;
use super::control::{self, Heard, Report};
use super::opening::Grant;
use super::output::Output;
use super::supervisor::{Means, Supervisor};
use super::tree::{self, Reserve};
use crate::client::Connection;
use crate::escape::escape;
use crate::problem::Problem;
use crate::sys::poll::{self, Watch};
use crate::sys::process::{self, Pid, Reaped, WaitStatus};
use crate::sys::signal::Signals;
use crate::wire::{DaemonMessage, RevokeReason};

/// For the keeper to end the tree, beyond the kill grace; then it is killed itself.
const KEEPER_TIME: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) enum Ending {
    /// The command ended by itself, with the session intact.
    Finished(WaitStatus),
    /// The session is over; this is what the command's own code still counts for.
    Revoked(Option<WaitStatus>),
    /// It went wrong, and was said.
    Failed,
}

/// Why the session is over while the command lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The daemon stops, or is gone.
    DaemonEnds,
    /// What the command wrote is lost.
    StorageLost,
}

/// What it takes to run a command, made while the daemon works.
pub(super) struct Prepared {
    keeper: Supervisor,
    /// The caller's children, from before it became this program.
    spare: Vec<Pid>,
}

/// Gets ready to run a command.
pub(super) fn prepare(means: Means<'_>, words: Vec<OsString>) -> Result<Prepared, Failure> {
    // Children that the caller started before it became us are not the command's.
    let spare = match process::has_children() {
        true => tree::descendants(),
        false => Vec::new(),
    };
    process::become_subreaper().map_err(failed)?;
    let keeper = Supervisor::prepare(means, words).map_err(failed)?;
    Ok(Prepared { keeper, spare })
}

/// That a command cannot be watched.
pub(super) fn failed(error: io::Error) -> Failure {
    Failure::new(Problem::io("cannot watch a command", &error))
}

impl Prepared {
    /// Nothing is to be run.
    pub(super) fn dismiss(self) {
        self.keeper.dismiss();
    }
}

/// Has the keeper start the command, and watches both to their end.
pub(super) fn run(
    connection: &mut Connection,
    signals: &Signals,
    prepared: Prepared,
    grant: &Grant,
    output: Output,
    reserve: &Reserve,
) -> Result<Ending, Failure> {
    connection.wake_this_process().map_err(failed)?;
    // What came before the kernel could wake us by it must be seen before the start.
    if let Some(over) = hear_daemon(connection) {
        prepared.dismiss();
        output.error(over.text);
        return Ok(Ending::Failed);
    }
    output.info("Running the process ...");
    prepared.keeper.start(grant).map_err(failed)?;
    let run = Run {
        connection,
        signals,
        keeper: prepared.keeper,
        spare: prepared.spare,
        kill_grace: grant.kill_grace,
        output,
        reserve,
        trouble: None,
        deadline: None,
    };
    Ok(run.watch())
}

struct Run<'a> {
    connection: &'a mut Connection,
    signals: &'a Signals,
    keeper: Supervisor,
    spare: Vec<Pid>,
    kill_grace: Duration,
    output: Output,
    reserve: &'a Reserve,
    trouble: Option<Trouble>,
    /// When the keeper must have ended the tree.
    deadline: Option<Instant>,
}

impl Run<'_> {
    fn watch(mut self) -> Ending {
        loop {
            let mut watches = [
                Watch::new(self.signals, libc::POLLIN),
                Watch::new(&self.keeper.link, libc::POLLIN),
                Watch::when(
                    self.trouble.is_none(),
                    self.connection,
                    libc::POLLIN | libc::POLLRDHUP,
                ),
            ];
            let left = self
                .deadline
                .map(|deadline| deadline.saturating_duration_since(Instant::now()));
            // It fails for want of kernel memory only; then nothing is seen, and it is tried again.
            let _ = poll::wait(&mut watches, left);
            let [signal, report, daemon] = watches.map(|watch| watch.seen());
            let reaped = signal && self.read_signals();
            if report || reaped {
                match control::hear_report(&self.keeper.link) {
                    Heard::Message(report) => return self.ending(report),
                    Heard::Nothing if !reaped => {}
                    Heard::Nothing | Heard::End => return self.end_without_keeper(reaped),
                }
            }
            if daemon {
                if let Some(over) = hear_daemon(self.connection) {
                    control::end(&self.keeper.link);
                    self.deadline = Some(Instant::now() + self.kill_grace + KEEPER_TIME);
                    self.trouble = Some(over.trouble);
                    // Not before that: who reads it may take its time.
                    self.output.error(over.text);
                }
            }
            if left == Some(Duration::ZERO) {
                return self.end_without_keeper(false);
            }
        }
    }

    /// Has the keeper pass on what was sent to us; what the terminal sent has
    /// reached the command already. Whether the keeper has ended.
    fn read_signals(&self) -> bool {
        let mut child = false;
        while let Ok(Some(received)) = self.signals.next() {
            if received.signal == libc::SIGCHLD {
                child = true;
            } else if !received.from_terminal() {
                control::pass(&self.keeper.link, received);
            }
        }
        child && self.reap_keeper()
    }

    fn reap_keeper(&self) -> bool {
        loop {
            match process::reap() {
                Reaped::Child(pid, _) if pid == self.keeper.pid => return true,
                Reaped::Child(..) => {}
                Reaped::NoneEnded | Reaped::NoChildren => return false,
            }
        }
    }

    /// The keeper dies: then all its children are ours.
    fn await_keeper(&self) {
        let until = Instant::now() + KEEPER_TIME;
        while !self.reap_keeper() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return; // what it is stuck in, nobody can end
            }
            let _ = poll::wait(&mut [Watch::new(self.signals, libc::POLLIN)], Some(left));
            while let Ok(Some(_)) = self.signals.next() {}
        }
    }

    fn ending(mut self, report: Report) -> Ending {
        if matches!(report, Report::Ended(_)) && self.trouble.is_none() {
            // The keeper saw the daemon's end before we did.
            if let Some(over) = hear_daemon(self.connection) {
                self.trouble = Some(over.trouble);
                self.output.error(over.text);
            }
        }
        match (report, self.trouble) {
            (Report::NotStarted(errno), _) => {
                let error = io::Error::from_raw_os_error(errno);
                self.output
                    .error(Problem::io("Can't start the process", &error));
                Ending::Failed
            }
            (Report::Finished(status), None) => Ending::Finished(status),
            (Report::Finished(status), Some(_)) => Ending::Revoked(Some(status)),
            (Report::Ended(_), Some(Trouble::StorageLost)) => Ending::Failed,
            (Report::Ended(status), _) => Ending::Revoked(status),
        }
    }

    /// The keeper is lost, or does not do its work: its orphans come to us.
    fn end_without_keeper(self, reaped: bool) -> Ending {
        let output = self.output;
        if !reaped {
            let _ = self.keeper.pid.signal_child(libc::SIGKILL);
            self.await_keeper();
        }
        let (signals, grace) = (self.signals, self.kill_grace);
        let survivors = tree::end(signals, self.reserve, None, &self.spare, grace, |_, _| {});
        // Who reads the messages may take its time; the session must not last as long.
        self.connection.hang_up();
        output.error("The command's keeper was lost, so the command had to end; run it again");
        tree::name(&survivors, output);
        Ending::Failed
    }
}

/// That the session is over, and what is to be said of it.
struct Over {
    trouble: Trouble,
    text: String,
}

/// Hears the daemon until there is nothing more.
fn hear_daemon(connection: &mut Connection) -> Option<Over> {
    loop {
        let (trouble, text) = match connection.receive() {
            Ok(None) => return None,
            Ok(Some(DaemonMessage::Error { text, .. })) => (
                Trouble::DaemonEnds,
                format!("the daemon refused: {}", escape(&text)),
            ),
            Ok(Some(DaemonMessage::Revoked { reason, text })) => {
                let (trouble, next) = match reason {
                    RevokeReason::Stopping => (
                        Trouble::DaemonEnds,
                        ": ending the command; run it again when `pst status` shows a daemon",
                    ),
                    RevokeReason::Lost => (Trouble::StorageLost, ""), // the text says what to do
                };
                let text = format!("PST write is revoked: {}{next}", escape(&text));
                (trouble, text)
            }
            Ok(Some(_)) => continue, // nothing else is for a granted session
            Err(error) => (
                Trouble::DaemonEnds,
                format!(
                    "PST write is over, ending the command: {}",
                    Problem::from(error)
                ),
            ),
        };
        return Some(Over { trouble, text });
    }
}
