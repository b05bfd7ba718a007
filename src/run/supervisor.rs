//! The supervisor: starts the command, sends it the signals that `pst run` forwards, and reports
//! its end. It ends the command's whole tree when `pst run` or the daemon is gone.

use std::io;

use super::control::{self, ControlEvent, SupervisorReport, SupervisorRequest};
use super::{Context, command, tree, watch};
use crate::sys::current;
use crate::sys::poll::{self, Watch};
use crate::sys::process::{self, Fork, Pid};
use crate::sys::signal::Received;
use crate::sys::stream::Stream;

/// The supervisor as `pst run` sees it.
pub(super) struct Supervisor {
    pub pid: Pid,
    /// See [`control`].
    pub link: Stream,
}

impl Supervisor {
    /// Forks the supervisor, which starts the command.
    pub(super) fn start(context: &mut Context) -> io::Result<Supervisor> {
        let (link, its_link) = Stream::pair()?;
        // The supervisor may be killed while `pst run` is stopped.
        link.wake_this_process()?;
        match process::fork()? {
            Fork::Parent(pid) => Ok(Supervisor { pid, link }),
            Fork::Child => {
                drop(link);
                let mut supervision = Supervision {
                    context,
                    link: &its_link,
                    received: Vec::new(),
                    child_ended: false,
                };
                control::report(&its_link, supervision.run());
                process::exit_now(0)
            }
        }
    }
}

/// The work of the supervisor's process.
struct Supervision<'a> {
    context: &'a mut Context,
    link: &'a Stream,
    /// What the supervisor itself received, the last one of each kind. A signal to the whole
    /// process group reached the command as well and must not be sent again. The kernel signals a
    /// group's newest member first, so it is here before `pst run` forwards it.
    received: Vec<Received>,
    child_ended: bool,
}

impl Supervision<'_> {
    fn run(&mut self) -> SupervisorReport {
        match self.start() {
            Ok(command) => self.watch(command),
            Err(report) => report,
        }
    }

    fn prepare(&self) -> io::Result<()> {
        process::become_subreaper()?;
        // `killall pst` or `pkill -f pst` must not signal both processes that watch the command:
        // that would look like a signal to their group, which is not forwarded.
        process::set_name(c"supervisor");
        current::rename_arguments(b"supervisor");
        self.link.wake_this_process()
    }

    /// # Errors
    /// The report that says why there is no command to watch.
    fn start(&mut self) -> Result<Pid, SupervisorReport> {
        let context = &*self.context;
        if let Err(error) = self.prepare() {
            context.output.error(watch::cannot_watch(error));
            return Err(SupervisorReport::Ended(None));
        }
        // What happened before the link could wake this process is seen here.
        if poll::has_hung_up(self.link) || poll::has_hung_up(&context.session.connection) {
            return Err(SupervisorReport::Ended(None));
        }
        // A terminal's signals are for the command too, and `pst run` does not forward them. It
        // does forward those of a process, so they must not be known here.
        self.read_signals();
        self.received.retain(Received::from_terminal);
        let command = command::start(self.context)?;
        for early in &self.received {
            let _ = command.signal_child(early.signal); // may have another user
        }
        Ok(command)
    }

    fn watch(&mut self, command: Pid) -> SupervisorReport {
        let request = loop {
            let mut watches = [
                Watch::new(&self.context.signals, libc::POLLIN),
                Watch::new(self.link, libc::POLLIN),
                Watch::new(&self.context.session.connection, libc::POLLRDHUP),
            ];
            // Fails only if the kernel has no memory: nothing is seen, and the loop tries again.
            let _ = poll::wait(&mut watches, None);
            let [signal, message, hangup] = watches.map(|watch| watch.seen());
            if signal {
                self.read_signals();
            }
            let request = match message {
                true => self.forward_signals(command),
                false => ControlEvent::Nothing,
            };
            if std::mem::take(&mut self.child_ended) {
                if let Some(status) = tree::reap_until(command) {
                    return SupervisorReport::Finished(status);
                }
            }
            if request != ControlEvent::Nothing || hangup {
                break request;
            }
        };
        let ended = tree::end(self.context, Some(command), &[]);
        let output = self.context.output;
        if request == ControlEvent::Closed {
            // Before the messages, whose reader may be slow: the session must not last as long.
            self.context.session.connection.hang_up();
            output.error("`pst run` was killed, so its command had to end");
        }
        tree::report_survivors(&ended.survivors, output);
        SupervisorReport::Ended(ended.command)
    }

    /// Sends the command each signal that `pst run` forwards; returns any other event.
    fn forward_signals(&mut self, command: Pid) -> ControlEvent<SupervisorRequest> {
        loop {
            match control::next_request(self.link) {
                ControlEvent::Message(SupervisorRequest::Forward(forwarded)) => {
                    self.read_signals(); // the supervisor's own may have come with it
                    let to_group = self.take_received(forwarded);
                    let reached = to_group && (forwarded.from_terminal() || command.shares_group());
                    if !reached {
                        let _ = command.signal_child(forwarded.signal); // may have another user
                    }
                }
                other => return other,
            }
        }
    }

    fn read_signals(&mut self) {
        while let Ok(Some(new)) = self.context.signals.next() {
            if new.signal == libc::SIGCHLD {
                self.child_ended = true;
            } else {
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
