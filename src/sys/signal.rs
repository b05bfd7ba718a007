//! Signals: what the caller left (mask, ignored signals, closed standard descriptors), blocking
//! before any thread exists, reading from a signalfd, and giving a command what the caller gave.

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

/// The signals that [`begin`] blocks, besides SIGCHLD; except those that the caller ignored (nohup).
pub fn handled() -> impl Iterator<Item = libc::c_int> {
    HANDLED.into_iter().map(|(signal, _)| signal)
}

/// The signals whose disposition this process changes: Rust's runtime ignores the first, [`begin`]
/// sets the others.
const CHANGED: [libc::c_int; 3] = [libc::SIGPIPE, libc::SIGXFSZ, libc::SIGCHLD];

/// What the caller left, before this process changed it.
struct Inherited {
    mask: libc::sigset_t,
    /// Which of [`CHANGED`] were ignored.
    ignored: [bool; 3],
    /// Which of the standard descriptors were closed.
    closed: [bool; 3],
}

static INHERITED: OnceLock<Inherited> = OnceLock::new();

/// The C library calls this before `main`. There is no later moment: before `main` Rust's runtime
/// opens /dev/null in place of closed standard descriptors and ignores SIGPIPE.
#[used]
// SAFETY: the section holds pointers to functions of this type; this one calls only functions that
// need nothing of Rust's runtime.
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

/// To be called first in `main`, before any thread exists: a thread keeps the mask that it starts
/// with. Blocks [`handled`], SIGCHLD, and SIGTTOU, since a message written in the background must
/// stop nothing. A file that may not grow (RLIMIT_FSIZE) becomes an error, and SIGCHLD is no longer
/// ignored, which would lose exit codes.
pub fn begin() {
    set_disposition(libc::SIGXFSZ, libc::SIG_IGN);
    set_disposition(libc::SIGCHLD, libc::SIG_DFL);
    let handled = handled().filter(|&signal| !is_ignored(signal));
    block(handled.chain([libc::SIGCHLD, libc::SIGTTOU]));
}

/// Whether a signal's disposition is SIG_IGN. sigaction(2).
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

/// Changes the signal mask as `how` says, and returns the one before. sigprocmask(2).
fn change_mask(how: libc::c_int, set: Option<&libc::sigset_t>) -> libc::sigset_t {
    let set = set.map_or(ptr::null(), ptr::from_ref);
    let mut before = MaybeUninit::uninit();
    // SAFETY: `set` is null or valid; the old mask is written, since `how` is valid.
    unsafe {
        libc::sigprocmask(how, set, before.as_mut_ptr());
        before.assume_init()
    }
}

/// Blocks these too, in a process of one thread: for [`Signals`] to read, or for good.
pub fn block(signals: impl IntoIterator<Item = libc::c_int>) {
    change_mask(libc::SIG_BLOCK, Some(&set_of(signals)));
}

/// Restores the caller's signal mask: for commands of pst that live by the default actions.
pub fn restore_mask() {
    if let Some(inherited) = INHERITED.get() {
        change_mask(libc::SIG_SETMASK, Some(&inherited.mask));
    }
}

/// Restores what the caller gave, in a child before its exec: ignored signals, closed standard
/// descriptors, signal mask.
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

/// A signal that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub signal: libc::c_int,
    /// The process that sent it by kill(2), tgkill(2) or sigqueue(3); 0 if that process is not in
    /// this pid namespace; [`KERNEL`] if no process sent it.
    pub sender: libc::pid_t,
}

const KERNEL: libc::pid_t = -1;

impl Received {
    /// Whether a terminal sent it to its whole foreground group. Not so SIGHUP: the terminal sends it
    /// to the session's leader only.
    pub fn from_terminal(&self) -> bool {
        let keys = [libc::SIGINT, libc::SIGQUIT, libc::SIGWINCH];
        self.sender == KERNEL && keys.contains(&self.signal)
    }
}

/// A non-blocking signalfd(2). It reads the signals of the process that reads, so a child may use
/// its parent's.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Reads these signals, which must be blocked (see [`begin`]).
    pub fn new(signals: impl IntoIterator<Item = libc::c_int>) -> io::Result<Self> {
        let set = set_of(signals);
        // SAFETY: a valid set; the new descriptor is nobody else's.
        unsafe {
            let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            Ok(Self(OwnedFd::from_raw_fd(check(fd)?)))
        }
    }

    /// The next pending signal, if there is one.
    pub fn next(&self) -> Option<Received> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of_val(&info);
        // SAFETY: the buffer is as long as said.
        let read = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if read == -1 {
            return None; // EAGAIN: no signal is pending
        }
        // SAFETY: a signalfd gives whole records only, and this was one.
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

/// As in signal(7), for those that are [`handled`].
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
        // SAFETY: a valid set; only this thread's mask is changed, and it ends with the test.
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
