//! Other processes: fork and exec, signals, reaping, and their /proc/pid/stat.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, Signal, WaitOptions, getpid};

use super::check;

/// Sends a signal to a child of this process. The child must not be reaped yet: after that, its pid
/// may be another process's. kill(2).
pub(crate) fn signal_child(child: Pid, signal: libc::c_int) -> io::Result<()> {
    let signal = Signal::from_named_raw(signal).ok_or(Errno::INVAL)?;
    Ok(rustix::process::kill_process(child, signal)?)
}

/// Ends a child of this process that is not reaped yet.
pub(crate) fn kill_child(child: Pid) {
    let _ = rustix::process::kill_process(child, Signal::KILL);
    let _ = retry_on_intr(|| rustix::process::waitpid(Some(child), WaitOptions::empty()));
}

/// Whether a process is in this process's process group. getpgid(2).
pub(crate) fn shares_group(pid: Pid) -> bool {
    // Not rustix's getpgid: the kernel returns 0 for a group of another pid namespace.
    // SAFETY: takes no pointers.
    unsafe { libc::getpgid(pid.as_raw_pid()) == libc::getpgid(0) }
}

/// Whether a process is stopped by a signal, such as ^Z's.
pub(crate) fn is_stopped(pid: u32) -> bool {
    stat_field(pid, 3).is_some_and(|state| state == "T")
}

/// Returns field `number` of /proc/pid/stat, from 3, as proc_pid_stat(5) counts them; `None` if the
/// process is gone.
pub(crate) fn stat_field(pid: impl Display, number: usize) -> Option<String> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything, but it ends with the last ")". The next field is the third.
    let after_name = stat.rsplit(|&byte| byte == b')').next()?;
    let mut fields = std::str::from_utf8(after_name)
        .ok()?
        .split_ascii_whitespace();
    fields.nth(number - 3).map(str::to_owned)
}

/// Reaps one child that has ended, without waiting. Returns its pid and its exit code as a shell
/// reports it (128+N if signal N killed it), or `None` if no child has ended. waitpid(2).
///
/// # Errors
/// ECHILD: there are no children.
pub(crate) fn reap() -> io::Result<Option<(Pid, u8)>> {
    let reaped = retry_on_intr(|| rustix::process::wait(WaitOptions::NOHANG))?;
    Ok(reaped.map(|(pid, status)| {
        let killed = status.terminating_signal().map(|signal| 128 + signal);
        let code = status.exit_status().or(killed).unwrap_or(0);
        (pid, code as u8) // both are below 256
    }))
}

/// Makes this process the new parent of its orphaned descendants. PR_SET_CHILD_SUBREAPER(2const).
pub(crate) fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(getpid()))?)
}

/// Forks this process, which must have only one thread; debug builds check that. Returns the child's
/// pid, or `None` in the child. fork(2).
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    debug_assert!(
        fs::read_dir("/proc/self/task").map_or(true, |tasks| tasks.flatten().count() <= 1),
        "fork with threads"
    );
    // SAFETY: there is one thread, so the child's memory is as consistent as its parent's.
    Ok(Pid::from_raw(check(unsafe { libc::fork() })?))
}

/// Starts a command with `name` set to `value` in its environment. The command inherits the signal
/// mask, ignored signals and closed descriptors that this process inherited.
///
/// # Errors
/// Those of fork(2) and execve(2).
pub(crate) fn spawn(words: &[OsString], name: &str, value: &OsStr) -> io::Result<Pid> {
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments);
    // SAFETY: this process has one thread, and the new process only makes system calls that are
    // allowed in a signal handler. Not `Command::env`, which would sort the variables.
    unsafe {
        std::env::set_var(name, value);
        command.pre_exec(|| {
            super::signal::restore_for_command();
            Ok(())
        });
    }
    Ok(Pid::from_child(&command.spawn()?))
}
