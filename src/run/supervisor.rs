//! The keeper: starts the command, passes signals on to it, reports its end; and
//! ends its whole tree when `run` or the daemon is gone. It talks with nobody else.
//!
//! It is there before the grant, so that it gets ready while the daemon works: on a
//! machine with several processors its making costs no time. Until it is told to
//! start the command it only waits, and ends when `run` does.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::command;
use super::control::{self, Heard, Report, Wish};
use super::opening::Grant;
use super::output::Output;
use super::tree::{self, Reserve};
use crate::client::Connection;
use crate::sys::current;
use crate::sys::poll::{self, Watch};
use crate::sys::process::{self, Fork, Pid, Reaped, WaitStatus};
use crate::sys::signal::{Received, Signals};
use crate::sys::stream::Stream;

/// The keeper as `run` knows it.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub pid: Pid,
    /// To pass signals on and to hear its report.
    pub link: Stream,
}

/// What the keeper is given before it knows what it is for.
#[derive(Clone, Copy)]
pub(super) struct Means<'a> {
    /// Watched for its end, and ended if nobody else does; never read.
    pub connection: &'a Connection,
    /// A signalfd: it reads the signals of whoever reads it.
    pub signals: &'a Signals,
    /// For the names of those that cannot be ended.
    pub output: Output,
    /// For the end of the command's tree.
    pub reserve: &'a Reserve,
}

impl Supervisor {
    /// Forks the keeper, for this command.
    pub(super) fn prepare(means: Means<'_>, words: Vec<OsString>) -> io::Result<Supervisor> {
        let (ours, theirs) = Stream::pair()?;
        match process::fork()? {
            Fork::Parent(pid) => Ok(Supervisor { pid, link: ours }),
            Fork::Child => {
                drop(ours);
                keep(means, words, &theirs);
                process::exit_now(0)
            }
        }
    }

    /// Has it start the command. If it is gone, that is seen soon after.
    pub(super) fn start(&self, grant: &Grant) -> io::Result<()> {
        // Should the keeper be killed while `run` is stopped.
        self.link.wake_this_process()?;
        control::order(&self.link, grant.kill_grace, &grant.data)
    }

    /// Does without it: it has not started anything.
    pub(super) fn dismiss(self) {
        let _ = self.pid.signal_child(libc::SIGKILL);
        process::await_child(self.pid);
    }
}

fn keep(means: Means<'_>, words: Vec<OsString>, link: &Stream) {
    let prepared = prepare(link);
    // That it went wrong is said to who waits for the command's start.
    let Some((kill_grace, data)) = control::await_order(link) else {
        return;
    };
    let started = prepared.and_then(|()| start(means, link, &words, OsStr::from_bytes(&data)));
    match started {
        Ok(Some(Ok(command))) => watch(means, kill_grace, link, command),
        Ok(Some(Err(code))) => control::report(link, Report::Finished(WaitStatus::exited(code))),
        Ok(None) => control::report(link, Report::Ended(None)),
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            control::report(link, Report::NotStarted(errno));
        }
    }
}

fn prepare(link: &Stream) -> io::Result<()> {
    process::become_subreaper()?;
    // So that neither `killall pst` nor `pkill -f pst` takes both that watch the command: the
    // second would look like a signal to the group, which need not be passed on.
    process::set_name(c"keeper");
    current::rename_arguments(b"keeper");
    link.wake_this_process()
}

/// `None`: `run` or the daemon is gone already, or wants the end; nothing was started.
fn start(
    means: Means<'_>,
    link: &Stream,
    words: &[OsString],
    data: &OsStr,
) -> io::Result<Option<Result<Pid, u8>>> {
    // Whatever came before it could wake us is seen here, or the kernel woke us.
    if poll::has_hung_up(link) || poll::has_hung_up(means.connection) {
        return Ok(None);
    }
    // A signal to the group that came before the command was there has not reached it. What a
    // process sent `run` passes on, so it must not be known here; what the terminal sent it does not.
    let mut early = Vec::new();
    while let Ok(Some(received)) = means.signals.next() {
        if received.from_terminal() {
            early.push(received.signal);
        }
    }
    let command = command::start(words, data, means.output)?;
    for signal in early {
        if let Ok(command) = command {
            let _ = command.signal_child(signal); // it may be another user's by now
        }
    }
    Ok(Some(command))
}

fn watch(means: Means<'_>, kill_grace: Duration, link: &Stream, command: Pid) {
    let signals = means.signals;
    let mut own = Own::default();
    let run = loop {
        let mut watches = [
            Watch::new(signals, libc::POLLIN),
            Watch::new(link, libc::POLLIN),
            Watch::new(means.connection, libc::POLLRDHUP),
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
            return control::report(link, Report::Finished(status));
        }
        if run != Heard::Nothing || hangup {
            break run;
        }
    };
    let mut status = None;
    let Means { reserve, .. } = means;
    let survivors = tree::end(
        signals,
        reserve,
        Some(command),
        &[],
        kill_grace,
        |pid, how| {
            if pid == command {
                status = Some(how);
            }
        },
    );
    if run == Heard::End {
        // Who reads the messages may take its time; the session must not last as long.
        means.connection.hang_up();
        let output = means.output;
        output.error("`pst run` was killed, so its command had to end");
    }
    tree::name(&survivors, means.output);
    control::report(link, Report::Ended(status));
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
        match control::hear_wish(link) {
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
    sent: Vec<Received>,
    child: bool,
}

impl Own {
    fn read(&mut self, signals: &Signals) {
        while let Ok(Some(received)) = signals.next() {
            if received.signal == libc::SIGCHLD {
                self.child = true;
            } else {
                self.sent.retain(|sent| sent.signal != received.signal);
                self.sent.push(received);
            }
        }
    }

    /// Whether the same came from the same sender; if so, it is forgotten.
    fn take(&mut self, passed: Received) -> bool {
        let at = self.sent.iter().position(|&sent| sent == passed);
        at.map(|at| self.sent.swap_remove(at)).is_some()
    }

    /// Whether a child has ended since it was last asked.
    fn take_child(&mut self) -> bool {
        std::mem::take(&mut self.child)
    }
}
