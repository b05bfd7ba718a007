//! Watches the daemon and the supervisor while the command runs, and forwards signals. If either is
//! lost, the command's process tree ends.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::Pid;

use super::control::{self, CommandEnd};
use super::session::unexpected;
use super::supervisor::{self, cannot_watch};
use super::{RunContext, close, code_or, output, tree};
use crate::client::DaemonConnection;
use crate::escape::escape;
use crate::problem::Problem;
use crate::sys::{poll, process, socket};
use crate::wire::{DaemonMessage, RevokeReason};

/// The supervisor is killed if it needs this much longer than the kill grace to end the tree.
const SUPERVISOR_TIME: Duration = Duration::from_secs(2);

/// Starts the command, watches it until it ends, and closes the session if it is still open. Returns
/// the exit code.
pub(super) fn run(context: &mut RunContext) -> Result<u8, Problem> {
    // The process may have had children before it executed pst. They are not the command's.
    let excluded = tree::descendants();
    process::become_subreaper().map_err(cannot_watch)?;
    let connection = &mut context.session.connection;
    socket::wake_this_process(&connection.stream).map_err(cannot_watch)?;
    // A message that arrived before `wake_this_process` has sent no signal.
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
    };
    Ok(run.watch())
}

struct Run<'a> {
    context: &'a mut RunContext,
    /// `None` once it is reaped: then its number may belong to another process.
    supervisor: Option<Pid>,
    link: UnixStream,
    /// Children of this process that are not the command's.
    excluded: Vec<Pid>,
}

impl Run<'_> {
    fn watch(mut self) -> u8 {
        // Also those from a terminal: the supervisor did not receive them before the fork.
        self.forward_signals(true);
        loop {
            let watched = [
                PollFd::new(&self.context.signals, PollFlags::IN),
                PollFd::new(&self.link, PollFlags::IN),
                PollFd::new(&self.context.session.connection, PollFlags::IN),
            ];
            poll::wait(watched, None);
            self.forward_signals(false);
            let dead = is_dead(&mut self.supervisor);
            let report = match control::next_report(&self.link) {
                Ok(Some(CommandEnd::Finished(code))) => return close(self.context, code),
                Ok(None) if dead => return self.end_without_supervisor(),
                Ok(report) => report,
                Err(_) => return self.end_without_supervisor(),
            };
            let end = receive_end(&mut self.context.session.connection);
            if end.is_some() || report.is_some() {
                return self.session_over(end, report);
            }
        }
    }

    /// Forwards the signals that this process received. Those from a terminal have already reached the
    /// command, and are forwarded only if `from_terminal` is set.
    fn forward_signals(&mut self, from_terminal: bool) {
        while let Some(received) = self.context.signals.next() {
            let reached = !from_terminal && received.from_terminal();
            if received.signal != libc::SIGCHLD && !reached {
                control::forward(&self.link, received);
            }
        }
    }

    /// Asks the supervisor to end the tree, and then prints why the session is over. A `report` means
    /// that the supervisor noticed the daemon's end first and has ended the tree.
    fn session_over(
        mut self,
        end: Option<(RevokeReason, Problem)>,
        mut report: Option<CommandEnd>,
    ) -> u8 {
        control::request_end(&self.link);
        let deadline = Instant::now() + self.context.session.kill_grace + SUPERVISOR_TIME;
        let lost = matches!(end, Some((RevokeReason::Lost, _)));
        if report.is_none() {
            let signals = &self.context.signals;
            tree::wait_until(deadline, signals, || is_dead(&mut self.supervisor));
            report = control::next_report(&self.link).ok().flatten();
        }
        let code = match report {
            Some(CommandEnd::Ended(_)) if lost => 1,
            Some(CommandEnd::Finished(code) | CommandEnd::Ended(code)) => code_or(code, 1),
            None => self.end_without_supervisor(),
        };
        if let Some((_, problem)) = end {
            output::error(problem); // after the tree's end, because the reader may be slow
        }
        code
    }

    /// Ends the tree instead of the supervisor, which is dead or hangs. Its orphans become children of
    /// this process.
    fn end_without_supervisor(mut self) -> u8 {
        if let Some(supervisor) = self.supervisor {
            let _ = process::signal_child(supervisor, libc::SIGKILL);
            let deadline = Instant::now() + SUPERVISOR_TIME; // it may hang in the kernel
            let signals = &self.context.signals;
            tree::wait_until(deadline, signals, || is_dead(&mut self.supervisor));
        }
        let reason = "The command's supervisor was lost, so the command had to end; run it again";
        tree::end(self.context, None, &self.excluded, Some(reason));
        1
    }
}

/// Reaps the supervisor if it is dead. Returns whether it is.
fn is_dead(supervisor: &mut Option<Pid>) -> bool {
    *supervisor = supervisor.filter(|&pid| tree::reap_until(pid).is_none());
    supervisor.is_none()
}

/// Returns why the session is over, if the daemon revoked it or is gone.
fn receive_end(connection: &mut DaemonConnection) -> Option<(RevokeReason, Problem)> {
    let (reason, text) = match connection.receive().transpose()? {
        Ok(DaemonMessage::Revoked { reason, text }) => (reason, text),
        other => {
            let text = format!(
                "PST write is over, ending the command: {}",
                unexpected(other)
            );
            return Some((RevokeReason::Stopping, Problem::new(text)));
        }
    };
    let text = escape(&text);
    let problem = match reason {
        RevokeReason::Stopping => {
            Problem::new(format!("PST write is revoked: {text}: ending the command"))
                .hint("run it again when `pst status` shows a daemon")
        }
        // The daemon's text includes the next step, for an administrator.
        RevokeReason::Lost => Problem::new(format!(
            "PST write is revoked: the storage failed, so the command was ended; \
             an administrator must repair the storage: {text}"
        )),
    };
    Some((reason, problem))
}
