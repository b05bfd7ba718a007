//! Who we are, and which tests that leaves out.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

fn is_uid_0() -> bool {
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

/// Whether we may not mount anything, not even in a user namespace.
pub fn lacks_storage() -> bool {
    !is_uid_0()
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
