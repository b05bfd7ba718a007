//! The keeper: starts the command, passes signals on to it, reports its end; and
//! ends its whole tree when `run` or the daemon is gone. It talks with nobody else.

use std::io;
use std::time::Duration;

use super::command;
use super::link::{self, Heard, Passed, Report, Wish};
use super::output::Output;
use super::tree;
use crate::client::Connection;
use crate::sys::poll::{self, Watch};
use crate::sys::process::{self, Fork, Pid, Program, Reaped, WaitStatus};
use crate::sys::signal::Signals;
use crate::sys::stream::Stream;

/// The keeper as `run` knows it.
#[derive(Debug)]
pub struct Keeper {
    /// Its process id.
    pub pid: Pid,
    /// To pass signals on and to hear its report.
    pub link: Stream,
}

/// What the keeper is given.
#[derive(Clone, Copy)]
pub struct Orders<'a> {
    /// Watched for its end only, never read.
    pub connection: &'a Connection,
    /// A signalfd: it reads the signals of whoever reads it.
    pub signals: &'a Signals,
    /// What to run.
    pub program: &'a Program,
    /// From SIGTERM to SIGKILL.
    pub kill_grace: Duration,
    /// For the names of those that cannot be ended.
    pub output: Output,
}

/// Forks the keeper, which starts the command.
pub fn start(orders: Orders<'_>) -> io::Result<Keeper> {
    let (ours, theirs) = Stream::pair()?;
    // Should the keeper be killed while `run` is stopped.
    ours.wake_this_process()?;
    match process::fork()? {
        Fork::Parent(pid) => Ok(Keeper { pid, link: ours }),
        Fork::Child => {
            drop(ours);
            keep(orders, &theirs);
            process::exit_now(0)
        }
    }
}

fn keep(orders: Orders<'_>, link: &Stream) {
    match prepare_and_start(orders, link) {
        Ok(Some(command)) => watch(orders, link, command),
        Ok(None) => {}
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            link::report(link, Report::NotStarted(errno));
        }
    }
}

/// `None`: `run` is gone already, nothing was started.
fn prepare_and_start(orders: Orders<'_>, link: &Stream) -> io::Result<Option<Pid>> {
    process::become_subreaper()?;
    // So that `killall pst` cannot take both that watch the command.
    process::set_name(c"keeper");
    link.wake_this_process()?;
    // Whatever came before it could wake us is seen here, or the kernel woke us.
    if link::hear_wish(link) == Heard::End {
        return Ok(None);
    }
    // A signal to the group that came before the command was there has not
    // reached it: it must be passed on, so it must not be known here.
    while let Ok(Some(_)) = orders.signals.next() {}
    command::start(orders.program, orders.output).map(Some)
}

fn watch(orders: Orders<'_>, link: &Stream, command: Pid) {
    let signals = orders.signals;
    let mut own = Own::default();
    loop {
        let mut watches = [
            Watch::new(signals, libc::POLLIN),
            Watch::new(link, libc::POLLIN),
            Watch::new(orders.connection, libc::POLLRDHUP),
        ];
        // It fails for want of kernel memory only; then nothing is seen, and it is tried again.
        let _ = poll::wait(&mut watches, None);
        let [signal, message, hangup] = watches.map(|watch| watch.seen());
        if signal {
            own.read(signals);
        }
        let run = match message {
            true => pass_on(signals, link, command, &mut own),
            false => Heard::Nothing,
        };
        if let Some(status) = own.take_child().then(|| reap_command(command)).flatten() {
            return link::report(link, Report::Finished(status));
        }
        if run == Heard::End {
            let output = orders.output;
            output.error("`pst run` was killed: ending its command");
        }
        if run != Heard::Nothing || hangup {
            break;
        }
    }
    let mut status = None;
    let survivors = tree::end(
        signals,
        Some(command),
        &[],
        orders.kill_grace,
        |pid, how| {
            if pid == command {
                status = Some(how);
            }
        },
    );
    tree::name(&survivors, orders.output);
    link::report(link, Report::Ended(status));
}

/// The command's status if it has ended. Orphans that came to us are reaped too.
fn reap_command(command: Pid) -> Option<WaitStatus> {
    loop {
        match process::reap() {
            Reaped::Child(pid, status) if pid == command => return Some(status),
            Reaped::Child(..) => {}
            Reaped::NoneEnded | Reaped::NoChildren => return None,
        }
    }
}

/// Passes on what `run` was sent; gives what else it said: its wish to end the
/// tree, or that it is gone.
fn pass_on(signals: &Signals, link: &Stream, command: Pid, own: &mut Own) -> Heard<()> {
    loop {
        match link::hear_wish(link) {
            Heard::Message(Wish::Pass(passed)) => {
                own.read(signals); // ours may have come together with it
                if !(own.take(passed) && command.shares_group()) {
                    // It may not be ours to signal any more: then nobody can help.
                    let _ = command.signal_child(passed.signal);
                }
            }
            Heard::Message(Wish::End) => return Heard::Message(()),
            Heard::Nothing => return Heard::Nothing,
            Heard::End => return Heard::End,
        }
    }
}

/// What the keeper itself was sent. What went to the whole process group has
/// reached the command as well, and must not be passed on to it. The kernel
/// signals a group's newest member first, so ours is here before `run`'s.
#[derive(Default)]
struct Own {
    /// The last one of each signal.
    sent: Vec<Passed>,
    child: bool,
}

impl Own {
    fn read(&mut self, signals: &Signals) {
        while let Ok(Some(received)) = signals.next() {
            if received.signal == libc::SIGCHLD {
                self.child = true;
            } else if received.by_process {
                self.sent.retain(|sent| sent.signal != received.signal);
                self.sent.push(Passed {
                    signal: received.signal,
                    sender: received.pid,
                });
            }
        }
    }

    /// Whether the same came from the same sender; if so, it is forgotten.
    fn take(&mut self, passed: Passed) -> bool {
        let at = self.sent.iter().position(|&sent| sent == passed);
        at.map(|at| self.sent.swap_remove(at)).is_some()
    }

    /// Whether a child has ended since it was last asked.
    fn take_child(&mut self) -> bool {
        std::mem::take(&mut self.child)
    }
}
