//! Signals: what the caller left for us (mask, ignored signals, closed standard
//! descriptors), blocking them before any thread exists, reading them from a
//! signalfd, and giving a command back exactly what the caller gave.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::check;

/// The signals that [`begin`] blocks and [`Signals`] reads,
/// besides SIGCHLD; but none that the caller ignored (nohup).
pub const HANDLED: [libc::c_int; 8] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGWINCH,
];

/// What [`begin`] changes: it opens /dev/null in place of closed standard
/// descriptors, and ignores SIGPIPE and SIGXFSZ.
static EARLY: AtomicU32 = AtomicU32::new(0);
const PIPE_IGNORED: u32 = 1 << 3; // bits 0 to 2: that descriptor was closed
const FILE_SIZE_IGNORED: u32 = 1 << 4;

/// What the caller left, seen before this process changed it.
struct Inherited {
    mask: libc::sigset_t,
    child_ignored: bool,
}
static INHERITED: OnceLock<Inherited> = OnceLock::new();

/// To be called in `main`'s first statement. A closed standard descriptor would be given to the
/// next file that is opened, so /dev/null takes its place; who does not read what we write, and a
/// file that may not grow (RLIMIT_FSIZE), is an error, not our end; and see [`block_before_threads`].
pub fn begin() {
    see_early();
    for fd in 0..=2 {
        if EARLY.load(Ordering::Relaxed) & (1 << fd) != 0 {
            // SAFETY: a valid C string. The lowest free number is this one's: those below are open.
            let placed = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
            if placed != fd {
                std::process::abort(); // what is opened next would be taken for it
            }
        }
    }
    set_disposition(libc::SIGPIPE, libc::SIG_IGN);
    set_disposition(libc::SIGXFSZ, libc::SIG_IGN);
    block_before_threads();
}

fn see_early() {
    let mut fds = [0, 1, 2].map(|fd| libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    });
    let mut early = 0;
    // SAFETY: an array of three, and a count of three.
    if unsafe { libc::poll(fds.as_mut_ptr(), 3, 0) } > 0 {
        for (bit, fd) in fds.iter().enumerate() {
            if fd.revents & libc::POLLNVAL != 0 {
                early |= 1 << bit;
            }
        }
    }
    if is_ignored(libc::SIGPIPE) {
        early |= PIPE_IGNORED;
    }
    if is_ignored(libc::SIGXFSZ) {
        early |= FILE_SIZE_IGNORED;
    }
    EARLY.store(early, Ordering::Relaxed);
}

/// Whether a signal's disposition is SIG_IGN; see sigaction(2).
fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null new action only asks; on success the old one is written, and only then read.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Sets a disposition that is no handler: `SIG_DFL` or `SIG_IGN`.
fn set_disposition(signal: libc::c_int, disposition: libc::sighandler_t) {
    debug_assert!(disposition == libc::SIG_DFL || disposition == libc::SIG_IGN);
    // SAFETY: no handler is installed, so nothing can run at a bad moment.
    unsafe { libc::signal(signal, disposition) };
}

fn set_of(signals: impl IntoIterator<Item = libc::c_int>) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set; sigaddset refuses what is no signal.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Blocks [`HANDLED`], SIGCHLD and SIGTTOU (a message written in the background
/// must stop nobody), and takes SIGCHLD back from being ignored, which would
/// lose exit codes. A thread keeps the mask that it was started with. See sigprocmask(2).
fn block_before_threads() {
    let child_ignored = is_ignored(libc::SIGCHLD);
    if child_ignored {
        set_disposition(libc::SIGCHLD, libc::SIG_DFL);
    }
    let handled = HANDLED.into_iter().filter(|&signal| !is_ignored(signal));
    let block = set_of(handled.chain([libc::SIGCHLD, libc::SIGTTOU]));
    let mut mask = MaybeUninit::uninit();
    // SAFETY: both are valid sets; the old mask is written before it is read
    // (the call fails for a bad first argument only).
    let mask = unsafe {
        libc::sigprocmask(libc::SIG_BLOCK, &block, mask.as_mut_ptr());
        mask.assume_init()
    };
    // Called twice, the first look holds.
    let _ = INHERITED.set(Inherited {
        mask,
        child_ignored,
    });
}

/// Puts the caller's signal mask back: for applets that live by the default
/// actions, and for a command before its exec. See sigprocmask(2).
pub fn restore_mask() {
    if let Some(inherited) = INHERITED.get() {
        // SAFETY: a valid set; the old one is not asked for.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &inherited.mask, ptr::null_mut()) };
    }
}

/// Blocks these besides, in a process of one thread: for [`Signals`] to read, or for good.
pub fn block(signals: impl IntoIterator<Item = libc::c_int>) {
    let set = set_of(signals);
    // SAFETY: a valid set; the old one is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut()) };
}

/// In a child before its exec: all that the caller gave is as it was (ignored
/// signals, closed standard descriptors, signal mask).
pub fn restore_for_command() {
    let early = EARLY.load(Ordering::Relaxed);
    for fd in 0..=2 {
        if early & (1 << fd) != 0 {
            // SAFETY: this is the placeholder that `begin` opened; nothing owns it.
            unsafe { libc::close(fd) };
        }
    }
    // std has set it to its default in a child.
    let pipe = match early & PIPE_IGNORED {
        0 => libc::SIG_DFL,
        _ => libc::SIG_IGN,
    };
    set_disposition(libc::SIGPIPE, pipe);
    if early & FILE_SIZE_IGNORED == 0 {
        set_disposition(libc::SIGXFSZ, libc::SIG_DFL);
    }
    if INHERITED.get().is_some_and(|i| i.child_ignored) {
        set_disposition(libc::SIGCHLD, libc::SIG_IGN);
    }
    restore_mask();
}

/// A signal that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub signal: libc::c_int,
    /// The process that sent it by kill(2), tgkill(2) or sigqueue(3), 0 if it is none of this pid
    /// namespace; or [`KERNEL`].
    pub sender: libc::pid_t,
}

/// The sender of what no process sent.
const KERNEL: libc::pid_t = -1;

impl Received {
    /// Whether it is a key's, or another of those that a terminal's whole foreground group gets.
    /// A hang-up is told to the session's leader; the group is told of its end, if it ends.
    pub fn from_terminal(&self) -> bool {
        let keys = [libc::SIGINT, libc::SIGQUIT, libc::SIGWINCH];
        self.sender == KERNEL && keys.contains(&self.signal)
    }
}

/// A non-blocking signalfd(2). It reads the signals of the process that reads,
/// so a child may use its parent's.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Of these signals; they must be blocked ([`begin`]).
    pub fn new(signals: impl IntoIterator<Item = libc::c_int>) -> io::Result<Self> {
        let set = set_of(signals);
        // SAFETY: a valid set; the new descriptor is nobody else's.
        unsafe {
            let fd = check(libc::signalfd(
                -1,
                &set,
                libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
            ))?;
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// The next pending signal, if there is one.
    pub fn next(&self) -> io::Result<Option<Received>> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of_val(&info);
        // SAFETY: the buffer is as long as said.
        let read = unsafe {
            libc::read(
                std::os::fd::AsRawFd::as_raw_fd(&self.0),
                info.as_mut_ptr().cast(),
                size,
            )
        };
        if read == -1 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            };
        }
        // SAFETY: a signalfd gives whole records only, and this was one.
        let info = unsafe { info.assume_init() };
        Ok(Some(Received {
            signal: info.ssi_signo as libc::c_int,
            sender: match info.ssi_code {
                libc::SI_USER | libc::SI_TKILL | libc::SI_QUEUE => info.ssi_pid as libc::pid_t,
                _ => KERNEL,
            },
        }))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub fn name(signal: libc::c_int) -> String {
    match signal {
        libc::SIGHUP => "SIGHUP".into(),
        libc::SIGINT => "SIGINT".into(),
        libc::SIGQUIT => "SIGQUIT".into(),
        libc::SIGTERM => "SIGTERM".into(),
        libc::SIGUSR1 => "SIGUSR1".into(),
        libc::SIGUSR2 => "SIGUSR2".into(),
        libc::SIGALRM => "SIGALRM".into(),
        _ => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_read_with_its_sender() {
        let set = set_of([libc::SIGUSR2]);
        // SAFETY: a valid set; only this thread's mask is changed, and it ends with the test.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut()) };
        let signals = Signals::new([libc::SIGUSR2]).unwrap();
        assert_eq!(signals.next().unwrap(), None);
        // SAFETY: takes no pointers. Raised in this thread, where it is blocked.
        assert_eq!(unsafe { libc::raise(libc::SIGUSR2) }, 0);
        let expected = Received {
            signal: libc::SIGUSR2,
            sender: std::process::id() as libc::pid_t,
        };
        assert_eq!(signals.next().unwrap(), Some(expected));
        assert_eq!(signals.next().unwrap(), None);
    }
}
