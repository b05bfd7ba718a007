//! Who is at the other end of a Unix socket, and whose its name in the filesystem is.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::check;
use super::current;
use super::file::{self, Status};

/// The process that connected, as of then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its pid here; 0 if it is not visible here.
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
}

pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let mut credentials = MaybeUninit::<libc::ucred>::uninit();
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the buffer is live and as long as `length` says.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            credentials.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    // SAFETY: the call succeeded, so it has written the whole struct.
    let credentials = unsafe { credentials.assume_init() };
    Ok(Peer {
        pid: u32::try_from(credentials.pid).unwrap_or(0),
        uid: credentials.uid,
        gid: credentials.gid,
    })
}

/// The supplementary groups of the process that connected. SO_PEERGROUPS of socket(7); Linux 4.13.
pub(crate) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let mut length = (groups.len() * size_of::<u32>()) as libc::socklen_t;
        // SAFETY: the buffer is live and as long as `length` says.
        let result = check(unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        });
        let count = length as usize / size_of::<u32>();
        match result {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // The kernel has written how much it takes.
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() => {
                groups.resize(count, 0);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the other end is closed, so that nobody hears an answer; unread bytes may be left.
/// POLLHUP of poll(2).
pub(crate) fn hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: one live struct; does not wait.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 && poll.revents & libc::POLLHUP != 0 }
}

/// Lets nobody send descriptors to a listening socket's connections. Without that, who only reads
/// bytes closes what came along, and some descriptors keep the last who closes them waiting: a TCP
/// socket with SO_LINGER for as long as its sender wants. SO_PASSRIGHTS of socket(7).
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

/// How many connections may wait to be accepted; who connects then has to wait, or gets EAGAIN.
/// The kernel has a limit of its own, net.core.somaxconn. listen(2), also of a socket that listens.
pub(crate) fn set_backlog(listener: BorrowedFd<'_>, count: usize) -> io::Result<()> {
    let count = libc::c_int::try_from(count).unwrap_or(libc::c_int::MAX);
    // SAFETY: takes no pointers.
    check(unsafe { libc::listen(listener.as_raw_fd(), count) }).map(drop)
}

/// What the name `path` stands for, without following it if it is a symlink.
pub(crate) fn name_status(path: &Path) -> io::Result<Status> {
    file::status(open_name(path)?.as_fd())
}

/// The same for a socket that this process has just bound there.
///
/// # Errors
/// `Other` if the name stands for something else: no socket, another user's, or one with other names.
pub(crate) fn own_name_status(path: &Path) -> io::Result<Status> {
    let name = File::from(open_name(path)?);
    let found = name.metadata()?;
    let ours = found.file_type().is_socket() && found.uid() == current::effective_uid();
    if !ours || found.nlink() > 1 {
        return Err(io::Error::other("something else has taken its place"));
    }
    file::status(name.as_fd())
}

/// Gives the socket that `path` names, and that `mine` describes, to a group; its user stays.
/// Goes through a descriptor: whoever may write to the directory could swap the name.
///
/// # Errors
/// `Other` if the name stands for something else by now.
pub(crate) fn set_name_group(path: &Path, mine: Status, gid: u32) -> io::Result<()> {
    let name = open_name(path)?;
    let found = file::status(name.as_fd())?;
    if (found.device, found.inode) != (mine.device, mine.inode) {
        return Err(io::Error::other("something else has taken its place"));
    }
    // SAFETY: the path is a valid C string.
    check(unsafe {
        libc::fchownat(
            name.as_raw_fd(),
            c"".as_ptr(),
            u32::MAX, // as it is
            gid,
            libc::AT_EMPTY_PATH,
        )
    })
    .map(drop)
}

fn open_name(path: &Path) -> io::Result<OwnedFd> {
    let path = file::c_path(path)?;
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: `path` is a valid C string; the call returns a new descriptor or -1.
    let fd = check(unsafe { libc::open(path.as_ptr(), flags) })?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_other_end_is_known_and_seen_to_close() {
        let (far, near) = UnixStream::pair().unwrap();
        let found = peer(near.as_fd()).unwrap();
        assert_eq!(found.pid, std::process::id());
        assert_eq!(found.uid, current::effective_uid());
        assert!(!hung_up(near.as_fd()));
        drop(far);
        assert!(hung_up(near.as_fd()));
    }
}
