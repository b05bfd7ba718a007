//! ppoll(2): waiting for several descriptors, in one thread.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

/// What a descriptor is watched for, and what was seen; see poll(2).
#[repr(transparent)]
#[derive(Debug)]
pub struct Watch<'fd> {
    inner: libc::pollfd,
    fd: PhantomData<BorrowedFd<'fd>>,
}

impl<'fd> Watch<'fd> {
    /// Watches for `events` (`POLLIN`, `POLLRDHUP`, `POLLPRI`, …).
    pub fn new(fd: &'fd impl AsFd, events: libc::c_short) -> Self {
        Self {
            inner: libc::pollfd {
                fd: fd.as_fd().as_raw_fd(),
                events,
                revents: 0,
            },
            fd: PhantomData,
        }
    }

    /// As [`Watch::new`] if `wanted`; otherwise nothing is ever seen.
    pub fn when(wanted: bool, fd: &'fd impl AsFd, events: libc::c_short) -> Self {
        let mut watch = Self::new(fd, events);
        if !wanted {
            watch.inner.fd = -1; // poll(2) passes over it
        }
        watch
    }

    /// Whether the last [`wait`] saw anything, errors and hang-ups included.
    pub fn seen(&self) -> bool {
        self.inner.revents != 0
    }
}

/// Waits until something is seen, a signal comes, or `timeout` is over
/// (`None`: never). See ppoll(2).
pub fn wait(watches: &mut [Watch<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(|t| libc::timespec {
        tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
        // below 10^9: fits every c_long
        tv_nsec: t.subsec_nanos() as libc::c_long,
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `Watch` is a transparent pollfd, the pointer and count are the slice's;
    // `timeout` is null or outlives the call; a null mask is allowed.
    let result = unsafe {
        libc::ppoll(
            watches.as_mut_ptr().cast(),
            watches.len() as libc::nfds_t,
            timeout,
            ptr::null(),
        )
    };
    match super::check(result) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            for watch in watches {
                watch.inner.revents = 0;
            }
            Ok(())
        }
        other => other.map(drop),
    }
}

/// Whether the other end of a socket is closed, or sends no more; what it has sent is still there
/// to be read.
pub fn has_hung_up(socket: &impl AsFd) -> bool {
    let mut watches = [Watch::new(socket, libc::POLLRDHUP)];
    wait(&mut watches, Some(Duration::ZERO)).is_ok() && watches[0].seen()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn no_time_is_too_long_to_wait() {
        let (mut far, near) = UnixStream::pair().unwrap();
        far.write_all(b"x").unwrap();
        for seconds in [0x7fff_ffff, 0x8000_0000, 0x1_0000_0000, u64::MAX] {
            let mut watches = [Watch::new(&near, libc::POLLIN)];
            wait(&mut watches, Some(Duration::from_secs(seconds))).unwrap();
            assert!(watches[0].seen());
        }
    }

    #[test]
    fn a_time_is_waited_for_and_no_longer() {
        let (_far, near) = UnixStream::pair().unwrap();
        let mut watches = [Watch::new(&near, libc::POLLIN)];
        let time = Duration::from_millis(20);
        let start = std::time::Instant::now();
        wait(&mut watches, Some(time)).unwrap();
        assert!(!watches[0].seen());
        assert!(start.elapsed() >= time);
    }
}
