//! The storage: one mounted filesystem whose superblock is switched between read-only and read-write.
//! Any call may block, so only the worker thread and one-shot commands use this module. It knows
//! nothing about sessions.

pub mod directories;
pub(crate) mod health;
mod holders;
pub(crate) mod inspect;
pub(crate) mod lock;
pub mod mountinfo;
pub(crate) mod prepare;
pub(crate) mod remains;
mod search;
pub(crate) mod stats;
mod superblock;
pub(crate) mod torn;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use self::directories::Owner;
use self::health::Text;
use self::inspect::{Flag, MountedStorage};
use self::lock::{DeviceLock, lock_path};
use self::search::Searcher;
use self::stats::WrittenBytes;
use crate::config::StorageLocation;
use crate::problem::Problem;
use crate::sys::fanotify::{Events, Group};
use crate::sys::file::{MountId, Space};
use crate::sys::mount::Mode;
use crate::wire::{Ext4Stats, HolderKind, HolderStatus};

/// The storage, owned by the worker thread. `health` inspects it, `superblock` switches it.
#[derive(Debug)]
pub(crate) struct Storage {
    location: StorageLocation,
    owner: Owner,
    /// The lock of a storage without a device is beside it.
    socket: PathBuf,
    lock: Option<DeviceLock>,
    /// Receives the filesystem's events; `None` if the kernel does not allow it.
    group: Option<Group>,
    period: Option<WritablePeriod>,
    /// The mount that passed every check.
    validated: Option<MountId>,
    /// The mount's own flag was clear at an inspection, of this mount or an earlier one.
    prepared: bool,
    /// The last inspection found the superblock writable outside a writable period.
    writable_without_session: bool,
    /// The mount that failed, and why. It stays failed until it is mounted again.
    failed_mount: Option<(MountId, Text)>,
    /// The kernel refused read-write with EBUSY: inspections check whether the filesystem is frozen.
    refused_busy: bool,
    /// The last search found that the filesystem is held, and not frozen.
    held: bool,
    searcher: Searcher,
    written: WrittenBytes,
    report: StorageReport,
}

/// The time from going read-write until the superblock is read-only again.
#[derive(Debug)]
struct WritablePeriod {
    /// The root directory, opened before anything was written, so that a sync reports every lost write.
    root: OwnedFd,
    id: MountId,
    /// ext4's error count at the start, or when the journal was last found alive.
    errors: Option<u64>,
}

/// The facts that the last job found, except the storage's health.
#[derive(Clone, Debug, Default)]
pub(crate) struct StorageReport {
    /// The device, or another source, such as `tmpfs`; escaped.
    pub device: String,
    pub fstype: String,
    pub space: Option<Space>,
    /// `None` if the filesystem is not ext4.
    pub ext4: Option<Ext4Stats>,
    /// `st_dev` of the data directory when the storage was last made writable.
    pub data_device: u64,
    /// Counted since the daemon started, like the next two.
    pub remounts: u64,
    /// Remounts that the kernel refused, busy or not.
    pub failed_remounts: u64,
    /// Bytes written to the device by any process; `None` if the kernel does not count them.
    pub written: Option<u64>,
    /// The mount was prepared while this daemon ran, is not any more, and this process cannot prepare it.
    pub lost_preparation: bool,
}

impl Storage {
    pub(crate) fn new(
        location: StorageLocation,
        owner: Owner,
        socket: PathBuf,
        group: Option<Group>,
    ) -> Storage {
        Storage {
            location,
            owner,
            socket,
            lock: None,
            group,
            period: None,
            validated: None,
            prepared: false,
            writable_without_session: false,
            failed_mount: None,
            refused_busy: false,
            held: false,
            searcher: Searcher::default(),
            written: WrittenBytes::default(),
            report: StorageReport::default(),
        }
    }

    /// Claims the device if it is mounted, so that no other daemon manages it.
    ///
    /// # Errors
    /// Another daemon already manages it, or its lock file cannot be used.
    pub(crate) fn claim(&mut self) -> Result<(), Problem> {
        match inspect::find(&self.location) {
            // The lock file is missing until `pst prepare` has run. Inspections claim the device then.
            Ok(found) if found.flag == Flag::SetInHost => Ok(()),
            Ok(found) => self.claim_device(&found),
            Err(_) => Ok(()),
        }
    }

    /// Claims the device of a mounted storage and releases the previous one.
    fn claim_device(&mut self, found: &MountedStorage) -> Result<(), Problem> {
        let path = lock_path(found, &self.socket);
        if self.lock.as_ref().is_none_or(|lock| lock.path != path) {
            self.lock = None;
            let source = &found.mount.source;
            self.lock = Some(DeviceLock::wait(&path, source, self.owner.uid)?);
        }
        Ok(())
    }

    /// Finds what keeps the storage from going read-only.
    pub(crate) fn find_holders(&mut self) -> Vec<HolderStatus> {
        let found = inspect::find(&self.location);
        let root = match (&self.period, &found) {
            (Some(period), _) => period.root.as_fd(),
            (None, Ok(found)) => found.root.as_fd(),
            (None, Err(problem)) => return vec![search::unknown(&problem.to_string())],
        };
        let holders = holders::find(&mut self.searcher, root);
        let named = holders
            .iter()
            .any(|holder| holder.kind != HolderKind::Unknown);
        // Not at each search: ext4 logs the check if it is not frozen.
        let freeze = (!named || !self.held).then(|| self.find_freeze()).flatten();
        self.held = freeze.is_none();
        freeze.map_or(holders, |freeze| vec![search::unknown(&freeze.to_string())])
    }

    pub(crate) fn report(&mut self) -> StorageReport {
        self.report.written = self.written.count();
        self.report.clone()
    }

    pub(crate) fn read_ext4_stats(&mut self) {
        self.report.ext4 = stats::ext4(self.written.device);
    }

    /// Selects the filesystem's events: always errors, and closing writers only in `ReadOnly`, which is
    /// a filesystem's first mode. After a failure there are only fewer wake-ups.
    fn watch_events(&self, root: BorrowedFd<'_>, mode: Mode) {
        const WRITERS: Events = Events {
            error: false,
            release: true,
        };
        let all = Events {
            error: true,
            ..WRITERS
        };
        let Some(group) = &self.group else {
            return;
        };
        let _ = match mode {
            // Kernels before 5.16 have events for closing writers, but not for errors.
            Mode::ReadOnly => group
                .watch(root, all)
                .or_else(|_| group.watch(root, WRITERS)),
            Mode::ReadWrite => group.unwatch(root, WRITERS),
        };
    }
}
