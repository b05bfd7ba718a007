//! The host's mount namespace: there the mount's own read-only flag is set that all later
//! namespaces copy.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::mountinfo::{self, Mount};
use crate::sys::mount::has_changed;

const HOST: &str = "/proc/1/mountinfo";

/// The mount's own read-only flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// Clear: prepared.
    Clear,
    /// Set in this namespace, which is the one that counts.
    SetHere,
    /// Set in the host's namespace; only a process there can clear it.
    SetInHost,
}

/// What the host's mount namespace has in the storage's place. To write down the mounts there takes
/// the kernel as long as to switch a superblock: they are read again when it tells of a change.
#[derive(Debug, Default)]
pub struct Host {
    /// This process is in that namespace; see namespaces(7).
    own: Option<bool>,
    /// It tells of changes.
    file: Option<File>,
    known: Option<Known>,
}

#[derive(Debug)]
struct Known {
    point: PathBuf,
    device: (u32, u32),
    there: Option<There>,
}

/// A mount's number, and its own flag.
#[derive(Clone, Copy, Debug)]
struct There {
    id: u64,
    read_only: bool,
}

impl Host {
    /// Which flag is set of this mount, for the processes that count. `all` are this namespace's
    /// mounts.
    pub fn flag(&mut self, mount: &Mount, all: &[Mount]) -> Flag {
        let there = match *self.own.get_or_insert_with(is_host) {
            true => there(mount, all),
            false => self.there(mount),
        };
        match there {
            // The same mount, not a copy: this is the host's namespace.
            Some(there) if there.id == mount.id && there.read_only => Flag::SetHere,
            Some(there) if there.read_only => Flag::SetInHost,
            None if mount.read_only => Flag::SetHere,
            _ => Flag::Clear,
        }
    }

    fn there(&mut self, mount: &Mount) -> Option<There> {
        let changed = self.changed(); // before it is read: what comes after that is seen next time
        match &self.known {
            Some(known)
                if !changed && (&known.point, known.device) == (&mount.point, mount.device) =>
            {
                known.there
            }
            _ => {
                let there = match mountinfo::read(Path::new(HOST)) {
                    Ok(text) => there(mount, &mountinfo::parse(&text)),
                    Err(_) => {
                        self.file = None; // it is tried again
                        None
                    }
                };
                self.known = Some(Known {
                    point: mount.point.clone(),
                    device: mount.device,
                    there,
                });
                there
            }
        }
    }

    /// True where that cannot be told.
    fn changed(&mut self) -> bool {
        match &self.file {
            Some(file) => has_changed(&[file.as_fd()], Some(Duration::ZERO)).unwrap_or(true),
            None => {
                self.file = File::open(HOST).ok();
                true
            }
        }
    }
}

fn there(mount: &Mount, all: &[Mount]) -> Option<There> {
    let same = |other: &&Mount| other.point == mount.point && other.device == mount.device;
    let there = all.iter().rfind(same)?;
    Some(There {
        id: there.id,
        read_only: there.read_only,
    })
}

fn is_host() -> bool {
    let of = |path: &str| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((of("/proc/self/ns/mnt"), of("/proc/1/ns/mnt")), (Ok(own), Ok(host)) if own == host)
}
