//! A mount namespace that nobody copies. What is mounted in the host's is copied
//! into each namespace that is made meanwhile, by whatever runs on the
//! machine, and its superblock then outlives its umount; the next mount of the
//! device would get that one, with what it has in memory.

use std::process::{Command, Stdio};

use crate::rig::{Job, Rig, start};

/// What other rigs have mounted is let go at once, for the same reason.
const ENTER: &str = r#"
awk '$5 ~ "/pst-rig[.]" { print $5 }' /proc/self/mountinfo | tac | while IFS= read -r m; do
    umount -l "$(printf '%b' "$(printf '%s' "$m" | sed 's/\\/\\0/g')")"
done
echo alone
exec sleep infinity"#;

/// Such a namespace, with the process that keeps it.
pub struct Alone {
    holder: Job,
}

impl Alone {
    pub fn new(rig: &Rig) -> Alone {
        let mut unshare = rig.command("unshare");
        unshare.args(["-m", "--propagation", "private", "sh", "-c", ENTER]);
        let holder = start(unshare.stdin(Stdio::null()));
        holder.await_stdout("alone");
        Alone { holder }
    }

    /// A shell script in it.
    pub fn script(&self, rig: &Rig, script: &str) -> Command {
        // By its path: otherwise std must fork for it, which copies the page
        // tables of all cards, each time.
        let mut command = rig.command("/usr/bin/nsenter");
        command
            .arg(format!("--target={}", self.holder.pid()))
            .args(["-m", "--", "sh", "-c", script, "sh"]);
        command
    }
}
