//! The device lock: only one daemon manages a device, whatever its socket. Root creates the lock files.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::inspect::MountedStorage;
use crate::escape::escape_path;
use crate::problem::Problem;
use crate::sys::{current, file};

/// Only root can write to it. It stays when daemons stop: if a lock file were removed, two processes
/// could lock two files of the same name.
const DIRECTORY: &str = "/run/pst";
const DIRECTORY_MODE: u32 = 0o755;

/// The daemon waits this long, because `pst prepare` holds the lock for a moment.
const TIMEOUT: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(20);

/// The next step of a daemon that is not root.
const RUN_PREPARE: &str = "run `pst prepare` as root";

/// The lock on a device; dropping it releases the lock.
#[derive(Debug)]
pub(super) struct DeviceLock {
    _file: File,
    pub path: PathBuf,
}

impl DeviceLock {
    /// Takes the lock at a path from [`lock_path`]; see [`lock_file`].
    pub(super) fn take(path: &Path, owner: u32) -> Result<Option<DeviceLock>, Problem> {
        if path.starts_with(DIRECTORY) {
            if current::effective_uid() == 0 {
                create_directory()
                    .map_err(|error| Problem::io(format!("cannot create {DIRECTORY}"), &error))?;
            }
            check_directory()?;
        }
        let file = lock_file(path, owner)?;
        let path = path.to_owned();
        Ok(file.map(|_file| DeviceLock { _file, path }))
    }

    /// Takes the lock, and waits for a `pst prepare` that holds it.
    ///
    /// # Errors
    /// Another daemon holds the lock.
    pub(super) fn wait(path: &Path, source: &Path, owner: u32) -> Result<DeviceLock, Problem> {
        let start = Instant::now();
        loop {
            match DeviceLock::take(path, owner)? {
                Some(lock) => return Ok(lock),
                None if start.elapsed() < TIMEOUT => thread::sleep(RETRY),
                None => break,
            }
        }
        let source = escape_path(source);
        let what = format!("another daemon already manages {source}");
        Err(taken(what, path))
    }
}

/// Returns the path of the lock file for the storage's device. A storage without a device (`volatile`)
/// has it beside the socket, because its daemon may be root in a user namespace only.
pub(super) fn lock_path(found: &MountedStorage, socket: &Path) -> PathBuf {
    let (directory, (major, minor)) = match found.block_device() {
        Some(device) => (Path::new(DIRECTORY), device),
        None => (
            socket.parent().unwrap_or(Path::new("/")),
            found.mount.device,
        ),
    };
    directory.join(format!("pst-{major}-{minor}.lock"))
}

/// Creates the directory of the lock files if it is missing.
fn create_directory() -> io::Result<()> {
    match DirBuilder::new().mode(DIRECTORY_MODE).create(DIRECTORY) {
        // The umask may have cleared bits.
        Ok(()) => fs::set_permissions(DIRECTORY, Permissions::from_mode(DIRECTORY_MODE)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Checks that only root can write to the directory. Others could replace a lock file.
fn check_directory() -> Result<(), Problem> {
    let found = fs::symlink_metadata(DIRECTORY).map_err(|error| {
        Problem::io(format!("cannot inspect {DIRECTORY}"), &error).hint(RUN_PREPARE)
    })?;
    let what = match (found.uid(), found.mode() & 0o7777) {
        _ if !found.is_dir() => format!("{DIRECTORY} is not a directory"),
        (0, mode) if mode & 0o022 == 0 => return Ok(()),
        (0, mode) => {
            format!("users other than root can write to {DIRECTORY}: its mode is {mode:o}")
        }
        (uid, _) => format!("{DIRECTORY} belongs to user {uid}, not to root"),
    };
    Err(Problem::new(what).hint("stop all pst daemons, remove it, and run `pst prepare` as root"))
}

/// Returns a problem whose next step shows which process holds the lock file.
pub(crate) fn taken(what: String, path: &Path) -> Problem {
    Problem::new(what).hint(format!("`fuser -v {}` shows it", escape_path(path)))
}

/// Locks a file, which may belong to `owner`, without waiting. Returns `None` if another process holds
/// the lock. Dropping the file releases the lock. The file stays: removing it would let two processes
/// lock two files of the same name.
pub(crate) fn lock_file(path: &Path, owner: u32) -> Result<Option<File>, Problem> {
    let failed = |error: io::Error| {
        let problem = Problem::io(format!("cannot lock {}", escape_path(path)), &error);
        match error.kind() {
            io::ErrorKind::NotFound => {
                problem.hint("create its directory first, or set `socket` in the config file")
            }
            _ => problem,
        }
    };
    let ours = current::effective_uid();
    // Read-only: a daemon that is not root may only read the file that `prepare` created.
    let mut open = OpenOptions::new();
    open.read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let (file, created) = match open.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if ours != 0 && path.starts_with(DIRECTORY) {
                let what = format!("there is no {}", escape_path(path));
                return Err(Problem::new(what).hint(RUN_PREPARE));
            }
            // Exclusive, because the file changes its owner below only if this process created it.
            open.write(true).create_new(true).mode(0o600);
            (open.open(path).map_err(failed)?, true)
        }
        other => (other.map_err(failed)?, false),
    };
    check_lock_file(&file, &[0, ours, owner], path)?;
    if created && ours == 0 && owner != 0 {
        fchown(&file, Some(owner), None).map_err(failed)?;
    }
    match file::lock_exclusive(file.as_fd()) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(failed(error)),
        Ok(()) => Ok(Some(file)),
    }
}

/// Checks that an open lock file is a plain file of one of these owners. Other users who can write to
/// the directory could lock us out with a file of theirs.
fn check_lock_file(file: &File, owners: &[u32], path: &Path) -> Result<(), Problem> {
    let shown = escape_path(path);
    let metadata = file
        .metadata()
        .map_err(|error| Problem::io(format!("cannot inspect {shown}"), &error))?;
    if !metadata.is_file() || metadata.nlink() > 1 {
        return Err(Problem::new(format!("{shown} is not a lock file")).hint("remove it"));
    }
    if !owners.contains(&metadata.uid()) {
        let what = format!(
            "{shown} belongs to user {}, who could lock the daemon out",
            metadata.uid()
        );
        return Err(Problem::new(what).hint("remove it"));
    }
    Ok(())
}
