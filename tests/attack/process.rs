//! Processes as /proc shows them, and signals.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Returns the processes with this line in their environment.
pub fn marked(line: &str) -> Vec<u32> {
    let is_marked = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|word| word == line.as_bytes())
    };
    all().filter(is_marked).collect()
}

/// Returns all processes.
pub fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Sends a signal to a process, which may have ended.
pub fn send(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid.try_into().expect("a pid")), signal);
}

/// Whether job control has stopped the process.
pub fn is_stopped(pid: u32) -> bool {
    state(pid) == Some('T')
}

/// Returns the third field of proc_pid_stat(5).
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Names processes for a message.
pub fn describe(pids: &[u32]) -> String {
    let words = pids.iter().map(|pid| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        let arguments: String = arguments.chars().take(60).collect();
        format!("{pid} (state {}, {arguments})", state(*pid).unwrap_or('?'))
    });
    words.collect::<Vec<_>>().join(", ")
}
