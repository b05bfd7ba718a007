//! `pst prepare`: makes a fresh mount ready, so that from then on switching its superblock is
//! enough for every mount namespace. As root, in the host's namespace, once after each mount.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::ExitCode;

use super::directories::{self, Owner, Trouble};
use super::health::Health;
use super::inspect::{self, MountedStorage, escape_path};
use super::lock::{DeviceLock, LockError};
use super::mounts::Flag;
use crate::config::{Config, StorageLocation};
use crate::logging;
use crate::sys::file;
use crate::sys::mount::{Mode, clear_mount_read_only, switch_superblock};

pub(crate) fn main(config: Config) -> ExitCode {
    logging::init(None);
    match prepare(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            log::error!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn prepare(config: &Config) -> Result<(), String> {
    let place = config.place().map_err(|error| error.to_string())?;
    let owner = Owner::of(&place)?;
    let found = inspect::find(&place).map_err(|condition| match condition {
        Health::Absent(text) | Health::Unprepared(text) | Health::Failed(text) => text.to_string(),
        Health::Ready => "the storage is ready".into(),
    })?;
    if let Some(text) = found.refusal(&place) {
        return Err(text);
    }
    let point = escape_path(&place.mount);
    if found.flag == Flag::SetInHost {
        return Err(format!(
            "{point} has to be prepared in the host's mount namespace: run `pst prepare` there"
        ));
    }
    clear_mount_read_only(found.root.as_fd(), !place.atime_named)
        .map_err(|error| cannot_clear(&point, &error))?;
    log::info!("{point}: the mount lets writes through once its superblock does");
    if let Some(text) = found.illness() {
        log::warn!("{text}");
        return Ok(());
    }
    check_roots(&config.socket, &found, &place, owner)
}

fn cannot_clear(point: &str, error: &io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM) => ": this takes root, in the namespace where it was mounted",
        Some(libc::ENOSYS) => ": this needs Linux 5.12 or later",
        _ => "; see `dmesg`",
    };
    format!("cannot clear the read-only flag of the mount on {point}: {error}{hint}")
}

/// Makes the storage writable only if its roots are not as they should be, and only if no daemon
/// runs.
fn check_roots(
    socket: &Path,
    found: &MountedStorage,
    place: &StorageLocation,
    owner: Owner,
) -> Result<(), String> {
    let has_directory = socket.parent().is_some_and(Path::is_dir);
    // Taken also when nothing is to be mended: this makes the lock file, in a directory where a
    // daemon that is not root may not. Without the directory no daemon can be running.
    let lock = has_directory.then(|| DeviceLock::take(socket, found.mount.device, owner.uid));
    match directories::check(found.root.as_fd(), place, owner) {
        Ok(_) => return Ok(()),
        Err(Trouble::Error(text)) => return Err(text),
        Err(Trouble::NeedsWrite) => {}
    }
    let root = escape_path(&place.root);
    match lock {
        Some(Err(LockError::Taken(_))) => {
            log::warn!(
                "{root} or its data root is not as it should be, but a daemon is running: \
                 it mends it at the next session if it may, else run this while it is stopped"
            );
            return Ok(());
        }
        Some(Err(LockError::Failed(text))) => return Err(text),
        None | Some(Ok(_)) => {}
    }
    mend(found.root.as_fd(), place, owner)?;
    log::info!(
        "{root} and its data root belong to {}:{} now",
        place.user,
        place.group
    );
    Ok(())
}

fn mend(mount: BorrowedFd<'_>, place: &StorageLocation, owner: Owner) -> Result<(), String> {
    let point = escape_path(&place.mount);
    switch_superblock(mount, Mode::ReadWrite)
        .map_err(|error| format!("cannot make {point} read-write: {error}; see `dmesg`"))?;
    let mended = directories::mend(mount, place, owner).map(drop);
    let back = switch_superblock(mount, Mode::ReadOnly)
        .map_err(|error| format!("cannot make {point} read-only again: {error}; see `dmesg`"));
    let sync = file::sync_filesystem(mount)
        .map_err(|error| format!("{point}: data could not be written to the medium: {error}"));
    mended.and(back).and(sync)
}
