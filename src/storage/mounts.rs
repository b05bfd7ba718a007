//! The mounts of this mount namespace, and of the host's: there the mount's own read-only flag is
//! set that all later namespaces copy.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use super::mountinfo::{self, Mount};

pub(crate) const OWN: &str = "/proc/self/mountinfo";
const HOST: &str = "/proc/1/mountinfo";

/// The mount's own read-only flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    Clear,
    /// Set in this namespace, which is the one that counts.
    SetHere,
    /// Set in the host's namespace; only a process there can clear it.
    SetInHost,
}

pub(crate) fn own() -> io::Result<Vec<Mount>> {
    mountinfo::read(&File::open(OWN)?)
}

/// Which flag is set of this mount, for the processes that count. `all` are this namespace's mounts.
pub(crate) fn flag(mount: &Mount, all: &[Mount]) -> Flag {
    let same = |other: &&Mount| other.point == mount.point && other.device == mount.device;
    let host = match in_host() {
        true => None,
        false => File::open(HOST)
            .and_then(|file| mountinfo::read(&file))
            .ok(),
    };
    match host.as_deref().unwrap_or(all).iter().rfind(same) {
        // The same mount, not a copy: this is the host's namespace.
        Some(there) if there.id == mount.id && there.read_only => Flag::SetHere,
        Some(there) if there.read_only => Flag::SetInHost,
        None if mount.read_only => Flag::SetHere,
        _ => Flag::Clear,
    }
}

/// Whether this process is in the host's mount namespace; see namespaces(7).
fn in_host() -> bool {
    let of = |path: &str| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((of("/proc/self/ns/mnt"), of("/proc/1/ns/mnt")), (Ok(own), Ok(host)) if own == host)
}
