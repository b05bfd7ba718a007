//! Schedules the attempts to go read-only while the kernel refuses.

use std::time::Duration;

use super::{Moment, Remount, Text, after};
use crate::daemon::timeouts::{RETRY_FIRST, RETRY_LONGEST, WRITER_CLOSED_RETRIES};

/// The reason while the kernel says busy.
const BUSY: &str = "the kernel refuses read-only: something still holds it";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Retry {
    /// Why the kernel refused. If not set, a writer closed a file during the first attempt.
    pub refused: Option<Text>,
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
            refused: None,
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

    /// Schedules the next attempt after the kernel refused. Something holds the storage only if it
    /// said busy.
    pub(super) fn refused(&mut self, remount: &Remount, now: Moment) {
        self.refused = Some(match remount {
            Remount::Refused(text) => text.clone(),
            _ => BUSY.into(),
        });
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
        self.search &= *remount == Remount::Busy;
    }
}
