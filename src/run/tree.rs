//! Ends a process tree: the descendants of this process, which must be a child subreaper, so that
//! orphans stay within reach. Never signals a process group, or a process that is not a descendant.

use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

use super::session::GrantedSession;
use super::supervisor::SUPERVISOR_TIME;
use super::{RunContext, output};
use crate::escape::escape;
use crate::sys::signal::Signals;
use crate::sys::{poll, process, user};

/// The limit for processes to die of SIGKILL, since the last death …
const KILL_TIME: Duration = Duration::from_secs(1);
/// … and in total, in case a tree grows as fast as it is killed.
const KILL_TIME_TOTAL: Duration = Duration::from_millis(1500);
/// The kernel may skip a child in its list, so list them again after this time.
const LIST_AGAIN: Duration = Duration::from_millis(20);

/// Ends all descendants, and then the session; prints the `reason`, and names the survivors. Returns the
/// command's exit code, or 0 if it did not end.
pub(super) fn end(
    context: &mut RunContext,
    session: &GrantedSession,
    command: Option<Pid>,
    reason: Option<&str>,
) -> u8 {
    let (code, survivors) = end_descendants(context, session.kill_grace, command);
    // Before the messages, because their reader may be slow. A shutdown ends the session even if other
    // processes have the connection open. It fails only if the daemon is gone.
    let _ = session.connection.stream.shutdown(Shutdown::Write);
    if let Some(reason) = reason {
        output::error(reason);
    }
    report_survivors(&survivors);
    code
}

/// Sends SIGTERM and SIGCONT to each descendant; after the kill grace, sends SIGKILL to the children until
/// none is left. Without this pid namespace's /proc, ends only `command`.
///
/// Returns the command's exit code, or 0 if it did not end, and the survivors: children that do not die, or
/// that may not be signalled because they run as another user.
pub(super) fn end_descendants(
    context: &mut RunContext,
    kill_grace: Duration,
    command: Option<Pid>,
) -> (u8, Vec<Pid>) {
    context.reserve.clear();
    let mut tree = Tree {
        signals: &context.signals,
        command,
        code: 0,
        last_death: Instant::now(),
    };
    tree.terminate();
    let until = Instant::now() + kill_grace;
    let mut survivors = Vec::new();
    if !wait_until(until, &context.signals, || tree.reap()) {
        tree.kill();
        survivors = tree.children();
    }
    (tree.code, survivors)
}

/// Reserves as many descriptors as [`end`] opens at a time, as copies of `any`. Without free
/// descriptors, it could not list the tree.
pub(super) fn reserve_descriptors(any: &impl AsFd) -> io::Result<Vec<OwnedFd>> {
    (0..4).map(|_| any.as_fd().try_clone_to_owned()).collect()
}

/// Kills a supervisor that hangs, and reaps it, unless it hangs in the kernel.
pub(super) fn kill_supervisor(supervisor: Pid, signals: &Signals) {
    let _ = process::signal_child(supervisor, libc::SIGKILL);
    let deadline = Instant::now() + SUPERVISOR_TIME;
    wait_until(deadline, signals, || reap_until(supervisor).is_some());
}

/// Reaps all children that ended, up to `child`. Returns the exit code of `child`, or `None` if it has
/// not ended.
pub(super) fn reap_until(child: Pid) -> Option<u8> {
    while let Ok(Some((pid, code))) = process::reap() {
        if pid == child {
            return Some(code);
        }
    }
    None
}

/// Calls `done`, which reaps, whenever a child may have died, until it returns true or `deadline` is
/// over. Returns the last result. Drops all pending signals.
pub(super) fn wait_until(
    deadline: Instant,
    signals: &Signals,
    mut done: impl FnMut() -> bool,
) -> bool {
    loop {
        if done() {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        wait_for_child(signals, left);
    }
}

fn wait_for_child(signals: &Signals, time: Duration) {
    poll::wait([PollFd::new(signals, PollFlags::IN)], Some(time));
    while signals.next().is_some() {}
}

/// Names the processes that could not be ended.
pub(super) fn report_survivors(survivors: &[Pid]) {
    if !is_in_proc() && process::reap().is_ok() {
        output::error(
            "Can't find processes that the command left running: /proc is missing or belongs to \
             another pid namespace; see pid_namespaces(7)",
        );
        return;
    }
    for pid in survivors {
        let command = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        let user = fs::metadata(format!("/proc/{pid}"))
            .map_or_else(|_| "?".into(), |process| user::user_name(process.uid()));
        output::error(format_args!(
            "Can't end process {pid} ({}) of user {}: it may continue to write; `kill` it as root",
            escape(command.trim_ascii_end()),
            escape(&user)
        ));
    }
}

struct Tree<'a> {
    signals: &'a Signals,
    /// `None` once it is reaped.
    command: Option<Pid>,
    /// The command's exit code; 0 until it is reaped.
    code: u8,
    last_death: Instant,
}

impl Tree<'_> {
    fn children(&self) -> Vec<Pid> {
        let mut children = own_children();
        if children.is_empty() {
            children.extend(self.command);
        }
        children
    }

    /// Sends SIGTERM and SIGCONT to every descendant, parents first: a script must not continue with
    /// its next line after its current program ends.
    fn terminate(&self) {
        if !is_in_proc() {
            for child in self.children() {
                let _ = process::signal_child(child, libc::SIGTERM);
                let _ = process::signal_child(child, libc::SIGCONT);
            }
            return;
        }
        let own = getpid();
        let mut left: Vec<_> = self.children().into_iter().map(|pid| (pid, own)).collect();
        while let Some((pid, parent)) = left.pop() {
            let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            // By now, the number may belong to another process. This process adopts orphans.
            if !parent_of(pid).is_some_and(|now| now == parent || now == own) {
                continue;
            }
            let children = children_of(pid);
            // ESRCH: it was reaped, and these may be another process's children. EPERM: it runs as
            // another user and survives, but its children may not.
            if pidfd_send_signal(&process, Signal::TERM) == Err(Errno::SRCH) {
                continue;
            }
            let _ = pidfd_send_signal(&process, Signal::CONT);
            left.extend(children.into_iter().map(|child| (child, pid)));
        }
    }

    /// Sends SIGKILL to the children, whose orphans become children of this process, until none is left
    /// or time is up. The number of an unreaped child cannot belong to another process.
    fn kill(&mut self) {
        let start = Instant::now();
        self.last_death = start;
        loop {
            for child in self.children() {
                let _ = process::signal_child(child, libc::SIGKILL);
            }
            if self.reap() {
                return;
            }
            let until = (self.last_death + KILL_TIME).min(start + KILL_TIME_TOTAL);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            wait_for_child(self.signals, left.min(LIST_AGAIN));
        }
    }

    /// Reaps all children that ended. Returns whether nothing of the tree is left.
    fn reap(&mut self) -> bool {
        loop {
            match process::reap() {
                Ok(Some((pid, code))) => {
                    self.last_death = Instant::now();
                    if self.command == Some(pid) {
                        self.command = None;
                        self.code = code;
                    }
                }
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }
}

fn own_children() -> Vec<Pid> {
    match is_in_proc() {
        true => children_of(getpid()),
        false => Vec::new(),
    }
}

/// Whether /proc is that of this process's pid namespace. In another one, numbers mean other processes.
fn is_in_proc() -> bool {
    let link = fs::read_link("/proc/self");
    link.is_ok_and(|own| own.as_os_str() == getpid().to_string().as_str())
}

/// Returns the children of all threads of a process; none if it is gone. proc_tid_children(5).
fn children_of(pid: Pid) -> Vec<Pid> {
    let mut children = Vec::new();
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return children;
    };
    for task in tasks.flatten() {
        let task = task.path();
        match fs::read_to_string(task.join("children")) {
            Ok(list) => {
                let numbers = list.split_ascii_whitespace().filter_map(|n| n.parse().ok());
                children.extend(numbers.filter_map(Pid::from_raw));
            }
            // The thread exists but has no list: the kernel lacks CONFIG_PROC_CHILDREN.
            Err(_) if task.join("stat").exists() => return search_children_of(pid),
            Err(_) => {}
        }
    }
    children
}

/// Like [`children_of`], but reads the parent of every process.
fn search_children_of(pid: Pid) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let names = processes.flatten().map(|process| process.file_name());
    let pids = names.filter_map(|name| Pid::from_raw(name.to_str()?.parse().ok()?));
    pids.filter(|&other| parent_of(other) == Some(pid))
        .collect()
}

/// Returns the parent of a process; `None` if the process is gone.
fn parent_of(pid: Pid) -> Option<Pid> {
    Pid::from_raw(process::stat_field(pid, 4)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    use rustix::process::kill_process;

    #[test]
    fn children_are_found_without_the_kernels_list() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 100; true"])
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        assert!(children_of(getpid()).contains(&pid));
        assert!(search_children_of(getpid()).contains(&pid));
        let grandchild = loop {
            let found = children_of(pid);
            if !found.is_empty() {
                break found;
            }
        };
        assert_eq!(search_children_of(pid), grandchild);
        kill_process(grandchild[0], Signal::KILL).unwrap();
        child.wait().unwrap();
        assert_eq!(children_of(pid), []);
        assert_eq!(search_children_of(pid), []);
    }

    #[test]
    fn a_parent_is_found_for_any_process_name() {
        let folder = std::env::temp_dir().join(format!("pst-tree-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join(") S 1 (");
        std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        let mut child = Command::new(&program).arg("100").spawn().unwrap();
        let parent = parent_of(Pid::from_child(&child));
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(parent, Some(getpid()));
    }
}
