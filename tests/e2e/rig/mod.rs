//! The rig: a storage, a configuration and a daemon of its own for each test,
//! made of real kernel objects, and taken down again however the test ends.
//!
//! At the end of each test that did not fail, the rig checks that the daemon
//! is as small as it was when it became ready, that it stops with exit code 0,
//! that the storage is left read-only, and that no process, mount or loop
//! device is left. Tests run in parallel: nothing here is shared between rigs.

mod daemon;
mod faults;
mod ground;
pub mod job;
mod namespace;
mod observe;
mod person;
mod privilege;
mod renewal;
mod setup;
mod terminal;
pub mod wait;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use daemon::Daemon;
use ground::Ground;
pub use ground::{attach, sparse};
pub use job::{Job, Outcome, RunToEnd, alive, await_death, children, signal, start, tool};
use namespace::Namespace;
pub use person::{ACCESS_GROUP, MEMBER, OUTSIDER, PRIMARY, Person, STORAGE_USER};
pub use privilege::{lacks_mounts, lacks_root, lacks_storage, lacks_tool, leave_out};
pub use renewal::certbot_renewal;
pub use setup::{Fs, Setup};
pub use terminal::Terminal;
pub use wait::{BOUND, promptly, wait_until};

/// Leaves the test out, with a reason, where nobody is root on the whole machine.
#[macro_export]
macro_rules! needs_root {
    ($why:expr) => {
        if $crate::rig::lacks_root() {
            $crate::rig::leave_out($why);
            return;
        }
        $crate::needs_storage!();
    };
}

/// Leaves the test out where it has no mount namespace of its own, as in a chroot.
#[macro_export]
macro_rules! needs_mounts {
    () => {
        if $crate::rig::lacks_mounts() {
            $crate::rig::leave_out("a mount namespace of its own, which a chroot cannot have");
            return;
        }
    };
}

/// Leaves the test out where a program that it runs is not installed.
#[macro_export]
macro_rules! needs_tool {
    ($($tool:expr),+) => {
        $(if $crate::rig::lacks_tool($tool) {
            $crate::rig::leave_out(concat!($tool, "; `make test` names its package"));
            return;
        })+
    };
}

/// Leaves the test out where we cannot make and mount a storage, not even in a user namespace.
#[macro_export]
macro_rules! needs_storage {
    () => {
        if let Some(what) = $crate::rig::lacks_storage() {
            $crate::rig::leave_out(what);
            return;
        }
    };
}

/// One storage with its configuration and, mostly, its running daemon.
pub struct Rig {
    daemon: Option<Daemon>,
    /// What the storage must look like at the end; `None`: anything goes.
    at_end: Option<&'static str>,
    setup: Setup,
    namespace: Option<Namespace>,
    // Last: it is dropped last, and takes down what is left of the rest.
    ground: Ground,
}

impl Rig {
    /// An ext4 on a loop device, mounted, prepared, with a running daemon.
    pub fn ext4() -> Rig {
        Setup::new(Fs::Ext4).start()
    }

    /// The same on ext4 for root, on a tmpfs in a user namespace: for promises
    /// that do not depend on the filesystem.
    pub fn any() -> Rig {
        Setup::any().start()
    }

    /// The rig's own directory: image, mount point, configuration, socket.
    pub fn dir(&self) -> &Path {
        &self.ground.dir
    }

    /// The storage's mount point.
    pub fn mount(&self) -> PathBuf {
        self.dir().join(&self.setup.mount_name)
    }

    /// `KVMD_PST_DATA`.
    pub fn data(&self) -> PathBuf {
        self.mount().join("data")
    }

    /// The block device, where there is one.
    pub fn device(&self) -> &str {
        self.ground
            .device
            .as_deref()
            .expect("this rig has no device")
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir().join("pst.toml")
    }

    /// Where the daemon has its socket: `/run/kvmd` of the rig.
    pub fn run_dir(&self) -> PathBuf {
        self.dir().join("run")
    }

    /// The lock file of the device.
    #[allow(dead_code)] // for the suite of the daemon's start
    pub fn lock(&self) -> PathBuf {
        let number = self.device().trim_start_matches("/dev/loop");
        format!("/run/pst/pst-7-{number}.lock").into()
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("pst.sock")
    }

    /// The binary under one of its names: `pst`, `kvmd-pst`, `kvmd-pstrun`.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.dir().join("bin").join(name)
    }

    /// A program in this rig's world: its mount namespace, its mark, its socket.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_behind(&[], program.as_ref())
    }

    /// The same, run as somebody else.
    pub fn command_as(&self, who: Person, program: impl AsRef<OsStr>) -> Command {
        let prefix = who.prefix();
        let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
        self.command_behind(&prefix, program.as_ref())
    }

    fn command_behind(&self, prefix: &[&str], program: &OsStr) -> Command {
        let mut words: Vec<&OsStr> = Vec::new();
        let enter = self
            .namespace
            .as_ref()
            .map(Namespace::prefix)
            .unwrap_or_default();
        words.extend(enter.iter().map(OsStr::new));
        words.extend(prefix.iter().map(OsStr::new));
        words.push(program);
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .env("PATH", self.path())
            .env("PST_RIG", &self.ground.id)
            .env("PST_SOCKET", self.socket())
            .env_remove("PST_CONFIG");
        if self.setup.clients_have_config {
            command.env("PST_CONFIG", self.config());
        }
        command
    }

    /// The binary's names first; nothing of the caller's, some of which other
    /// users may not read.
    fn path(&self) -> String {
        let bin = self.dir().join("bin");
        format!(
            "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            bin.display()
        )
    }

    /// `kvmd-pstrun -- WORDS…`
    pub fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command(self.bin("kvmd-pstrun"));
        command.arg("--").args(words);
        command
    }

    /// `kvmd-pstrun -- WORDS…` as somebody else.
    pub fn run_as<S: AsRef<OsStr>>(
        &self,
        who: Person,
        words: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = self.command_as(who, self.bin("kvmd-pstrun"));
        command.arg("--").args(words);
        command
    }

    /// Runs a shell script in a session, to its end.
    pub fn sh(&self, script: &str) -> Outcome {
        self.run(["sh", "-c", script]).to_end()
    }

    /// A session that lives until its job is released or dropped: granted, its
    /// command running.
    pub fn session(&self) -> Job {
        self.session_with("")
    }

    /// The same, after it ran `script`.
    pub fn session_with(&self, script: &str) -> Job {
        open(self.run(["sh", "-c", &holding(script)]))
    }

    /// The same as somebody else.
    pub fn session_as(&self, who: Person) -> Job {
        open(self.run_as(who, ["sh", "-c", &holding("")]))
    }

    /// `pst COMMAND WORDS…`
    pub fn pst<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command(self.bin("pst"));
        command.args(words);
        command
    }

    /// `pst prepare` with this rig's configuration.
    pub fn prepare(&self) -> Outcome {
        self.pst(["prepare", "-c"]).arg(self.config()).to_end()
    }

    /// Whether this process is of this rig.
    pub fn is_mine(&self, pid: u32) -> bool {
        observe::is_marked(pid, &self.ground.id)
    }

    /// Lets the storage be anything at the end: for tests that break it.
    pub fn ends_anyhow(&mut self) {
        self.at_end = None;
    }

    fn verify(&mut self) {
        if let Some(daemon) = &self.daemon {
            daemon.await_footprint();
            self.stop_daemon();
        }
        if let Some(state) = self.at_end {
            wait_until(&format!("the superblock is {state} at the end"), || {
                self.superblock() == state
            });
        }
        let keepers = self
            .namespace
            .as_ref()
            .map(Namespace::keepers)
            .unwrap_or_default();
        wait_until("no process of the rig is left", || {
            observe::marked(&self.ground.id)
                .iter()
                .all(|pid| keepers.contains(pid))
        });
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}---", self.log());
        } else {
            self.verify();
        }
    }
}

fn holding(script: &str) -> String {
    format!("{script}\necho started; exec cat >/dev/null")
}

fn open(mut command: Command) -> Job {
    command.stdin(std::process::Stdio::piped());
    let job = start(&mut command);
    job.await_stdout("started");
    job
}
