//! `pst prepare`: clears a fresh mount's own read-only flag, so that from then on the superblock
//! alone decides in every mount namespace. Run as root, in the host's namespace, after each mount.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::ExitCode;

use super::directories::{self, Owner};
use super::inspect::{self, MountedStorage};
use super::lock::{DeviceLock, LockError};
use super::mounts::Flag;
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
    let location = config
        .storage_location()
        .map_err(|error| Problem::new(error.to_string()))?;
    let owner = Owner::of(&location)?;
    let found = inspect::find(&location)?;
    found.check_switchable(&location)?;
    let point = escape_path(&location.mount);
    if found.flag == Flag::SetInHost {
        let what = format!("{point} can be prepared only in the host's mount namespace");
        return Err(Problem::new(what).hint("run `pst prepare` there"));
    }
    clear_mount_read_only(found.root.as_fd(), !location.atime_named)
        .map_err(|error| not_cleared(&point, &error))?;
    log::info!("{point} is prepared: its superblock alone decides whether it is writable");
    if let Some(fault) = found.fault() {
        log::warn!("{fault}");
        return Ok(());
    }
    prepare_directories(&config.socket, &found, &location, owner)
}

fn not_cleared(point: &str, error: &io::Error) -> Problem {
    let what = format!("cannot clear the read-only flag of the mount on {point}: {error}");
    Problem::new(what).hint(match error.raw_os_error() {
        Some(libc::EPERM) => "run this as root, in the namespace where it was mounted",
        Some(libc::ENOSYS) => "this needs Linux 5.12 or later",
        _ => "see `dmesg`",
    })
}

/// Repairs the directories. Makes the storage writable only if that is needed and no daemon runs.
fn prepare_directories(
    socket: &Path,
    found: &MountedStorage,
    location: &StorageLocation,
    owner: Owner,
) -> Result<(), Problem> {
    let has_directory = socket.parent().is_some_and(Path::is_dir);
    // Taken even if there is nothing to repair: this creates the lock file, in a directory where
    // a daemon that is not root cannot. Without the directory no daemon can be running.
    let lock = has_directory.then(|| DeviceLock::take(socket, found.mount.device, owner.uid));
    if directories::check(found.root.as_fd(), location, owner)? {
        return Ok(());
    }
    let root = escape_path(&location.root);
    match lock {
        Some(Err(LockError::Taken(_))) => {
            log::warn!(
                "{root} or its data directory needs repair, but a daemon is running: it tries at \
                 the next session; if that fails, stop it and run `pst prepare` again"
            );
            return Ok(());
        }
        Some(Err(LockError::Failed(problem))) => return Err(problem),
        None | Some(Ok(_)) => {}
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
    let switch = |mode, name| {
        switch_superblock(mount, mode).map_err(|error| {
            Problem::new(format!("cannot make {point} {name}: {error}")).hint("see `dmesg`")
        })
    };
    switch(Mode::ReadWrite, "read-write")?;
    let repaired = directories::repair(mount, location, owner).map(drop);
    let back = switch(Mode::ReadOnly, "read-only again");
    let sync = file::sync_filesystem(mount).map_err(|error| {
        Problem::new(format!(
            "{point}: data could not be flushed to the card: {error}"
        ))
    });
    repaired.and(back).and(sync)
}
