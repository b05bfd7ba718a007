//! The mounted storage: finds it, and checks that it may be switched and is healthy. Changes nothing.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{major, minor};

use super::mountinfo::{self, HOST, Mount, OWN};
use crate::config::StorageLocation;
use crate::escape::escape_path;
use crate::problem::{Problem, reason};
use crate::sys::file::{self, MountId};

#[derive(Debug)]
pub(crate) struct MountedStorage {
    /// The mount's root directory.
    pub root: OwnedFd,
    pub id: MountId,
    /// Its line in this namespace's mountinfo.
    pub mount: Mount,
    /// All mounts of this namespace.
    pub all: Vec<Mount>,
    pub flag: Flag,
}

/// The mount's own read-only flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    Clear,
    /// Set, and this process is in the host's namespace and can clear it.
    SetHere,
    /// Set in the host's namespace. Only a process there can clear it.
    SetInHost,
}

/// Opens and identifies the mount at the storage's mount point.
///
/// # Errors
/// Nothing is mounted there, or it cannot be opened.
pub(crate) fn find(location: &StorageLocation) -> Result<MountedStorage, Problem> {
    let point = escape_path(&location.mount);
    let absent = |what| Problem::new(what).hint(format!("run `mount {point}`"));
    let root = file::open_directory(&location.mount).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Problem::new(format!("there is no {point}"))
            .hint(format!("run `mkdir -p {point} && mount {point}`")),
        _ => Problem::io(format!("cannot open {point}"), &error)
            .hint(format!("see `ls -ld {point}` and `dmesg`")),
    })?;
    let id = file::mount_id(root.as_fd())
        .map_err(|error| Problem::io(format!("cannot identify the mount on {point}"), &error))?;
    if !id.is_root {
        return Err(absent(format!("nothing is mounted on {point}")));
    }
    let all =
        mountinfo::read(OWN).map_err(|error| Problem::io(format!("cannot read {OWN}"), &error))?;
    let Some(mount) = all.iter().find(|mount| mount.id == id.shown).cloned() else {
        return Err(absent(format!("{point} was unmounted just now")));
    };
    let flag = read_flag(&mount, &all);
    Ok(MountedStorage {
        root,
        id,
        mount,
        all,
        flag,
    })
}

/// Reads the flag of the host's mount, because new namespaces copy it. `all` are this namespace's
/// mounts.
fn read_flag(mount: &Mount, all: &[Mount]) -> Flag {
    let host = mountinfo::read(HOST);
    let is_same = |other: &&Mount| other.point == mount.point && other.device == mount.device;
    match host.as_deref().unwrap_or(all).iter().rfind(is_same) {
        // A copy has another id. The same id means that this is the host's namespace.
        Some(there) if there.read_only && there.id != mount.id => Flag::SetInHost,
        Some(there) if there.read_only => Flag::SetHere,
        None if mount.read_only => Flag::SetHere,
        _ => Flag::Clear,
    }
}

impl MountedStorage {
    /// Checks that switching the superblock affects no other mount, and that data survives a reboot.
    pub(crate) fn check_switchable(&self, location: &StorageLocation) -> Result<(), Problem> {
        let point = escape_path(&self.mount.point);
        if self.mount.root != Path::new("/") {
            return Err(own_partition(format!(
                "{point} shows only {} of the filesystem on {}, and switching that would hit the \
                 rest too",
                escape_path(&self.mount.root),
                escape_path(&self.mount.source)
            )));
        }
        if let Some(other) = self.find_other_tree() {
            return Err(own_partition(format!(
                "{point} shares its filesystem with {}, which would be switched with it",
                escape_path(&other.point)
            )));
        }
        if !location.volatile && self.block_device().is_none() {
            return Err(Problem::new(format!(
                "{point} ({}) has no block device, so nothing written there would last",
                self.mount.fstype
            ))
            .hint("set storage.volatile = true for a test or a demo"));
        }
        Ok(())
    }

    /// Finds a mount that shows another tree of the same filesystem. Once the storage is prepared,
    /// users may bind-mount a part of it, but another btrfs subvolume is never allowed.
    fn find_other_tree(&self) -> Option<&Mount> {
        let own = &self.mount;
        let btrfs = own.fstype == "btrfs";
        if self.flag == Flag::Clear && !btrfs {
            return None;
        }
        // btrfs may give two mounts of one filesystem different device numbers, so compare sources.
        self.all.iter().find(|other| {
            let same = other.device == own.device || btrfs && other.source == own.source;
            same && other.root != own.root
        })
    }

    /// Returns the major and minor number of the block device, if there is one.
    pub(crate) fn block_device(&self) -> Option<(u32, u32)> {
        if self.mount.device.0 != 0 {
            return Some(self.mount.device);
        }
        // A filesystem on several devices has an anonymous number, but its source is a device.
        let source = fs::metadata(&self.mount.source).ok()?;
        let device = source.rdev();
        let is_block_device = source.file_type().is_block_device();
        is_block_device.then(|| (major(device), minor(device)))
    }

    /// Returns why the filesystem is unusable, if it is. Writes nothing.
    pub(crate) fn fault(&self) -> Option<Problem> {
        if let Some(word) = self.mount.shut_down() {
            return Some(self.damaged(&format!("the kernel shut the filesystem down ({word})")));
        }
        if !self.mount.superblock_read_only() {
            return None; // checking the journal now would write it back
        }
        journal_error(self.root.as_fd()).map(|error| self.damaged(&error))
    }

    /// Returns a problem whose next step is to repair the filesystem.
    pub(super) fn damaged(&self, what: &str) -> Problem {
        Problem::new(format!("{}: {what}", escape_path(&self.mount.point)))
            .hint(repair_hint(&escape_path(&self.mount.source)))
    }
}

/// Checks whether an ext4 journal was aborted. `None` if it was not, or for another filesystem.
pub(super) fn journal_error(root: BorrowedFd<'_>) -> Option<String> {
    match file::checkpoint_journal(root) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EROFS)) => {
            Some(format!("its journal was aborted: {}", reason(&error)))
        }
        _ => None,
    }
}

pub(super) fn repair_hint(device: &str) -> String {
    format!(
        "unmount it, run `e2fsck -fy {device}` (or the tool of its filesystem), and mount it again"
    )
}

fn own_partition(what: String) -> Problem {
    Problem::new(what).hint("give the storage a partition of its own")
}
