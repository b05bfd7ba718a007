//! The supervisor: starts the command, sends it the signals that `pst run` forwards, and reports its
//! end. If `pst run` or the daemon is gone, it ends the command's process tree.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::process::Pid;

use super::control::{self, CommandEnd};
use super::{RunContext, command, output, tree};
use crate::problem::Problem;
use crate::sys::signal::Received;
use crate::sys::{current, poll, process, socket};

/// Forks the supervisor, which starts the command. Returns its pid and the link to it; see [`control`].
pub(super) fn start(context: &mut RunContext) -> io::Result<(Pid, UnixStream)> {
    let (link, its_link) = UnixStream::pair()?;
    link.set_nonblocking(true)?;
    its_link.set_nonblocking(true)?;
    // Wakes `pst run` if the supervisor is killed while `pst run` is stopped.
    socket::wake_this_process(&link)?;
    // Until the supervisor has done the same for itself, in `prepare`.
    socket::wake_this_group(&its_link)?;
    if let Some(pid) = process::fork()? {
        return Ok((pid, link));
    }
    drop(link);
    let mut supervision = Supervision {
        context,
        link: &its_link,
        received: Vec::new(),
    };
    control::report(&its_link, supervision.run());
    std::process::exit(0)
}

pub(super) fn cannot_watch(error: io::Error) -> Problem {
    Problem::io("cannot watch a command", &error)
}

/// The work of the supervisor's process.
struct Supervision<'a> {
    context: &'a mut RunContext,
    link: &'a UnixStream,
    /// The signals that the supervisor itself received, the last one of each kind. A signal to the
    /// whole process group also reached the command and must not be sent again. The kernel signals a
    /// group's newest member first, so the signal is here before `pst run` forwards it.
    received: Vec<Received>,
}

impl Supervision<'_> {
    fn run(&mut self) -> CommandEnd {
        match self.start() {
            Ok(command) => self.watch(command),
            Err(end) => end,
        }
    }

    fn prepare(&self) -> io::Result<()> {
        process::become_subreaper()?;
        // `killall pst` and `pkill -f pst` must signal only `pst run`. A signal to both processes is
        // taken as one to their process group, which is not forwarded.
        let _ = rustix::thread::set_name(c"supervisor");
        current::rename_arguments(b"supervisor");
        socket::wake_this_process(self.link)
    }

    /// # Errors
    /// How it ended, because there is no command to watch.
    fn start(&mut self) -> Result<Pid, CommandEnd> {
        if let Err(error) = self.prepare() {
            output::try_error(cannot_watch(error));
            return Err(CommandEnd::Ended(1));
        }
        // A hang-up before `wake_this_process` has sent no signal.
        let hangups = [
            PollFd::new(self.link, PollFlags::RDHUP),
            PollFd::new(&self.context.session.connection, PollFlags::RDHUP),
        ];
        if poll::wait(hangups, Some(Duration::ZERO)) != [false, false] {
            return Err(CommandEnd::Ended(1));
        }
        // Signals from a terminal are also for the command, and `pst run` does not forward them. It
        // forwards the others, so forget them here.
        self.read_signals();
        self.received.retain(Received::from_terminal);
        let command = command::start(self.context).map_err(CommandEnd::Finished)?;
        for early in &self.received {
            let _ = process::signal_child(command, early.signal); // it may run as another user
        }
        Ok(command)
    }

    fn watch(&mut self, command: Pid) -> CommandEnd {
        loop {
            let [.., hangup] = poll::wait(
                [
                    PollFd::new(&self.context.signals, PollFlags::IN),
                    PollFd::new(self.link, PollFlags::IN),
                    PollFd::new(&self.context.session.connection, PollFlags::RDHUP),
                ],
                None,
            );
            self.read_signals();
            let forwarded = self.forward_signals(command);
            if let Some(code) = tree::reap_until(command) {
                return CommandEnd::Finished(code);
            }
            if forwarded.is_err() || hangup {
                break;
            }
        }
        let killed = socket::hung_up(self.link);
        let reason = killed.then_some("`pst run` was killed, so its command had to end");
        CommandEnd::Ended(tree::end(self.context, Some(command), &[], reason))
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
