//! Waiting for several descriptors at once: ppoll(2).

use std::time::Duration;

use rustix::event::{PollFd, Timespec};

/// Waits until a descriptor has events, a signal arrives, or `timeout` (`None`: none) is over.
/// Returns which descriptors have events, including errors and hang-ups; none if the kernel has no
/// memory.
pub fn wait<const N: usize>(mut fds: [PollFd<'_>; N], timeout: Option<Duration>) -> [bool; N] {
    // A timeout that the kernel cannot express is none.
    let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
    let _ = rustix::event::poll(&mut fds, timeout.as_ref());
    fds.map(|fd| !fd.revents().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use rustix::event::PollFlags;

    #[test]
    fn any_timeout_is_accepted() {
        let (mut far, near) = UnixStream::pair().unwrap();
        far.write_all(b"x").unwrap();
        for seconds in [0x7fff_ffff, 0x8000_0000, 0x1_0000_0000, u64::MAX] {
            let near = PollFd::new(&near, PollFlags::IN);
            assert_eq!(wait([near], Some(Duration::from_secs(seconds))), [true]);
        }
    }

    #[test]
    fn a_wait_ends_after_its_timeout() {
        let (_far, near) = UnixStream::pair().unwrap();
        let time = Duration::from_millis(20);
        let start = std::time::Instant::now();
        assert_eq!(
            wait([PollFd::new(&near, PollFlags::IN)], Some(time)),
            [false]
        );
        assert!(start.elapsed() >= time);
    }
}
