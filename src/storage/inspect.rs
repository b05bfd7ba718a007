//! Finds the mounted storage, and says whether it may be switched and whether it is healthy.
//! Changes nothing.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::mountinfo::Mount;
use super::mounts::{self, Flag, OWN};
use crate::config::StorageLocation;
use crate::escape::escape_path;
use crate::problem::Problem;
use crate::sys::file::{self, MountId, Space};

#[derive(Debug)]
pub(crate) struct MountedStorage {
    /// The root directory of the mount.
    pub root: OwnedFd,
    pub id: MountId,
    /// Its line in this namespace's mountinfo.
    pub mount: Mount,
    /// All mounts of this namespace.
    pub all: Vec<Mount>,
    /// The mount's own read-only flag.
    pub flag: Flag,
    pub space: Option<Space>,
}

/// Opens and identifies the mount at the storage's mount point.
///
/// # Errors
/// Nothing is mounted there, or it cannot be opened.
pub(crate) fn find(location: &StorageLocation) -> Result<MountedStorage, Problem> {
    let point = &location.mount;
    let shown = escape_path(point);
    let absent = |what| Problem::new(what).hint(format!("run `mount {shown}`"));
    let root = file::open_directory(point).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Problem::new(format!("there is no {shown}"))
            .hint(format!("run `mkdir -p {shown} && mount {shown}`")),
        _ => cannot("open", point, &error),
    })?;
    let id = file::mount_id(root.as_fd()).map_err(|error| cannot("identify", point, &error))?;
    if !id.is_root {
        return Err(absent(format!("nothing is mounted on {shown}")));
    }
    let space = file::space(root.as_fd()).ok();
    let all = mounts::read_own().map_err(|error| cannot("read", Path::new(OWN), &error))?;
    let Some(mount) = all.iter().find(|mount| mount.id == id.shown).cloned() else {
        return Err(absent(format!("{shown} was unmounted just now")));
    };
    let flag = mounts::read_flag(&mount, &all);
    Ok(MountedStorage {
        root,
        id,
        mount,
        all,
        flag,
        space,
    })
}

impl MountedStorage {
    /// Checks that switching the superblock affects nothing else, and that the data would last.
    ///
    /// Once the storage is prepared, its users may bind-mount a part of it. A btrfs subvolume
    /// beside it stays forbidden.
    pub(crate) fn check_switchable(&self, location: &StorageLocation) -> Result<(), Problem> {
        self.check_whole()?;
        if self.flag != Flag::Clear || self.mount.fstype == "btrfs" {
            self.check_alone()?;
        }
        if !location.volatile && !self.has_block_device() {
            return Err(Problem::new(format!(
                "{} ({}) has no block device, so nothing written there would last",
                escape_path(&self.mount.point),
                self.mount.fstype
            ))
            .hint("set storage.volatile = true for a test or a demo"));
        }
        Ok(())
    }

    /// Checks that the mount shows its whole filesystem.
    fn check_whole(&self) -> Result<(), Problem> {
        if self.mount.root == Path::new("/") {
            return Ok(());
        }
        Err(own_partition(format!(
            "{} shows only {} of the filesystem on {}, and switching that would hit the rest too",
            escape_path(&self.mount.point),
            escape_path(&self.mount.root),
            escape_path(&self.mount.source)
        )))
    }

    /// Checks that no other mount shows another tree of the same filesystem.
    fn check_alone(&self) -> Result<(), Problem> {
        let same_filesystem = |other: &Mount| {
            // btrfs may give two mounts of one filesystem different numbers; the source tells.
            other.device == self.mount.device
                || self.mount.fstype == "btrfs"
                    && other.fstype == "btrfs"
                    && other.source == self.mount.source
        };
        let other = self
            .all
            .iter()
            .find(|other| same_filesystem(other) && other.root != self.mount.root);
        let Some(other) = other else {
            return Ok(());
        };
        Err(own_partition(format!(
            "{} shares its filesystem with {}, which would be switched with it",
            escape_path(&self.mount.point),
            escape_path(&other.point)
        )))
    }

    pub(crate) fn has_block_device(&self) -> bool {
        // A filesystem of several devices has an anonymous number, but its source is a device.
        self.mount.device.0 != 0
            || fs::metadata(&self.mount.source)
                .is_ok_and(|source| source.file_type().is_block_device())
    }

    /// Returns what is wrong with the filesystem. Writes nothing.
    pub(crate) fn fault(&self) -> Option<Problem> {
        if let Some(word) = self.mount.shut_down() {
            return Some(self.damaged(&format!("the kernel shut the filesystem down ({word})")));
        }
        if !self.mount.superblock_read_only() {
            return None; // asking the journal now would write it back
        }
        journal_error(self.root.as_fd()).map(|error| self.damaged(&error))
    }

    /// A problem whose next step is to repair the filesystem.
    pub(crate) fn damaged(&self, what: &str) -> Problem {
        let what = format!("{}: {what}", escape_path(&self.mount.point));
        Problem::new(what).hint(repair_hint(&escape_path(&self.mount.source)))
    }
}

/// Asks an ext4 journal whether it was aborted; `None` from filesystems that have none.
pub(crate) fn journal_error(root: BorrowedFd<'_>) -> Option<String> {
    match file::checkpoint_journal(root) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EROFS)) => {
            Some(format!("its journal was aborted: {error}"))
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

fn cannot(verb: &str, path: &Path, error: &io::Error) -> Problem {
    let shown = escape_path(path);
    let problem = Problem::new(format!("cannot {verb} {shown}: {error}"));
    match error.raw_os_error() {
        Some(libc::ENOTDIR | libc::ELOOP | libc::EACCES) => {
            problem.hint(format!("see `ls -ld {shown}`"))
        }
        _ => problem.hint("see `dmesg`"),
    }
}
