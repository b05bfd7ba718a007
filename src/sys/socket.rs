//! Unix sockets. For clients: connecting with a timeout, waking a stopped process, and passing a descriptor. For the
//! daemon: identifying the peer, reading without descriptors, taking a passed socket, and owning the socket's name.

use std::fs::{File, Metadata};
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, Gid, OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_oobinline, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags,
    SocketType,
};

use rustix::process::Pid;

use super::{check, poll};

/// Connects to the socket at `path`; the connection is non-blocking. `WouldBlock` if the backlog is
/// full: poll(2) cannot wait for that. unix(7).
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = new_socket(SocketFlags::NONBLOCK)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// Like [`connect`], but waits in line if the backlog is full: waiting clients overtake clients that
/// only try again. `WouldBlock` after `timeout`. SO_SNDTIMEO of socket(7).
pub(crate) fn connect_in_line(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let socket = new_socket(SocketFlags::empty())?;
    set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
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

/// Has the kernel send a process SIGCONT whenever data arrives at a non-blocking socket or its other end
/// closes, so that a stopped process continues. A socket wakes only one process. F_SETOWN and F_SETSIG
/// of fcntl(2).
pub(crate) fn wake(socket: &UnixStream, process: Pid) -> io::Result<()> {
    // The libc crate lacks it for some targets; the value is the same on all architectures.
    const F_SETSIG: libc::c_int = 10;
    const O_ASYNC: OFlags = OFlags::from_bits_retain(libc::O_ASYNC as u32);
    let fd = socket.as_raw_fd();
    // SAFETY: these commands take integers.
    unsafe {
        check(libc::fcntl(fd, libc::F_SETOWN, process.as_raw_pid()))?;
        check(libc::fcntl(fd, F_SETSIG, libc::SIGCONT))?;
    }
    Ok(fcntl_setfl(socket, OFlags::NONBLOCK | O_ASYNC)?)
}

/// Sends a message with a copy of a descriptor. SCM_RIGHTS of unix(7).
pub(crate) fn send_descriptor(
    socket: &UnixStream,
    parts: &[IoSlice<'_>],
    descriptor: BorrowedFd<'_>,
) -> io::Result<()> {
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(socket, parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives what [`send_descriptor`] sent. Returns the length of the message.
///
/// # Errors
/// `UnexpectedEof` if the other end is closed; EMFILE if there is no room for the descriptor.
pub(crate) fn receive_descriptor<const N: usize>(
    socket: &UnixStream,
    mut parts: [IoSliceMut<'_>; N],
) -> io::Result<(usize, OwnedFd)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut parts, &mut control, flags)?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((received.bytes, descriptor.ok_or(Errno::MFILE)?))
}

/// The process that connected, as it was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// 0 if the process is not in this pid namespace.
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
}

/// SO_PEERCRED of socket(7). rustix's version does not allow a pid of 0.
pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let mut credentials = [0; 3]; // as in `struct ucred`
    get_option(socket, libc::SO_PEERCRED, &mut credentials)?;
    let [pid, uid, gid] = credentials;
    Ok(Peer { pid, uid, gid })
}

/// Returns the supplementary groups of the process that connected. SO_PEERGROUPS of socket(7);
/// Linux 4.13.
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

/// Reads an option that consists of numbers; returns how many there are. getsockopt(2).
fn get_option(socket: BorrowedFd<'_>, option: libc::c_int, into: &mut [u32]) -> io::Result<usize> {
    let mut size = size_of_val(into) as libc::socklen_t;
    // SAFETY: the buffer is live and `size` bytes long.
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

/// Whether the other end is closed and cannot read an answer. Bytes that it sent may still be unread.
pub(crate) fn hung_up(socket: &impl AsFd) -> bool {
    poll::wait(
        [PollFd::new(socket, PollFlags::empty())],
        Some(Duration::ZERO),
    ) == [true]
}

/// Prepares a new connection for [`receive`]: keeps out-of-band bytes in line. Otherwise a read drops them and closes
/// the descriptors that came with them. SO_OOBINLINE of socket(7).
pub(crate) fn keep_in_line(socket: &UnixStream) -> io::Result<()> {
    Ok(set_socket_oobinline(socket, true)?)
}

/// Reads bytes, unless descriptors came with them. Then all stays unread: the last close of another process's file may
/// block. recvmsg(2).
///
/// # Errors
/// `InvalidData` if descriptors came.
pub(crate) fn receive(socket: &UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    // A look at a message receives copies of its descriptors. There is no room for them, so the kernel drops the copies
    // and sets MSG_CTRUNC.
    let mut no_room = RecvAncillaryBuffer::new(&mut []);
    let parts = &mut [IoSliceMut::new(buffer)];
    let seen = rustix::net::recvmsg(socket, parts, &mut no_room, RecvFlags::PEEK)?;
    if seen.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut socket = socket;
    socket.read(&mut buffer[..seen.bytes])
}

/// Stops receiving, and returns whether something is unread. Afterwards the other end can send no more. shutdown(2).
pub(crate) fn stop_receiving(socket: &UnixStream) -> bool {
    let stopped = rustix::net::shutdown(socket, Shutdown::Read);
    stopped.is_err() || rustix::io::ioctl_fionread(socket) != Ok(0)
}

/// Takes ownership of descriptor 3, the first that a service manager passes; sd_listen_fds(3). Call it
/// once, only if the service manager passed one, and before anything else opens descriptors.
///
/// # Errors
/// EBADF if it was taken before.
pub(crate) fn take_passed() -> io::Result<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it was passed to this process, and `TAKEN` gives it to one owner.
    Ok(unsafe { OwnedFd::from_raw_fd(3) })
}

/// Opens the file of the socket that this process has just bound at `path`, to change its group.
///
/// # Errors
/// `Other` if something else is there: not a socket, another user's, or a file with hard links.
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

/// Sets the group of a file from [`open_own_name`]. Not by path, because others may be able to replace
/// that file. fchownat(2).
pub(crate) fn set_group(name: &File, gid: u32) -> io::Result<()> {
    let group = Some(Gid::from_raw(gid));
    rustix::fs::chownat(name, c"", None, group, AtFlags::EMPTY_PATH)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_peer_is_identified_and_its_hang_up_is_noticed() {
        let (far, near) = UnixStream::pair().unwrap();
        let found = peer(near.as_fd()).unwrap();
        assert_eq!(found.pid, std::process::id());
        assert_eq!(found.uid, rustix::process::geteuid().as_raw());
        assert!(!hung_up(&near));
        drop(far);
        assert!(hung_up(&near));
    }

    /// Returns the file that shows this thread's state.
    fn thread_state() -> PathBuf {
        let own = fs::read_link("/proc/thread-self").unwrap();
        PathBuf::from("/proc").join(own).join("stat")
    }

    #[test]
    fn a_client_that_finds_the_backlog_full_waits_in_line() {
        let path = std::env::temp_dir().join(format!("pst-line-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _first = connect(&path).unwrap();
        let full = connect(&path).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let start = Instant::now();
        let timeout = Duration::from_millis(20);
        let late = connect_in_line(&path, timeout).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::WouldBlock);
        // The kernel counts in ticks of up to 10 ms, and the first may be nearly over.
        assert!(start.elapsed() >= timeout / 2, "it did not wait");
        let second = thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            let path = &path;
            let second = scope.spawn(move || {
                sender.send(thread_state()).unwrap();
                connect_in_line(path, Duration::from_secs(60))
            });
            let state = receiver.recv().unwrap();
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
