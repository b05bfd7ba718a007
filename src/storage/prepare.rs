//! `pst prepare`: clears a new mount's own read-only flag, so that only the superblock decides in every
//! mount namespace. Run as root, in the host's namespace, after each mount.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;

use super::directories::{self, Owner};
use super::inspect::{self, Flag, MountedStorage};
use super::lock::{DeviceLock, lock_path};
use crate::config::{Config, StorageLocation};
use crate::escape::escape_path;
use crate::logging;
use crate::problem::Problem;
use crate::sys::file;
use crate::sys::mount::{Mode, clear_mount_read_only, switch_superblock};

pub(crate) fn main(config: Config) -> ExitCode {
    logging::init(None);
    match prepare(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            log::error!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn prepare(config: &Config) -> Result<(), Problem> {
    let location = config.storage_location()?;
    if let Some(warning) = config.extra_entries() {
        log::warn!("{warning}");
    }
    let owner = Owner::of(&location)?;
    let found = inspect::find(&location)?;
    // Before anything fails: this creates the lock file, and a daemon that is not root cannot.
    let lock = DeviceLock::take(&lock_path(&found, &config.socket), owner.uid);
    found.check_switchable(&location)?;
    let lock = lock?;
    let point = escape_path(&location.mount);
    if found.flag == Flag::SetInHost {
        let what = format!("{point} can be prepared only in the host's mount namespace");
        return Err(Problem::new(what).hint("run `pst prepare` there"));
    }
    clear_mount_read_only(found.root.as_fd(), !location.atime_named).map_err(|error| {
        let what = format!("cannot clear the read-only flag of the mount on {point}");
        Problem::io(what, &error).hint(match error.raw_os_error() {
            Some(libc::EPERM) => "run this as root, in the namespace where it was mounted",
            Some(libc::ENOSYS) => "this needs Linux 5.12 or later",
            _ => "see `dmesg`",
        })
    })?;
    log::info!("{point} is prepared: its superblock alone decides whether it is writable");
    if let Some(fault) = found.fault() {
        log::warn!("{fault}");
        return Ok(());
    }
    prepare_directories(&found, &location, owner, lock.is_none())
}

/// Repairs the directories. Makes the storage writable only if that is needed and no daemon runs.
fn prepare_directories(
    found: &MountedStorage,
    location: &StorageLocation,
    owner: Owner,
    daemon_runs: bool,
) -> Result<(), Problem> {
    if directories::check(found.root.as_fd(), location, owner)?.is_some() {
        return Ok(());
    }
    let root = escape_path(&location.root);
    if daemon_runs {
        log::warn!(
            "{root} or its data directory needs repair, but a daemon is running: it tries at the \
             next session; if that fails, stop it and run `pst prepare` again"
        );
        return Ok(());
    }
    repair(found.root.as_fd(), location, owner)?;
    log::info!(
        "{root} and its data directory now belong to {}:{}",
        location.user,
        location.group
    );
    Ok(())
}

fn repair(mount: BorrowedFd<'_>, location: &StorageLocation, owner: Owner) -> Result<(), Problem> {
    let point = escape_path(&location.mount);
    let failed = |what, error: io::Error| {
        Problem::io(format!("{point} cannot be {what}"), &error).hint("see `dmesg`")
    };
    switch_superblock(mount, Mode::ReadWrite).map_err(|error| failed("made writable", error))?;
    let repaired = directories::repair(mount, location, owner).map(drop);
    let back = switch_superblock(mount, Mode::ReadOnly);
    let back = back.map_err(|error| failed("made read-only again", error));
    let sync = file::sync_filesystem(mount);
    let sync = sync.map_err(|error| failed("flushed to the card", error));
    repaired.and(back).and(sync)
}
