//! Unix sockets. For clients: connecting without blocking for long, and being woken while stopped.
//! For the daemon: identifying the peer, and the socket's own name.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, Gid, OFlags, fcntl_setfl};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{check, poll};

/// Connects to the socket at `path`; the connection is non-blocking. `WouldBlock` if the backlog is
/// full, which no poll(2) waits for. unix(7).
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = new_socket(SocketFlags::NONBLOCK)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// Like [`connect`], but waits in line if the backlog is full: clients that only try again are
/// overtaken by those that wait. `WouldBlock` after `patience`. SO_SNDTIMEO of socket(7).
pub(crate) fn connect_in_line(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = new_socket(SocketFlags::empty())?;
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    fcntl_setfl(&socket, OFlags::NONBLOCK)?;
    Ok(socket.into())
}

fn new_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

/// From now on this process gets SIGCONT whenever something arrives at a non-blocking socket or the
/// other end closes, so that it wakes up even if it is stopped. A socket wakes one process only.
/// F_SETOWN and F_SETSIG of fcntl(2).
pub(crate) fn wake_this_process(socket: &UnixStream) -> io::Result<()> {
    // Not in rustix, and not in the libc crate for every target; F_SETSIG is the same on all of Linux.
    const F_SETSIG: libc::c_int = 10;
    const O_ASYNC: OFlags = OFlags::from_bits_retain(libc::O_ASYNC as u32);
    let fd = socket.as_raw_fd();
    // SAFETY: these commands take integers.
    unsafe {
        check(libc::fcntl(fd, libc::F_SETOWN, libc::getpid()))?;
        check(libc::fcntl(fd, F_SETSIG, libc::SIGCONT))?;
    }
    Ok(fcntl_setfl(socket, OFlags::NONBLOCK | O_ASYNC)?)
}

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
pub(crate) fn hung_up(socket: &impl AsFd) -> bool {
    poll::wait(
        [PollFd::new(socket, PollFlags::empty())],
        Some(Duration::ZERO),
    ) == [true]
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

/// Opens the name of a socket that this process has just bound at `path`.
///
/// # Errors
/// `Other` if something else is there: no socket, another user's, or one with more names.
pub(crate) fn open_own_name(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let name = File::options().read(true).custom_flags(flags).open(path)?;
    let found = name.metadata()?;
    let own_uid = rustix::process::geteuid().as_raw();
    let ours = found.file_type().is_socket() && found.uid() == own_uid;
    if !ours || found.nlink() > 1 {
        return Err(io::Error::other("something else has taken its place"));
    }
    Ok((name, found))
}

/// Gives an open name to a group; its user stays. Not by its path, which others may be able to
/// replace. fchownat(2).
pub(crate) fn set_group(name: &File, gid: u32) -> io::Result<()> {
    let group = Some(Gid::from_raw(gid));
    rustix::fs::chownat(name, c"", None, group, AtFlags::EMPTY_PATH)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_other_end_is_identified_and_seen_to_close() {
        let (far, near) = UnixStream::pair().unwrap();
        let found = peer(near.as_fd()).unwrap();
        assert_eq!(found.pid, std::process::id());
        assert_eq!(found.uid, rustix::process::geteuid().as_raw());
        assert!(!hung_up(&near));
        drop(far);
        assert!(hung_up(&near));
    }

    /// Where this thread's state is to be read.
    fn thread_state() -> PathBuf {
        let own = fs::read_link("/proc/thread-self").unwrap();
        PathBuf::from("/proc").join(own).join("stat")
    }

    #[test]
    fn who_finds_the_backlog_full_gets_in_line() {
        let path = std::env::temp_dir().join(format!("pst-line-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _first = connect(&path).unwrap();
        let full = connect(&path).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let start = Instant::now();
        let patience = Duration::from_millis(20);
        let late = connect_in_line(&path, patience).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::WouldBlock);
        // The kernel counts in ticks, and the first may be nearly over: at 100 Hz half of it is left.
        assert!(start.elapsed() >= patience / 2, "it did not wait");
        let second = thread::scope(|scope| {
            let (tell, own) = mpsc::channel();
            let path = &path;
            let second = scope.spawn(move || {
                tell.send(thread_state()).unwrap();
                connect_in_line(path, Duration::from_secs(60))
            });
            let state = own.recv().unwrap();
            while !fs::read_to_string(&state).unwrap().contains(") S ") {
                thread::yield_now();
            }
            listener.accept().unwrap();
            second.join().unwrap().unwrap()
        });
        std::fs::remove_file(&path).unwrap();
        let nothing = (&second).read(&mut [0]).unwrap_err();
        assert_eq!(
            nothing.kind(),
            io::ErrorKind::WouldBlock,
            "it does not block"
        );
    }
}
