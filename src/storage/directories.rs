//! Checks and repairs the storage root and the data directory: existence, owner and mode.
//! Uses only descriptors and follows no symlink, because others may write there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::fchown;
use std::path::{Component, Path};

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::config::StorageLocation;
use crate::escape::escape_path;
use crate::problem::Problem;
use crate::sys::file;
use crate::sys::{current, user};

/// Members of the group can create entries and cannot remove each other's.
const MODE: u32 = 0o1775;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    /// Looks up the location's user and group.
    ///
    /// # Errors
    /// Names the user or group that does not exist.
    pub fn of(location: &StorageLocation) -> Result<Owner, Problem> {
        let StorageLocation { user, group, .. } = location;
        let uid = user::uid_by_name(user)
            .map_err(|error| Problem::io(format!("cannot look up the user '{user}'"), &error))?;
        let gid = user::gid_by_name(group)
            .map_err(|error| Problem::io(format!("cannot look up the group '{group}'"), &error))?;
        Ok(Owner {
            uid: uid.ok_or_else(|| missing("user", user, "useradd"))?,
            gid: gid.ok_or_else(|| missing("group", group, "groupadd"))?,
        })
    }
}

fn missing(what: &str, name: &str, tool: &str) -> Problem {
    Problem::new(format!("there is no {what} '{name}'")).hint(format!(
        "create it (`{tool} --system {name}`), or name another in fstab or the config file"
    ))
}

/// Why a directory is not as it should be.
#[derive(Debug)]
pub enum DirectoryProblem {
    /// [`repair`] may help, but needs a writable storage.
    NeedsWrite,
    /// [`repair`] would refuse it.
    Error(Problem),
}

impl From<Problem> for DirectoryProblem {
    fn from(problem: Problem) -> DirectoryProblem {
        DirectoryProblem::Error(problem)
    }
}

/// Checks the directories without writing. Returns the data directory's `st_dev`.
pub fn check(
    mount: BorrowedFd<'_>,
    location: &StorageLocation,
    owner: Owner,
) -> Result<u64, DirectoryProblem> {
    walk(mount, location, |parent, path, name| {
        let directory = match file::open_directory_beneath(parent, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DirectoryProblem::NeedsWrite);
            }
            other => other.map_err(|error| unusable(path, &error))?,
        };
        let status = file::status(directory.as_fd()).map_err(|error| unusable(path, &error))?;
        match is_right(&status, owner) {
            true => Ok((directory, status.device)),
            false => Err(DirectoryProblem::NeedsWrite),
        }
    })
}

/// Creates the directories and sets their owner and mode where they differ. The storage must be
/// writable. Returns the data directory's `st_dev`.
pub fn repair(
    mount: BorrowedFd<'_>,
    location: &StorageLocation,
    owner: Owner,
) -> Result<u64, Problem> {
    walk(mount, location, |parent, path, name| {
        let directory = open_or_create(parent, name).map_err(|error| unusable(path, &error))?;
        let status = file::status(directory.as_fd()).map_err(|error| unusable(path, &error))?;
        if !is_right(&status, owner) {
            set_owner_and_mode(directory.as_fd(), owner)
                .map_err(|error| not_changed(path, owner, &error))?;
        }
        Ok((directory, status.device))
    })
}

/// Calls `visit(parent, path, name)` for the storage root and every directory down to the data
/// directory. It opens the directory `name` below `parent` and returns its `st_dev` too.
/// The mount's root is visited only if it is the storage root.
fn walk<E: From<Problem>>(
    mount: BorrowedFd<'_>,
    location: &StorageLocation,
    mut visit: impl FnMut(BorrowedFd<'_>, &Path, &Path) -> Result<(OwnedFd, u64), E>,
) -> Result<u64, E> {
    let below = location
        .root
        .strip_prefix(&location.mount)
        .unwrap_or(Path::new(""));
    let mut path = location.mount.clone();
    let (mut directory, mut device) = if below.as_os_str().is_empty() {
        visit(mount, &path, Path::new("."))?
    } else {
        let mount = mount.try_clone_to_owned();
        (mount.map_err(|error| unusable(&path, &error))?, 0)
    };
    for part in below.components().chain(location.data.components()) {
        if let Component::Normal(name) = part {
            path.push(name);
            (directory, device) = visit(directory.as_fd(), &path, Path::new(name))?;
        }
    }
    Ok(device)
}

fn open_or_create(parent: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    if name != Path::new(".") {
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    file::open_directory_beneath(parent, name)
}

fn is_right(status: &file::Status, owner: Owner) -> bool {
    (status.uid, status.gid, status.mode) == (owner.uid, owner.gid, MODE)
}

fn set_owner_and_mode(directory: BorrowedFd<'_>, owner: Owner) -> io::Result<()> {
    fchown(directory, Some(owner.uid), Some(owner.gid))?;
    Ok(rustix::fs::fchmod(directory, Mode::from_raw_mode(MODE))?)
}

fn not_changed(path: &Path, owner: Owner, error: &io::Error) -> Problem {
    let (shown, Owner { uid, gid }) = (escape_path(path), owner);
    let problem = Problem::new(format!(
        "cannot give {shown} to {uid}:{gid} with mode {MODE:o}: {error}"
    ));
    match (error.raw_os_error(), current::effective_uid()) {
        (Some(libc::EPERM), 0) => problem.hint(format!(
            "see `lsattr -d {shown}`: `chattr -i` makes it changeable"
        )),
        _ => problem.hint("run `pst prepare` as root while the daemon is stopped"),
    }
}

fn unusable(path: &Path, error: &io::Error) -> Problem {
    // While the daemon runs, it reverts what is made writable by hand.
    let by_hand = |step| {
        format!(
            "as root stop the daemon, `mount -o remount,rw` the storage, {step}, and start the \
             daemon"
        )
    };
    let (why, hint) = match error.raw_os_error() {
        Some(libc::ELOOP) => ("it is a symbolic link".into(), by_hand("remove it")),
        Some(libc::ENOTDIR) => ("it is not a directory".into(), by_hand("remove it")),
        Some(libc::EXDEV) => (
            "another filesystem is mounted there".into(),
            "unmount it".into(),
        ),
        Some(libc::EACCES | libc::EPERM) => (
            error.to_string(),
            "run `pst prepare` as root while the daemon is stopped".into(),
        ),
        Some(libc::ENOSPC) => (error.to_string(), by_hand("delete something there")),
        _ => (error.to_string(), "see `dmesg`".into()),
    };
    Problem::new(format!("cannot use {}: {why}", escape_path(path))).hint(hint)
}
