//! Watches the daemon and the supervisor while the command lives, and forwards signals. When either
//! of the two is lost, the command's whole tree ends.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::Pid;

use super::control::{self, CommandEnd};
use super::session::unexpected;
use super::supervisor::{self, cannot_watch};
use super::{Context, close, or, output, tree};
use crate::client::Connection;
use crate::escape::escape;
use crate::problem::Problem;
use crate::sys::{poll, process};
use crate::wire::{DaemonMessage, RevokeReason};

/// The supervisor's time to end the tree, beyond the kill grace; then it is killed.
const SUPERVISOR_TIME: Duration = Duration::from_secs(2);

/// Starts the command, watches it to its end and closes the session, if it still lasts. Returns
/// the exit code.
pub(super) fn run(context: &mut Context) -> Result<u8, Problem> {
    // The caller may have had children before it became this program: they are not the command's.
    let excluded = tree::descendants();
    process::become_subreaper().map_err(cannot_watch)?;
    let connection = &mut context.session.connection;
    connection.wake_this_process().map_err(cannot_watch)?;
    // What arrived before the kernel could wake this process must be seen before the start.
    if let Some((_, problem)) = receive_end(connection) {
        return Err(problem);
    }
    output::info(context.options.quiet, "Running the process ...");
    let (supervisor, link) = supervisor::start(context).map_err(cannot_watch)?;
    let run = Run {
        context,
        supervisor: Some(supervisor),
        link,
        excluded,
        end_reason: None,
        deadline: None,
    };
    Ok(run.watch())
}

struct Run<'a> {
    context: &'a mut Context,
    /// `None` once it is reaped: its number may be another process's.
    supervisor: Option<Pid>,
    link: UnixStream,
    /// Children of this process that are not the command's.
    excluded: Vec<Pid>,
    /// Why the session ended, if it did.
    end_reason: Option<RevokeReason>,
    /// When the supervisor must have ended the tree.
    deadline: Option<Instant>,
}

impl Run<'_> {
    fn watch(mut self) -> u8 {
        // A terminal's signals too: the supervisor did not receive those from before the fork.
        self.forward_signals(true);
        loop {
            let left = self
                .deadline
                .map(|deadline| deadline.saturating_duration_since(Instant::now()));
            self.wait(left);
            self.forward_signals(false);
            match control::next_report(&self.link) {
                Ok(Some(end)) => return self.command_end(end),
                Ok(None) if self.supervisor.is_some() => {}
                Ok(None) | Err(_) => return self.end_without_supervisor(),
            }
            self.receive_end();
            if left == Some(Duration::ZERO) {
                return self.end_without_supervisor();
            }
        }
    }

    fn wait(&self, time: Option<Duration>) {
        let signals = PollFd::new(&self.context.signals, PollFlags::IN);
        let link = PollFd::new(&self.link, PollFlags::IN);
        if self.end_reason.is_some() {
            poll::wait([signals, link], time);
        } else {
            let daemon = PollFd::new(&self.context.session.connection, PollFlags::IN);
            poll::wait([signals, link, daemon], time);
        }
    }

    /// Forwards the signals that this process received, and reaps the supervisor. What a terminal
    /// sends has reached the command already.
    fn forward_signals(&mut self, from_terminal: bool) {
        while let Some(received) = self.context.signals.next() {
            if received.signal == libc::SIGCHLD {
                self.supervisor = self
                    .supervisor
                    .filter(|&supervisor| tree::reap_until(supervisor).is_none());
            } else if from_terminal || !received.from_terminal() {
                control::forward(&self.link, received);
            }
        }
    }

    /// Has the supervisor end the tree if the session is over, and says why.
    fn receive_end(&mut self) {
        if self.end_reason.is_some() {
            return;
        }
        if let Some((reason, problem)) = receive_end(&mut self.context.session.connection) {
            control::request_end(&self.link);
            self.deadline =
                Some(Instant::now() + self.context.session.kill_grace + SUPERVISOR_TIME);
            self.end_reason = Some(reason);
            // Not earlier: the reader of the message may be slow.
            output::error(problem);
        }
    }

    fn command_end(mut self, end: CommandEnd) -> u8 {
        if let CommandEnd::Ended(_) = end {
            self.receive_end(); // the supervisor may see the daemon's end first
        }
        match (end, self.end_reason) {
            (CommandEnd::Finished(code), None) => close(self.context, code),
            (CommandEnd::Ended(_), Some(RevokeReason::Lost)) => 1,
            (CommandEnd::Finished(code) | CommandEnd::Ended(code), _) => or(code, 1),
        }
    }

    /// Ends the tree in the place of the supervisor, which is dead or does not do its work: its
    /// orphans become children of this process.
    fn end_without_supervisor(self) -> u8 {
        if let Some(supervisor) = self.supervisor {
            let _ = process::signal_child(supervisor, libc::SIGKILL);
            let until = Instant::now() + SUPERVISOR_TIME;
            // Not so if it hangs in the kernel.
            tree::wait_until(until, &self.context.signals, || {
                tree::reap_until(supervisor).is_some()
            });
        }
        let reason = "The command's supervisor was lost, so the command had to end; run it again";
        tree::end(self.context, None, &self.excluded, Some(reason));
        1
    }
}

/// Returns why the session is over, if the daemon says so or is gone.
fn receive_end(connection: &mut Connection) -> Option<(RevokeReason, Problem)> {
    let (reason, text) = match connection.receive().transpose()? {
        Ok(DaemonMessage::Revoked { reason, text }) => {
            (reason, format!("PST write is revoked: {}", escape(&text)))
        }
        other => {
            let text = format!(
                "PST write is over, ending the command: {}",
                unexpected(other)
            );
            return Some((RevokeReason::Stopping, Problem::new(text)));
        }
    };
    let problem = match reason {
        RevokeReason::Stopping => Problem::new(text + ": ending the command")
            .hint("run it again when `pst status` shows a daemon"),
        RevokeReason::Lost => Problem::new(text), // the daemon says what to do
    };
    Some((reason, problem))
}
