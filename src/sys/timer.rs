//! A timer that is waited for like any other descriptor.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::check;

/// A timer of CLOCK_MONOTONIC, the clock of `Instant`. It goes off once each time it is set.
#[derive(Debug)]
pub struct Timer(OwnedFd);

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Timer {
    /// A timer that is not set, and never blocks. timerfd_create(2).
    pub fn new() -> io::Result<Timer> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: takes no pointer; returns a new descriptor or -1.
        let fd = check(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })?;
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(Timer(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Has it go off after this time, at once if that is zero, and not when it would have before;
    /// `None`: never. timerfd_settime(2).
    pub fn set(&self, after: Option<Duration>) -> io::Result<()> {
        // SAFETY: plain old data, for which zero is a valid value.
        let mut time: libc::itimerspec = unsafe { MaybeUninit::zeroed().assume_init() };
        if let Some(after) = after {
            let after = after.max(Duration::from_nanos(1)); // zero would be never
            time.it_value.tv_sec =
                libc::time_t::try_from(after.as_secs()).unwrap_or(libc::time_t::MAX);
            time.it_value.tv_nsec = after.subsec_nanos() as libc::c_long; // below 10^9: fits
        }
        let fd = self.0.as_raw_fd();
        // SAFETY: `time` outlives the call; that the old value is not wanted may be said by null.
        check(unsafe { libc::timerfd_settime(fd, 0, &raw const time, std::ptr::null_mut()) })
            .map(drop)
    }

    /// Whether it went off since it was set or asked this. It is not readable afterwards.
    pub fn take(&self) -> io::Result<bool> {
        let mut count = 0_u64;
        let (fd, size) = (self.0.as_raw_fd(), size_of_val(&count));
        // SAFETY: the pointer and size are those of a live integer.
        let read = check(unsafe { libc::read(fd, (&raw mut count).cast(), size) });
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            other => other.map(|_| count > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poll::{self, Watch};
    use std::time::Instant;

    fn goes_off(timer: &Timer, within: Duration) -> bool {
        let mut watches = [Watch::new(timer, libc::POLLIN)];
        poll::wait(&mut watches, Some(within)).unwrap();
        watches[0].seen()
    }

    #[test]
    fn it_goes_off_once_when_it_is_set_and_not_before() {
        let timer = Timer::new().unwrap();
        assert!(!timer.take().unwrap());
        for after in [Duration::ZERO, Duration::from_millis(20)] {
            let start = Instant::now();
            timer.set(Some(after)).unwrap();
            assert!(goes_off(&timer, Duration::from_secs(10)));
            assert!(start.elapsed() >= after);
            assert!(timer.take().unwrap());
            assert!(!timer.take().unwrap());
        }
    }

    #[test]
    fn who_sets_it_anew_or_never_is_not_told_of_the_time_before() {
        let timer = Timer::new().unwrap();
        for time in [None, Some(Duration::MAX)] {
            timer.set(Some(Duration::ZERO)).unwrap();
            assert!(goes_off(&timer, Duration::from_secs(10)));
            timer.set(time).unwrap();
            assert!(!goes_off(&timer, Duration::ZERO));
            assert!(!timer.take().unwrap());
        }
    }
}
