//! Unix sockets as the daemon sees them: who connected, and what stands at a socket's path.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, Gid, Mode, OFlags};

use super::check;
use super::file::{self, Status};
use super::poll::{self, Watch};

/// The process that connected, as of that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// 0 if the process is not visible in this pid namespace.
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
}

/// SO_PEERCRED of socket(7). rustix's does not allow for a pid of 0.
pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let mut credentials = [0; 3]; // as in `struct ucred`
    get_option(socket, libc::SO_PEERCRED, &mut credentials)?;
    let [pid, uid, gid] = credentials;
    Ok(Peer { pid, uid, gid })
}

/// The supplementary groups of the process that connected. SO_PEERGROUPS of socket(7); Linux 4.13.
pub(crate) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    const NGROUPS_MAX: usize = 65_536;
    let mut groups = vec![0; 64];
    loop {
        match get_option(socket, libc::SO_PEERGROUPS, &mut groups) {
            Ok(count) => {
                groups.truncate(count);
                return Ok(groups);
            }
            Err(error)
                if error.raw_os_error() == Some(libc::ERANGE) && groups.len() < NGROUPS_MAX =>
            {
                groups.resize(groups.len() * 4, 0);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Reads an option of numbers; returns how many. getsockopt(2).
fn get_option(socket: BorrowedFd<'_>, option: libc::c_int, into: &mut [u32]) -> io::Result<usize> {
    let mut size = size_of_val(into) as libc::socklen_t;
    // SAFETY: the buffer is live and as long as `size` says.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            into.as_mut_ptr().cast(),
            &raw mut size,
        )
    })?;
    Ok(size as usize / size_of::<u32>())
}

/// Whether the other end is closed, so that nobody can read an answer. It may have sent bytes before.
pub(crate) fn hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut watches = [Watch::new(&socket, 0)];
    poll::wait(&mut watches, Some(Duration::ZERO)).is_ok() && watches[0].seen()
}

/// Forbids sending descriptors to a listening socket's connections. Otherwise the daemon closes them
/// unseen, and closing can block: a TCP socket with SO_LINGER, for as long as its sender wants.
/// SO_PASSRIGHTS of socket(7).
///
/// # Errors
/// ENOPROTOOPT before Linux 6.16.
pub(crate) fn refuse_descriptors(listener: BorrowedFd<'_>) -> io::Result<()> {
    // Not in the libc crate; the same on all architectures but parisc and sparc.
    const SO_PASSRIGHTS: libc::c_int = 83;
    let pass: libc::c_int = 0;
    // SAFETY: `pass` is live and as long as the length given.
    check(unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const pass).cast(),
            size_of_val(&pass) as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Takes over descriptor 3, the first one that a service manager passes; sd_listen_fds(3). Only for a
/// process whose service manager says so, before anything else opens descriptors. Works once.
///
/// # Errors
/// EBADF if it was taken before.
pub(crate) fn take_passed() -> io::Result<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, was passed to this process to keep, and `TAKEN` gives it to one owner.
    Ok(unsafe { OwnedFd::from_raw_fd(3) })
}

/// What is at `path`, without following a symlink.
pub(crate) fn name_status(path: &Path) -> io::Result<Status> {
    file::status(open_name(path)?.as_fd())
}

/// Opens the name of a socket that this process has just bound at `path`.
///
/// # Errors
/// `Other` if something else is there: no socket, another user's, or one with more names.
pub(crate) fn open_own_name(path: &Path) -> io::Result<(OwnedFd, Status)> {
    let name = File::from(open_name(path)?);
    let found = name.metadata()?;
    let own_uid = rustix::process::geteuid().as_raw();
    let ours = found.file_type().is_socket() && found.uid() == own_uid;
    if !ours || found.nlink() > 1 {
        return Err(io::Error::other("something else has taken its place"));
    }
    let status = file::status(name.as_fd())?;
    Ok((name.into(), status))
}

/// Gives an open name to a group; its user stays. Not by its path, which others may be able to
/// replace. fchownat(2).
pub(crate) fn set_group(name: BorrowedFd<'_>, gid: u32) -> io::Result<()> {
    let group = Some(Gid::from_raw(gid));
    Ok(rustix::fs::chownat(
        name,
        c"",
        None,
        group,
        AtFlags::EMPTY_PATH,
    )?)
}

fn open_name(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_other_end_is_identified_and_seen_to_close() {
        let (far, near) = UnixStream::pair().unwrap();
        let found = peer(near.as_fd()).unwrap();
        assert_eq!(found.pid, std::process::id());
        assert_eq!(found.uid, rustix::process::geteuid().as_raw());
        assert!(!hung_up(near.as_fd()));
        drop(far);
        assert!(hung_up(near.as_fd()));
    }
}
