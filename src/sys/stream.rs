//! Stream sockets as a client uses them: connecting without ever blocking for long,
//! pairs, reading and writing what goes, and being woken while stopped.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::check;

/// One end of a non-blocking Unix socket; closed on exec.
#[derive(Debug)]
pub struct Stream(OwnedFd);

fn new_socket(kind: libc::c_int) -> io::Result<Stream> {
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket(2) takes no pointers; the new descriptor is nobody else's.
    unsafe {
        let fd = check(libc::socket(libc::AF_UNIX, kind, 0))?;
        Ok(Stream(OwnedFd::from_raw_fd(fd)))
    }
}

/// The address of the socket at `path`.
fn address(path: &Path) -> io::Result<libc::sockaddr_un> {
    // SAFETY: all zeroes is a valid, empty sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let path = path.as_os_str().as_bytes();
    // The last byte stays 0.
    if path.len() >= address.sun_path.len() || path.contains(&0) {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in address.sun_path.iter_mut().zip(path) {
        *to = *from as libc::c_char;
    }
    Ok(address)
}

impl Stream {
    /// Connects to the socket at `path`; `WouldBlock` if its backlog is full, of
    /// which no poll tells. See unix(7).
    pub fn connect(path: &Path) -> io::Result<Self> {
        let address = address(path)?;
        let stream = new_socket(libc::SOCK_STREAM)?;
        stream.connect_to(&address)?;
        Ok(stream)
    }

    /// The same, but gets in line if the backlog is full: who only tries again and again is
    /// overtaken by all who wait. `WouldBlock` if `patience` is over. SO_SNDTIMEO of socket(7).
    pub fn connect_in_line(path: &Path, patience: Duration) -> io::Result<Self> {
        let address = address(path)?;
        let stream = new_socket(libc::SOCK_STREAM)?;
        let time = libc::timeval {
            tv_sec: patience.as_secs() as libc::time_t,
            tv_usec: patience.subsec_micros() as libc::suseconds_t,
        };
        // SAFETY: `time` is live and as long as the length given.
        check(unsafe {
            libc::setsockopt(
                stream.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDTIMEO,
                (&raw const time).cast(),
                size_of_val(&time) as libc::socklen_t,
            )
        })?;
        stream.set_flags(0)?;
        stream.connect_to(&address)?;
        stream.set_flags(libc::O_NONBLOCK)?;
        Ok(stream)
    }

    fn connect_to(&self, address: &libc::sockaddr_un) -> io::Result<()> {
        // SAFETY: the address and its size are the same object's.
        check(unsafe {
            libc::connect(
                self.0.as_raw_fd(),
                (&raw const *address).cast(),
                size_of_val(address) as libc::socklen_t,
            )
        })
        .map(drop)
    }

    /// All of the flags that it is to have. F_SETFL of fcntl(2).
    fn set_flags(&self, flags: libc::c_int) -> io::Result<()> {
        // SAFETY: this command takes an integer.
        check(unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
    }

    /// Two ends, joined, that keep each write together (SOCK_SEQPACKET); see socketpair(2).
    pub fn pair() -> io::Result<(Self, Self)> {
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let mut fds = [0; 2];
        // SAFETY: an array of two; the new descriptors are nobody else's.
        unsafe {
            check(libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()))?;
            let [a, b] = fds.map(|fd| Stream(OwnedFd::from_raw_fd(fd)));
            Ok((a, b))
        }
    }

    /// What has come, at most a buffer full; 0: the other end is closed;
    /// `WouldBlock`: nothing yet. See recv(2).
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // SAFETY: the pointer and length are the buffer's.
            let got = unsafe {
                libc::recv(
                    self.0.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                )
            };
            match usize::try_from(got) {
                Ok(got) => return Ok(got),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Sends all of `bytes` (a frame or two, far below the socket's buffer) or
    /// fails; never SIGPIPE. See send(2).
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and length are the slice's.
        let sent = unsafe {
            libc::send(
                self.0.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_NOSIGNAL,
            )
        };
        match usize::try_from(sent) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }

    /// The other end reads no more than what was sent already; see shutdown(2).
    pub fn end_sending(&self) {
        // SAFETY: shutdown(2) takes no pointers. It can only fail if nobody is there to read.
        unsafe { libc::shutdown(self.0.as_raw_fd(), libc::SHUT_WR) };
    }

    /// From now on this process gets SIGCONT whenever something comes or the
    /// other end closes: so it wakes up also when it is stopped. One process at
    /// a time can be woken by a socket. See F_SETOWN and F_SETSIG in fcntl(2).
    pub fn wake_this_process(&self) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        // SAFETY: these commands take integers.
        unsafe {
            check(libc::fcntl(fd, libc::F_SETOWN, libc::getpid()))?;
            check(libc::fcntl(fd, F_SETSIG, libc::SIGCONT))?;
        }
        self.set_flags(libc::O_NONBLOCK | libc::O_ASYNC)
    }
}

/// Not in the libc crate for every target; the same on all of Linux.
const F_SETSIG: libc::c_int = 10;

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
    use crate::sys::socket::set_backlog;

    /// Where this thread's state is to be read.
    fn thread_state() -> PathBuf {
        let own = fs::read_link("/proc/thread-self").unwrap();
        PathBuf::from("/proc").join(own).join("stat")
    }

    #[test]
    fn who_finds_the_backlog_full_gets_in_line() {
        let path = std::env::temp_dir().join(format!("pst-line-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        set_backlog(listener.as_fd(), 0).unwrap();
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
