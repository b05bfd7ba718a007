//! Who we are, and which tests that leaves out.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

pub fn is_uid_0() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

fn has_every_uid() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Whether we are not root on the whole machine.
pub fn lacks_root() -> bool {
    !(is_uid_0() && has_every_uid())
}

/// What a test needs that mounts, and is not there.
pub fn lacks_storage() -> Option<&'static str> {
    if !is_uid_0() {
        return Some("mounting; `make test` gives it a user namespace");
    }
    let lacks = !lacks_root() && EXT4_TOOLS.iter().any(|tool| lacks_tool(tool));
    lacks.then_some("the programs that make a storage; `make test` names their packages")
}

/// What a storage is made and looked at with. In a user namespace it is a tmpfs.
const EXT4_TOOLS: [&str; 6] = [
    "mkfs.ext4",
    "dumpe2fs",
    "debugfs",
    "e2fsck",
    "losetup",
    "mount",
];

/// Whether we have no mount namespace of our own: a chroot's root directory may be no mount, and nsenter(1) leaves it.
pub fn lacks_mounts() -> bool {
    let here = std::env::current_exe().expect("this program");
    let enter = ["-m", "nsenter", "--mount=/proc/self/ns/mnt", "test", "-e"];
    let found = Command::new("unshare").args(enter).arg(here).output();
    !found.is_ok_and(|output| output.status.success())
}

/// Whether even root of a user namespace may not mount, as in a chroot.
#[allow(dead_code)] // the tests of `pst run` use it
pub fn lacks_namespaces() -> bool {
    let unshare = Command::new("unshare").args(["-rm", "true"]).output();
    !unshare.is_ok_and(|output| output.status.success())
}

/// Whether a program is not installed.
pub fn lacks_tool(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    !std::env::split_paths(&path).any(|directory| directory.join(name).exists())
}

/// Records that the running test is left out; fails where none may be.
pub fn leave_out(why: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    let required = ["PST_REQUIRE_ALL", "CI"]
        .iter()
        .any(|name| std::env::var(name).is_ok_and(|value| !matches!(&*value, "" | "0" | "false")));
    assert!(!required, "left out: {test}: needs {why}");
    eprintln!("left out: {test}: needs {why}");
    if let Some(list) = std::env::var_os("PST_LEFT_OUT") {
        let mut list = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(list)
            .expect("PST_LEFT_OUT");
        writeln!(list, "{test}: needs {why}").expect("PST_LEFT_OUT");
    }
}
