//! Stream sockets as a client uses them: connecting without blocking for long, pairs, reading and
//! writing, and being woken while stopped.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::retry_on_intr;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
};

use super::check;

/// One end of a non-blocking Unix socket; closed on exec.
#[derive(Debug)]
pub struct Stream(OwnedFd);

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

impl Stream {
    /// Connects to the socket at `path`. `WouldBlock` if its backlog is full, which no poll(2)
    /// waits for. unix(7).
    pub fn connect(path: &Path) -> io::Result<Self> {
        let stream = Self::new()?;
        rustix::net::connect(&stream, &SocketAddrUnix::new(path)?)?;
        Ok(stream)
    }

    /// Connects to the socket at `path`, waiting in line if its backlog is full: clients that only
    /// try again are overtaken by those that wait. `WouldBlock` after `patience`. SO_SNDTIMEO of
    /// socket(7).
    pub fn connect_in_line(path: &Path, patience: Duration) -> io::Result<Self> {
        let stream = Self::new()?;
        set_socket_timeout(&stream, Timeout::Send, Some(patience))?;
        fcntl_setfl(&stream, OFlags::empty())?;
        rustix::net::connect(&stream, &SocketAddrUnix::new(path)?)?;
        fcntl_setfl(&stream, OFlags::NONBLOCK)?;
        Ok(stream)
    }

    fn new() -> io::Result<Self> {
        let kind = SocketType::STREAM;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, FLAGS, None)?;
        Ok(Self(socket))
    }

    /// Two joined ends that keep each write together (SOCK_SEQPACKET). socketpair(2).
    pub fn pair() -> io::Result<(Self, Self)> {
        let kind = SocketType::SEQPACKET;
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, kind, FLAGS, None)?;
        Ok((Self(a), Self(b)))
    }

    /// Reads at most a buffer full. 0: the other end is closed; `WouldBlock`: nothing yet. recv(2).
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let received = || rustix::net::recv(&self.0, &mut *buffer, RecvFlags::empty());
        Ok(retry_on_intr(received)?.0)
    }

    /// Sends all of `bytes` (a frame or two, far below the socket's buffer) or fails; never raises
    /// SIGPIPE. send(2).
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL)?;
        if sent < bytes.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }

    /// Lets the other end see the end after it has read what was sent. shutdown(2).
    pub fn end_sending(&self) {
        // It fails only if the other end is gone.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Write);
    }

    /// From now on this process gets SIGCONT whenever something arrives or the other end closes, so
    /// that it wakes up even if it is stopped. A socket wakes one process only. F_SETOWN and
    /// F_SETSIG of fcntl(2).
    pub fn wake_this_process(&self) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        // SAFETY: these commands take integers.
        unsafe {
            check(libc::fcntl(fd, libc::F_SETOWN, libc::getpid()))?;
            check(libc::fcntl(fd, F_SETSIG, libc::SIGCONT))?;
        }
        Ok(fcntl_setfl(&self.0, OFlags::NONBLOCK | O_ASYNC)?)
    }
}

// Not in rustix, and not in the libc crate for every target; F_SETSIG is the same on all of Linux.
const F_SETSIG: libc::c_int = 10;
const O_ASYNC: OFlags = OFlags::from_bits_retain(libc::O_ASYNC as u32);

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
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
        let _first = Stream::connect(&path).unwrap();
        let full = Stream::connect(&path).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let start = Instant::now();
        let patience = Duration::from_millis(20);
        let late = Stream::connect_in_line(&path, patience).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::WouldBlock);
        // The kernel counts in ticks, and the first may be nearly over: at 100 Hz half of it is left.
        assert!(start.elapsed() >= patience / 2, "it did not wait");
        let second = thread::scope(|scope| {
            let (tell, own) = mpsc::channel();
            let path = &path;
            let second = scope.spawn(move || {
                tell.send(thread_state()).unwrap();
                Stream::connect_in_line(path, Duration::from_secs(60))
            });
            let state = own.recv().unwrap();
            while !fs::read_to_string(&state).unwrap().contains(") S ") {
                thread::yield_now();
            }
            listener.accept().unwrap();
            second.join().unwrap().unwrap()
        });
        std::fs::remove_file(&path).unwrap();
        let nothing = second.receive(&mut [0]).unwrap_err();
        assert_eq!(
            nothing.kind(),
            io::ErrorKind::WouldBlock,
            "it does not block"
        );
    }
}
