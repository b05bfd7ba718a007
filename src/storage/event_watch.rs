//! Chooses the filesystem events that the kernel sends: errors always, closing writers only while
//! nothing should write. The daemon reads the events.

use std::os::fd::BorrowedFd;

use crate::sys::fanotify::{Events, Group};
use crate::sys::mount::Mode;

const ALL: Events = Events {
    error: true,
    release: true,
};
const WRITERS: Events = Events {
    error: false,
    release: true,
};

/// The group that receives the events; `None` where the kernel does not allow it.
#[derive(Debug)]
pub(super) struct EventWatch(pub Option<Group>);

impl EventWatch {
    /// Selects the events for this mode. A filesystem's first mode is `ReadOnly`.
    pub(super) fn set(&self, root: BorrowedFd<'_>, mode: Mode) {
        let Some(group) = &self.0 else {
            return;
        };
        match mode {
            Mode::ReadOnly if group.watch(root, ALL).is_err() => {
                // Kernels before 5.16 have no error events, but events of closing writers.
                let _ = group.watch(root, WRITERS);
            }
            Mode::ReadOnly => {}
            // Error events stay selected. If this fails, it costs only wake-ups.
            Mode::ReadWrite => {
                let _ = group.unwatch(root, WRITERS);
            }
        }
    }
}
