//! The daemon under test: its readiness, its footprint, its end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::Rig;
use super::job::{Job, Outcome, children, signal, start};
use super::namespace::Namespace;
use super::wait::{BOUND, holds_within};

/// How much more private memory than at READY it may have at the end of a test. Not
/// zero: glibc keeps what was freed, and each thread's first allocation and
/// stack pages count; after a flood of connections that is 0.6 to 0.9 MiB.
const MEMORY_TOLERANCE_KIB: u64 = 1024;

/// A running daemon.
pub struct Daemon {
    pub job: Job,
    /// Its own pid: the job may be what entered the namespace for it.
    pid: u32,
    notify: Notify,
    at_ready: Footprint,
}

/// What it holds.
#[derive(Clone, Debug)]
pub struct Footprint {
    /// What its descriptors are, without the numbers that differ each time.
    pub descriptors: Vec<String>,
    /// Private memory (not its code, which is read in as it is used), in KiB.
    pub memory: u64,
}

impl Footprint {
    pub fn of(pid: u32) -> Footprint {
        let mut descriptors: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("descriptors")
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .map(|link| kind(&link.to_string_lossy()))
            .collect();
        descriptors.sort();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
        let memory = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .expect("RssAnon");
        let memory = memory
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("a number");
        Footprint {
            descriptors,
            memory,
        }
    }
}

impl Footprint {
    /// Fewer is well: the one that told of READY may still have been open then.
    fn holds_no_more_descriptors_than(&self, other: &Footprint) -> bool {
        let count =
            |of: &Footprint, kind: &String| of.descriptors.iter().filter(|d| *d == kind).count();
        self.descriptors
            .iter()
            .all(|kind| count(self, kind) <= count(other, kind))
    }
}

/// Whether the thread that writes the log has something to do: it runs as soon as there is a line.
fn writes_log(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let mut stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    stats.any(|stat| stat.contains(" (log) ") && !stat.contains(" (log) S "))
}

/// `socket:[123]` and `socket:[124]` are the same kind, and so are two devices' locks: a tmpfs that is mounted again
/// has another number.
fn kind(link: &str) -> String {
    let device = link
        .rsplit_once('/')
        .and_then(|(_, name)| name.strip_prefix("pst-"));
    if device.is_some_and(|name| name.ends_with(".lock")) {
        return "a device's lock".to_owned();
    }
    match link.split_once(":[") {
        Some((kind, _)) => kind.to_owned(),
        None => link.to_owned(),
    }
}

impl Daemon {
    pub fn start(mut command: Command, rig: &Rig) -> Daemon {
        let notify = Notify::new(rig.dir());
        let mut job = start(command.env("NOTIFY_SOCKET", &notify.path));
        let ready = holds_within(BOUND, || notify.said("READY=1") || !job.is_running());
        assert!(
            ready && job.is_running(),
            "the daemon did not become ready:\n{}",
            job.stderr()
        );
        let inside = rig.namespace.as_ref().is_some_and(Namespace::has_pids);
        let pid = if inside {
            children(job.pid())[0]
        } else {
            job.pid()
        };
        let at_ready = Footprint::of(pid);
        Daemon {
            job,
            pid,
            notify,
            at_ready,
        }
    }

    /// Waits until it holds no more than when it became ready.
    #[track_caller]
    pub fn await_footprint(&self) {
        let bound = self.at_ready.memory + MEMORY_TOLERANCE_KIB;
        let back = holds_within(BOUND, || {
            let now = Footprint::of(self.pid);
            now.holds_no_more_descriptors_than(&self.at_ready) && now.memory <= bound
        });
        let now = Footprint::of(self.pid);
        assert!(
            back,
            "the daemon grew:\nwas {:?}\nis  {now:?}",
            self.at_ready
        );
    }
}

impl Rig {
    /// The daemon's pid.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("no daemon is running").pid
    }

    /// From now on this is what it may hold: it has come to know its storage's
    /// device, and keeps a lock for it.
    pub fn renew_footprint(&mut self) {
        let daemon = self.daemon.as_mut().expect("no daemon is running");
        daemon.at_ready = Footprint::of(daemon.pid);
    }

    /// From now on it may hold this much memory: the allocator keeps some after a peak.
    #[allow(dead_code)] // the hostile clients' tests, which share this one, use it
    pub fn renew_memory(&mut self) {
        let daemon = self.daemon.as_mut().expect("no daemon is running");
        daemon.at_ready.memory = Footprint::of(daemon.pid).memory;
    }

    /// What it wrote, if there is one; all lines up to now.
    pub fn log(&self) -> String {
        let Some(daemon) = &self.daemon else {
            return String::new();
        };
        holds_within(BOUND, || !writes_log(daemon.pid));
        daemon.job.stderr()
    }

    /// Waits until it told systemd this.
    #[track_caller]
    pub fn await_notice(&self, line: &str) {
        let notify = &self.daemon.as_ref().expect("no daemon is running").notify;
        let seen = holds_within(BOUND, || notify.said(line));
        assert!(
            seen,
            "systemd was not told {line:?}, but {:?}",
            notify.messages()
        );
    }

    /// What it tells systemd, also after its end.
    pub fn notices(&self) -> Arc<Mutex<Vec<String>>> {
        Arc::clone(
            &self
                .daemon
                .as_ref()
                .expect("no daemon is running")
                .notify
                .messages,
        )
    }

    /// Sends it a signal, and leaves it to the test to see what happens.
    pub fn signal_daemon(&self, name: &str) {
        signal(self.daemon_pid(), name);
    }

    /// Stops it as systemd would; it must exit with 0.
    #[track_caller]
    pub fn stop_daemon(&mut self) -> Outcome {
        self.signal_daemon("TERM");
        self.end_daemon().must(0)
    }

    /// Kills it.
    pub fn kill_daemon(&mut self) {
        self.signal_daemon("KILL");
        self.end_daemon();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end_daemon(&mut self) -> Outcome {
        self.daemon.take().expect("no daemon is running").job.end()
    }
}

/// The socket where it tells systemd how it is. A thread empties it: the
/// daemon must never have to wait for us.
struct Notify {
    path: PathBuf,
    messages: Arc<Mutex<Vec<String>>>,
}

const OVER: &str = "the test is over";

impl Notify {
    fn new(dir: &Path) -> Notify {
        let path = dir.join("notify.sock");
        let _ = fs::remove_file(&path); // of the daemon before
        let socket = UnixDatagram::bind(&path).expect("notify socket");
        // The daemon may be anybody.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("chmod");
        let messages = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&messages);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
                if text == OVER {
                    break;
                }
                list.lock()
                    .expect("lock")
                    .extend(text.lines().map(str::to_owned));
            }
        });
        Notify { path, messages }
    }

    fn messages(&self) -> Vec<String> {
        self.messages.lock().expect("lock").clone()
    }

    /// A whole line, or the beginning of one that ends with `=`.
    fn said(&self, line: &str) -> bool {
        self.messages()
            .iter()
            .any(|told| told == line || (line.ends_with('=') && told.starts_with(line)))
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        let _ =
            UnixDatagram::unbound().and_then(|socket| socket.send_to(OVER.as_bytes(), &self.path));
    }
}
