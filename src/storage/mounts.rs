//! The mounts of this mount namespace, and of the host's: there the mount's own read-only flag is
//! set that all later namespaces copy.

use std::fs::{self, File};
use std::io::{self, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use super::mountinfo::{self, Mount};
use crate::sys::mount::has_changed;

/// This process's mounts.
pub const OWN: &str = "/proc/self/mountinfo";
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

/// Both namespaces.
#[derive(Debug)]
pub struct Mounts {
    /// This process is in the host's; see namespaces(7).
    in_host: Option<bool>,
    own: Table,
    host: Table,
}

impl Default for Mounts {
    fn default() -> Mounts {
        Mounts {
            in_host: None,
            own: Table::of(OWN),
            host: Table::of(HOST),
        }
    }
}

impl Mounts {
    /// This namespace's mounts. Those that are kept may be older in what they say of superblocks,
    /// whose changes are not told as changes of the mounts: they are read anew unless they `will_do`.
    ///
    /// # Errors
    /// [`OWN`] cannot be read.
    pub fn own(&mut self, will_do: impl FnOnce(&[Mount]) -> bool) -> io::Result<Arc<[Mount]>> {
        self.own.all(will_do)
    }

    /// This namespace's mounts are read anew the next time.
    pub fn forget(&mut self) {
        self.own.all = None;
    }

    /// Which flag is set of this mount, for the processes that count. `all` are this namespace's
    /// mounts.
    pub fn flag(&mut self, mount: &Mount, all: &Arc<[Mount]>) -> Flag {
        let same = |other: &&Mount| other.point == mount.point && other.device == mount.device;
        let all = match *self.in_host.get_or_insert_with(in_host) {
            true => Some(all.clone()),
            // That a directory above it was renamed is told by nobody.
            false => self.host.all(|kept| kept.iter().any(|m| same(&m))).ok(),
        };
        match all.as_ref().and_then(|all| all.iter().rfind(same)) {
            // The same mount, not a copy: this is the host's namespace.
            Some(there) if there.id == mount.id && there.read_only => Flag::SetHere,
            Some(there) if there.read_only => Flag::SetInHost,
            None if mount.read_only => Flag::SetHere,
            _ => Flag::Clear,
        }
    }
}

/// One namespace's mounts, as they were last read. To write them down takes the kernel as long as to
/// switch a superblock: they are read again when it tells of a change.
#[derive(Debug)]
struct Table {
    path: &'static str,
    /// It tells of changes.
    file: Option<File>,
    all: Option<Arc<[Mount]>>,
}

impl Table {
    fn of(path: &'static str) -> Table {
        Table {
            path,
            file: None,
            all: None,
        }
    }

    fn all(&mut self, will_do: impl FnOnce(&[Mount]) -> bool) -> io::Result<Arc<[Mount]>> {
        let opened = self.file.take();
        let file = opened.map_or_else(|| File::open(self.path), Ok)?;
        // Asked before they are read: what comes after that is told the next time.
        let changed = has_changed(&[file.as_fd()], Some(Duration::ZERO)).unwrap_or(true);
        let all = match self.all.take() {
            Some(all) if !changed && will_do(&all) => all,
            _ => read(&file)?.into(),
        };
        self.file = Some(file);
        self.all = Some(all.clone());
        Ok(all)
    }
}

fn read(mut file: &File) -> io::Result<Vec<Mount>> {
    file.rewind()?;
    mountinfo::read(file)
}

fn in_host() -> bool {
    let of = |path: &str| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((of("/proc/self/ns/mnt"), of("/proc/1/ns/mnt")), (Ok(own), Ok(host)) if own == host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_will_not_do_is_read_anew_and_what_will_is_kept() {
        // Other tests mount meanwhile, and what changed is read anew whatever will do.
        for _ in 0..10_000 {
            let mut own = Table::of(OWN);
            let first = own.all(|_| true).unwrap();
            let second = own.all(|_| true).unwrap();
            assert!(!Arc::ptr_eq(&second, &own.all(|_| false).unwrap()));
            if Arc::ptr_eq(&first, &second) {
                return;
            }
        }
        panic!("never kept");
    }
}
