//! Watches the daemon and the supervisor while the command runs, and forwards signals. If either is
//! lost, the command's process tree ends.

use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::process::getpid;

use super::control::{self, Report};
use super::session::{GrantedSession, unexpected};
use super::supervisor::{SUPERVISOR_TIME, Supervisor, cannot_watch};
use super::{RunContext, close, code_or, output, tree};
use crate::client::DaemonConnection;
use crate::escape::escape;
use crate::problem::Problem;
use crate::sys::{poll, socket};
use crate::wire::{DaemonMessage, RevokeReason};

/// Has the supervisor start the command, watches it until it ends, and closes the session if it is still
/// open. Returns the exit code.
///
/// # Errors
/// There is no command.
pub(super) fn run(
    context: &mut RunContext,
    mut session: GrantedSession,
    supervisor: &mut Supervisor,
) -> Result<u8, Problem> {
    let connection = &mut session.connection;
    socket::wake(&connection.stream, getpid()).map_err(cannot_watch)?;
    // A message that arrived before has sent no signal.
    if let Some((_, problem)) = receive_end(connection) {
        return Err(problem);
    }
    output::info(context.options.quiet, "Running the process ...");
    let run = Run {
        context,
        session,
        supervisor,
    };
    run.watch()
}

struct Run<'a> {
    context: &'a mut RunContext,
    session: GrantedSession,
    supervisor: &'a mut Supervisor,
}

impl Run<'_> {
    fn watch(mut self) -> Result<u8, Problem> {
        let mut signals = PollFlags::empty(); // they wait for the command
        loop {
            let watched = [
                PollFd::new(&self.context.signals, signals),
                PollFd::new(&self.supervisor.link, PollFlags::IN),
                PollFd::new(&self.session.connection, PollFlags::IN),
            ];
            poll::wait(watched, None);
            if !signals.is_empty() {
                self.forward_signals();
            }
            let dead = self.supervisor.is_dead();
            let mut report = match control::next_report(&self.supervisor.link) {
                Ok(Some(Report::Finished(code))) => {
                    return Ok(close(self.context, &mut self.session, code));
                }
                Ok(None) if dead => return Ok(self.end_without_supervisor()),
                Ok(report) => report,
                Err(_) => return Ok(self.end_without_supervisor()),
            };
            if report == Some(Report::Ready) {
                let handed = control::hand_over(&self.supervisor.link, &self.session);
                handed.map_err(cannot_watch)?;
                (signals, report) = (PollFlags::IN, None);
            }
            let end = receive_end(&mut self.session.connection);
            if end.is_some() || report.is_some() {
                return Ok(self.session_over(end, report));
            }
        }
    }

    /// Forwards the signals that this process received. Those from a terminal have already reached the
    /// supervisor.
    fn forward_signals(&mut self) {
        while let Some(received) = self.context.signals.next() {
            if received.signal != libc::SIGCHLD && !received.from_terminal() {
                control::forward(&self.supervisor.link, received);
            }
        }
    }

    /// Asks the supervisor to end the tree, and then prints why the session is over. A `report` means
    /// that the supervisor noticed the daemon's end first and has ended the tree.
    fn session_over(self, end: Option<(RevokeReason, Problem)>, mut report: Option<Report>) -> u8 {
        control::request_end(&self.supervisor.link);
        let time = self.session.kill_grace + SUPERVISOR_TIME;
        // A guard first waits as long itself, and then ends the tree.
        let deadline = Instant::now() + if self.context.guarded { time * 3 } else { time };
        let lost = matches!(end, Some((RevokeReason::Lost, _)));
        if report.is_none() {
            let signals = &self.context.signals;
            tree::wait_until(deadline, signals, || self.supervisor.is_dead());
            while let Ok(next @ Some(_)) = control::next_report(&self.supervisor.link) {
                report = next;
            }
        }
        let code = match report {
            Some(Report::Ended(_)) if lost => 1,
            Some(Report::Finished(code) | Report::Ended(code)) => code_or(code, 1),
            Some(Report::Ready) | None => self.end_without_supervisor(),
        };
        if let Some((_, problem)) = end {
            output::error(problem); // after the tree's end, because the reader may be slow
        }
        code
    }

    /// Ends the tree instead of the supervisor, which is dead or hangs. Its orphans become children of
    /// this process.
    fn end_without_supervisor(self) -> u8 {
        if let Some(supervisor) = self.supervisor.pid {
            tree::kill_supervisor(supervisor, &self.context.signals);
        }
        let reason = "The command's supervisor was lost, so the command had to end; run it again";
        if self.context.guarded {
            // If only the guard is dead, the supervisor ends the tree.
            control::request_end(&self.supervisor.link);
            let time = self.session.kill_grace + SUPERVISOR_TIME;
            poll::wait(
                [PollFd::new(&self.supervisor.link, PollFlags::IN)],
                Some(time),
            );
            output::error(reason);
        } else {
            tree::end(self.context, &self.session, None, Some(reason));
        }
        1
    }
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
