//! The supervisor: starts the command, sends it the signals that `pst run` forwards, and reports its
//! end. If `pst run` or the daemon is gone, it ends the command's process tree.
//!
//! `pst run` adopts the tree if the supervisor is lost. It cannot if its caller already had children, whose
//! orphans it could not tell from the command's. Then the supervisor gets a guard as its parent, which adopts
//! the tree instead.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, getpid};

use super::control::{self, Report};
use super::session::GrantedSession;
use super::{RunContext, command, output, tree};
use crate::problem::Problem;
use crate::sys::signal::Received;
use crate::sys::{current, poll, process, socket};

/// The supervisor is killed if it needs this much longer than the kill grace to end the tree.
pub(super) const SUPERVISOR_TIME: Duration = Duration::from_secs(2);

/// The supervisor, or its guard, as `pst run` sees it.
pub(super) struct Supervisor {
    /// `None` once it is reaped: then its number may belong to another process.
    pub pid: Option<Pid>,
    /// See [`control`].
    pub link: UnixStream,
}

/// Forks the supervisor, which starts the command when it gets the session. A new process may be stopped
/// before it can be woken, so the session is opened after the fork: until then it holds nothing.
pub(super) fn start(context: &mut RunContext) -> io::Result<Supervisor> {
    let (link, its_link) = UnixStream::pair()?;
    link.set_nonblocking(true)?;
    its_link.set_nonblocking(true)?;
    // Wakes `pst run` if the supervisor is killed while `pst run` is stopped.
    socket::wake(&link, getpid())?;
    if let Some(pid) = process::fork()? {
        let supervisor = Supervisor {
            pid: Some(pid),
            link,
        };
        return match socket::wake(&its_link, pid) {
            Ok(()) => Ok(supervisor),
            Err(error) => {
                supervisor.dismiss();
                Err(error)
            }
        };
    }
    drop(link);
    let report = supervise(context, &its_link).unwrap_or_else(|error| {
        if !matches!(
            error.kind(),
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe
        ) {
            output::try_error(cannot_watch(error));
        }
        Report::Ended(1)
    });
    let _ = control::report(&its_link, report); // if it fails, `pst run` sees the end of the link
    std::process::exit(0)
}

impl Supervisor {
    /// Reaps the supervisor if it is dead. Returns whether it is.
    pub(super) fn is_dead(&mut self) -> bool {
        self.pid = self.pid.filter(|&pid| tree::reap_until(pid).is_none());
        self.pid.is_none()
    }

    /// Ends a supervisor that has no session. It may be stopped.
    pub(super) fn dismiss(self) {
        if let Some(pid) = self.pid {
            process::kill_child(pid);
        }
    }
}

/// Prepares the supervisor's process, waits until `pst run` hands the session over, and runs the command.
///
/// # Errors
/// There is no command. `UnexpectedEof` or `BrokenPipe` if `pst run` has ended.
fn supervise(context: &mut RunContext, link: &UnixStream) -> io::Result<Report> {
    process::become_subreaper()?;
    // `killall pst` and `pkill -f pst` must signal only `pst run`. A signal to both processes is
    // taken as one to their process group, which is not forwarded.
    let _ = rustix::thread::set_name(c"supervisor");
    current::rename_arguments(b"supervisor");
    control::report(link, Report::Ready)?;
    let mut supervision = Supervision {
        session: control::take_over(link)?,
        context,
        link,
        received: Vec::new(),
    };
    if supervision.context.guarded {
        supervision.read_signals(); // the new process does not get them
        if let Some(supervisor) = process::fork()? {
            supervision.guard(supervisor);
            std::process::exit(0);
        }
        process::become_subreaper()?;
    }
    Ok(supervision.run())
}

pub(super) fn cannot_watch(error: io::Error) -> Problem {
    Problem::io("cannot watch a command", &error)
}

/// The work of the supervisor's process.
struct Supervision<'a> {
    context: &'a mut RunContext,
    session: GrantedSession,
    link: &'a UnixStream,
    /// The signals that the supervisor itself received, the last one of each kind. A signal to the
    /// whole process group also reached the command and must not be sent again. The kernel signals a
    /// group's newest member first, so the signal is here before `pst run` forwards it.
    received: Vec<Received>,
}

impl Supervision<'_> {
    /// Waits for the end of the supervisor. Ends the tree if the supervisor is lost, or hangs when it must
    /// end the tree.
    fn guard(&mut self, supervisor: Pid) {
        let (mut code, mut hangup) = (None, false);
        while code.is_none() && !hangup {
            [_, hangup] = poll::wait(
                [
                    PollFd::new(&self.context.signals, PollFlags::IN),
                    PollFd::new(self.link, PollFlags::RDHUP),
                ],
                None,
            );
            self.read_signals();
            code = tree::reap_until(supervisor);
        }
        let kill_grace = self.session.kill_grace;
        if code.is_none() {
            let _ = process::signal_child(supervisor, libc::SIGCONT); // the link wakes only this process
            let deadline = Instant::now() + kill_grace + SUPERVISOR_TIME;
            tree::wait_until(deadline, &self.context.signals, || {
                code = tree::reap_until(supervisor);
                code.is_some()
            });
        }
        match code {
            Some(0) => return, // it has reported
            Some(_) => {}
            None => tree::kill_supervisor(supervisor, &self.context.signals),
        }
        let (_, survivors) = tree::end_descendants(self.context, kill_grace, None);
        // Before the messages, because their reader may be slow. `pst run` says why the command had to end.
        let _ = self.link.shutdown(Shutdown::Both);
        let _ = self.session.connection.stream.shutdown(Shutdown::Write);
        tree::report_survivors(&survivors);
    }

    fn run(&mut self) -> Report {
        match self.start() {
            Ok(command) => self.watch(command),
            Err(end) => end,
        }
    }

    /// # Errors
    /// How it ended, because there is no command to watch.
    fn start(&mut self) -> Result<Pid, Report> {
        let hangups = [
            PollFd::new(self.link, PollFlags::RDHUP),
            PollFd::new(&self.session.connection, PollFlags::RDHUP),
        ];
        if poll::wait(hangups, Some(Duration::ZERO)) != [false, false] {
            return Err(Report::Ended(1));
        }
        // Signals from a terminal are also for the command, and `pst run` does not forward them. It
        // forwards the others, so forget them here.
        self.read_signals();
        self.received.retain(Received::from_terminal);
        let words = &self.context.options.command;
        let data = self.session.data.as_os_str();
        let command = command::start(words, data).map_err(Report::Finished)?;
        for early in &self.received {
            let _ = process::signal_child(command, early.signal); // it may run as another user
        }
        Ok(command)
    }

    fn watch(&mut self, command: Pid) -> Report {
        loop {
            let [.., hangup] = poll::wait(
                [
                    PollFd::new(&self.context.signals, PollFlags::IN),
                    PollFd::new(self.link, PollFlags::IN),
                    PollFd::new(&self.session.connection, PollFlags::RDHUP),
                ],
                None,
            );
            self.read_signals();
            let forwarded = self.forward_signals(command);
            if let Some(code) = tree::reap_until(command) {
                return Report::Finished(code);
            }
            if forwarded.is_err() || hangup {
                break;
            }
        }
        let killed = socket::hung_up(self.link);
        let reason = killed.then_some("`pst run` was killed, so its command had to end");
        Report::Ended(tree::end(
            self.context,
            &self.session,
            Some(command),
            reason,
        ))
    }

    /// Sends the command each signal that `pst run` forwards.
    ///
    /// # Errors
    /// The tree must end; see [`control::next_signal`].
    fn forward_signals(&mut self, command: Pid) -> io::Result<()> {
        while let Some(forwarded) = control::next_signal(self.link)? {
            self.read_signals(); // it may have been sent to the whole group
            let to_group = self.take_received(forwarded);
            let shared = || process::shares_group(command);
            let reached = to_group && (forwarded.from_terminal() || shared());
            if !reached {
                let _ = process::signal_child(command, forwarded.signal); // it may run as another user
            }
        }
        Ok(())
    }

    fn read_signals(&mut self) {
        while let Some(new) = self.context.signals.next() {
            if new.signal != libc::SIGCHLD {
                self.received.retain(|kept| kept.signal != new.signal);
                self.received.push(new);
            }
        }
    }

    /// Removes this signal from those received, if it is there. Returns whether it was.
    fn take_received(&mut self, forwarded: Received) -> bool {
        let at = self.received.iter().position(|&kept| kept == forwarded);
        at.map(|at| self.received.swap_remove(at)).is_some()
    }
}
