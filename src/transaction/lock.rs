//! The lock that `pst run --atomic` holds, so that two of them take turns: flock(2) on a file in the data directory.
//! Only users who may write to the directory may open the file, so nobody else can hold the lock.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{
    FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fremovexattr, fstat, major, minor, openat,
};
use rustix::io::Errno;

use super::path::cannot;
use crate::client;
use crate::escape::escape;
use crate::problem::Problem;
use crate::run::output;
use crate::sys::file;

/// Stays in the data directory: a waiter's descriptor on a removed file would keep the storage writable.
const NAME: &str = ".pst-lock";

/// The limit for another transaction to end.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(50);

/// Takes the lock before the session opens, so that a wait does not keep the storage writable. Returns `None` if there
/// is no lock file yet, or if this user may not open it: then [`hold`] decides.
pub(super) fn hold_early(socket: &Path, quiet: bool) -> Result<Option<OwnedFd>, Problem> {
    let data = client::ask_status(socket, false)
        .ok()
        .and_then(|(_, status)| file::open_directory(Path::new(&status.storage.data)).ok());
    let Some(lock) = data.and_then(|data| open(data.as_fd()).ok()) else {
        return Ok(None);
    };
    wait(&lock, quiet)?;
    Ok(Some(lock))
}

/// Takes the lock in a session, unless the caller has it already: `held` is its inode. Creates the file if needed.
pub(super) fn hold(data: BorrowedFd<'_>, held: u64) -> Result<Option<OwnedFd>, Problem> {
    let lock = open(data).or_else(|error| match error {
        Errno::NOENT => create(data),
        error => Err(error),
    });
    let lock = lock.map_err(|error| {
        cannot("open the lock file", Path::new(NAME), error)
            .hint("only users who may write to the data directory may open it")
    })?;
    let _ = share(&lock, data);
    if fstat(&lock).is_ok_and(|status| status.st_ino == held) {
        return Ok(None);
    }
    wait(&lock, true)?;
    Ok(Some(lock))
}

/// Returns the number of the lock file's inode, 0 without one.
pub(super) fn inode(lock: Option<&OwnedFd>) -> u64 {
    lock.map_or(0, |lock| fstat(lock).map_or(0, |status| status.st_ino))
}

fn open(data: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    openat(data, NAME, flags | OFlags::CLOEXEC, Mode::empty())
}

fn create(data: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    match openat(data, NAME, flags, Mode::RUSR) {
        Err(Errno::EXIST) => open(data), // created just now
        lock => lock,
    }
}

/// Lets the users open the lock file who may write to the data directory. Not only after its creation, because a
/// crash may come between. Without the right to do it, fewer users may open the file.
fn share(lock: &OwnedFd, data: BorrowedFd<'_>) -> Result<(), Errno> {
    let (directory, found) = (fstat(data)?, fstat(lock)?);
    let mode = libc::S_IFREG | (directory.st_mode & 0o222) << 1;
    let as_it_should_be =
        (found.st_uid, found.st_gid, found.st_mode) == (directory.st_uid, directory.st_gid, mode);
    // A member can move a file of another user here, whose content must not be shared.
    let is_lock = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
        && (found.st_size, found.st_nlink, found.st_mode & 0o222) == (0, 1, 0);
    if as_it_should_be || !is_lock {
        return Ok(());
    }
    let (user, group) = (
        Uid::from_raw(directory.st_uid),
        Gid::from_raw(directory.st_gid),
    );
    let _ = fchown(lock, Some(user), None);
    let _ = fchown(lock, None, Some(group));
    let _ = fremovexattr(lock, c"system.posix_acl_access");
    fchmod(lock, Mode::from_raw_mode(mode))
}

fn wait(lock: &OwnedFd, quiet: bool) -> Result<(), Problem> {
    let give_up = Instant::now() + PATIENCE;
    let mut waits = false;
    loop {
        match file::lock_exclusive(lock.as_fd()) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Problem::io(format!("cannot lock {NAME}"), &error)),
        }
        if Instant::now() >= give_up {
            let text = format!(
                "PST write is denied: another `pst run --atomic` has not ended: {}",
                holder(lock)
            );
            return Err(Problem::new(text).hint("try again later, or end it"));
        }
        if !waits {
            waits = true;
            output::info(quiet, "Waiting for another `pst run --atomic` ...");
        }
        thread::sleep(RETRY);
    }
}

/// Names the process that has the lock, as /proc/locks shows it.
fn holder(lock: &OwnedFd) -> String {
    let found = fstat(lock).ok().and_then(|status| {
        let (major, minor) = (major(status.st_dev), minor(status.st_dev));
        let file = format!("{major:02x}:{minor:02x}:{}", status.st_ino);
        find_holder(&fs::read_to_string("/proc/locks").ok()?, &file)
    });
    let Some(pid) = found else {
        return "a process that /proc/locks does not show".into();
    };
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = command.split(|&byte| byte == 0).collect();
    format!("pid {pid} ({})", escape(words.join(&b' ').trim_ascii_end()))
}

/// Finds the process that has a flock(2) lock on a file (`major:minor:inode`); proc_locks(5).
fn find_holder(table: &str, file: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, _, pid, found, ..] if found == file => pid.parse().ok(),
            _ => None, // also those who wait: their second field is "->"
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_among_those_who_wait() {
        let table = "1: POSIX  ADVISORY  WRITE 9 07:03:12 0 EOF\n\
             2: FLOCK  ADVISORY  WRITE 41 07:03:12 0 EOF\n\
             2: -> FLOCK  ADVISORY  WRITE 42 07:03:12 0 EOF\n\
             3: FLOCK  ADVISORY  WRITE 43 07:03:13 0 EOF\n";
        assert_eq!(find_holder(table, "07:03:12"), Some(41));
        assert_eq!(find_holder(table, "07:03:13"), Some(43));
        assert_eq!(find_holder(table, "07:03:14"), None);
    }
}
