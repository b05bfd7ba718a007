//! The storage: one mounted filesystem whose superblock is switched between read-only and
//! read-write. Everything here may block: only the worker thread and one-shot commands call it.
//! It knows nothing about sessions.

pub mod directories;
mod event_watch;
pub(crate) mod health;
pub(crate) mod holders;
pub(crate) mod inspect;
pub(crate) mod lock;
pub mod mountinfo;
pub(crate) mod mounts;
pub(crate) mod prepare;
mod search;
pub(crate) mod stats;
mod superblock;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use self::directories::Owner;
use self::event_watch::EventWatch;
use self::health::Text;
use self::holders::Holder;
pub(crate) use self::inspect::StorageInfo;
use self::lock::DeviceLock;
use self::mountinfo::Mount;
use self::search::Searcher;
use self::stats::{Counters, DeviceStats};
use crate::config::StorageLocation;
use crate::problem::Problem;
use crate::sys::fanotify::Group;
use crate::sys::file::{MountId, Space};
use crate::wire::Ext4Stats;

/// The storage, owned by the worker thread. `health` inspects it, `superblock` switches it.
#[derive(Debug)]
pub(crate) struct Storage {
    location: StorageLocation,
    owner: Owner,
    /// Device locks are created beside it.
    socket: PathBuf,
    lock: Option<DeviceLock>,
    watch: EventWatch,
    period: Option<WritablePeriod>,
    /// The mount that passed every check.
    validated: Option<MountId>,
    /// The last inspection found the superblock writable outside a writable period.
    writable_without_session: bool,
    /// The mount that failed, and why. It stays failed until it is mounted again.
    failed_mount: Option<(MountId, Text)>,
    searcher: Searcher,
    info: StorageInfo,
    stats: DeviceStats,
    data_device: u64,
    space: Option<Space>,
}

/// The time from going read-write until the superblock is read-only again.
#[derive(Debug)]
struct WritablePeriod {
    /// The root directory, opened before anything was written: it reports every lost write.
    root: OwnedFd,
    id: MountId,
    /// ext4's error count at the start, or when the journal was last found alive.
    errors: Option<u64>,
}

impl Storage {
    /// `group` receives the filesystem's events.
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
            watch: EventWatch(group),
            period: None,
            validated: None,
            writable_without_session: false,
            failed_mount: None,
            searcher: Searcher::default(),
            info: StorageInfo::default(),
            stats: DeviceStats::default(),
            data_device: 0,
            space: None,
        }
    }

    /// Claims the device, if it is mounted, so that no second daemon manages it.
    ///
    /// # Errors
    /// Another daemon already manages it.
    pub(crate) fn claim(&mut self) -> Result<(), Problem> {
        match inspect::find(&self.location) {
            Ok(found) => self.claim_device(&found.mount),
            Err(_) => Ok(()),
        }
    }

    /// Claims the device of `mount`, and releases the one before it.
    fn claim_device(&mut self, mount: &Mount) -> Result<(), Problem> {
        if self.lock.as_ref().map(|lock| lock.device) != Some(mount.device) {
            self.lock = None;
            self.lock = Some(DeviceLock::wait(&self.socket, mount, self.owner.uid)?);
        }
        Ok(())
    }

    /// Searches for what keeps the storage from going read-only.
    pub(crate) fn find_holders(&mut self) -> Vec<Holder> {
        match &self.period {
            Some(period) => self.searcher.find(period.root.as_fd()),
            None => inspect::find(&self.location)
                .map_or(Vec::new(), |found| self.searcher.find(found.root.as_fd())),
        }
    }

    /// What the last inspection found.
    pub(crate) fn info(&self) -> &StorageInfo {
        &self.info
    }

    /// `st_dev` of the data directory when the storage was last made writable.
    pub(crate) fn data_device(&self) -> u64 {
        self.data_device
    }

    /// The free space after the last inspection, sync or remount; `None` if nothing is mounted.
    pub(crate) fn space(&self) -> Option<Space> {
        self.space
    }

    pub(crate) fn counters(&mut self) -> Counters {
        self.stats.read()
    }

    /// What ext4 has counted; `None` for another filesystem.
    pub(crate) fn ext4_stats(&self) -> Option<Ext4Stats> {
        self.stats.ext4()
    }
}
