//! What breaks a storage, what mends it, and the sessions that it hits.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pst::sys::file::open_directory;
use pst::sys::mount::{Mode, switch_superblock};

use super::ground::{attach, sparse};
use super::job::{Job, RunToEnd, alive, start, tool};
use super::namespace::Namespace;
use super::wait::holds_within;
use super::{Rig, observe, promptly, wait_until};

/// A writable storage is looked at each second; what follows has time for a busy machine.
const AT_A_LOOK: Duration = Duration::from_secs(4);

/// A session whose command lives until it is killed.
pub struct Victim {
    job: Job,
    /// The command's pid.
    pub command: u32,
}

impl Victim {
    /// Waits until the command wrote this.
    #[track_caller]
    pub fn await_stdout(&self, text: &str) {
        self.job.await_stdout(text);
    }

    /// Fails unless the command is dead at once, and `run` says why.
    #[track_caller]
    pub fn must_be_lost(mut self, reason: &str) {
        promptly("its command is dead", || !alive(self.command));
        promptly("its `run` returned", || !self.job.is_running());
        let ended = self.job.end();
        assert_ne!(ended.code(), 0, "{ended:?}");
        let told = ended
            .stderr
            .lines()
            .any(|line| line.contains("ERROR") && line.contains(reason));
        assert!(told, "no error with {reason:?}: {ended:?}");
    }

    /// The same where the kernel tells of nothing, so that only the timer has it looked at.
    #[track_caller]
    pub fn must_be_lost_at_a_look(self, reason: &str) {
        let dead = holds_within(AT_A_LOOK, || !alive(self.command));
        assert!(dead, "not within {AT_A_LOOK:?}: its command is dead");
        self.must_be_lost(reason);
    }
}

impl Rig {
    /// A session whose command sleeps until it is killed.
    pub fn victim(&self) -> Victim {
        self.victim_with("exec sleep 1000")
    }

    /// The same, with what it does until then.
    pub fn victim_with(&self, script: &str) -> Victim {
        let script = format!("echo \"pid $$.\"; {script}");
        let job = start(&mut self.run(["sh", "-c", &script]));
        job.await_stdout(".\n");
        let said = job.stdout();
        let pid = said
            .trim_start_matches("pid ")
            .split('.')
            .next()
            .unwrap_or_default();
        let command = self.pid_here(pid);
        Victim { job, command }
    }

    /// The number that a process of the rig's world has in ours.
    fn pid_here(&self, there: &str) -> u32 {
        if !self.namespace.as_ref().is_some_and(Namespace::has_pids) {
            return there.parse().expect("a pid");
        }
        let is_it = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            numbers.is_some_and(|all| all.split_whitespace().next_back() == Some(there))
        };
        let mut found = None;
        // In the middle of an exec it has no environment, by which it would be known.
        wait_until("the process is seen", || {
            found = observe::marked(&self.ground.id).into_iter().find(is_it);
            found.is_some()
        });
        found.expect("seen")
    }

    /// Fails unless a session is denied at once, with this in the reason.
    #[track_caller]
    pub fn must_deny(&self, reason: &str) {
        let mut job = start(&mut self.run(["echo", "started"]));
        promptly("a session is denied", || !job.is_running());
        let ended = job.end().must(1);
        assert_eq!(ended.text(), "", "the command was started");
        let told = ended
            .stderr
            .lines()
            .any(|line| line.contains("ERROR") && line.contains(reason));
        assert!(told, "no error with {reason:?}: {ended:?}");
    }

    /// Fails unless a session writes what is read back, and leaves it read-only.
    #[track_caller]
    pub fn must_serve(&self) {
        let said = self.sh("echo served > $KVMD_PST_DATA/served && cat $KVMD_PST_DATA/served");
        assert_eq!(said.must(0).text(), "served");
        assert_eq!(self.superblock(), "ro");
    }

    /// Unmounts it, has it checked, and mounts it again, as its reason for the
    /// state `failed` tells the user to.
    #[track_caller]
    pub fn repair(&self) {
        self.umount(&[]);
        self.check_and_mount();
    }

    /// The same for what is unmounted already.
    #[track_caller]
    pub fn check_and_mount(&self) {
        // A namespace that another test is just making has a copy of every mount.
        wait_until("the device is free, and what was broken is mended", || {
            let mut check = Command::new("e2fsck");
            check.args(["-fy", self.device()]).to_end().code() < 4
        });
        self.do_mount();
        self.prepare().must(0);
    }

    /// Has the kernel give the filesystem up, as a lost device does: the journal
    /// is aborted and not written.
    pub fn shut_down(&self) {
        let mut xfs_io = self.command("xfs_io");
        tool(xfs_io.args(["-x", "-c", "shutdown"]).arg(self.mount()));
    }

    /// From now on every write that reaches the medium fails, or none does. For a
    /// rig that is backed by ext4.
    pub fn refuse_writes(&self, refuse: bool) {
        let flag = if refuse { "+i" } else { "-i" };
        tool(
            Command::new("chattr")
                .arg(flag)
                .arg(self.dir().join("backing/image")),
        );
    }

    /// Switches the superblock, and nothing else: no change of the mounts, so
    /// nobody is told.
    pub fn switch_by_hand(&self, mode: Mode) {
        let world = self
            .namespace
            .as_ref()
            .map_or("/".into(), |own| format!("/proc/{}/root/", own.pid()));
        let mount = self.mount();
        let mount = mount.strip_prefix("/").expect("absolute");
        let root = open_directory(&Path::new(&world).join(mount)).expect("open");
        switch_superblock(root.as_fd(), mode).expect("switch");
    }

    /// An ext4 on another loop device.
    pub fn make_device(&self, name: &str, mebibytes: u64) -> String {
        let device = attach(&sparse(&self.dir().join(name), mebibytes));
        tool(Command::new("mkfs.ext4").args(["-q", &device]));
        device
    }

    /// Mounts something at the storage's place, over what may be there.
    pub fn mount_over(&self, words: &[&str]) {
        tool(self.command("mount").args(words).arg(self.mount()));
    }
}
