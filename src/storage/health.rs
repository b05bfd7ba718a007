//! The storage's health: inspects it, and defines the results of inspections and remounts.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::inspect::{self, Flag, MountedStorage};
use super::{Storage, stats};
use crate::escape::{escape, escape_path};
use crate::problem::{Problem, ProblemKind};
use crate::sys::mount::{Mode, clear_mount_read_only};
use crate::sys::{current, file};

/// A reason that users read.
pub(crate) type Text = Arc<str>;

impl From<Problem> for Text {
    fn from(problem: Problem) -> Text {
        problem.to_string().into()
    }
}

/// Whether the storage can serve sessions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Health {
    Ready,
    Absent(Text),
    /// Mounted, but the mount's own flag forbids writing, or the mount must not be switched.
    Unprepared(Text),
    /// The kernel shut it down, data was lost, or a remount failed. Only a new mount helps, unless the
    /// inspection says that the failure is temporary.
    Failed(Text),
}

/// The result of an inspection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Inspection {
    pub health: Health,
    /// The superblock is writable, so it must go read-only if no session is open.
    pub writable: bool,
    /// Something that may pass by itself, such as a shortage or a freeze, is why the storage is not
    /// ready. `writable` may then be false only because it is unknown.
    pub temporary: bool,
}

/// The result of a remount to read-only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Remount {
    Done,
    /// EBUSY: something still holds the filesystem writable.
    Busy,
    /// Another refusal that may pass, such as a shortage. The filesystem is still writable.
    Refused(Text),
    /// The filesystem or its device has failed.
    Failed(Text),
}

impl Remount {
    /// Whether the filesystem may still be writable, so that another attempt is needed.
    pub(crate) fn may_be_writable(&self) -> bool {
        matches!(self, Remount::Busy | Remount::Refused(_))
    }
}

impl Inspection {
    pub(super) fn new(health: Health, writable: bool) -> Inspection {
        Inspection {
            health,
            writable,
            temporary: false,
        }
    }

    /// Returns the inspection of a storage that is not ready. `health` is the variant for its problem.
    pub(super) fn not_ready(
        health: fn(Text) -> Health,
        problem: Problem,
        writable: bool,
    ) -> Inspection {
        let temporary = problem.kind == ProblemKind::Temporary;
        Inspection {
            temporary,
            ..Inspection::new(health(problem.into()), writable)
        }
    }
}

impl Storage {
    /// Inspects the storage, and prepares its mount if this process can.
    pub(crate) fn inspect(&mut self) -> Inspection {
        let inspection = match self.inspect_mount() {
            Ok(found) => self.inspect_freeze(&found),
            Err(inspection) => inspection,
        };
        let without_session =
            inspection.health == Health::Ready && inspection.writable && self.period.is_none();
        if without_session && !self.writable_without_session {
            log::warn!(
                "{} is writable although no session is open: making it read-only",
                escape_path(&self.location.mount)
            );
        }
        self.writable_without_session = without_session;
        inspection
    }

    /// Checks whether a freeze that refused a session has ended.
    fn inspect_freeze(&mut self, found: &MountedStorage) -> Inspection {
        let writable = !found.mount.superblock_read_only();
        let freeze = self.refused_busy.then(|| self.find_freeze()).flatten();
        self.refused_busy = freeze.is_some();
        match freeze {
            Some(freeze) => Inspection::not_ready(Health::Failed, freeze, writable),
            None => Inspection::new(Health::Ready, writable),
        }
    }

    /// Finds the mount and checks everything that a session needs of it.
    ///
    /// # Errors
    /// An inspection whose health is not [`Health::Ready`].
    pub(super) fn inspect_mount(&mut self) -> Result<MountedStorage, Inspection> {
        let found = inspect::find(&self.location).map_err(|problem| {
            if problem.kind != ProblemKind::Temporary {
                // Before Linux 6.8 the next mount may get the same number.
                self.validated = None;
                self.failed_mount = None;
            }
            Inspection::not_ready(Health::Absent, problem, false)
        })?;
        if self
            .period
            .as_ref()
            .is_some_and(|period| period.id != found.id)
        {
            return Err(self.replaced());
        }
        self.report.device = escape_path(&found.mount.source);
        self.report.fstype = escape(&found.mount.fstype).to_string();
        self.report.space = file::space(found.root.as_fd()).ok();
        self.written.follow(found.mount.device);
        self.validate(&found)
            .map_err(|problem| Inspection::not_ready(Health::Unprepared, problem, false))?;
        self.inspect_health(&found)?;
        self.inspect_mount_flag(&found)?;
        if self.period.is_none() {
            self.watch_events(found.root.as_fd(), Mode::ReadOnly);
        }
        Ok(found)
    }

    /// Returns the inspection for a mount that replaced the one that was made writable.
    fn replaced(&self) -> Inspection {
        let mount = escape_path(&self.location.mount);
        let problem = Problem::new(format!(
            "{mount} was mounted again, or covered by another mount, during a session"
        ))
        .hint(format!("see `findmnt {mount}`, and run the command again"));
        Inspection::new(Health::Absent(problem.into()), false)
    }

    /// Checks a new mount and claims its device.
    fn validate(&mut self, found: &MountedStorage) -> Result<(), Problem> {
        if self.validated != Some(found.id) {
            found.check_switchable(&self.location)?;
            self.claim_device(found)?;
            self.validated = Some(found.id);
        }
        Ok(())
    }

    /// Checks that the kernel did not shut the filesystem down and that no data was lost.
    fn inspect_health(&mut self, found: &MountedStorage) -> Result<(), Inspection> {
        let writable = !found.mount.superblock_read_only();
        self.failed_mount.take_if(|(id, _)| *id != found.id);
        if let Some(fault) = found.fault() {
            let writable = writable && found.mount.shut_down().is_none();
            return Err(Inspection::new(Health::Failed(fault.into()), writable));
        }
        if let Some(fault) = self.inspect_errors(found) {
            let text: Text = fault.into();
            self.failed_mount = Some((found.id, text.clone()));
            return Err(Inspection::new(Health::Failed(text), false));
        }
        match &self.failed_mount {
            Some((_, text)) => Err(Inspection::new(Health::Failed(text.clone()), writable)),
            None => Ok(()),
        }
    }

    /// Finds an ext4 error that mountinfo does not show: some kernels, such as 6.1 and 6.12, still show
    /// plain `rw`. Checks the journal only if the error count grew, because the check writes a dirty
    /// journal back.
    fn inspect_errors(&mut self, found: &MountedStorage) -> Option<Problem> {
        let period = self.period.as_mut()?;
        let errors = stats::error_count(found.mount.device);
        if errors <= period.errors || found.mount.superblock_read_only() {
            return None;
        }
        // Do not check the journal again for an error that it survived.
        period.errors = errors;
        let aborted = inspect::journal_error(found.root.as_fd())?;
        Some(found.damaged(&format!("the kernel shut the filesystem down: {aborted}")))
    }

    /// Checks the mount's own read-only flag, and clears it if this process can.
    fn inspect_mount_flag(&mut self, found: &MountedStorage) -> Result<(), Inspection> {
        self.report.lost_preparation = false;
        if found.flag == Flag::Clear {
            self.prepared = true;
            return Ok(());
        }
        let mount = escape_path(&self.location.mount);
        let mut kind = ProblemKind::Other;
        if found.flag == Flag::SetHere && current::effective_uid() == 0 {
            match clear_mount_read_only(found.root.as_fd(), !self.location.atime_named) {
                Ok(()) => {
                    log::info!("prepared {mount}");
                    return Ok(());
                }
                Err(error) => {
                    let problem = Problem::io(format!("cannot prepare {mount}"), &error);
                    log::warn!("{problem}");
                    kind = problem.kind;
                }
            }
        }
        self.report.lost_preparation = self.prepared;
        let problem = Problem::new(format!("the mount on {mount} is itself read-only"))
            .hint("run `pst prepare` as root")
            .kind(kind);
        let writable = !found.mount.superblock_read_only();
        Err(Inspection::not_ready(Health::Unprepared, problem, writable))
    }
}
