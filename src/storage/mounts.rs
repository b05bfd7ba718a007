//! Reads the mounts of this mount namespace, and the read-only flag of the host's mount: every
//! later namespace copies that flag.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use super::mountinfo::{self, Mount};

pub(super) const OWN: &str = "/proc/self/mountinfo";
const HOST: &str = "/proc/1/mountinfo";

/// The mount's own read-only flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    Clear,
    /// Set in the host's namespace, and this process is there.
    SetHere,
    /// Set in the host's namespace; only a process there can clear it.
    SetInHost,
}

pub(super) fn read_own() -> io::Result<Vec<Mount>> {
    mountinfo::read(&File::open(OWN)?)
}

/// Reads the flag of `mount` in the host's namespace. `all` are this namespace's mounts.
pub(super) fn read_flag(mount: &Mount, all: &[Mount]) -> Flag {
    let same = |other: &&Mount| other.point == mount.point && other.device == mount.device;
    let host = match is_in_host() {
        true => None,
        false => File::open(HOST)
            .and_then(|file| mountinfo::read(&file))
            .ok(),
    };
    match host.as_deref().unwrap_or(all).iter().rfind(same) {
        // The same mount and not a copy of it: this is the host's namespace.
        Some(there) if there.id == mount.id && there.read_only => Flag::SetHere,
        Some(there) if there.read_only => Flag::SetInHost,
        None if mount.read_only => Flag::SetHere,
        _ => Flag::Clear,
    }
}

/// Whether this process is in the host's mount namespace. namespaces(7).
fn is_in_host() -> bool {
    let id = |path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((id("/proc/self/ns/mnt"), id("/proc/1/ns/mnt")), (Ok(own), Ok(host)) if own == host)
}
