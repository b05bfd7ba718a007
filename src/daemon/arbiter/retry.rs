//! Schedules the attempts to go read-only while the kernel says busy.

use std::time::Duration;

use super::{Moment, after};
use crate::daemon::timeouts::{RETRY_FIRST, RETRY_LONGEST, WRITER_CLOSED_RETRIES};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Retry {
    /// The kernel said busy. If not set, a writer closed a file during the first attempt.
    pub refused: bool,
    pub next: Moment,
    /// The wait after the attempt at `next`.
    pub wait: Duration,
    /// The index of the next quick attempt in [`WRITER_CLOSED_RETRIES`], if a writer's close started a burst.
    pub burst: Option<u8>,
    /// A writer closed during the burst: another burst follows, after a pause.
    pub again: bool,
    /// Search for the holders before the next attempt.
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

    /// Schedules an attempt now and a burst shortly after. Each attempt costs a sync, so a process
    /// that keeps closing files causes only one burst per [`RETRY_FIRST`].
    pub(super) fn writer_closed(&mut self, now: Moment) {
        if self.burst.is_some() {
            self.again = true;
        } else {
            self.next = now;
            self.burst = Some(0);
        }
    }

    /// Schedules the next attempt after the kernel said busy.
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
            self.search = true; // even if other writers keep closing files
        } else {
            self.burst = None;
            self.next = after(now, self.wait);
            self.wait = (self.wait * 2).min(RETRY_LONGEST);
            self.search = true;
        }
    }
}
