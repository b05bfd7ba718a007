//! Watches the daemon and the supervisor while the command lives, and forwards signals. When either
//! of the two is lost, the command's whole tree ends.

use std::io;
use std::time::{Duration, Instant};

use super::control::{self, ControlEvent, SupervisorReport};
use super::session::unexpected;
use super::supervisor::Supervisor;
use super::{Context, or, tree};
use crate::client::Connection;
use crate::escape::escape;
use crate::problem::Problem;
use crate::sys::poll::{self, Watch};
use crate::sys::process::{self, Pid, WaitStatus};
use crate::wire::{DaemonMessage, RevokeReason};

/// The supervisor's time to end the tree, beyond the kill grace; then it is killed.
const SUPERVISOR_TIME: Duration = Duration::from_secs(2);

pub(super) enum CommandEnd {
    /// The command ended by itself, and the session is intact.
    Finished(WaitStatus),
    /// The session is over, and the user knows why. This is the exit code.
    SessionLost(u8),
}

/// Starts the command and watches it to its end.
pub(super) fn run(context: &mut Context) -> Result<CommandEnd, Problem> {
    // The caller may have had children before it became this program: they are not the command's.
    let excluded = tree::descendants();
    process::become_subreaper().map_err(cannot_watch)?;
    let connection = &mut context.session.connection;
    connection.wake_this_process().map_err(cannot_watch)?;
    // What arrived before the kernel could wake this process must be seen before the start.
    if let Some((_, problem)) = receive_end(connection) {
        context.output.error(problem);
        return Ok(CommandEnd::SessionLost(1));
    }
    context.output.info("Running the process ...");
    let supervisor = Supervisor::start(context).map_err(cannot_watch)?;
    let run = Run {
        context,
        supervisor,
        excluded,
        reaped: false,
        end_reason: None,
        deadline: None,
    };
    Ok(run.watch())
}

pub(super) fn cannot_watch(error: io::Error) -> Problem {
    Problem::io("cannot watch a command", &error)
}

struct Run<'a> {
    context: &'a mut Context,
    supervisor: Supervisor,
    /// Whether the supervisor is dead and reaped: its number may be another process's.
    reaped: bool,
    /// Children of this process that are not the command's.
    excluded: Vec<Pid>,
    /// Why the session ended, if it did.
    end_reason: Option<RevokeReason>,
    /// When the supervisor must have ended the tree.
    deadline: Option<Instant>,
}

impl Run<'_> {
    fn watch(mut self) -> CommandEnd {
        // A terminal's signals too: the supervisor did not receive those from before the fork.
        self.forward_signals(true);
        loop {
            let mut watches = [
                Watch::new(&self.context.signals, libc::POLLIN),
                Watch::new(&self.supervisor.link, libc::POLLIN),
                Watch::when(
                    self.end_reason.is_none(),
                    &self.context.session.connection,
                    libc::POLLIN | libc::POLLRDHUP,
                ),
            ];
            let left = self
                .deadline
                .map(|deadline| deadline.saturating_duration_since(Instant::now()));
            // Fails only if the kernel has no memory: nothing is seen, and the loop tries again.
            let _ = poll::wait(&mut watches, left);
            let [signal, report, daemon] = watches.map(|watch| watch.seen());
            if signal {
                self.forward_signals(false);
            }
            if report || self.reaped {
                match control::next_report(&self.supervisor.link) {
                    ControlEvent::Message(report) => return self.command_end(report),
                    ControlEvent::Nothing if !self.reaped => {}
                    ControlEvent::Nothing | ControlEvent::Closed => {
                        return self.end_without_supervisor();
                    }
                }
            }
            if daemon {
                if let Some((reason, problem)) = receive_end(&mut self.context.session.connection) {
                    control::request_end(&self.supervisor.link);
                    let grace = self.context.session.grant.kill_grace;
                    self.deadline = Some(Instant::now() + grace + SUPERVISOR_TIME);
                    self.end_reason = Some(reason);
                    // Not earlier: the reader of the message may be slow.
                    self.context.output.error(problem);
                }
            }
            if left == Some(Duration::ZERO) {
                return self.end_without_supervisor();
            }
        }
    }

    /// Forwards the signals that this process received, and reaps the supervisor. What a terminal
    /// sends has reached the command already.
    fn forward_signals(&mut self, from_terminal: bool) {
        while let Ok(Some(received)) = self.context.signals.next() {
            if received.signal == libc::SIGCHLD {
                self.reap_supervisor();
            } else if from_terminal || !received.from_terminal() {
                control::forward(&self.supervisor.link, received);
            }
        }
    }

    fn reap_supervisor(&mut self) {
        self.reaped |= tree::reap_until(self.supervisor.pid).is_some();
    }

    /// Kills the supervisor and waits for its death: then all its children are this process's.
    fn kill_supervisor(&mut self) {
        let _ = self.supervisor.pid.signal_child(libc::SIGKILL);
        let until = Instant::now() + SUPERVISOR_TIME;
        loop {
            self.reap_supervisor();
            let left = until.saturating_duration_since(Instant::now());
            if self.reaped || left.is_zero() {
                return; // in the latter case it hangs in the kernel
            }
            tree::wait_for_child(&self.context.signals, left);
        }
    }

    fn command_end(mut self, report: SupervisorReport) -> CommandEnd {
        if matches!(report, SupervisorReport::Ended(_)) && self.end_reason.is_none() {
            // The supervisor saw the daemon's end before this process did.
            if let Some((reason, problem)) = receive_end(&mut self.context.session.connection) {
                self.end_reason = Some(reason);
                self.context.output.error(problem);
            }
        }
        match (report, self.end_reason) {
            (SupervisorReport::Finished(status), None) => CommandEnd::Finished(status),
            (SupervisorReport::Ended(_), Some(RevokeReason::Lost)) => CommandEnd::SessionLost(1),
            (SupervisorReport::Finished(status) | SupervisorReport::Ended(Some(status)), _) => {
                CommandEnd::SessionLost(or(status.code(), 1))
            }
            (SupervisorReport::Ended(None), _) => CommandEnd::SessionLost(1),
        }
    }

    /// Ends the tree in the place of the supervisor, which is dead or does not do its work: its
    /// orphans become children of this process.
    fn end_without_supervisor(mut self) -> CommandEnd {
        if !self.reaped {
            self.kill_supervisor();
        }
        let ended = tree::end(self.context, None, &self.excluded);
        // Before the messages, whose reader may be slow: the session must not last as long.
        self.context.session.connection.hang_up();
        let output = self.context.output;
        output.error("The command's supervisor was lost, so the command had to end; run it again");
        tree::report_survivors(&ended.survivors, output);
        CommandEnd::SessionLost(1)
    }
}

/// Receives until there is nothing more, or the session is over; then returns why.
fn receive_end(connection: &mut Connection) -> Option<(RevokeReason, Problem)> {
    loop {
        match connection.receive() {
            Ok(None) => return None,
            Ok(Some(error @ DaemonMessage::Error { .. })) => {
                return Some((RevokeReason::Stopping, unexpected(Ok(error))));
            }
            Ok(Some(DaemonMessage::Revoked { reason, text })) => {
                let text = format!("PST write is revoked: {}", escape(&text));
                let problem = match reason {
                    RevokeReason::Stopping => Problem::new(text + ": ending the command")
                        .hint("run it again when `pst status` shows a daemon"),
                    RevokeReason::Lost => Problem::new(text), // the daemon says what to do
                };
                return Some((reason, problem));
            }
            Ok(Some(_)) => {} // no other message is for a granted session
            Err(error) => {
                let reason = Problem::from(error);
                let text = format!("PST write is over, ending the command: {reason}");
                return Some((RevokeReason::Stopping, Problem::new(text)));
            }
        }
    }
}
