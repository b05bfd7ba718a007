//! Processes: fork and exec, subreapers, reaping, and signals to exactly the process that is meant.

use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use rustix::io::{Errno, retry_on_intr};
use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions};

use super::check;

/// A process id in this process's pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pid(rustix::process::Pid);

impl Pid {
    /// From a number that the kernel gave; `None` for a number that names no process.
    pub fn new(number: libc::pid_t) -> Option<Self> {
        let number = (number > 0).then_some(number)?;
        rustix::process::Pid::from_raw(number).map(Self)
    }

    pub fn own() -> Self {
        Self(rustix::process::getpid())
    }

    /// Whether it is in this process's process group. getpgid(2).
    pub fn shares_group(self) -> bool {
        // rustix's getpgid does not know that the kernel says 0 for a group of another pid namespace.
        // SAFETY: takes no pointers.
        unsafe { libc::getpgid(self.0.as_raw_pid()) == libc::getpgid(0) }
    }

    /// Sends a signal to a child of this process that was not reaped yet, so that the number
    /// cannot mean another process. kill(2).
    pub fn signal_child(self, signal: libc::c_int) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or(Errno::INVAL)?;
        Ok(rustix::process::kill_process(self.0, signal)?)
    }
}

impl std::fmt::Display for Pid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A descriptor that means one process, even after its number names another one. pidfd_open(2).
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process that has this number now.
    pub fn open(pid: Pid) -> io::Result<Self> {
        let fd = rustix::process::pidfd_open(pid.0, PidfdFlags::empty())?;
        Ok(Self(fd))
    }

    /// Sends a signal; 0 only asks whether the process still exists (a zombie does).
    /// pidfd_send_signal(2), which rustix offers without the 0.
    pub fn signal(&self, signal: libc::c_int) -> io::Result<()> {
        let info = ptr::null::<libc::siginfo_t>();
        let call = libc::SYS_pidfd_send_signal;
        // SAFETY: a null siginfo means what kill(2) would send.
        check(unsafe { libc::syscall(call, self.0.as_raw_fd(), signal, info, 0) }).map(drop)
    }
}

/// How a process ended, as waitpid(2) reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitStatus(pub libc::c_int);

impl WaitStatus {
    /// That of a process that exited with this code.
    pub fn exited(code: u8) -> WaitStatus {
        WaitStatus(libc::W_EXITCODE(code.into(), 0))
    }

    /// As a shell reports it: the exit code, or 128 + the signal that killed the process.
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
    /// There are children, but none has ended.
    NoneEnded,
    NoChildren,
}

/// Reaps any one child that has ended, without waiting. waitpid(2).
pub fn reap() -> Reaped {
    match retry_on_intr(|| rustix::process::wait(WaitOptions::NOHANG)) {
        Ok(Some((pid, status))) => Reaped::Child(Pid(pid), WaitStatus(status.as_raw())),
        Ok(None) => Reaped::NoneEnded,
        Err(_) => Reaped::NoChildren,
    }
}

/// Whether this process has children, ended ones included; reaps none. waitid(2).
pub fn has_children() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    rustix::process::waitid(WaitId::All, options).is_ok()
}

/// From now on orphans among this process's descendants become its children.
/// PR_SET_CHILD_SUBREAPER(2const).
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(Pid::own().0))?)
}

/// Sets the name that `ps` and `killall` show, cut to 15 bytes. PR_SET_NAME(2const).
pub fn set_name(name: &CStr) {
    let _ = rustix::thread::set_name(name); // it fails for a bad pointer only
}

/// Which of the two processes this is after [`fork`].
#[derive(Debug)]
pub enum Fork {
    /// The caller; with the child's id.
    Parent(Pid),
    Child,
}

/// Makes a copy of this process, which must have one thread only: debug builds check that. fork(2).
pub fn fork() -> io::Result<Fork> {
    debug_assert!(
        std::fs::read_dir("/proc/self/task").map_or(true, |tasks| tasks.count() == 1),
        "fork with threads"
    );
    // SAFETY: there is one thread, so the child's memory is as consistent as its parent's.
    let pid = check(unsafe { libc::fork() })?;
    Ok(Pid::new(pid).map_or(Fork::Child, Fork::Parent))
}

/// Starts a program as this program's caller would have started it, with `name` set to `value` in
/// its environment.
///
/// # Errors
/// Those of fork(2) and execve(2).
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
    let pid = command.spawn()?.id() as libc::pid_t;
    Ok(Pid::new(pid).ok_or(Errno::SRCH)?)
}

/// Ends this process at once, without destructors and exit handlers. _exit(2).
pub fn exit_now(code: u8) -> ! {
    // SAFETY: takes no pointer.
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
