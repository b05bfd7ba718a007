//! The tries to go read-only, while the kernel says busy: when the next one is due.

use std::time::Duration;

use super::{Moment, after};
use crate::daemon::timeouts::{RETRY_FIRST, RETRY_LONGEST, WRITER_CLOSED_RETRIES};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Retry {
    /// The kernel has said busy; else a writer was just gone while the first try was under way.
    pub refused: bool,
    pub next: Moment,
    /// How long to wait after the try after that.
    pub wait: Duration,
    /// The next of the quick tries, if a writer's close started them.
    pub burst: Option<u8>,
    /// A writer closed while the quick tries went on: more follow, after a pause.
    pub again: bool,
    /// Find out who it is, first.
    pub search: bool,
}

impl Retry {
    pub(super) fn new(now: Moment) -> Self {
        Retry {
            refused: false,
            next: now,
            wait: RETRY_FIRST,
            burst: None,
            again: false,
            search: false,
        }
    }

    /// A writer is about to be gone: try at once, and a few times shortly after. Each try costs a
    /// sync, so one that closes files without end gets no more than a few in [`RETRY_FIRST`].
    pub(super) fn released(&mut self, now: Moment) {
        if self.burst.is_some() {
            self.again = true;
        } else {
            self.next = now;
            self.burst = Some(0);
        }
    }

    /// The kernel said busy: say who it is, and arrange the next try.
    pub(super) fn refused(&mut self, now: Moment) {
        self.refused = true;
        let quick = self
            .burst
            .and_then(|i| WRITER_CLOSED_RETRIES.get(usize::from(i)));
        if let Some(wait) = quick {
            self.next = after(now, *wait);
            self.burst = self.burst.map(|i| i + 1);
        } else if std::mem::take(&mut self.again) {
            self.next = after(now, RETRY_FIRST);
            self.burst = Some(0);
            self.search = true; // whoever closes without end must not hide who holds
        } else {
            self.burst = None;
            self.next = after(now, self.wait);
            self.wait = (self.wait * 2).min(RETRY_LONGEST);
            self.search = true;
        }
    }
}
