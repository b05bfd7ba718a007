//! Descriptors that were there before the program: taking them over, and what kind of socket they are.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{c_int, socklen_t};

/// The first descriptor that a service manager passes, SD_LISTEN_FDS_START; sd_listen_fds(3).
const FIRST_PASSED: RawFd = 3;

/// Takes over descriptor 3, and makes it close-on-exec; fcntl(2). Only for a process whose service
/// manager says that it has put one there, and before anything else opens descriptors.
/// Works once: later calls fail with EBADF.
pub(crate) fn take_passed() -> io::Result<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: takes no pointer; a closed descriptor is answered with EBADF.
    if unsafe { libc::fcntl(FIRST_PASSED, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, was passed to this process for keeping, and `TAKEN` gives it to one owner.
    Ok(unsafe { OwnedFd::from_raw_fd(FIRST_PASSED) })
}

/// Address family of a socket, AF_UNIX for one; socket(7), SO_DOMAIN.
pub(crate) fn socket_family(socket: BorrowedFd<'_>) -> io::Result<c_int> {
    socket_option(socket, libc::SO_DOMAIN)
}

/// Type of a socket, SOCK_STREAM for one; socket(7), SO_TYPE.
pub(crate) fn socket_type(socket: BorrowedFd<'_>) -> io::Result<c_int> {
    socket_option(socket, libc::SO_TYPE)
}

/// Whether listen(2) was called on the socket; socket(7), SO_ACCEPTCONN.
pub(crate) fn is_listening(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(socket_option(socket, libc::SO_ACCEPTCONN)? != 0)
}

fn socket_option(socket: BorrowedFd<'_>, option: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut size = size_of::<c_int>() as socklen_t;
    // SAFETY: `value` and `size` outlive the call, and `size` is `value`'s.
    let code = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &mut size,
        )
    };
    if code == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_socket_says_what_it_is() {
        let socket = UnixDatagram::unbound().unwrap();
        assert_eq!(socket_family(socket.as_fd()).unwrap(), libc::AF_UNIX);
        assert_eq!(socket_type(socket.as_fd()).unwrap(), libc::SOCK_DGRAM);
        assert!(!is_listening(socket.as_fd()).unwrap());
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(socket_family(tcp.as_fd()).unwrap(), libc::AF_INET);
        assert_eq!(socket_type(tcp.as_fd()).unwrap(), libc::SOCK_STREAM);
        assert!(is_listening(tcp.as_fd()).unwrap());
    }

    #[test]
    fn what_is_no_socket_is_an_error() {
        let file = std::fs::File::open("/").unwrap();
        let error = socket_type(file.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK));
    }
}
