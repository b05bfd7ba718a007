//! ppoll(2): waiting for several descriptors, in one thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// A descriptor, what it is watched for, and whether the last [`wait`] saw it; see poll(2).
#[derive(Debug)]
pub struct Watch<'fd> {
    /// `None`: never seen.
    fd: Option<BorrowedFd<'fd>>,
    events: PollFlags,
    seen: bool,
}

impl<'fd> Watch<'fd> {
    /// Watches for `events` (`POLLIN`, `POLLRDHUP`, `POLLPRI`, …).
    pub fn new(fd: &'fd impl AsFd, events: libc::c_short) -> Self {
        Self::when(true, fd, events)
    }

    /// Like [`Watch::new`] if `wanted`; otherwise nothing is ever seen.
    pub fn when(wanted: bool, fd: &'fd impl AsFd, events: libc::c_short) -> Self {
        Self {
            fd: wanted.then(|| fd.as_fd()),
            events: PollFlags::from_bits_retain(events as u16),
            seen: false,
        }
    }

    /// Whether the last [`wait`] saw anything, errors and hang-ups included.
    pub fn seen(&self) -> bool {
        self.seen
    }
}

/// Waits until something is seen, a signal comes, or `timeout` is over (`None`: never).
pub fn wait(watches: &mut [Watch<'_>], timeout: Option<Duration>) -> io::Result<()> {
    // A time that the kernel cannot express never ends.
    let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
    let wanted = watches.iter().filter_map(|watch| {
        let fd = watch.fd?;
        Some(PollFd::from_borrowed_fd(fd, watch.events))
    });
    let mut polled: Vec<PollFd<'_>> = wanted.collect();
    let result = match rustix::event::poll(&mut polled, timeout.as_ref()) {
        Err(Errno::INTR) => Ok(()),
        result => result.map(drop),
    };
    let mut polled = polled.iter();
    for watch in watches.iter_mut().filter(|watch| watch.fd.is_some()) {
        watch.seen = polled.next().is_some_and(|fd| !fd.revents().is_empty());
    }
    Ok(result?)
}

/// Whether the other end of a socket is closed, or sends no more. What it has sent can still be read.
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
    fn a_wait_ends_after_its_time() {
        let (_far, near) = UnixStream::pair().unwrap();
        let mut watches = [Watch::new(&near, libc::POLLIN)];
        let time = Duration::from_millis(20);
        let start = std::time::Instant::now();
        wait(&mut watches, Some(time)).unwrap();
        assert!(!watches[0].seen());
        assert!(start.elapsed() >= time);
    }
}
