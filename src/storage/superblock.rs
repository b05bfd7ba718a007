//! The storage as the daemon's worker has it: looks, switches of the superblock, syncs, and the
//! one descriptor that is held while it is writable.

mod fitness;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use super::directories::{self, Owner, Trouble};
use super::guard::Guard;
use super::health::{Health, Inspection, Remount, Text};
use super::holders::Holder;
use super::inspect::{self, MountedStorage, StorageInfo, escape_path};
use super::lock::Claim;
use super::meter::{Counts, Meter};
use super::search::Searcher;
use crate::config::StorageLocation;
use crate::shortage;
use crate::sys::fanotify::Group;
use crate::sys::file::{self, MountId, Space};
use crate::sys::mount::{Mode, switch_superblock};

/// From going read-write to read-only again.
#[derive(Debug)]
struct Period {
    /// Opened before anything was written, so that it reports every lost write.
    root: OwnedFd,
    id: MountId,
    /// What the filesystem had counted before, or when its journal was last asked and lived.
    errors: Option<u64>,
}

/// The storage. One thread has it.
#[derive(Debug)]
pub(crate) struct Storage {
    place: StorageLocation,
    owner: Owner,
    claim: Claim,
    guard: Guard,
    period: Option<Period>,
    /// The mount that passed the whole check.
    accepted: Option<MountId>,
    /// It was writable at the last look, though nobody had a session.
    unheld: bool,
    /// The mount that lost data, and why it is not called well until it is mounted anew.
    spoiled: Option<(MountId, String)>,
    searcher: Searcher,
    facts: StorageInfo,
    meter: Meter,
    /// `st_dev` of the data root, while writable.
    data_device: u64,
    space: Option<Space>,
}

impl Storage {
    /// The storage at `place`; its lock lies beside `socket`. `group` is where its filesystem's
    /// events are to come.
    pub(crate) fn new(
        place: StorageLocation,
        owner: Owner,
        socket: PathBuf,
        group: Option<Group>,
    ) -> Storage {
        Storage {
            place,
            owner,
            claim: Claim::new(socket, owner.uid),
            guard: Guard(group),
            period: None,
            accepted: None,
            unheld: false,
            spoiled: None,
            searcher: Searcher::default(),
            facts: StorageInfo::default(),
            meter: Meter::default(),
            data_device: 0,
            space: None,
        }
    }

    /// What was last seen there.
    pub(crate) fn facts(&self) -> &StorageInfo {
        &self.facts
    }

    /// `st_dev` of the data root, as of the last time it was made writable.
    pub(crate) fn data_device(&self) -> u64 {
        self.data_device
    }

    /// How much was free when it was last looked at, synced or remounted; `None` where there is
    /// no storage.
    pub(crate) fn space(&self) -> Option<Space> {
        self.space
    }

    /// What it has cost so far.
    pub(crate) fn counts(&mut self) -> Counts {
        self.meter.read()
    }

    /// Looks whether the storage is there, prepared and healthy; prepares it if this process can.
    pub(crate) fn look(&mut self) -> Inspection {
        match self.survey() {
            Ok(found) => {
                let writable = !found.mount.superblock_read_only();
                let unheld = writable && self.period.is_none();
                let before = std::mem::replace(&mut self.unheld, unheld);
                if unheld && !before {
                    log::warn!(
                        "{} is writable though nobody has a session: making it read-only",
                        escape_path(&self.place.mount)
                    );
                }
                Inspection {
                    writable,
                    health: Health::Ready,
                }
            }
            Err(seen) => {
                self.unheld = false;
                seen
            }
        }
    }

    pub(crate) fn make_writable(&mut self) -> Inspection {
        let found = match self.survey() {
            Ok(found) => found,
            Err(seen) => return seen,
        };
        let was_writable = !found.mount.superblock_read_only();
        let unfit = |text: String, writable| Inspection {
            health: Health::Unprepared(text.into()),
            writable,
        };
        // Before anything is written: what would be refused is refused without wear.
        let right = match directories::check(found.root.as_fd(), &self.place, self.owner) {
            Err(Trouble::Error(text)) => return unfit(text, was_writable),
            other => other.ok(),
        };
        let errors = self.meter.errors();
        let switched = switch_superblock(found.root.as_fd(), Mode::ReadWrite);
        self.meter.remounted(switched.is_ok());
        if let Err(error) = switched {
            let text = self.refused(Mode::ReadWrite, &error);
            return Inspection {
                health: Health::Failed(text.into()),
                writable: was_writable,
            };
        }
        let mended = right.map_or_else(
            || directories::mend(found.root.as_fd(), &self.place, self.owner),
            Ok,
        );
        match mended {
            Ok(device) => self.data_device = device,
            Err(text) => return unfit(text, true),
        }
        self.guard.set(found.root.as_fd(), Mode::ReadWrite);
        self.period = Some(Period {
            errors,
            root: found.root,
            id: found.id,
        });
        Inspection {
            health: Health::Ready,
            writable: true,
        }
    }

    /// Remounts read-only, then syncs through the descriptor that was open before, then lets go
    /// of it, unless the kernel says busy, nothing was lost and `release` is not set. What was
    /// not held before is not held after: only [`Storage::make_writable`] makes it fit for that.
    /// Busy, and with nobody to hear of it (`awaited`), it does not sync.
    pub(crate) fn make_read_only(
        &mut self,
        release: bool,
        awaited: bool,
    ) -> (Remount, Result<(), Text>) {
        let held = self.period.is_some();
        let period = match self.period.take() {
            Some(period) => period,
            // Writable before this daemon came, or by somebody's hand.
            None => match inspect::find(&self.place) {
                // What was not looked at yet may be something that is not ours to switch.
                Ok(found) if self.accepted == Some(found.id) => Period {
                    errors: None,
                    root: found.root,
                    id: found.id,
                },
                _ => return (Remount::Done, Ok(())),
            },
        };
        let root = period.root.as_fd();
        let mut result = switch_superblock(root, Mode::ReadOnly);
        if is_busy(&result) {
            // From here on a writer's close is told; one that closed before is caught by this.
            self.guard.set(root, Mode::ReadOnly);
            result = switch_superblock(root, Mode::ReadOnly);
        }
        self.meter.remounted(result.is_ok());
        // What is still written by a leftover is nobody's to hear of; the descriptor that is kept
        // reports it at the next sync.
        let put_off = is_busy(&result) && !awaited && !release;
        let sync = if put_off {
            Ok(())
        } else {
            self.sync_through(root, &period, result.is_ok())
        };
        self.space = file::space(root).ok();
        let remount = match result {
            Ok(()) => {
                self.unheld = false;
                self.guard.set(root, Mode::ReadOnly);
                Remount::Done
            }
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Remount::Busy,
            Err(error) => {
                let text = self.refused(Mode::ReadOnly, &error);
                if is_lasting(&error) {
                    // Where a superblock that was given up still reads `rw`, no look will tell it
                    // again, and to make it writable once more succeeds.
                    let known = self.spoiled.take().filter(|(id, _)| *id == period.id);
                    self.spoiled = known.or_else(|| Some((period.id, text.clone())));
                }
                Remount::Failed(text.into())
            }
        };
        if held && remount == Remount::Busy && sync.is_ok() && !release {
            self.keep_roots(root);
            self.period = Some(period);
        }
        (remount, sync)
    }

    /// Makes the roots anew if somebody removed them, since nobody looks at them before the next
    /// session. Only while there is none: who has one may be about to put another in their place.
    fn keep_roots(&self, mount: BorrowedFd<'_>) {
        let kept = match directories::check(mount, &self.place, self.owner) {
            Ok(_) => return,
            Err(Trouble::NeedsWrite) => directories::mend(mount, &self.place, self.owner).map(drop),
            Err(Trouble::Error(text)) => Err(text),
        };
        if let Err(text) = kept {
            log::warn!("{text}");
        }
    }

    /// Why it is not switched. What the kernel has given up it does not remount, and before it is
    /// asked to that may not have been seen.
    fn refused(&mut self, mode: Mode, error: &io::Error) -> String {
        let found = inspect::find(&self.place).ok();
        if let Some(illness) = found.as_ref().and_then(MountedStorage::illness) {
            return illness;
        }
        match found {
            // It still reads `rw`, and nothing shows it where `given_up` finds no word.
            Some(found) if mode == Mode::ReadOnly && error.raw_os_error() == Some(libc::EROFS) => {
                found.repair(&format!("the kernel has given it up: {error}"))
            }
            _ => format!(
                "{} ({}) cannot be made {}: {error}{}",
                escape_path(&self.place.mount),
                self.facts.device,
                match mode {
                    Mode::ReadOnly => "read-only",
                    Mode::ReadWrite => "read-write",
                },
                match mode {
                    Mode::ReadOnly if is_lasting(error) => format!(
                        "; unmount it, check it (`e2fsck -fy {}`), and mount it again",
                        self.facts.device
                    ),
                    _ => hint(error).into(),
                }
            ),
        }
    }

    /// Puts on the medium what was written so far.
    pub(crate) fn sync(&mut self) -> Result<(), Text> {
        let Some(period) = self.period.take() else {
            return Err("the storage is not held".into());
        };
        let result = self.sync_through(period.root.as_fd(), &period, false);
        self.space = file::space(period.root.as_fd()).ok();
        self.period = Some(period);
        result
    }

    /// Who keeps it from going read-only.
    pub(crate) fn find_holders(&mut self) -> Vec<Holder> {
        let searcher = &mut self.searcher;
        match &self.period {
            Some(period) => searcher.find(period.root.as_fd()),
            None => inspect::find(&self.place)
                .map_or(Vec::new(), |found| searcher.find(found.root.as_fd())),
        }
    }

    /// Claims the device, if it is there, so that no second daemon manages it.
    ///
    /// # Errors
    /// A line that names who has it.
    pub(crate) fn claim(&mut self) -> Result<(), String> {
        match inspect::find(&self.place) {
            Ok(found) => self.claim.take_patiently(&found.mount),
            Err(_) => Ok(()),
        }
    }

    /// Syncs, and asks the journal where that costs nothing or is needed to know.
    fn sync_through(
        &mut self,
        root: BorrowedFd<'_>,
        period: &Period,
        read_only: bool,
    ) -> Result<(), Text> {
        let result = file::sync_filesystem(root);
        let error = match result {
            Err(error) => Some(format!("data could not be written to the medium: {error}")),
            Ok(()) if read_only => inspect::journal_error(root),
            Ok(()) => None,
        };
        let Some(error) = error else {
            return Ok(());
        };
        let text = format!(
            "{}: {error}; what was written since it was last read-only may be lost; \
             unmount it, check it (`e2fsck -fy {}`), and mount it again",
            escape_path(&self.place.mount),
            self.facts.device
        );
        self.spoiled = Some((period.id, text.clone()));
        Err(text.into())
    }
}

/// What to do about a superblock that is not switched.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "; this needs Linux 5.12 or later",
        Some(libc::EPERM) => "; the daemon needs CAP_SYS_ADMIN",
        Some(libc::EROFS | libc::EACCES) => {
            "; is the card write-protected, or the device set read-only? `dmesg` may say more"
        }
        Some(libc::EBUSY) => "; is it frozen (fsfreeze(8))? `fsfreeze -u` ends that",
        _ => match shortage::advice(error) {
            "" => "; see `dmesg`",
            advice => advice,
        },
    }
}

/// Whether it speaks of the filesystem or its medium, and not of what is short for a moment.
fn is_lasting(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EROFS | libc::EUCLEAN)
    )
}

fn is_busy(result: &io::Result<()>) -> bool {
    matches!(result, Err(error) if error.raw_os_error() == Some(libc::EBUSY))
}
