//! Switches the superblock and syncs, through a descriptor that stays open while it is writable.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::directories;
use super::health::{Health, Inspection, Remount, Text};
use super::inspect::{self, repair_hint};
use super::{Storage, WritablePeriod, stats};
use crate::escape::escape_path;
use crate::problem::{Problem, ProblemKind, reason};
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
        // Before the remount, so that a refused session writes nothing to the card.
        let checked = match directories::check(root, &self.location, self.owner) {
            Ok(device) => device,
            Err(problem) => {
                return Inspection::not_ready(Health::Unprepared, problem, was_writable);
            }
        };
        let errors = stats::error_count(found.mount.device);
        let switched = self.switch(root, Mode::ReadWrite);
        self.refused_busy = is_busy(&switched);
        if let Err(error) = switched {
            let problem = self.explain_refusal(Mode::ReadWrite, &error);
            return Inspection::not_ready(Health::Failed, problem, was_writable);
        }
        let repair = || directories::repair(root, &self.location, self.owner);
        match checked.map_or_else(repair, Ok) {
            Ok(device) => self.report.data_device = device,
            Err(problem) => return Inspection::not_ready(Health::Unprepared, problem, true),
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
    /// The writable period ends, unless the kernel may allow it later, nothing was lost and `release` is
    /// not set. If it may, the storage is synced only if a session waits for the result (`awaited`) or
    /// `release` is set. Never begins a period: only [`Storage::make_writable`] makes the necessary checks.
    pub(crate) fn make_read_only(
        &mut self,
        release: bool,
        awaited: bool,
    ) -> (Remount, Result<(), Text>) {
        let in_period = self.period.is_some();
        let period = match self.period.take() {
            Some(period) => Ok(Some(period)),
            None => self.find_validated(),
        };
        let period = match period {
            Ok(Some(period)) => period,
            Ok(None) => return (Remount::Done, Ok(())),
            Err(problem) => return (Remount::Refused(problem.into()), Ok(())),
        };
        let root = period.root.as_fd();
        let remount = self.switch_to_read_only(&period);
        let sync = if remount.may_be_writable() && !awaited && !release {
            Ok(()) // the descriptor stays open, and the next sync reports a lost write
        } else {
            self.sync_period(&period, remount == Remount::Done)
        };
        if in_period && remount.may_be_writable() && sync.is_ok() && !release {
            // A session that is granted while the storage is still writable does not check the
            // directories. Do not repair during a session, because it may be replacing them.
            let mut checked = directories::check(root, &self.location, self.owner);
            // On a frozen filesystem a repair would wait for the end of the freeze.
            if matches!(checked, Ok(None)) && self.find_freeze().is_none() {
                checked = directories::repair(root, &self.location, self.owner).map(Some);
            }
            if let Err(problem) = checked {
                log::warn!("{problem}");
            }
            self.period = Some(period);
        }
        (remount, sync)
    }

    /// Flushes all written data to the card.
    pub(crate) fn sync(&mut self) -> Result<(), Text> {
        let Some(period) = self.period.take() else {
            return Err("the storage is not writable".into());
        };
        let result = self.sync_period(&period, false);
        self.period = Some(period);
        result
    }

    /// Finds a storage that became writable by hand, or before this daemon started. A mount that was
    /// not validated is not switched, because it may serve another purpose.
    ///
    /// # Errors
    /// A shortage, so that the storage may be there.
    fn find_validated(&self) -> Result<Option<WritablePeriod>, Problem> {
        match inspect::find(&self.location) {
            Ok(found) if self.validated == Some(found.id) => Ok(Some(WritablePeriod {
                errors: None,
                root: found.root,
                id: found.id,
            })),
            Err(problem) if problem.kind == ProblemKind::Temporary => Err(problem),
            _ => Ok(None),
        }
    }

    fn switch_to_read_only(&mut self, period: &WritablePeriod) -> Remount {
        let root = period.root.as_fd();
        match self.switch(root, Mode::ReadOnly) {
            Ok(()) => {
                self.writable_without_session = false;
                self.held = false;
                self.watch_events(root, Mode::ReadOnly);
                Remount::Done
            }
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Remount::Busy,
            Err(error) => {
                let problem = self.explain_refusal(Mode::ReadOnly, &error);
                if problem.kind == ProblemKind::Temporary {
                    return Remount::Refused(problem.into());
                }
                let text: Text = problem.into();
                if is_permanent(&error) {
                    // A superblock that the kernel shut down may still show `rw`, and switching it
                    // to read-write would succeed.
                    self.failed_mount.get_or_insert((period.id, text.clone()));
                }
                Remount::Failed(text)
            }
        }
    }

    fn switch(&mut self, root: BorrowedFd<'_>, mode: Mode) -> io::Result<()> {
        let mut switched = switch_superblock(root, mode);
        if mode == Mode::ReadOnly && is_busy(&switched) {
            // A writer that closes after this call sends an event. The second attempt covers writers
            // that closed before.
            self.watch_events(root, mode);
            switched = switch_superblock(root, mode);
        }
        match switched {
            Ok(()) => self.report.remounts += 1,
            Err(_) => self.report.failed_remounts += 1,
        }
        switched
    }

    /// Syncs through the period's descriptor. Also checks the journal if the superblock is read-only:
    /// then the journal is empty, and the check writes nothing.
    fn sync_period(&mut self, period: &WritablePeriod, read_only: bool) -> Result<(), Text> {
        let root = period.root.as_fd();
        let lost = match file::sync_filesystem(root) {
            Err(error) => Some(format!(
                "data could not be flushed to the card: {}",
                reason(&error)
            )),
            Ok(()) if read_only => inspect::journal_error(root),
            Ok(()) => None,
        };
        self.report.space = file::space(root).ok();
        let Some(error) = lost else {
            return Ok(());
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

    /// Returns a problem if the filesystem is frozen. The kernel then refuses every switch with EBUSY, also
    /// one to the current mode, which otherwise succeeds and changes nothing.
    pub(super) fn find_freeze(&self) -> Option<Problem> {
        let found = inspect::find(&self.location).ok()?;
        if self.validated != Some(found.id) {
            return None;
        }
        let current = match found.mount.superblock_read_only() {
            true => Mode::ReadOnly,
            false => Mode::ReadWrite,
        };
        let mount = escape_path(&self.location.mount);
        is_busy(&switch_superblock(found.root.as_fd(), current)).then(|| {
            Problem::new(format!("{mount} is frozen (fsfreeze(8))"))
                .hint(format!("run `fsfreeze -u {mount}`"))
                .kind(ProblemKind::Temporary)
        })
    }

    /// Explains why the kernel refused to switch the superblock. Inspects first: the kernel never
    /// remounts a filesystem that it shut down.
    fn explain_refusal(&self, mode: Mode, error: &io::Error) -> Problem {
        let found = inspect::find(&self.location);
        if let Some(fault) = found.ok().and_then(|found| found.fault()) {
            return fault;
        }
        let busy = error.raw_os_error() == Some(libc::EBUSY);
        if let Some(freeze) = busy.then(|| self.find_freeze()).flatten() {
            return freeze;
        }
        let (mount, device) = (escape_path(&self.location.mount), &self.report.device);
        let what = match (mode, error.raw_os_error()) {
            // Kernels without `emergency_ro` still show plain `rw`.
            (Mode::ReadOnly, Some(libc::EROFS)) => {
                format!("{mount}: the kernel shut the filesystem down")
            }
            (Mode::ReadOnly, _) => format!("{mount} ({device}) cannot be made read-only"),
            (Mode::ReadWrite, _) => format!("{mount} ({device}) cannot be made read-write"),
        };
        let mut problem = Problem::io(what, error);
        // As long as it is writable, only a lasting failure ends the attempts to make it read-only.
        if busy || (mode == Mode::ReadOnly && !is_permanent(error)) {
            problem.kind = ProblemKind::Temporary;
        }
        let hint = match error.raw_os_error() {
            _ if mode == Mode::ReadOnly && is_permanent(error) => &repair_hint(device),
            Some(libc::ENOSYS) => "this needs Linux 5.12 or later",
            Some(libc::EPERM) => "the daemon needs CAP_SYS_ADMIN",
            Some(libc::EROFS | libc::EACCES) => {
                "is the card write-protected, or the device set read-only? `dmesg` may say more"
            }
            _ if problem.hint.is_some() => return problem,
            _ => "see `dmesg`",
        };
        problem.hint(hint)
    }
}

/// Whether the filesystem or the device has failed, rather than a temporary shortage.
fn is_permanent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EROFS | libc::EUCLEAN)
    )
}

fn is_busy(result: &io::Result<()>) -> bool {
    matches!(result, Err(error) if error.raw_os_error() == Some(libc::EBUSY))
}
