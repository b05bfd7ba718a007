//! Looking at the storage from outside: what the kernel, the device and
//! `pst status` say.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::job::{RunToEnd, tool};
use super::{Fs, Rig, wait_until};

impl Rig {
    /// The superblock's flag: "ro" or "rw"; "absent" if nothing is mounted.
    pub fn superblock(&self) -> &'static str {
        match self.mountinfo() {
            None => "absent",
            Some((_, superblock)) => mode(&superblock),
        }
    }

    /// The mount's own options, as mountinfo's sixth field has them.
    pub fn mount_options(&self) -> String {
        self.mountinfo().expect("mounted").0
    }

    /// The mount's own flag.
    pub fn mount_flag(&self) -> &'static str {
        mode(&self.mount_options())
    }

    /// Waits until the superblock's flag is this.
    #[track_caller]
    pub fn await_superblock(&self, flag: &str) {
        wait_until(&format!("the superblock is {flag}"), || {
            self.superblock() == flag
        });
    }

    /// Whether the kernel shows that it gave the filesystem up after an error: by a word since Linux
    /// 6.15, before 6.12 by `ro`. Those between, and 6.1 of today, show nothing.
    pub fn is_given_up(&self) -> bool {
        let (_, superblock) = self.mountinfo().expect("mounted");
        superblock.contains("emergency_ro") || mode(&superblock) == "ro"
    }

    /// The kernel says of it that it was shut down, as it does since Linux 6.15.
    pub fn shows_shutdown(&self) -> bool {
        let (_, superblock) = self.mountinfo().expect("mounted");
        superblock.contains("shutdown")
    }

    /// How many of the daemon's timers are armed, as proc(5) shows them: a time until the next expiry.
    pub fn armed_timers(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fdinfo", self.daemon_pid())).expect("fdinfo");
        let texts = files.filter_map(|file| fs::read_to_string(file.ok()?.path()).ok());
        texts
            .filter(|text| {
                let value = text
                    .lines()
                    .find_map(|line| line.strip_prefix("it_value: "));
                value.is_some_and(|value| value != "(0, 0)")
            })
            .count()
    }

    /// The options of the mount and of the superblock.
    fn mountinfo(&self) -> Option<(String, String)> {
        let whose = self
            .namespace
            .as_ref()
            .map_or("self".to_owned(), |own| own.pid().to_string());
        let text = fs::read_to_string(format!("/proc/{whose}/mountinfo")).expect("mountinfo");
        let at = self.mount().to_str().expect("UTF-8").replace(' ', "\\040");
        let line = text
            .lines()
            .rfind(|line| line.split(' ').nth(4) == Some(&at))?;
        let (front, back) = line.split_once(" - ")?;
        Some((
            front.split(' ').nth(5)?.to_owned(),
            back.split(' ').nth(2)?.to_owned(),
        ))
    }

    /// Whether a power cut now would cost a journal replay.
    pub fn needs_recovery(&self) -> bool {
        let head = tool(Command::new("dumpe2fs").args(["-h", self.device()]));
        let features = head
            .lines()
            .find(|line| line.starts_with("Filesystem features:"));
        features.expect("features").contains("needs_recovery")
    }

    /// A file of the storage as it is on the medium, read past the mount.
    pub fn on_medium(&self, path: &str) -> String {
        tool(Command::new("debugfs").args(["-R", &format!("cat {path}"), self.device()]))
    }

    /// The remounts that the kernel logged for this filesystem: "r/w", "ro".
    pub fn kernel_remounts(&self) -> Vec<String> {
        let head = tool(Command::new("dumpe2fs").args(["-h", self.device()]));
        let uuid = head
            .lines()
            .find_map(|line| line.strip_prefix("Filesystem UUID:"))
            .expect("UUID");
        let mark = format!("re-mounted {} ", uuid.trim());
        let log = tool(&mut Command::new("dmesg"));
        log.lines()
            .filter_map(|line| Some(line.split_once(&mark)?.1))
            .map(|mode| mode.split(['.', ' ']).next().unwrap_or_default().to_owned())
            .collect()
    }

    /// What `pst status --json` says.
    #[track_caller]
    pub fn status(&self) -> Value {
        let said = self.pst(["status", "--json"]).to_end();
        serde_json::from_slice(&said.stdout).unwrap_or_else(|e| panic!("{e}: {said:?}"))
    }

    /// The state that `pst status --json` names.
    #[track_caller]
    pub fn state(&self) -> String {
        self.status()["storage"]["state"]
            .as_str()
            .expect("a state")
            .to_owned()
    }

    /// Waits until `pst status --json` names this state.
    #[track_caller]
    pub fn await_state(&self, state: &str) {
        wait_until(&format!("the state is {state}"), || self.state() == state);
    }

    /// Lets ext4 find an error in itself.
    pub fn trigger_fs_error(&self) {
        let name = self.device().trim_start_matches("/dev/");
        fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "x").expect("trigger_fs_error");
    }

    /// Remounts by hand, as `mount -o remount,FLAG` does.
    pub fn remount_by_hand(&self, flag: &str) {
        let mut mount = self.command("mount");
        if self.setup.fs == Fs::Tmpfs {
            // mount would repeat what mountinfo shows; in a user namespace that
            // has the owner as the host knows it, which is refused.
            mount.arg("--options-source=disable");
        }
        let options = format!("remount,{flag},nodev,nosuid,noexec");
        tool(mount.args(["-o", &options]).arg(self.mount()));
    }

    /// The rig's living processes that have this as their whole command line.
    pub fn running(&self, words: &str) -> Vec<u32> {
        let line = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let wanted = format!("{}\0", words.replace(' ', "\0")).into_bytes();
        let mut found = marked(&self.ground.id);
        found.retain(|pid| line(pid) == wanted);
        found
    }

    /// Unmounts by hand; `-l` for lazily. The daemon may be having a look, which
    /// makes it busy for a moment.
    #[track_caller]
    pub fn umount(&self, options: &[&str]) {
        let mut umount = self.command("umount");
        umount.args(options).arg(self.mount());
        wait_until("nobody is at it, and it is unmounted", || {
            umount.output().expect("umount").status.success()
        });
    }
}

fn mode(options: &str) -> &'static str {
    if options.split(',').any(|word| word == "rw") {
        "rw"
    } else {
        "ro"
    }
}

/// The living processes of a rig.
pub fn marked(id: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_marked(*pid, id)).collect()
}

/// Whether a living process belongs to a rig. A corpse has no environment.
pub fn is_marked(pid: u32, id: &str) -> bool {
    let mark = format!("PST_RIG={id}");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|word| word == mark.as_bytes())
}
