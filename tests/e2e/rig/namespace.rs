//! A mount namespace of a rig's own, as a booted system has it: with shared
//! propagation; with a process 1 of its own where that matters.

use std::process::Stdio;

use super::Rig;
use super::job::{Job, children, start};

/// How much of a machine of its own a rig has.
#[derive(Clone, Copy, PartialEq)]
pub enum World {
    /// The host's mount namespace, and all its bustle.
    Host,
    /// Its own mount namespace.
    Mounts,
    /// Its own mount and process namespaces, with its own `/proc/1`.
    Whole,
}

/// Keeps a rig's namespaces, by a process that sleeps in them.
pub struct Namespace {
    holder: Job,
    pid: u32,
    world: World,
}

/// Unmounts the copies of mounts that may come and go: all but the top-level directories, what is
/// below `/dev`, `/proc`, `/sys` and `/usr`, and what leads to the rig, $0. Otherwise the copies keep
/// other rigs' filesystems in use; and when their mount point is removed on the host, the kernel
/// reports a change of the mounts here.
const BEGIN: &str = r#"
awk -v rig="$0/" '
    $5 !~ "^/[^/]*$" && $5 !~ "^/(dev|proc|sys|usr)/" && index(rig, $5 "/") != 1 { print $5 }
' /proc/self/mountinfo | tac | while IFS= read -r m; do
    umount -l "$(printf '%b' "$(printf '%s' "$m" | sed 's/\\/\\0/g')")"
done
mount --make-rshared / && echo up && exec sleep infinity
"#;

impl Namespace {
    pub fn new(rig: &Rig, world: World) -> Namespace {
        let mut holder = rig.command("unshare");
        if world == World::Whole {
            holder.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        }
        holder.args(["-m", "sh", "-c", BEGIN]).arg(rig.dir());
        let holder = start(holder.stdin(Stdio::null()));
        holder.await_stdout("up");
        let pid = match world {
            World::Whole => children(holder.pid())[0],
            _ => holder.pid(),
        };
        Namespace { holder, pid, world }
    }

    /// The words before a command that run it in there.
    pub fn prefix(&self) -> Vec<String> {
        let mut words = vec![
            "nsenter".to_owned(),
            format!("--target={}", self.pid),
            "-m".to_owned(),
        ];
        if self.has_pids() {
            words.push("-p".to_owned());
        }
        words.push("--".to_owned());
        words
    }

    /// Whether process numbers are its own: then `nsenter` stays as the parent
    /// of what it starts.
    pub fn has_pids(&self) -> bool {
        self.world == World::Whole
    }

    /// A process in it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The processes that keep it.
    pub fn keepers(&self) -> Vec<u32> {
        vec![self.holder.pid(), self.pid]
    }
}
