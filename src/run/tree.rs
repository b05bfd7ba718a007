//! Ends a process tree: everything that descends from this process, which must be
//! a child subreaper, so that orphans stay in its reach. Signals nothing else: no
//! process group, no terminal, no process that is not a descendant.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use super::Context;
use super::output::Output;
use crate::escape::escape;
use crate::sys::poll::{self, Watch};
use crate::sys::process::{self, Pid, PidFd, Reaped, WaitStatus};
use crate::sys::signal::Signals;
use crate::sys::user;

/// How long processes may take to die of SIGKILL, since the last death …
const KILL_TIME: Duration = Duration::from_secs(1);
/// … and in all, in case a tree grows as fast as it is killed.
const KILL_TIME_IN_ALL: Duration = Duration::from_millis(1500);
/// The kernel may skip a child while it lists them: list them again after this.
const LIST_AGAIN: Duration = Duration::from_millis(20);

pub(super) struct TreeEnd {
    /// Children that are still there: they do not die, or may not be signalled because they
    /// changed their user.
    pub survivors: Vec<Pid>,
    /// How the command ended, if it did.
    pub command: Option<WaitStatus>,
}

/// Ends all descendants but the children in `excluded` and what descends from them:
/// SIGTERM and SIGCONT to each, after the kill grace SIGKILL to the children, until none
/// is left. Without /proc, or with another pid namespace's, only `command` can be ended.
pub(super) fn end(context: &mut Context, command: Option<Pid>, excluded: &[Pid]) -> TreeEnd {
    context.reserve.0.clear();
    let mut tree = Tree {
        signals: &context.signals,
        command,
        excluded,
        status: None,
    };
    tree.terminate();
    let survivors = match tree.dies_until(Instant::now() + context.session.grant.kill_grace) {
        true => Vec::new(),
        false => {
            tree.kill();
            tree.children()
        }
    };
    TreeEnd {
        survivors,
        command: tree.status,
    }
}

/// Descriptors that are kept free for [`end`]: without any, it could not list the tree.
pub(super) struct FdReserve(Vec<OwnedFd>);

impl FdReserve {
    /// Takes as many as [`end`] opens at a time, as copies of any descriptor.
    pub(super) fn new(any: &impl AsFd) -> io::Result<FdReserve> {
        let copies = (0..4).map(|_| any.as_fd().try_clone_to_owned());
        copies.collect::<io::Result<_>>().map(FdReserve)
    }
}

/// All descendants of this process.
pub(super) fn descendants() -> Vec<Pid> {
    let mut found = own_children();
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(children_of(pid));
        next += 1;
    }
    found
}

/// Reaps children until this one is reaped; returns its status, or `None` if it has not ended.
pub(super) fn reap_until(child: Pid) -> Option<WaitStatus> {
    loop {
        match process::reap() {
            Reaped::Child(pid, status) if pid == child => return Some(status),
            Reaped::Child(..) => {}
            Reaped::NoneEnded | Reaped::NoChildren => return None,
        }
    }
}

/// Waits until a child may have died. Drops all pending signals.
pub(super) fn wait_for_child(signals: &Signals, time: Duration) {
    // Fails only if the kernel has no memory; the caller checks and waits again.
    let _ = poll::wait(&mut [Watch::new(signals, libc::POLLIN)], Some(time));
    while let Ok(Some(_)) = signals.next() {}
}

/// Names the processes that could not be ended.
pub(super) fn report_survivors(survivors: &[Pid], output: Output) {
    if !is_in_proc() && process::has_children() {
        output.error(
            "Can't look for what the command has left running: there is no /proc of this pid \
             namespace; see pid_namespaces(7)",
        );
        return;
    }
    for pid in survivors {
        let command = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        let user = fs::metadata(format!("/proc/{pid}")).map(|process| process.uid());
        let user = user.map_or_else(
            |_| "?".into(),
            |uid| user::user_name(uid).unwrap_or_else(|| uid.to_string()),
        );
        output.error(format_args!(
            "Can't end process {pid} ({}) of user {}: it may go on writing; have root `kill` it",
            escape(command.trim_ascii_end()),
            escape(&user)
        ));
    }
}

struct Tree<'a> {
    signals: &'a Signals,
    /// `None` once it is reaped.
    command: Option<Pid>,
    excluded: &'a [Pid],
    status: Option<WaitStatus>,
}

impl Tree<'_> {
    fn children(&self) -> Vec<Pid> {
        let mut children = own_children();
        children.retain(|pid| !self.excluded.contains(pid));
        if children.is_empty() {
            children.extend(self.command);
        }
        children
    }

    /// Sends SIGTERM and SIGCONT to every descendant, parents first: a script must not
    /// go on with its next line because the program of this line was ended.
    fn terminate(&self) {
        if !is_in_proc() {
            for child in self.children() {
                let _ = child.signal_child(libc::SIGTERM);
                let _ = child.signal_child(libc::SIGCONT);
            }
            return;
        }
        let own = Pid::own();
        let mut left: Vec<_> = self.children().into_iter().map(|pid| (pid, own)).collect();
        while let Some((pid, parent)) = left.pop() {
            let Ok(process) = PidFd::open(pid) else {
                continue;
            };
            // The number may be another process's by now. An orphan is ours.
            if !parent_of(pid).is_some_and(|now| now == parent || now == own) {
                continue;
            }
            let children = children_of(pid);
            // If it was reaped meanwhile, these may be another process's children.
            if is_gone(&process) {
                continue;
            }
            // A process that may not be signalled is a survivor.
            let _ = process.signal(libc::SIGTERM);
            let _ = process.signal(libc::SIGCONT);
            left.extend(children.into_iter().map(|child| (child, pid)));
        }
    }

    /// Sends SIGKILL to the children, whose orphans become children of this process, until none is
    /// left or time is up. An unreaped child's number cannot become another process's.
    fn kill(&mut self) {
        let start = Instant::now();
        let mut last_death = start;
        loop {
            for child in self.children() {
                let _ = child.signal_child(libc::SIGKILL);
            }
            match self.reap() {
                Reap::NoneLeft => return,
                Reap::Some => last_death = Instant::now(),
                Reap::None => {}
            }
            let until = (last_death + KILL_TIME).min(start + KILL_TIME_IN_ALL);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            wait_for_child(self.signals, left.min(LIST_AGAIN));
        }
    }

    /// Whether none is left before `until`.
    fn dies_until(&mut self, until: Instant) -> bool {
        loop {
            if let Reap::NoneLeft = self.reap() {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            wait_for_child(self.signals, left);
        }
    }

    fn reap(&mut self) -> Reap {
        let mut some = false;
        loop {
            match process::reap() {
                Reaped::Child(pid, status) => {
                    if self.command == Some(pid) {
                        self.command = None;
                        self.status = Some(status);
                    }
                    some = true;
                }
                Reaped::NoChildren => return Reap::NoneLeft,
                Reaped::NoneEnded if !self.excluded.is_empty() && self.children().is_empty() => {
                    return Reap::NoneLeft;
                }
                Reaped::NoneEnded if some => return Reap::Some,
                Reaped::NoneEnded => return Reap::None,
            }
        }
    }
}

enum Reap {
    Some,
    None,
    NoneLeft,
}

fn is_gone(process: &PidFd) -> bool {
    let result = process.signal(0);
    result.is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
}

fn own_children() -> Vec<Pid> {
    match is_in_proc() {
        true => children_of(Pid::own()),
        false => Vec::new(),
    }
}

/// Whether /proc shows this process's pid namespace; otherwise its numbers mean other processes.
fn is_in_proc() -> bool {
    let link = fs::read_link("/proc/self");
    link.is_ok_and(|own| own.as_os_str() == Pid::own().to_string().as_str())
}

/// The children of all threads of a process; none if it is gone. See proc_tid_children(5).
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
                children.extend(numbers.filter_map(Pid::new));
            }
            // The thread exists without a list: a kernel without CONFIG_PROC_CHILDREN.
            Err(_) if task.join("stat").exists() => return search_children_of(pid),
            Err(_) => {}
        }
    }
    children
}

/// Like [`children_of`], but reads every process's parent.
fn search_children_of(pid: Pid) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let names = processes.flatten().map(|process| process.file_name());
    let pids = names.filter_map(|name| Pid::new(name.to_str()?.parse().ok()?));
    pids.filter(|&other| parent_of(other) == Some(pid))
        .collect()
}

/// The parent of a process; `None` if it is gone. See proc_pid_stat(5).
fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may contain anything, but it ends with the last ")".
    let after_name = stat.rsplit(|&b| b == b')').next()?;
    let fields = std::str::from_utf8(after_name).ok()?;
    let parent = fields.split_ascii_whitespace().nth(1)?;
    Pid::new(parent.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn children_are_found_also_without_the_kernels_list() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 100; true"])
            .spawn()
            .unwrap();
        let pid = Pid::new(child.id() as i32).unwrap();
        assert!(children_of(Pid::own()).contains(&pid));
        assert!(search_children_of(Pid::own()).contains(&pid));
        let grandchild = loop {
            let found = children_of(pid);
            if !found.is_empty() {
                break found;
            }
        };
        assert_eq!(search_children_of(pid), grandchild);
        assert!(descendants().contains(&grandchild[0]));
        PidFd::open(grandchild[0])
            .unwrap()
            .signal(libc::SIGKILL)
            .unwrap();
        child.wait().unwrap();
        assert_eq!(children_of(pid), []);
        assert_eq!(search_children_of(pid), []);
    }

    #[test]
    fn a_parent_is_found_behind_any_name() {
        let folder = std::env::temp_dir().join(format!("pst-tree-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join(") S 1 (");
        std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        let mut child = Command::new(&program).arg("100").spawn().unwrap();
        let parent = parent_of(Pid::new(child.id() as i32).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(parent, Some(Pid::own()));
    }
}
