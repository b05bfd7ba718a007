//! What all threads of a soak share: who is there, what was counted, and what
//! was found to be wrong.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::ledger::Ledger;
use crate::rig::{Person, Rig};

/// See the module's text.
pub struct World {
    /// Where commands report, outside of the storage.
    pub reports: PathBuf,
    pub mount: PathBuf,
    pub data: PathBuf,
    run: PathBuf,
    environment: Vec<(OsString, OsString)>,
    epoch: AtomicU64,
    /// Clients finish their sessions and start no others.
    pub paused: AtomicBool,
    /// How many are at rest.
    pub resting: AtomicU64,
    pub over: AtomicBool,
    last_session: AtomicU64,
    pub sessions: Mutex<BTreeMap<u64, Live>>,
    pub ledger: Mutex<Ledger>,
    pub counts: Counts,
    violations: Mutex<Vec<String>>,
}

/// A session whose `pst run` has not ended, or whose tree has not.
pub struct Live {
    pub epoch: Epoch,
    /// Its command, once it has said that it is there.
    pub command: Option<Process>,
    /// When its daemon was gone.
    pub doomed: Option<Instant>,
}

/// A process, not to be mistaken for another with the same number.
#[derive(Clone, Copy, PartialEq)]
pub struct Process {
    pub pid: u32,
    started: u64,
}

/// A time in which one daemon served undisturbed, or one between two such.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Epoch(u64);

#[derive(Default)]
pub struct Counts {
    pub sessions: AtomicU64,
    pub acknowledged: AtomicU64,
    pub clients_killed: AtomicU64,
    pub supervisors_killed: AtomicU64,
    pub stopped: AtomicU64,
    pub terminated: AtomicU64,
    pub seen_in_use: AtomicU64,
    pub trees_ended: AtomicU64,
}

/// Counts one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Epoch {
    /// Whether one daemon serves.
    pub fn is_served(self) -> bool {
        self.0 % 2 == 0
    }
}

impl World {
    pub fn new(rig: &Rig) -> World {
        let reports = rig.dir().join("reports");
        fs::create_dir(&reports).expect("reports");
        fs::set_permissions(&reports, fs::Permissions::from_mode(0o1777)).expect("chmod");
        let template = rig.command("true");
        let set = template
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)));
        World {
            environment: set
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            reports,
            mount: rig.mount(),
            data: rig.data(),
            run: rig.bin("kvmd-pstrun"),
            epoch: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            resting: AtomicU64::new(0),
            over: AtomicBool::new(false),
            last_session: AtomicU64::new(0),
            sessions: Mutex::default(),
            ledger: Mutex::default(),
            counts: Counts::default(),
            violations: Mutex::default(),
        }
    }

    /// A program as this person (root if nobody), in the rig's environment.
    pub fn command(&self, who: Option<Person>, program: &Path) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        words.extend(who.iter().flat_map(|who| who.prefix()).map(OsString::from));
        words.push(program.into());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .envs(self.environment.iter().cloned());
        command
    }

    /// `pst run --` as this person.
    pub fn run(&self, who: Option<Person>) -> Command {
        let mut command = self.command(who, &self.run);
        command.arg("--");
        command
    }

    pub fn next_session(&self) -> u64 {
        count(&self.counts.sessions);
        self.last_session.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::SeqCst))
    }

    /// The daemon is about to be disturbed, or serves again.
    pub fn next_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Records what must not be; it is shown at once.
    pub fn violation(&self, text: String) {
        eprintln!("VIOLATION {text}");
        self.violations.lock().expect("lock").push(text);
    }

    pub fn violations(&self) -> usize {
        self.violations.lock().expect("lock").len()
    }

    /// The superblock's flag as mountinfo has it; `None`: not mounted.
    pub fn is_writable(&self) -> Option<bool> {
        let text = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let at = self.mount.to_str().expect("UTF-8");
        let line = text
            .lines()
            .rfind(|line| line.split(' ').nth(4) == Some(at))?;
        let options = line.split_once(" - ")?.1.split(' ').nth(2)?;
        Some(options.split(',').any(|word| word == "rw"))
    }

    /// The living processes of a session, by the mark in their environment.
    pub fn processes_of(&self, session: u64) -> Vec<u32> {
        let mark = format!("PST_SOAK={session}");
        let entries = fs::read_dir("/proc").expect("/proc");
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let marked = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|word| word == mark.as_bytes())
        };
        pids.filter(marked).collect()
    }
}

impl Process {
    /// The living process with this number.
    pub fn of(pid: u32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let dead = matches!(fields[0], "Z" | "X");
        let started = fields[19].parse().ok()?; // the 22nd of proc_pid_stat(5)
        (!dead).then_some(Process { pid, started })
    }

    pub fn is_alive(self) -> bool {
        Process::of(self.pid) == Some(self)
    }
}
