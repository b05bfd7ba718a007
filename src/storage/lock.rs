//! The device lock: only one daemon manages a device. The lock file is in the socket's directory.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::mountinfo::Mount;
use crate::escape::escape_path;
use crate::problem::Problem;
use crate::sys::{current, file};

/// The daemon waits this long, because `pst prepare` holds the lock for a moment.
const TIMEOUT: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(20);

/// The lock on a device; dropping it releases the lock.
#[derive(Debug)]
pub(super) struct DeviceLock {
    _file: File,
    pub device: (u32, u32),
}

impl DeviceLock {
    /// Takes the lock on the device of `mount`; see [`lock_file`].
    pub(super) fn take(
        socket: &Path,
        mount: &Mount,
        owner: u32,
    ) -> Result<Option<DeviceLock>, Problem> {
        let device = mount.device;
        let file = lock_file(&lock_path(socket, device), owner)?;
        Ok(file.map(|_file| DeviceLock { _file, device }))
    }

    /// Takes the lock, and waits for a `pst prepare` that holds it.
    ///
    /// # Errors
    /// Another daemon holds the lock.
    pub(super) fn wait(socket: &Path, mount: &Mount, owner: u32) -> Result<DeviceLock, Problem> {
        let start = Instant::now();
        loop {
            match DeviceLock::take(socket, mount, owner)? {
                Some(lock) => return Ok(lock),
                None if start.elapsed() < TIMEOUT => thread::sleep(RETRY),
                None => break,
            }
        }
        let source = escape_path(&mount.source);
        let what = format!("another daemon already manages {source}");
        Err(taken(what, &lock_path(socket, mount.device)))
    }
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
    // Read-only: a daemon that is not root may only read the file that `prepare` created.
    let mut open = OpenOptions::new();
    open.read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let (file, created) = match open.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Exclusive, because the file changes its owner below only if this process created it.
            open.write(true).create_new(true).mode(0o600);
            (open.open(path).map_err(failed)?, true)
        }
        other => (other.map_err(failed)?, false),
    };
    let ours = current::effective_uid();
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

fn lock_path(socket: &Path, device: (u32, u32)) -> PathBuf {
    let directory = socket.parent().unwrap_or(Path::new("/"));
    directory.join(format!("pst-{}-{}.lock", device.0, device.1))
}
