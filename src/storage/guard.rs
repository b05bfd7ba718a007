//! What the kernel is asked to tell of the filesystem: errors always, writers while nobody should be
//! one. The events themselves are the daemon's to read.

use std::os::fd::BorrowedFd;

use crate::sys::fanotify::{Events, Group};
use crate::sys::mount::Mode;

/// While read-only: errors, and writers that there should not be.
const ALL: Events = Events {
    error: true,
    release: true,
};
/// Only of interest while nobody should write.
const WRITERS: Events = Events {
    error: false,
    release: true,
};

/// The group that is told; `None` where the kernel does not let us watch.
#[derive(Debug)]
pub(crate) struct Guard(pub Option<Group>);

impl Guard {
    /// Watches the filesystem below `root` for what matters in this mode. `ReadOnly` is always set
    /// first.
    pub(crate) fn set(&self, root: BorrowedFd<'_>, mode: Mode) {
        let Some(group) = &self.0 else {
            return;
        };
        match mode {
            Mode::ReadOnly if group.watch(root, ALL).is_err() => {
                // Older kernels know no error events, but writers' closes.
                let _ = group.watch(root, WRITERS);
            }
            Mode::ReadOnly => {}
            // Writers are welcome now; errors are still watched for. An error here costs wake-ups only.
            Mode::ReadWrite => {
                let _ = group.unwatch(root, WRITERS);
            }
        }
    }
}
