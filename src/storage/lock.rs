//! One daemon per device: a lock file beside the socket that only root and the daemon can take.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::inspect::escape_path;
use super::mountinfo::Mount;
use crate::sys::{current, file};

/// So long a lock may be somebody's who only passes by.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// The lock on a device; released when dropped. The file stays: removing it would let two
/// processes lock two files of the same name.
#[derive(Debug)]
pub(crate) struct DeviceLock {
    file: File,
    device: (u32, u32),
}

/// Why there is no lock.
#[derive(Debug)]
pub(crate) enum LockError {
    /// A daemon has it; its pid, if it wrote one.
    Taken(Option<u32>),
    /// It cannot be had at all.
    Failed(String),
}

impl DeviceLock {
    /// Takes the lock of `device` in the directory of `socket`, without waiting.
    ///
    /// # Errors
    /// [`LockError::Taken`] if another process has it.
    pub(crate) fn take(
        socket: &Path,
        device: (u32, u32),
        owner: u32,
    ) -> Result<DeviceLock, LockError> {
        let path = lock_path(socket, device);
        let failed = |error: io::Error| {
            LockError::Failed(format!("cannot lock {}: {error}", escape_path(&path)))
        };
        // Read-only: a daemon that is not root may only read what `prepare` made.
        let mut open = OpenOptions::new();
        open.read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let (mut file, made) = match open.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut create = open.clone();
                // Exclusive: only what we made may be given away below.
                create.write(true).create_new(true).mode(0o600);
                (create.open(&path).map_err(failed)?, true)
            }
            other => (other.map_err(failed)?, false),
        };
        let ours = current::effective_uid();
        if let Err(text) = trusted(&file, &[0, ours, owner], &path) {
            return Err(LockError::Failed(text));
        }
        if made && ours == 0 && owner != 0 {
            file::set_owner(file.as_fd(), owner, u32::MAX).map_err(failed)?;
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
        lock.sign();
        Ok(lock)
    }

    /// Writes this process into the file, so that who comes second can name it. Best effort.
    fn sign(&self) {
        // The same file again, whatever stands at its path by now.
        let again = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        if let Ok(mut file) = OpenOptions::new().write(true).truncate(true).open(again) {
            let _ = writeln!(file, "{}", std::process::id());
        }
    }

    /// Which device it is for.
    pub(crate) fn device(&self) -> (u32, u32) {
        self.device
    }
}

/// A daemon's claim on the device that its storage is on, which may change.
#[derive(Debug)]
pub(crate) struct Claim {
    socket: PathBuf,
    owner: u32,
    lock: Option<DeviceLock>,
}

impl Claim {
    /// A claim on nothing yet; locks lie beside `socket` and may belong to `owner`.
    pub(crate) fn new(socket: PathBuf, owner: u32) -> Claim {
        Claim {
            socket,
            owner,
            lock: None,
        }
    }

    /// Claims the device of `mount`, and lets go of the one before it.
    ///
    /// # Errors
    /// A line that names who has it.
    pub(crate) fn take(&mut self, mount: &Mount) -> Result<(), String> {
        let held = self.lock.as_ref().map(DeviceLock::device);
        if held == Some(mount.device) {
            return Ok(());
        }
        self.lock = None;
        match DeviceLock::take(&self.socket, mount.device, self.owner) {
            Ok(lock) => {
                self.lock = Some(lock);
                Ok(())
            }
            Err(LockError::Taken(pid)) => Err(format!(
                "another daemon ({}) already manages {}",
                pid.map_or("pid unknown".into(), |pid| format!("pid {pid}")),
                escape_path(&mount.source)
            )),
            Err(LockError::Failed(text)) => Err(text),
        }
    }

    /// The same, with patience for a `pst prepare` that has it for a moment.
    ///
    /// # Errors
    /// As [`Claim::take`].
    pub(crate) fn take_patiently(&mut self, mount: &Mount) -> Result<(), String> {
        let start = Instant::now();
        loop {
            match self.take(mount) {
                Err(_) if start.elapsed() < PATIENCE => thread::sleep(PAUSE),
                result => return result,
            }
        }
    }
}

/// Whether a lock file is one of theirs, and nothing else that was given its name: whoever may write
/// to the directory could keep us out with a file of their own, or have another file written to.
///
/// # Errors
/// A line that says why not.
pub(crate) fn trusted(file: &File, owners: &[u32], path: &Path) -> Result<(), String> {
    let shown = escape_path(path);
    let metadata = file
        .metadata()
        .map_err(|error| format!("cannot look at {shown}: {error}"))?;
    if !metadata.is_file() || metadata.nlink() > 1 {
        return Err(format!(
            "{shown} is no lock file, but something else under its name: remove it"
        ));
    }
    if !owners.contains(&metadata.uid()) {
        return Err(format!(
            "{shown} belongs to user {}, who could keep the daemon out with it: remove it",
            metadata.uid()
        ));
    }
    Ok(())
}

fn lock_path(socket: &Path, device: (u32, u32)) -> PathBuf {
    let directory = socket.parent().unwrap_or(Path::new("/"));
    directory.join(format!("pst-{}-{}.lock", device.0, device.1))
}
