//! A fanotify group that watches one filesystem for errors and for writers that close.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

const RELEASE: u64 = libc::FAN_CLOSE_WRITE | libc::FAN_DELETE_SELF;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Events {
    /// The filesystem hit an error (FAN_FS_ERROR, Linux 5.16; on ext4, and xfs since 6.19).
    pub error: bool,
    /// A holder that kept the filesystem from going read-only may be gone. A file that was open for
    /// writing was closed (FAN_CLOSE_WRITE), or a deleted file was closed for the last time
    /// (FAN_DELETE_SELF, Linux 5.1 for whole filesystems).
    pub release: bool,
}

/// A fanotify group. Its marks keep neither the filesystem nor its mounts busy.
#[derive(Debug)]
pub(crate) struct Group(OwnedFd);

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Group {
    /// Creates a group that reports file handles and never blocks. fanotify_init(2).
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN.
    pub(crate) fn new() -> io::Result<Group> {
        let flags =
            libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_REPORT_FID;
        // SAFETY: takes no pointer; returns a new descriptor or -1.
        let fd = check(unsafe { libc::fanotify_init(flags, 0) })?;
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(Group(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Returns a second descriptor of this group.
    pub(crate) fn try_clone(&self) -> io::Result<Group> {
        self.0.try_clone().map(Group)
    }

    /// Adds these events to those that are watched on the filesystem of `root`. fanotify_mark(2).
    ///
    /// # Errors
    /// EINVAL where the kernel does not know an event; ENODEV, EOPNOTSUPP, EXDEV where the
    /// filesystem cannot be watched.
    pub(crate) fn watch(&self, root: BorrowedFd<'_>, events: Events) -> io::Result<()> {
        self.mark(libc::FAN_MARK_ADD, root, events)
    }

    /// Stops watching the filesystem of `root` for these events. fanotify_mark(2).
    pub(crate) fn unwatch(&self, root: BorrowedFd<'_>, events: Events) -> io::Result<()> {
        self.mark(libc::FAN_MARK_REMOVE, root, events)
    }

    fn mark(&self, action: libc::c_uint, root: BorrowedFd<'_>, events: Events) -> io::Result<()> {
        // SAFETY: a null path means the directory descriptor itself.
        check(unsafe {
            libc::fanotify_mark(
                self.0.as_raw_fd(),
                action | libc::FAN_MARK_FILESYSTEM,
                mask(events),
                root.as_raw_fd(),
                std::ptr::null(),
            )
        })
        .map(drop)
    }

    /// Reads the pending events and merges them. Some are left if they arrive faster than they are
    /// read. fanotify(7).
    pub(crate) fn take(&self) -> io::Result<Events> {
        let mut found = Events::default();
        let mut buffer = [0u8; 4096];
        for _ in 0..16 {
            // SAFETY: the buffer is live and of the size given.
            let read =
                unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            let length = match check(read) {
                Ok(length) => usize::try_from(length).unwrap_or(0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(found),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if length == 0 {
                return Ok(found);
            }
            read_events(buffer.get(..length).unwrap_or(&[]), &mut found);
        }
        Ok(found)
    }
}

fn mask(events: Events) -> u64 {
    let mut mask = 0;
    if events.error {
        mask |= libc::FAN_FS_ERROR;
    }
    if events.release {
        mask |= RELEASE | libc::FAN_ONDIR; // a deleted directory keeps the filesystem writable too
    }
    mask
}

/// Merges the events of these records into `found`. Records follow each other without gaps. A
/// `struct fanotify_event_metadata` has the record's length (u32) at byte 0, the mask (u64) at 8.
fn read_events(mut bytes: &[u8], found: &mut Events) {
    while let (Some(length), Some(event)) = (bytes.get(..4), bytes.get(8..16)) {
        let length = length.try_into().map_or(0, u32::from_ne_bytes) as usize;
        let event = event.try_into().map_or(0, u64::from_ne_bytes);
        found.error |= event & libc::FAN_FS_ERROR != 0;
        // An overflow lost events: assume one of each kind.
        let overflow = event & libc::FAN_Q_OVERFLOW != 0;
        found.release |= overflow || event & RELEASE != 0;
        found.error |= overflow;
        match bytes.get(length.max(1)..) {
            Some(rest) => bytes = rest,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(mask: u64) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        bytes[..4].copy_from_slice(&40u32.to_ne_bytes());
        bytes[8..16].copy_from_slice(&mask.to_ne_bytes());
        bytes
    }

    #[test]
    fn the_record_layout_is_the_kernels_on_every_architecture() {
        use libc::fanotify_event_metadata as Record;
        assert_eq!(std::mem::offset_of!(Record, event_len), 0);
        assert_eq!(std::mem::offset_of!(Record, mask), 8);
        assert_eq!((libc::FAN_FS_ERROR, libc::FAN_Q_OVERFLOW), (0x8000, 0x4000));
        assert_eq!(RELEASE, 0x408);
    }

    #[test]
    fn every_record_of_a_read_counts() {
        let bytes = [record(libc::FAN_CLOSE_WRITE), record(libc::FAN_FS_ERROR)].concat();
        let mut found = Events::default();
        read_events(&bytes, &mut found);
        assert!(found.error && found.release);
    }

    #[test]
    fn an_overflow_counts_as_every_event() {
        let mut found = Events::default();
        read_events(&record(libc::FAN_Q_OVERFLOW), &mut found);
        assert!(found.error && found.release);
    }

    #[test]
    fn malformed_records_are_ignored() {
        let mut found = Events::default();
        read_events(&[0; 7], &mut found);
        read_events(&[0; 64], &mut found);
        assert_eq!(found, Events::default());
    }
}
