//! Checks before the command starts: the daemon's user, that the command will see the granted storage (P3), and that
//! there is enough free space. A service with its own mount namespace may see another storage.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{StatVfs, StatVfsMountFlags, fstatvfs};
use rustix::process::geteuid;

use super::RunOptions;
use super::session::GrantedSession;
use crate::config::Config;
use crate::escape::{escape, escape_path};
use crate::problem::{Problem, reason};
use crate::sys::{signal, socket, user};
use crate::units::HumanBytes;

/// The kernel shows users of other user namespaces as this one; user_namespaces(7).
const OVERFLOW_UID: u32 = 65534;

/// Checks that the daemon runs as root, as this user, or as the storage's owner. A daemon of another
/// user could name any directory as the storage.
pub(super) fn check_daemon(stream: &UnixStream, options: &RunOptions) -> Result<(), Problem> {
    let peer = socket::peer(stream.as_fd())
        .map_err(|error| Problem::io("cannot identify the daemon", &error))?;
    let own = peer.uid == geteuid().as_raw() && peer.uid != OVERFLOW_UID;
    if peer.uid == 0 || own {
        return Ok(());
    }
    signal::restore_mask(); // looking up users may take long, so let signals end it
    let is_owner = storage_owner(&options.config) == Some(peer.uid);
    let name = user::user_name(peer.uid);
    signal::block_handled();
    match is_owner {
        true => Ok(()),
        false => Err(Problem::new(format!(
            "PST write is denied: user {} (pid {}) answers at {}, not root or the storage's owner",
            escape(&name),
            peer.pid,
            escape_path(&options.socket)
        ))
        .hint("pass the right socket with --socket; see `pst check`")),
    }
}

/// Returns the storage's owner, as this user's own config file and fstab name it. A config file of
/// another user does not count.
fn storage_owner(config: &Path) -> Option<u32> {
    let owner = fs::metadata(config).map_or(0, |file| file.uid());
    if owner != 0 && owner != geteuid().as_raw() {
        return None;
    }
    let location = Config::load(config, false).ok()?.storage_location().ok()?;
    user::uid_by_name(&location.user).ok()?
}

/// Checks that the data directory is on the granted device and writable in this mount namespace.
/// Returns the filesystem's space.
pub(super) fn inspect_data_directory(session: &GrantedSession) -> Result<StatVfs, Problem> {
    let data = escape_path(&session.data);
    let elsewhere = || {
        format!(
            "is not mounted in this mount namespace, or something else is mounted over it: \
             compare `findmnt -T {data}` with `pst status`, and restart this service or login"
        )
    };
    let inspected = open(&session.data).and_then(|directory| {
        let device = directory.metadata()?.dev();
        Ok((device, fstatvfs(&directory)?))
    });
    let what = match inspected {
        Ok((device, _)) if device != session.device => elsewhere(),
        Ok((_, space)) if space.f_flag.contains(StatVfsMountFlags::RDONLY) => {
            "is read-only in this mount namespace: restart this service or login if it began \
             before `pst prepare`; a unit with ProtectSystem=strict needs ReadWritePaths= for it"
                .into()
        }
        Ok((_, space)) => return Ok(space),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) if !parent_is_granted(session) => elsewhere(),
            Some(libc::ENOENT) => {
                "is missing on it: it was removed, and is created again when all \
                sessions are over (`pst status` names them); then try again"
                    .into()
            }
            Some(libc::ENOTDIR) => "is not a directory on it: have an administrator remove the \
                file in its place"
                .into(),
            Some(libc::EACCES) => {
                format!(
                    "cannot be reached: {}; see the permissions with `namei -l {data}`",
                    reason(&error)
                )
            }
            _ => return Err(Problem::io(format_args!("cannot open {data}"), &error)),
        },
    };
    let text = format!("the storage was granted, but {data} {what}");
    Err(Problem::new(text))
}

/// Whether the nearest existing directory above the data directory is on the granted storage.
fn parent_is_granted(session: &GrantedSession) -> bool {
    let mut above = session.data.ancestors().skip(1);
    let parent = above.find_map(|path| open(path).ok()?.metadata().ok());
    parent.is_some_and(|parent| parent.dev() == session.device)
}

/// Opens a directory. Needs no permission to read it.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(path)
}

/// Checks that `need` bytes and an inode are free for this user, unless `need` is 0. Only root may use
/// the blocks that the filesystem reserves.
pub(super) fn check_free_space(need: u64, space: &StatVfs, data: &str) -> Result<(), Problem> {
    if need == 0 {
        return Ok(());
    }
    let hint = "delete what is not needed there (`pst run -- rm FILE`)";
    let uid = geteuid();
    let (blocks, user) = match uid.is_root() {
        true => (space.f_bfree, "root".to_owned()),
        false => (space.f_bavail, format!("user {}", uid.as_raw())),
    };
    let free = blocks.saturating_mul(space.f_frsize);
    if free < need {
        return Err(Problem::new(format!(
            "PST write is denied: {need} bytes ({}) needed, {free} bytes ({}) free for {user} on \
             {data}: see `df -h {data}` and `pst status`, and {hint}",
            HumanBytes(need),
            HumanBytes(free)
        )));
    }
    // A filesystem that creates inodes as needed, such as btrfs, has a count of 0.
    if space.f_files > 0 && space.f_favail == 0 {
        return Err(Problem::new(format!(
            "PST write is denied: no file can be created on {data}, no inode is free: \
             see `df -i {data}`, and {hint}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(need: u64, change: impl Fn(&mut StatVfs)) -> Result<(), Problem> {
        let mut space = fstatvfs(File::open("/").unwrap()).unwrap();
        (space.f_frsize, space.f_bfree, space.f_bavail) = (1024, 10, 10);
        (space.f_files, space.f_favail) = (100, 1);
        change(&mut space);
        check_free_space(need, &space, "/data")
    }

    #[test]
    fn needed_space_is_compared_to_the_byte() {
        assert_eq!(check(10 << 10, |_| {}), Ok(()));
        let refused = check((10 << 10) + 1, |_| {}).unwrap_err().what;
        let figures = "10241 bytes (10.0 KiB) needed, 10240 bytes (10.0 KiB) free for ";
        assert!(refused.contains(figures), "{refused}");
        assert_eq!(
            check(u64::MAX, |space| space.f_bfree = u64::MAX).is_ok(),
            geteuid().is_root()
        );
    }

    #[test]
    fn needed_space_includes_an_inode_if_inodes_are_counted() {
        let refused = check(1, |space| space.f_favail = 0).unwrap_err().what;
        assert!(
            refused.contains("no inode is free: see `df -i /data`"),
            "{refused}"
        );
        let uncounted = |space: &mut StatVfs| (space.f_files, space.f_favail) = (0, 0);
        assert_eq!(check(1, uncounted), Ok(()));
    }

    #[test]
    fn a_full_storage_is_accepted_if_no_space_is_needed() {
        let full =
            |space: &mut StatVfs| (space.f_bfree, space.f_bavail, space.f_favail) = (0, 0, 0);
        assert_eq!(check(0, full), Ok(()));
    }
}
