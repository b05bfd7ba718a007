//! epoll(7): waiting for any number of descriptors, edge-triggered, and a bell (eventfd(2)) that
//! another thread can ring.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::check;

/// What is always told of: something to read, or the other end is gone.
const READING: libc::c_int = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET;

/// An epoll instance.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

/// Something happened to a descriptor.
#[derive(Clone, Copy)]
pub struct Event(libc::epoll_event);

impl Epoll {
    /// See epoll_create1(2).
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: takes no pointer; the new descriptor is nobody else's.
        unsafe {
            let fd = check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?;
            Ok(Epoll(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// Tells from now on when `fd` becomes readable.
    pub fn add(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, READING)
    }

    /// Tells from now on also when `fd` becomes writable, and now if it is.
    pub fn add_writing(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, READING | libc::EPOLLOUT)
    }

    /// Tells of `fd` no longer.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0)
    }

    /// See epoll_ctl(2).
    fn control(
        &self,
        action: libc::c_int,
        fd: BorrowedFd<'_>,
        events: libc::c_int,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: fd.as_raw_fd() as u64,
        };
        // SAFETY: `event` is live, and only read.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), action, fd.as_raw_fd(), &mut event) })
            .map(drop)
    }

    /// Waits for events, or until `timeout` is over (`None`: never); none if a signal came. See
    /// epoll_wait(2).
    pub fn wait<'e>(
        &self,
        events: &'e mut [Event],
        timeout: Option<Duration>,
    ) -> io::Result<&'e [Event]> {
        // Rounded up: what is due then must be due when this returns.
        let milliseconds = timeout.map_or(-1, |timeout| {
            let whole = timeout.as_nanos().div_ceil(1_000_000);
            libc::c_int::try_from(whole).unwrap_or(libc::c_int::MAX)
        });
        // SAFETY: the array is live and as long as said, and `Event` is one of the kernel's.
        let result = check(unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr().cast(),
                libc::c_int::try_from(events.len()).unwrap_or(libc::c_int::MAX),
                milliseconds,
            )
        });
        match result {
            Ok(count) => Ok(events
                .get(..usize::try_from(count).unwrap_or(0))
                .unwrap_or(&[])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(&[]),
            Err(error) => Err(error),
        }
    }
}

impl Event {
    /// None: room for one.
    pub const EMPTY: Event = Event(libc::epoll_event { events: 0, u64: 0 });

    /// The descriptor's number.
    pub fn number(self) -> usize {
        self.0.u64 as usize
    }

    /// It may be read, or tell why not.
    pub fn is_readable(self) -> bool {
        self.has(libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR)
    }

    /// It may be written, or tell why not.
    pub fn is_writable(self) -> bool {
        self.has(libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR)
    }

    fn has(self, events: libc::c_int) -> bool {
        self.0.events & events as u32 != 0
    }
}

/// Rung by one thread, it is an event in another's epoll.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// See eventfd(2).
    pub fn new() -> io::Result<Bell> {
        // SAFETY: takes no pointer; the new descriptor is nobody else's.
        unsafe {
            let fd = check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?;
            Ok(Bell(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// Rings. Nobody has to take back what is written: each write is an edge, and 2^64 do not come.
    pub fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the bytes are live and as many as said.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
