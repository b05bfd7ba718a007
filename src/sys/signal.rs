//! Signals: blocks them before any thread exists, and reads them from a signalfd. Restores for a
//! command what the caller left: mask, ignored signals, closed standard descriptors.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::OnceLock;

use super::check;

const HANDLED: [(libc::c_int, &str); 8] = [
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGQUIT, "SIGQUIT"),
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGUSR1, "SIGUSR1"),
    (libc::SIGUSR2, "SIGUSR2"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGWINCH, "SIGWINCH"),
];

/// The signals that [`begin`] blocks unless the caller ignored them (nohup).
pub fn handled() -> impl Iterator<Item = libc::c_int> {
    HANDLED.into_iter().map(|(signal, _)| signal)
}

/// The signals whose disposition this process changes: Rust's runtime ignores the first, [`begin`]
/// sets the others.
const CHANGED: [libc::c_int; 3] = [libc::SIGPIPE, libc::SIGXFSZ, libc::SIGCHLD];

/// The signal settings that the caller left.
struct Inherited {
    mask: libc::sigset_t,
    /// Whether each of [`CHANGED`] was ignored.
    ignored: [bool; 3],
    /// Whether each of the standard descriptors was closed.
    closed: [bool; 3],
}

static INHERITED: OnceLock<Inherited> = OnceLock::new();

/// The C library calls this before Rust's runtime starts, which opens /dev/null in place of closed
/// standard descriptors and ignores SIGPIPE.
#[used]
// SAFETY: the section holds pointers to functions of this type; this one does not need
// Rust's runtime.
#[unsafe(link_section = ".init_array")]
static REMEMBER_INHERITED: extern "C" fn() = remember_inherited;

extern "C" fn remember_inherited() {
    let _ = INHERITED.set(Inherited {
        mask: change_mask(libc::SIG_BLOCK, None),
        ignored: CHANGED.map(is_ignored),
        // SAFETY: takes no pointer; a closed descriptor is an error.
        closed: [0, 1, 2].map(|fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1),
    });
}

/// Whether the caller left standard input open. Rust's runtime opens /dev/null in its place if not.
pub fn stdin_was_open() -> bool {
    INHERITED.get().is_none_or(|inherited| !inherited.closed[0])
}

/// Blocks [`handled`], SIGCHLD and SIGTTOU. Must be called first in `main`: a thread keeps the mask
/// that it starts with. With SIGTTOU blocked, writing a message in the background stops nothing.
///
/// Also ignores SIGXFSZ, so that exceeding RLIMIT_FSIZE is an error, and no longer ignores SIGCHLD:
/// the kernel drops the exit codes of children while it is ignored.
pub fn begin() {
    set_disposition(libc::SIGXFSZ, libc::SIG_IGN);
    set_disposition(libc::SIGCHLD, libc::SIG_DFL);
    block_handled();
}

/// Blocks the signals that [`begin`] blocks, after [`restore_mask`].
pub fn block_handled() {
    let handled = handled().filter(|&signal| !is_ignored(signal));
    block(handled.chain([libc::SIGCHLD, libc::SIGTTOU]));
}

/// Whether a signal's disposition is SIG_IGN. sigaction(2).
fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with a null new action nothing changes. The old one is read only if it was written.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Sets a disposition: `SIG_DFL` or `SIG_IGN`, not a handler.
fn set_disposition(signal: libc::c_int, disposition: libc::sighandler_t) {
    debug_assert!(disposition == libc::SIG_DFL || disposition == libc::SIG_IGN);
    // SAFETY: installs no handler.
    unsafe { libc::signal(signal, disposition) };
}

fn set_of(signals: impl IntoIterator<Item = libc::c_int>) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set; sigaddset rejects invalid numbers.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Changes the signal mask and returns the previous one. sigprocmask(2).
fn change_mask(how: libc::c_int, set: Option<&libc::sigset_t>) -> libc::sigset_t {
    let set = set.map_or(ptr::null(), ptr::from_ref);
    let mut before = MaybeUninit::uninit();
    // SAFETY: `set` is null or valid. The old mask is written, because `how` is valid.
    unsafe {
        libc::sigprocmask(how, set, before.as_mut_ptr());
        before.assume_init()
    }
}

/// Blocks these signals as well. For a process with one thread.
pub fn block(signals: impl IntoIterator<Item = libc::c_int>) {
    change_mask(libc::SIG_BLOCK, Some(&set_of(signals)));
}

/// Restores the caller's signal mask, for commands that signals may end.
pub fn restore_mask() {
    if let Some(inherited) = INHERITED.get() {
        change_mask(libc::SIG_SETMASK, Some(&inherited.mask));
    }
}

/// Restores everything that the caller left, in a child before its exec.
pub fn restore_for_command() {
    let Some(inherited) = INHERITED.get() else {
        return;
    };
    for (fd, closed) in (0..).zip(inherited.closed) {
        if closed {
            // SAFETY: the runtime opened this placeholder before `main`; nothing owns it.
            unsafe { libc::close(fd) };
        }
    }
    for (signal, ignored) in CHANGED.into_iter().zip(inherited.ignored) {
        let disposition = match ignored {
            true => libc::SIG_IGN,
            false => libc::SIG_DFL,
        };
        set_disposition(signal, disposition);
    }
    restore_mask();
}

/// A signal, read by [`Signals`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub signal: libc::c_int,
    /// The process that sent it with kill(2), tgkill(2) or sigqueue(3); 0 if that process is not in
    /// this pid namespace; -1 if the kernel sent it.
    pub sender: libc::pid_t,
}

const KERNEL: libc::pid_t = -1;

impl Received {
    /// Whether a terminal sent it to its whole foreground group. SIGHUP is not among them: a terminal
    /// sends it only to the session's leader.
    pub fn from_terminal(&self) -> bool {
        let keys = [libc::SIGINT, libc::SIGQUIT, libc::SIGWINCH];
        self.sender == KERNEL && keys.contains(&self.signal)
    }
}

/// A non-blocking signalfd(2). Each process reads its own signals from it, so a child may use its
/// parent's.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Creates a descriptor for these signals, which must be blocked (see [`begin`]).
    pub fn new(signals: impl IntoIterator<Item = libc::c_int>) -> io::Result<Self> {
        let set = set_of(signals);
        // SAFETY: the set is valid; nothing else owns the new descriptor.
        unsafe {
            let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            Ok(Self(OwnedFd::from_raw_fd(check(fd)?)))
        }
    }

    /// Reads the next pending signal, if there is one.
    pub fn next(&self) -> Option<Received> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of_val(&info);
        // SAFETY: the buffer is live and of the size that is passed.
        let read = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if read == -1 {
            return None; // EAGAIN: no signal is pending
        }
        // SAFETY: a signalfd returns only whole records, and this was one.
        let info = unsafe { info.assume_init() };
        Some(Received {
            signal: info.ssi_signo as libc::c_int,
            sender: match info.ssi_code {
                libc::SI_USER | libc::SI_TKILL | libc::SI_QUEUE => info.ssi_pid as libc::pid_t,
                _ => KERNEL,
            },
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Returns the name of a [`handled`] signal.
pub fn name(signal: libc::c_int) -> &'static str {
    let found = HANDLED.iter().find(|(handled, _)| *handled == signal);
    found.map_or("a signal", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_read_with_its_sender() {
        let set = set_of([libc::SIGUSR2]);
        // SAFETY: the set is valid. Only this thread's mask changes, and it ends with the test.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut()) };
        let signals = Signals::new([libc::SIGUSR2]).unwrap();
        assert_eq!(signals.next(), None);
        // SAFETY: takes no pointers. Raised in this thread, where it is blocked.
        assert_eq!(unsafe { libc::raise(libc::SIGUSR2) }, 0);
        let expected = Received {
            signal: libc::SIGUSR2,
            sender: std::process::id() as libc::pid_t,
        };
        assert_eq!(signals.next(), Some(expected));
        assert_eq!(signals.next(), None);
    }
}
