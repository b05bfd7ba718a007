//! Processes that a test starts: their output, their end, their signals.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};

use super::wait::{BOUND, holds_within, wait_until};

/// A running process. Killed when dropped.
pub struct Job {
    child: Child,
    what: String,
    // Files, not pipes: nobody has to read them, and nothing waits for their end.
    stdout: File,
    stderr: File,
}

/// How a process ended, and what it wrote.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Outcome {
    /// The exit code; fails if a signal ended it.
    #[track_caller]
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| panic!("killed: {self:?}"))
    }

    /// Standard output without the last newline.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Fails unless the exit code is this one.
    #[track_caller]
    pub fn must(self, code: i32) -> Outcome {
        assert_eq!(self.code(), code, "{}{}", self.text(), self.stderr);
        self
    }

    /// Fails unless standard error is one line; gives it.
    #[track_caller]
    pub fn one_line(&self) -> &str {
        assert_eq!(
            self.stderr.lines().count(),
            1,
            "not one line: {:?}",
            self.stderr
        );
        self.stderr.trim_end()
    }
}

/// Runs commands to their end.
pub trait RunToEnd {
    /// Runs it to its end, which must come within the bound.
    fn to_end(&mut self) -> Outcome;
}

impl RunToEnd for Command {
    #[track_caller]
    fn to_end(&mut self) -> Outcome {
        start(self).end()
    }
}

/// Starts a command, with its output kept.
#[track_caller]
pub fn start(command: &mut Command) -> Job {
    let (stdout, stderr) = (unnamed_file(), unnamed_file());
    command.stdout(stdout.try_clone().expect("dup"));
    command.stderr(stderr.try_clone().expect("dup"));
    let what = format!("{command:?}");
    let child = command.spawn().unwrap_or_else(|e| panic!("{what}: {e}"));
    Job {
        child,
        what,
        stdout,
        stderr,
    }
}

impl Job {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&contents(&self.stdout)).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&contents(&self.stderr)).into_owned()
    }

    /// Waits until this stands in its standard output.
    #[track_caller]
    pub fn await_stdout(&self, text: &str) {
        let seen = holds_within(BOUND, || self.stdout().contains(text));
        assert!(
            seen,
            "{}: no {text:?}\n{}{}",
            self.what,
            self.stdout(),
            self.stderr()
        );
    }

    /// Waits until this stands in its standard error.
    #[track_caller]
    pub fn await_stderr(&self, text: &str) {
        let seen = holds_within(BOUND, || self.stderr().contains(text));
        assert!(
            seen,
            "{}: no {text:?}\n{}{}",
            self.what,
            self.stdout(),
            self.stderr()
        );
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Sends one signal to this one process.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Closes its standard input.
    pub fn release(&mut self) {
        self.child.stdin = None;
    }

    /// Closes its standard input and waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Outcome {
        self.release();
        let ended = holds_within(BOUND, || !self.is_running());
        assert!(
            ended,
            "still running: {}\n{}{}",
            self.what,
            self.stdout(),
            self.stderr()
        );
        Outcome {
            status: self.child.wait().expect("wait"),
            stdout: contents(&self.stdout),
            stderr: self.stderr(),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Errors: it is dead and reaped already, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The living children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let list =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace()
        .map(|pid| pid.parse().expect("a pid"))
        .collect()
}

/// Sends a signal to one process.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .output()
        .expect("sh");
    assert!(sent.status.success(), "kill -{name} {pid}: {sent:?}");
}

/// Runs a tool of the rig's own; fails with what it said.
#[track_caller]
pub fn tool(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {} {error}",
        output.status.into_raw()
    );
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}

fn contents(file: &File) -> Vec<u8> {
    let len = file.metadata().expect("stat").len() as usize;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).expect("read back");
    bytes
}

fn unnamed_file() -> File {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "pst-out-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let path = std::env::temp_dir().join(name);
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .open(&path)
        .expect("temporary file");
    std::fs::remove_file(&path).expect("remove");
    file
}

/// Waits until no such process is there, or only its corpse.
pub fn await_death(pid: u32) {
    wait_until(&format!("process {pid} is dead"), || !alive(pid));
}

/// Whether the process is there and no zombie.
pub fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    !matches!(state, None | Some(b'Z' | b'X'))
}
