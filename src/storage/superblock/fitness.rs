//! Whether the storage is fit for use, as it is found at its place: which filesystem it is, whose,
//! and what could speak against it.

use std::os::fd::AsFd;

use super::super::condition::{Condition, Seen};
use super::super::mounts::Flag;
use super::super::survey::{self, Found, escape_path};
use super::Storage;
use crate::sys::mount::{Mode, clear_mount_read_only};
use crate::sys::own;

impl Storage {
    /// Finds the storage, and everything that could speak against using it.
    pub(super) fn survey(&mut self) -> Result<Found, Seen> {
        let not = |condition| Seen {
            condition,
            writable: false,
        };
        let mut found = survey::find(&self.place).map_err(|condition| {
            // Before Linux 6.8 the next mount may get the same number.
            self.accepted = None;
            self.spoiled = None;
            self.space = None;
            not(condition)
        })?;
        if let Some(period) = &self.period {
            if period.id != found.id {
                self.space = None;
                let text = format!(
                    "{} was mounted anew, or something else over it, during a session; see \
                     `findmnt {0}`, and run the command again",
                    escape_path(&self.place.mount)
                );
                return Err(not(Condition::Absent(text.into())));
            }
        }
        self.facts = found.facts();
        self.space = found.space;
        self.meter.follow(found.mount.device);
        if self.accepted != Some(found.id) {
            if let Some(text) = found.refusal(&self.place) {
                return Err(not(Condition::Unprepared(text.into())));
            }
            self.claim
                .take(&found.mount)
                .map_err(|text| not(Condition::Unprepared(text.into())))?;
            self.accepted = Some(found.id);
        }
        let writable = !found.mount.superblock_read_only();
        if let Some(text) = found.illness() {
            let writable = writable && found.mount.given_up().is_none();
            return Err(Seen {
                condition: Condition::Failed(text.into()),
                writable,
            });
        }
        if let Some(error) = self.silent_error(&found) {
            let text = found.repair(&format!("the kernel has given it up: {error}"));
            self.spoiled = Some((found.id, text.clone()));
            return Err(not(Condition::Failed(text.into())));
        }
        if let Some((id, text)) = &self.spoiled {
            if *id == found.id {
                let condition = Condition::Failed(text.clone().into());
                return Err(Seen {
                    condition,
                    writable,
                });
            }
            self.spoiled = None;
        }
        if found.flag == Flag::SetHere && own::effective_uid() == 0 {
            self.prepare_again(&mut found);
        }
        if found.flag != Flag::Clear {
            let text = format!(
                "the mount on {} is read-only by itself: run `pst prepare` as root",
                escape_path(&self.place.mount)
            );
            return Err(Seen {
                condition: Condition::Unprepared(text.into()),
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
    fn silent_error(&mut self, found: &Found) -> Option<String> {
        let period = self.period.as_mut()?;
        let counted = self.meter.errors();
        if counted <= period.errors || found.mount.superblock_read_only() {
            return None;
        }
        let error = survey::journal_error(found.root.as_fd());
        // An error that it survived is not asked about again.
        period.errors = counted;
        error
    }

    fn prepare_again(&self, found: &mut Found) {
        match clear_mount_read_only(found.root.as_fd(), !self.place.atime_named) {
            Ok(()) => {
                log::info!("prepared {}", escape_path(&self.place.mount));
                found.flag = Flag::Clear;
            }
            Err(error) => log::warn!("cannot prepare {}: {error}", escape_path(&self.place.mount)),
        }
    }
}
