//! Switches the superblock and syncs, through one descriptor that is open while it is writable.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::directories;
use super::health::{Health, Inspection, Remount, Text};
use super::inspect::{self, MountedStorage, repair_hint};
use super::{Storage, WritablePeriod, stats};
use crate::escape::escape_path;
use crate::problem::Problem;
use crate::sys::file;
use crate::sys::mount::{Mode, switch_superblock};

impl Storage {
    /// Inspects the storage; if it is ready, makes it writable and opens a writable period.
    pub(crate) fn make_writable(&mut self) -> Inspection {
        let found = match self.inspect_mount() {
            Ok(found) => found,
            Err(inspection) => return inspection,
        };
        let root = found.root.as_fd();
        let was_writable = !found.mount.superblock_read_only();
        // Checked before the remount: refusing the session then wears nothing.
        if let Err(problem) = directories::check(root, &self.location, self.owner) {
            return Inspection::new(Health::Unprepared(problem.into()), was_writable);
        }
        let errors = stats::error_count(found.mount.device);
        if let Err(error) = self.switch(root, Mode::ReadWrite) {
            let problem = self.explain_refusal(Mode::ReadWrite, &error);
            return Inspection::new(Health::Failed(problem.into()), was_writable);
        }
        match directories::repair(root, &self.location, self.owner) {
            Ok(device) => self.report.data_device = device,
            Err(problem) => return Inspection::new(Health::Unprepared(problem.into()), true),
        }
        self.watch_events(root, Mode::ReadWrite);
        self.period = Some(WritablePeriod {
            errors,
            root: found.root,
            id: found.id,
        });
        Inspection::new(Health::Ready, true)
    }

    /// Remounts read-only, then syncs through the descriptor that was opened before the remount:
    /// ext4 reports a lost write once per descriptor, and a later one would not see it.
    ///
    /// The writable period ends, unless the kernel says busy, nothing was lost and `release` is
    /// not set. Without a period, none begins: only [`Storage::make_writable`] checks all it needs.
    /// A busy storage is not synced if no session waits for the result (`awaited`).
    pub(crate) fn make_read_only(
        &mut self,
        release: bool,
        awaited: bool,
    ) -> (Remount, Result<(), Text>) {
        let in_period = self.period.is_some();
        let Some(period) = self.period.take().or_else(|| self.find_validated()) else {
            return (Remount::Done, Ok(()));
        };
        let root = period.root.as_fd();
        let switched = self.switch(root, Mode::ReadOnly);
        let sync = if is_busy(&switched) && !awaited && !release {
            Ok(()) // the descriptor stays open and reports a lost write at the next sync
        } else {
            self.sync_period(&period, switched.is_ok())
        };
        self.report.space = file::space(root).ok();
        let remount = match switched {
            Ok(()) => {
                self.writable_without_session = false;
                self.watch_events(root, Mode::ReadOnly);
                Remount::Done
            }
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Remount::Busy,
            Err(error) => {
                let text: Text = self.explain_refusal(Mode::ReadOnly, &error).into();
                if is_permanent(&error) {
                    self.remember_failure(&period, &text);
                }
                Remount::Failed(text)
            }
        };
        if in_period && remount == Remount::Busy && sync.is_ok() && !release {
            // A session that is granted while the storage is still writable does not check the
            // directories. Not done while one is open, because it may be replacing them.
            if let Err(problem) = directories::repair(root, &self.location, self.owner) {
                log::warn!("{problem}");
            }
            self.period = Some(period);
        }
        (remount, sync)
    }

    /// Flushes to the card what was written so far.
    pub(crate) fn sync(&mut self) -> Result<(), Text> {
        let Some(period) = self.period.take() else {
            return Err("the storage is not writable".into());
        };
        let result = self.sync_period(&period, false);
        self.report.space = file::space(period.root.as_fd()).ok();
        self.period = Some(period);
        result
    }

    /// Finds a storage that became writable before this daemon started, or by hand. A mount that
    /// was not validated may belong to somebody else and is not switched.
    fn find_validated(&self) -> Option<WritablePeriod> {
        let found = inspect::find(&self.location).ok()?;
        (self.validated == Some(found.id)).then_some(WritablePeriod {
            errors: None,
            root: found.root,
            id: found.id,
        })
    }

    fn switch(&mut self, root: BorrowedFd<'_>, mode: Mode) -> io::Result<()> {
        let mut switched = switch_superblock(root, mode);
        if mode == Mode::ReadOnly && is_busy(&switched) {
            // From now on a closing writer sends an event. The second try covers a writer that
            // closed before.
            self.watch_events(root, mode);
            switched = switch_superblock(root, mode);
        }
        match switched {
            Ok(()) => self.report.remounts += 1,
            Err(_) => self.report.failed_remounts += 1,
        }
        switched
    }

    /// Syncs through the period's descriptor. Asks the journal too if the superblock is read-only:
    /// then its journal is empty, and asking writes nothing.
    fn sync_period(&mut self, period: &WritablePeriod, read_only: bool) -> Result<(), Text> {
        let root = period.root.as_fd();
        let error = match file::sync_filesystem(root) {
            Err(error) => format!("data could not be flushed to the card: {error}"),
            Ok(()) if read_only => match inspect::journal_error(root) {
                Some(error) => error,
                None => return Ok(()),
            },
            Ok(()) => return Ok(()),
        };
        let what = format!(
            "{}: {error}; what was written since it was last read-only may be lost",
            escape_path(&self.location.mount)
        );
        let text: Text = Problem::new(what)
            .hint(repair_hint(&self.report.device))
            .into();
        self.failed_mount = Some((period.id, text.clone()));
        Err(text)
    }

    /// Remembers a permanent failure, unless this mount has failed before. A superblock that the
    /// kernel shut down may still read `rw`, and making it writable once more succeeds.
    fn remember_failure(&mut self, period: &WritablePeriod, text: &Text) {
        match &self.failed_mount {
            Some((id, _)) if *id == period.id => {}
            _ => self.failed_mount = Some((period.id, text.clone())),
        }
    }

    /// Explains why the kernel refused to switch the superblock. The kernel never remounts a
    /// filesystem that it shut down, and no inspection may have seen that yet.
    fn explain_refusal(&self, mode: Mode, error: &io::Error) -> Problem {
        let found = inspect::find(&self.location).ok();
        if let Some(fault) = found.as_ref().and_then(MountedStorage::fault) {
            return fault;
        }
        let read_only = mode == Mode::ReadOnly;
        // Kernels without `emergency_ro` still show plain `rw`.
        let shut_down = read_only && error.raw_os_error() == Some(libc::EROFS);
        if let Some(found) = found.filter(|_| shut_down) {
            return found.damaged(&format!("the kernel shut the filesystem down: {error}"));
        }
        let what = format!(
            "{} ({}) cannot be made {}",
            escape_path(&self.location.mount),
            self.report.device,
            if read_only { "read-only" } else { "read-write" }
        );
        let problem = Problem::io(what, error);
        match refusal_hint(error) {
            _ if read_only && is_permanent(error) => problem.hint(repair_hint(&self.report.device)),
            Some(hint) => problem.hint(hint),
            None if problem.hint.is_none() => problem.hint("see `dmesg`"),
            None => problem,
        }
    }
}

fn refusal_hint(error: &io::Error) -> Option<&'static str> {
    Some(match error.raw_os_error()? {
        libc::ENOSYS => "this needs Linux 5.12 or later",
        libc::EPERM => "the daemon needs CAP_SYS_ADMIN",
        libc::EROFS | libc::EACCES => {
            "is the card write-protected, or the device set read-only? `dmesg` may say more"
        }
        libc::EBUSY => "is it frozen (fsfreeze(8))? `fsfreeze -u` ends that",
        _ => return None,
    })
}

/// Whether the filesystem or the device has failed, and not a temporary shortage.
fn is_permanent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EROFS | libc::EUCLEAN)
    )
}

fn is_busy(result: &io::Result<()>) -> bool {
    matches!(result, Err(error) if error.raw_os_error() == Some(libc::EBUSY))
}
