//! One daemon per device: a lock file beside the socket that only root and the daemon can take.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::mountinfo::Mount;
use crate::escape::escape_path;
use crate::problem::Problem;
use crate::sys::{current, file};

/// `pst prepare` holds the lock for a moment; a daemon that starts meanwhile waits for it.
const TIMEOUT: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(20);

/// The lock on a device; released when dropped. The file stays: removing it would let two
/// processes lock two files of the same name.
#[derive(Debug)]
pub(super) struct DeviceLock {
    file: File,
    device: (u32, u32),
}

/// Why the lock was not taken.
#[derive(Debug)]
pub(super) enum LockError {
    /// A daemon has it; its pid, if it wrote one.
    Taken(Option<u32>),
    Failed(Problem),
}

impl DeviceLock {
    /// Takes the lock of `device` in the directory of `socket`, without waiting.
    ///
    /// # Errors
    /// [`LockError::Taken`] if another process has it.
    pub(super) fn take(
        socket: &Path,
        device: (u32, u32),
        owner: u32,
    ) -> Result<DeviceLock, LockError> {
        let path = lock_path(socket, device);
        let failed = |error: io::Error| {
            let what = format!("cannot lock {}", escape_path(&path));
            LockError::Failed(Problem::io(what, &error))
        };
        // Read-only: a daemon that is not root may only read the file that `prepare` created.
        let mut open = OpenOptions::new();
        open.read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let (mut file, created) = match open.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut create = open.clone();
                // Exclusive: the file is given away below only if this process created it.
                create.write(true).create_new(true).mode(0o600);
                (create.open(&path).map_err(failed)?, true)
            }
            other => (other.map_err(failed)?, false),
        };
        let ours = current::effective_uid();
        check_lock_file(&file, &[0, ours, owner], &path).map_err(LockError::Failed)?;
        if created && ours == 0 && owner != 0 {
            fchown(&file, Some(owner), None).map_err(failed)?;
        }
        match file::lock_exclusive(file.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut text = String::new();
                let _ = (&mut file).take(16).read_to_string(&mut text);
                return Err(LockError::Taken(text.trim().parse().ok()));
            }
            other => other.map_err(failed)?,
        }
        let lock = DeviceLock { file, device };
        lock.write_pid();
        Ok(lock)
    }

    /// Writes this process's pid into the file, so that a second daemon can name it. Best effort.
    fn write_pid(&self) {
        // Opens the locked file again, even if another one has taken its path by now.
        let again = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        if let Ok(mut file) = OpenOptions::new().write(true).truncate(true).open(again) {
            let _ = writeln!(file, "{}", std::process::id());
        }
    }
}

/// A daemon's claim on the storage's device, which may change.
#[derive(Debug)]
pub(super) struct Claim {
    socket: PathBuf,
    owner: u32,
    lock: Option<DeviceLock>,
}

impl Claim {
    /// Claims nothing yet. Lock files lie beside `socket` and may belong to `owner`.
    pub(super) fn new(socket: PathBuf, owner: u32) -> Claim {
        Claim {
            socket,
            owner,
            lock: None,
        }
    }

    /// Claims the device of `mount`, and releases the one before it.
    ///
    /// # Errors
    /// Names the daemon that has it.
    pub(super) fn take(&mut self, mount: &Mount) -> Result<(), Problem> {
        if self.lock.as_ref().map(|lock| lock.device) == Some(mount.device) {
            return Ok(());
        }
        self.lock = None;
        match DeviceLock::take(&self.socket, mount.device, self.owner) {
            Ok(lock) => {
                self.lock = Some(lock);
                Ok(())
            }
            Err(LockError::Taken(pid)) => Err(Problem::new(format!(
                "another daemon ({}) already manages {}",
                pid.map_or("pid unknown".into(), |pid| format!("pid {pid}")),
                escape_path(&mount.source)
            ))),
            Err(LockError::Failed(problem)) => Err(problem),
        }
    }

    /// Claims the device of `mount`, and waits for a `pst prepare` that has it for a moment.
    ///
    /// # Errors
    /// As [`Claim::take`].
    pub(super) fn take_patiently(&mut self, mount: &Mount) -> Result<(), Problem> {
        let start = Instant::now();
        loop {
            match self.take(mount) {
                Err(_) if start.elapsed() < TIMEOUT => thread::sleep(RETRY),
                result => return result,
            }
        }
    }
}

/// Checks that an open lock file is a plain file of one of these owners. Others who may write to
/// the directory could keep us out with a file of their own, or have another file overwritten.
pub(crate) fn check_lock_file(file: &File, owners: &[u32], path: &Path) -> Result<(), Problem> {
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
