//! The storage root and the data directory: checks and repairs their existence, owner and mode.
//! Uses only descriptors and follows no symlink, because other users may write there.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::fchown;
use std::path::Path;

use rustix::fs::{Mode, fchmod, fstat, mkdirat};
use rustix::io::Errno;

use crate::config::StorageLocation;
use crate::escape::escape_path;
use crate::problem::{Problem, reason};
use crate::sys::{current, file, user};

/// Exists below the storage root even if the data directory is the root itself: scripts name it.
const DATA: &str = "data";
/// Members of the group can create entries and cannot remove each other's.
const MODE: u32 = 0o1775;

const RUN_PREPARE: &str = "run `pst prepare` as root while the daemon is stopped";
/// The daemon must be stopped, because it makes a storage read-only that is writable without a session.
const BY_HAND: &str = "as root stop the daemon, `mount -o remount,rw` the storage, remove what is \
                       in the way, and start the daemon";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    /// Looks up the location's user and group.
    ///
    /// # Errors
    /// The user or group does not exist, or the database fails.
    pub fn of(location: &StorageLocation) -> Result<Owner, Problem> {
        Ok(Owner {
            uid: look_up("user", &location.user, user::uid_by_name)?,
            gid: look_up("group", &location.group, user::gid_by_name)?,
        })
    }
}

fn look_up(
    what: &str,
    name: &str,
    by_name: fn(&str) -> io::Result<Option<u32>>,
) -> Result<u32, Problem> {
    let id = by_name(name)
        .map_err(|error| Problem::io(format!("cannot look up the {what} '{name}'"), &error))?;
    id.ok_or_else(|| {
        Problem::new(format!("there is no {what} '{name}'")).hint(format!(
            "create it (`{what}add --system {name}`), or name another in fstab or the config file"
        ))
    })
}

/// Returns the data directory's `st_dev`, or `None` if a directory is missing or has the wrong owner or
/// mode. Writes nothing.
///
/// # Errors
/// [`repair`] would fail, too.
pub fn check(
    mount: BorrowedFd<'_>,
    location: &StorageLocation,
    owner: Owner,
) -> Result<Option<u64>, Problem> {
    walk(mount, location, owner, false)
}

/// Creates missing directories and corrects owners and modes. The storage must be writable. Returns
/// the data directory's `st_dev`.
pub fn repair(
    mount: BorrowedFd<'_>,
    location: &StorageLocation,
    owner: Owner,
) -> Result<u64, Problem> {
    walk(mount, location, owner, true).map(Option::unwrap_or_default)
}

/// Visits the storage root and every directory down to the data directory, each through its parent's
/// descriptor. Returns the data directory's `st_dev`. Without `repairs`, returns `None` at the first
/// directory that needs a repair.
fn walk(
    mount: BorrowedFd<'_>,
    location: &StorageLocation,
    owner: Owner,
    repairs: bool,
) -> Result<Option<u64>, Problem> {
    let mut path = location.mount.clone();
    let clone = mount.try_clone_to_owned();
    let mut parent = clone.map_err(|error| unusable(&path, &error))?;
    let mut device = 0;
    let below = location.root.strip_prefix(&location.mount);
    let below = below.unwrap_or(Path::new(""));
    // The mount's root is visited only if it is the storage root.
    let first = Path::new(if below == Path::new("") { "." } else { "" });
    for name in first.iter().chain(below).chain(&location.data) {
        if name != "." {
            path.push(name);
        }
        match visit(parent.as_fd(), name, &path, owner, repairs)? {
            Some(found) => (parent, device) = found,
            None => return Ok(None),
        }
    }
    if location.data == Path::new("") {
        // No session needs it: whatever else is in its place stays there.
        match visit(
            parent.as_fd(),
            DATA.as_ref(),
            &path.join(DATA),
            owner,
            repairs,
        ) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(None),
            Err(problem) if repairs => log::warn!("{problem}"),
            Err(_) => {}
        }
    }
    Ok(Some(device))
}

/// Opens a directory, and creates or corrects it if `repairs` is set. Returns its `st_dev`, too, or
/// `None` if it needs a repair.
fn visit(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
    owner: Owner,
    repairs: bool,
) -> Result<Option<(OwnedFd, u64)>, Problem> {
    let failed = |error: io::Error| unusable(path, &error);
    match repairs.then(|| mkdirat(parent, name, Mode::RWXU)) {
        Some(Err(error)) if error != Errno::EXIST => return Err(failed(error.into())),
        _ => {}
    }
    let directory = match file::open_directory_beneath(parent, Path::new(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !repairs => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let found = fstat(&directory).map_err(|error| failed(error.into()))?;
    let mode = found.st_mode & 0o7777;
    if (found.st_uid, found.st_gid, mode) != (owner.uid, owner.gid, MODE) {
        if !repairs {
            return Ok(None);
        }
        set_owner_and_mode(directory.as_fd(), owner)
            .map_err(|error| not_changed(path, owner, &error))?;
    }
    Ok(Some((directory, found.st_dev)))
}

fn set_owner_and_mode(directory: BorrowedFd<'_>, owner: Owner) -> io::Result<()> {
    fchown(directory, Some(owner.uid), Some(owner.gid))?;
    Ok(fchmod(directory, Mode::from_raw_mode(MODE))?)
}

fn not_changed(path: &Path, owner: Owner, error: &io::Error) -> Problem {
    let (shown, Owner { uid, gid }) = (escape_path(path), owner);
    let what = format!("cannot give {shown} to {uid}:{gid} with mode {MODE:o}");
    Problem::io(what, error).hint(match (error.raw_os_error(), current::effective_uid()) {
        (Some(libc::EPERM), 0) => {
            format!("see `lsattr -d {shown}`: `chattr -i` makes it changeable")
        }
        _ => RUN_PREPARE.into(),
    })
}

fn unusable(path: &Path, error: &io::Error) -> Problem {
    let what = format!("cannot use {}", escape_path(path));
    let (why, hint) = match error.raw_os_error() {
        Some(libc::ELOOP) => ("it is a symbolic link".into(), BY_HAND),
        Some(libc::ENOTDIR) => ("it is not a directory".into(), BY_HAND),
        Some(libc::ENOSPC) => (reason(error), BY_HAND),
        Some(libc::EXDEV) => ("another filesystem is mounted there".into(), "unmount it"),
        Some(libc::EACCES | libc::EPERM) => (reason(error), RUN_PREPARE),
        _ => {
            let problem = Problem::io(what, error);
            return match problem.hint {
                Some(_) => problem,
                None => problem.hint("see `dmesg`"),
            };
        }
    };
    Problem::new(format!("{what}: {why}")).hint(hint)
}
