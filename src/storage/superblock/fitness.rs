//! Whether the storage is fit for use, as it is found at its place: which filesystem it is, whose,
//! and what could speak against it.

use std::os::fd::AsFd;

use super::super::health::{Health, Inspection};
use super::super::inspect::{self, MountedStorage, escape_path};
use super::super::mounts::Flag;
use super::Storage;
use crate::sys::current;
use crate::sys::mount::{Mode, clear_mount_read_only};

impl Storage {
    /// Finds the storage, and everything that could speak against using it.
    pub(super) fn survey(&mut self) -> Result<MountedStorage, Inspection> {
        let not = |health| Inspection {
            health,
            writable: false,
        };
        let mut found = inspect::find(&self.place).map_err(|health| {
            // Before Linux 6.8 the next mount may get the same number.
            self.accepted = None;
            self.spoiled = None;
            self.space = None;
            not(health)
        })?;
        if let Some(period) = &self.period {
            if period.id != found.id {
                self.space = None;
                let text = format!(
                    "{} was mounted anew, or something else over it, during a session; see \
                     `findmnt {0}`, and run the command again",
                    escape_path(&self.place.mount)
                );
                return Err(not(Health::Absent(text.into())));
            }
        }
        self.facts = found.facts();
        self.space = found.space;
        self.meter.follow(found.mount.device);
        if self.accepted != Some(found.id) {
            if let Some(text) = found.refusal(&self.place) {
                return Err(not(Health::Unprepared(text.into())));
            }
            self.claim
                .take(&found.mount)
                .map_err(|text| not(Health::Unprepared(text.into())))?;
            self.accepted = Some(found.id);
        }
        let writable = !found.mount.superblock_read_only();
        if let Some(text) = found.illness() {
            let writable = writable && found.mount.given_up().is_none();
            return Err(Inspection {
                health: Health::Failed(text.into()),
                writable,
            });
        }
        if let Some(error) = self.silent_error(&found) {
            let text = found.repair(&format!("the kernel has given it up: {error}"));
            self.spoiled = Some((found.id, text.clone()));
            return Err(not(Health::Failed(text.into())));
        }
        if let Some((id, text)) = &self.spoiled {
            if *id == found.id {
                let health = Health::Failed(text.clone().into());
                return Err(Inspection { health, writable });
            }
            self.spoiled = None;
        }
        if found.flag == Flag::SetHere && current::effective_uid() == 0 {
            self.prepare_again(&mut found);
        }
        if found.flag != Flag::Clear {
            let text = format!(
                "the mount on {} is read-only by itself: run `pst prepare` as root",
                escape_path(&self.place.mount)
            );
            return Err(Inspection {
                health: Health::Unprepared(text.into()),
                writable,
            });
        }
        if self.period.is_none() {
            self.guard.set(found.root.as_fd(), Mode::ReadOnly);
        }
        Ok(found)
    }

    /// Some kernels show nothing where ext4 has given up (6.1 and 6.12 among them): it still reads
    /// `rw`. Its count of errors tells, and then the journal, which is not asked without need: that
    /// writes it back.
    fn silent_error(&mut self, found: &MountedStorage) -> Option<String> {
        let period = self.period.as_mut()?;
        let counted = self.meter.errors();
        if counted <= period.errors || found.mount.superblock_read_only() {
            return None;
        }
        let error = inspect::journal_error(found.root.as_fd());
        // An error that it survived is not asked about again.
        period.errors = counted;
        error
    }

    fn prepare_again(&self, found: &mut MountedStorage) {
        match clear_mount_read_only(found.root.as_fd(), !self.place.atime_named) {
            Ok(()) => {
                log::info!("prepared {}", escape_path(&self.place.mount));
                found.flag = Flag::Clear;
            }
            Err(error) => log::warn!("cannot prepare {}: {error}", escape_path(&self.place.mount)),
        }
    }
}
