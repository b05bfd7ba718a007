//! The storage root and the data root: that they exist, and belong to whom the config says.
//! Everything goes through descriptors, and follows no symlink: others may write there.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use super::inspect::escape_path;
use crate::config::StorageLocation;
use crate::sys::file::{self, Status};
use crate::sys::{current, user};

/// Members may create there, and not remove each other's entries.
const MODE: u32 = 0o1775;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    /// Looks the place's names up.
    ///
    /// # Errors
    /// A line that names the user or group that does not exist.
    pub fn of(place: &StorageLocation) -> Result<Owner, String> {
        let uid = user::uid_by_name(&place.user)
            .map_err(|error| format!("cannot look up the user '{}': {error}", place.user))?;
        let gid = user::gid_by_name(&place.group)
            .map_err(|error| format!("cannot look up the group '{}': {error}", place.group))?;
        let missing = |what, name: &str, tool| {
            format!(
                "there is no {what} '{name}': make it (`{tool} --system {name}`), or name another in fstab or the config file"
            )
        };
        Ok(Owner {
            uid: uid.ok_or_else(|| missing("user", &place.user, "useradd"))?,
            gid: gid.ok_or_else(|| missing("group", &place.group, "groupadd"))?,
        })
    }
}

/// Why a root is not as it should be.
#[derive(Debug)]
pub enum Trouble {
    /// It lacks something that takes a writable storage to mend.
    NeedsWrite,
    /// Something else stands in its place, or it may not be mended.
    Error(String),
}

impl From<String> for Trouble {
    fn from(text: String) -> Trouble {
        Trouble::Error(text)
    }
}

/// Checks both roots without writing. Returns the data root's `st_dev`.
///
/// # Errors
/// [`Trouble::NeedsWrite`] if [`mend`] would change something; an error for what it would refuse.
pub fn check(mount: BorrowedFd<'_>, place: &StorageLocation, owner: Owner) -> Result<u64, Trouble> {
    walk(mount, place, |parent, path, name| {
        let directory = match file::open_directory_beneath(parent, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Trouble::NeedsWrite);
            }
            other => other.map_err(|error| refused(path, &error))?,
        };
        let status = status(&directory, path)?;
        match is_right(&status, owner) {
            true => Ok((directory, status.device)),
            false => Err(Trouble::NeedsWrite),
        }
    })
}

/// Makes both roots what they should be; the storage must be writable. Returns the data root's
/// `st_dev`.
///
/// # Errors
/// A line for what stands in the way.
pub fn mend(mount: BorrowedFd<'_>, place: &StorageLocation, owner: Owner) -> Result<u64, String> {
    walk(mount, place, |parent, path, name| {
        if name != Path::new(".") {
            let c_name = CString::new(name.as_os_str().as_bytes())
                .map_err(|error| refused(path, &error.into()))?;
            match file::make_directory(parent, &c_name, 0o700) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(refused(path, &error));
                }
                _ => {}
            }
        }
        let directory =
            file::open_directory_beneath(parent, name).map_err(|error| refused(path, &error))?;
        let status = status(&directory, path)?;
        if !is_right(&status, owner) {
            own(directory.as_fd(), path, owner)?;
        }
        Ok((directory, status.device))
    })
}

/// Calls `each(parent, path, name)` for the storage root and every directory down to the data root;
/// it opens the directory `name` below `parent`, and tells its `st_dev`. Returns the last one's.
fn walk<E: From<String>>(
    mount: BorrowedFd<'_>,
    place: &StorageLocation,
    mut each: impl FnMut(BorrowedFd<'_>, &Path, &Path) -> Result<(OwnedFd, u64), E>,
) -> Result<u64, E> {
    let below = place
        .root
        .strip_prefix(&place.mount)
        .unwrap_or(Path::new(""));
    let mut path = place.mount.clone();
    let (mut directory, mut device) = if below.as_os_str().is_empty() {
        each(mount, &path, Path::new("."))?
    } else {
        let mount = mount.try_clone_to_owned();
        (mount.map_err(|error| refused(&path, &error))?, 0) // it is no root of ours
    };
    for part in below.components().chain(place.data.components()) {
        if let Component::Normal(name) = part {
            path.push(name);
            (directory, device) = each(directory.as_fd(), &path, Path::new(name))?;
        }
    }
    Ok(device)
}

fn status(directory: &OwnedFd, path: &Path) -> Result<Status, String> {
    file::status(directory.as_fd()).map_err(|error| refused(path, &error))
}

fn is_right(status: &Status, owner: Owner) -> bool {
    (status.uid, status.gid, status.mode) == (owner.uid, owner.gid, MODE)
}

fn own(directory: BorrowedFd<'_>, path: &Path, owner: Owner) -> Result<(), String> {
    let change = file::set_owner(directory, owner.uid, owner.gid);
    change
        .and_then(|()| file::set_mode(directory, MODE))
        .map_err(|error| {
            let shown = escape_path(path);
            let next = match (error.raw_os_error(), current::effective_uid()) {
                (Some(libc::EPERM), 0) => {
                    format!("see `lsattr -d {shown}`: `chattr -i` makes it changeable")
                }
                _ => "run `pst prepare` as root while the daemon is stopped".into(),
            };
            format!(
                "cannot give {shown} to {}:{} with mode {MODE:o}: {error}; {next}",
                owner.uid, owner.gid
            )
        })
}

fn refused(path: &Path, error: &io::Error) -> String {
    // While the daemon runs, what is made writable by hand does not stay so.
    let by_hand = |what| {
        format!(
            "as root stop the daemon, `mount -o remount,rw` the storage, {what}, and start the \
             daemon"
        )
    };
    let why = match error.raw_os_error() {
        Some(libc::ELOOP) => format!(
            "a symbolic link stands in its place; {}",
            by_hand("remove it")
        ),
        Some(libc::ENOTDIR) => format!(
            "something that is no directory stands in its place; {}",
            by_hand("remove it")
        ),
        Some(libc::EXDEV) => "another filesystem is mounted there; unmount it".into(),
        Some(libc::EACCES | libc::EPERM) => {
            format!("{error}; run `pst prepare` as root while the daemon is stopped")
        }
        Some(libc::ENOSPC) => format!("{error}; {}", by_hand("delete something there")),
        _ => format!("{error}; see `dmesg`"),
    };
    format!("cannot use {}: {why}", escape_path(path))
}
