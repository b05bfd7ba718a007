//! Processes: fork and exec, subreapers, reaping, and signals to exactly the
//! process that is meant.

use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use super::check;

/// A process id, as the kernel counts them in this process's pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pid(libc::pid_t);

impl Pid {
    /// From a number that the kernel gave; `None` for what names no process.
    pub fn new(number: libc::pid_t) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    pub fn own() -> Self {
        // SAFETY: getpid(2) cannot fail.
        Self(unsafe { libc::getpid() })
    }

    pub fn number(self) -> libc::pid_t {
        self.0
    }

    /// Whether it is in this process's process group; see getpgid(2).
    pub fn shares_group(self) -> bool {
        // SAFETY: neither takes pointers.
        unsafe { libc::getpgid(self.0) == libc::getpgid(0) }
    }

    /// Sends a signal to a child of this process that was not reaped, so that
    /// the number cannot mean another process. See kill(2).
    pub fn signal_child(self, signal: libc::c_int) -> io::Result<()> {
        // SAFETY: kill(2) takes no pointers; the number is above 0: no group.
        check(unsafe { libc::kill(self.0, signal) }).map(drop)
    }
}

impl std::fmt::Display for Pid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A descriptor that means one process, whatever becomes of its number; see pidfd_open(2).
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Of the process that has this number now.
    pub fn open(pid: Pid) -> io::Result<Self> {
        // SAFETY: pidfd_open(2) takes integers; the new descriptor is nobody
        // else's (and closed on exec by itself).
        unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, pid.0, 0);
            let fd = check(fd as libc::c_int)?;
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// Sends a signal; 0 only asks whether the process is still there (a zombie
    /// is). See pidfd_send_signal(2).
    pub fn signal(&self, signal: libc::c_int) -> io::Result<()> {
        let info = ptr::null::<libc::siginfo_t>();
        // SAFETY: a null siginfo means what kill(2) would send.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                info,
                0,
            )
        };
        check(result as libc::c_int).map(drop)
    }
}

/// How a process ended; see waitpid(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitStatus(pub libc::c_int);

impl WaitStatus {
    /// That of a process that exited with this code.
    pub fn exited(code: u8) -> WaitStatus {
        WaitStatus(libc::W_EXITCODE(code.into(), 0))
    }

    /// As a shell says it: its code, or 128 + the signal that killed it.
    pub fn code(self) -> u8 {
        let code = if libc::WIFSIGNALED(self.0) {
            128 + libc::WTERMSIG(self.0)
        } else {
            libc::WEXITSTATUS(self.0)
        };
        code as u8 // both are below 256
    }
}

/// What [`reap`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaped {
    /// This child has ended, and is reaped.
    Child(Pid, WaitStatus),
    /// Children there are, but none has ended.
    NoneEnded,
    /// There is no child at all.
    NoChildren,
}

/// Reaps any one child that has ended, without waiting; see waitpid(2).
pub fn reap() -> Reaped {
    let mut status = 0;
    loop {
        // SAFETY: the status is written to a valid place.
        match unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) } {
            0 => return Reaped::NoneEnded,
            -1 => {
                if io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                    return Reaped::NoChildren;
                }
            }
            pid => return Reaped::Child(Pid(pid), WaitStatus(status)),
        }
    }
}

/// Waits until this child has ended, and reaps it; see waitpid(2).
pub fn await_child(child: Pid) {
    // SAFETY: a null status is not written.
    while unsafe { libc::waitpid(child.0, ptr::null_mut(), 0) } == -1
        && io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
    {}
}

/// Whether this process has children, ended ones included; reaps none. See waitid(2).
pub fn has_children() -> bool {
    // SAFETY: waitid(2) takes a null siginfo.
    let result = unsafe {
        libc::waitid(
            libc::P_ALL,
            0,
            ptr::null_mut(),
            libc::WEXITED | libc::WNOHANG | libc::WNOWAIT,
        )
    };
    result == 0
}

/// Orphans among this process's descendants become its children from now on;
/// see PR_SET_CHILD_SUBREAPER(2const).
pub fn become_subreaper() -> io::Result<()> {
    let on: libc::c_ulong = 1;
    // SAFETY: this option takes an integer.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, on) }).map(drop)
}

/// The name in `ps` and `killall`, cut to 15 bytes; see PR_SET_NAME(2const).
pub fn set_name(name: &CStr) {
    // SAFETY: a string that ends in 0; the kernel copies at most 16 bytes of it.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Which of the two a process is after [`fork`].
#[derive(Debug)]
pub enum Fork {
    /// The one that called, and the new one's id.
    Parent(Pid),
    Child,
}

/// Makes a copy of this process; see fork(2). `main` must not have started a
/// thread: this is looked at in debug builds.
pub fn fork() -> io::Result<Fork> {
    debug_assert!(
        std::fs::read_dir("/proc/self/task").map_or(true, |tasks| tasks.count() == 1),
        "fork with threads"
    );
    // SAFETY: there is one thread, so the child's memory is as consistent as its parent's.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(Pid(pid))),
    }
}

/// Starts a program as the caller of this one would have started it, with `name` set to `value` in
/// its environment. An error is the exec's, or the fork's; see [`std::process::Command`].
pub fn spawn(words: &[OsString], name: &str, value: &OsStr) -> io::Result<Pid> {
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments);
    // SAFETY: this process has one thread; in the new one only system calls are made that are safe
    // in a signal handler. Set here, the variables stay in the caller's order.
    unsafe {
        std::env::set_var(name, value);
        command.pre_exec(|| {
            super::signal::restore_for_command();
            Ok(())
        });
    }
    Ok(Pid(command.spawn()?.id() as libc::pid_t))
}

/// Ends this process at once, running nothing more; see _exit(2).
pub fn exit_now(code: u8) -> ! {
    // SAFETY: _exit(2) runs no destructor or handler of anybody.
    unsafe { libc::_exit(code.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_means_one_process_to_its_end() {
        assert_eq!(
            (libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal),
            (434, 424)
        );
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let pid = Pid::new(child.id() as libc::pid_t).unwrap();
        let descriptor = PidFd::open(pid).unwrap();
        descriptor.signal(0).unwrap();
        descriptor.signal(libc::SIGKILL).unwrap();
        let status = std::os::unix::process::ExitStatusExt::into_raw(child.wait().unwrap());
        assert_eq!(WaitStatus(status).code(), 128 + 9);
        let gone = descriptor.signal(0).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(libc::ESRCH));
    }
}
