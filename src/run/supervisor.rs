//! The supervisor: starts the command, sends it the signals that `pst run` forwards, and reports
//! its end. It ends the command's whole tree when `pst run` or the daemon is gone.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::process::Pid;

use super::control::{self, CommandEnd};
use super::{Context, command, output, tree};
use crate::problem::Problem;
use crate::sys::signal::Received;
use crate::sys::{current, poll, process, socket};

/// Forks the supervisor, which starts the command; returns it and the link to it, see [`control`].
pub(super) fn start(context: &mut Context) -> io::Result<(Pid, UnixStream)> {
    let (link, its_link) = UnixStream::pair()?;
    link.set_nonblocking(true)?;
    its_link.set_nonblocking(true)?;
    // The supervisor may be killed while `pst run` is stopped.
    socket::wake_this_process(&link)?;
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
    context: &'a mut Context,
    link: &'a UnixStream,
    /// What the supervisor itself received, the last one of each kind. A signal to the whole
    /// process group reached the command as well and must not be sent again. The kernel signals a
    /// group's newest member first, so it is here before `pst run` forwards it.
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
        // `killall pst` or `pkill -f pst` must not signal both processes that watch the command:
        // that would look like a signal to their group, which is not forwarded.
        let _ = rustix::thread::set_name(c"supervisor");
        current::rename_arguments(b"supervisor");
        socket::wake_this_process(self.link)
    }

    /// # Errors
    /// There is no command to watch.
    fn start(&mut self) -> Result<Pid, CommandEnd> {
        if let Err(error) = self.prepare() {
            output::error(cannot_watch(error));
            return Err(CommandEnd::Ended(1));
        }
        // What happened before the link could wake this process is seen here.
        let hangups = [
            PollFd::new(self.link, PollFlags::RDHUP),
            PollFd::new(&self.context.session.connection, PollFlags::RDHUP),
        ];
        if poll::wait(hangups, Some(Duration::ZERO)) != [false, false] {
            return Err(CommandEnd::Ended(1));
        }
        // A terminal's signals are for the command too, and `pst run` does not forward them. It
        // does forward those of a process, so they must not be known here.
        self.read_signals();
        self.received.retain(Received::from_terminal);
        let command = command::start(self.context).map_err(CommandEnd::Finished)?;
        for early in &self.received {
            let _ = process::signal_child(command, early.signal); // may have another user
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
    /// The tree must end, see [`control::next_signal`].
    fn forward_signals(&mut self, command: Pid) -> io::Result<()> {
        while let Some(forwarded) = control::next_signal(self.link)? {
            self.read_signals(); // the supervisor's own may have come with it
            let to_group = self.take_received(forwarded);
            let shared = || process::shares_group(command);
            let reached = to_group && (forwarded.from_terminal() || shared());
            if !reached {
                let _ = process::signal_child(command, forwarded.signal); // may have another user
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

    /// Removes the same signal from the same sender; returns whether there was one.
    fn take_received(&mut self, forwarded: Received) -> bool {
        let at = self.received.iter().position(|&kept| kept == forwarded);
        at.map(|at| self.received.swap_remove(at)).is_some()
    }
}
