//! A look at the mount: what is there, whether it is ours to switch, whether it is healthy.
//! It changes nothing.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::health::Health;
use super::mountinfo::Mount;
use super::mounts::{self, Flag, OWN};
use crate::config::StorageLocation;
use crate::escape::escape;
use crate::sys::file::{self, MountId, Space};

/// What the outside is told of the storage besides its state.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct StorageInfo {
    /// The device, or what stands for it.
    pub device: String,
    pub fstype: String,
    /// The device's number, `major:minor`.
    pub number: (u32, u32),
}

#[derive(Debug)]
pub(crate) struct MountedStorage {
    /// The root directory of the mount.
    pub root: OwnedFd,
    pub id: MountId,
    /// Its line in this namespace's mountinfo.
    pub mount: Mount,
    /// All of this namespace's mounts.
    pub all: Vec<Mount>,
    /// The flag that decides whether processes can write once the superblock lets them.
    pub flag: Flag,
    /// How much is free there.
    pub space: Option<Space>,
}

/// Opens and identifies what is mounted at the place.
///
/// # Errors
/// The condition, with what to do about it, if nothing is mounted there.
pub(crate) fn find(place: &StorageLocation) -> Result<MountedStorage, Health> {
    let point = &place.mount;
    let root = file::open_directory(point).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Health::Absent(
            format!(
                "there is no {}: run `mkdir -p {0} && mount {0}`",
                escape_path(point)
            )
            .into(),
        ),
        _ => cannot(point, "open", &error),
    })?;
    let id = file::mount_id(root.as_fd()).map_err(|error| cannot(point, "identify", &error))?;
    if !id.is_root {
        return Err(Health::Absent(
            format!(
                "nothing is mounted on {}: run `mount {0}`",
                escape_path(point)
            )
            .into(),
        ));
    }
    let space = file::space(root.as_fd()).ok();
    let unread = |error| cannot(Path::new(OWN), "read", &error);
    let is_it = |mount: &&Mount| mount.id == id.shown;
    let all = mounts::own().map_err(unread)?;
    let Some(mount) = all.iter().find(is_it).cloned() else {
        // It went between the two calls.
        return Err(Health::Absent(
            format!(
                "{} was unmounted just now: run `mount {0}`",
                escape_path(point)
            )
            .into(),
        ));
    };
    let flag = mounts::flag(&mount, &all);
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
    /// Why this is not ours to switch, if it is not: switching would hit something else.
    /// The whole check, for a mount that was not seen before. Once it is prepared, a bind mount of
    /// a part of it is its users' business, but a btrfs subvolume beside it still is not.
    pub(crate) fn refusal(&self, place: &StorageLocation) -> Option<String> {
        let strict = self.flag != Flag::Clear || self.mount.fstype == "btrfs";
        let shared = || strict.then(|| self.shared()).flatten();
        self.partial().or_else(shared).or_else(|| {
            (!place.volatile && !has_block_device(&self.mount)).then(|| {
                format!(
                    "{} ({}) has no block device, so nothing written there would last; \
                     set storage.volatile = true for a test or a demo",
                    escape_path(&self.mount.point),
                    self.mount.fstype
                )
            })
        })
    }

    /// Whether what is written there is on a device.
    pub(crate) fn has_block_device(&self) -> bool {
        has_block_device(&self.mount)
    }

    /// The mount shows only a part of its filesystem.
    fn partial(&self) -> Option<String> {
        (self.mount.root != Path::new("/")).then(|| {
            format!(
                "{} shows only {} of the filesystem on {}; switching that would hit the rest \
                 of it too: give the storage a partition of its own",
                escape_path(&self.mount.point),
                escape_path(&self.mount.root),
                escape_path(&self.mount.source)
            )
        })
    }

    /// Another mount shows another tree of the same filesystem.
    fn shared(&self) -> Option<String> {
        let other = self.all.iter().find(|other| {
            other.device == self.mount.device && other.root != self.mount.root
                // btrfs gives each mount of one filesystem the same number, and the source tells
                // where the number does not.
                || self.mount.fstype == "btrfs"
                    && other.fstype == "btrfs"
                    && other.source == self.mount.source
                    && other.root != self.mount.root
        })?;
        Some(format!(
            "{} shares its filesystem with {}, which would be switched with it: \
             give the storage a partition of its own",
            escape_path(&self.mount.point),
            escape_path(&other.point)
        ))
    }

    /// Why the kernel or the medium has given it up, if so. Costs no write.
    pub(crate) fn illness(&self) -> Option<String> {
        if let Some(word) = self.mount.given_up() {
            return Some(self.repair(&format!("the kernel has given it up ({word})")));
        }
        if !self.mount.superblock_read_only() {
            return None; // asking the journal now would write it back
        }
        journal_error(self.root.as_fd()).map(|error| self.repair(&error))
    }

    /// `what`, on this storage, with the way to mend it.
    pub(crate) fn repair(&self, what: &str) -> String {
        format!(
            "{}: {what}; unmount it, run `e2fsck -fy {}` or what its filesystem has for that, \
             and mount it again",
            escape_path(&self.mount.point),
            escape_path(&self.mount.source)
        )
    }

    pub(crate) fn facts(&self) -> StorageInfo {
        StorageInfo {
            device: escape_path(&self.mount.source),
            fstype: self.mount.fstype.clone(),
            number: self.mount.device,
        }
    }
}

/// What an ext4 journal answers when it is aborted; `None` from a live one, and from what has none.
pub(crate) fn journal_error(root: std::os::fd::BorrowedFd<'_>) -> Option<String> {
    match file::checkpoint_journal(root) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EROFS)) => {
            Some(format!("its journal was aborted: {error}"))
        }
        _ => None,
    }
}

fn has_block_device(mount: &Mount) -> bool {
    // Filesystems of several devices have an anonymous number, but their source is a device.
    mount.device.0 != 0
        || fs::metadata(&mount.source).is_ok_and(|source| source.file_type().is_block_device())
}

fn cannot(path: &Path, what: &str, error: &io::Error) -> Health {
    let shown = escape_path(path);
    let see = match error.raw_os_error() {
        Some(libc::ENOTDIR | libc::ELOOP | libc::EACCES) => format!("`ls -ld {shown}`"),
        _ => "`dmesg`".to_owned(),
    };
    Health::Absent(format!("cannot {what} {shown}: {error}; see {see}").into())
}

/// A path, safe to print.
pub(crate) fn escape_path(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    escape(path.as_os_str().as_bytes()).to_string()
}
