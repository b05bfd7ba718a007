//! The history for the status: the time in the current state, totals, and the sessions that ended most recently. It is
//! limited and lost when the daemon exits.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::arbiter::{Arbiter, State, Text};
use crate::wire::EndedSession;

/// The number of ended sessions that are remembered.
const REMEMBERED: usize = 64;

#[derive(Debug)]
pub(super) struct History {
    /// The state and its reason.
    current: (State, Option<Text>),
    /// The start of the current state.
    pub since: Instant,
    writable_since: Option<Instant>,
    writable_before: Duration,
    /// Sessions granted since the start.
    pub granted: u64,
    /// Clients refused since the start.
    pub denials: u64,
    /// Oldest first, each with the time of its end.
    ended: VecDeque<(Instant, EndedSession)>,
}

impl History {
    pub(super) fn new(arbiter: &Arbiter, now: Instant) -> History {
        History {
            current: (arbiter.state(), arbiter.reason()),
            since: now,
            writable_since: None,
            writable_before: Duration::ZERO,
            granted: 0,
            denials: 0,
            ended: VecDeque::with_capacity(REMEMBERED),
        }
    }

    /// Records the state. Returns whether the state or its reason changed.
    pub(super) fn record_state(&mut self, arbiter: &Arbiter) -> bool {
        let now = Instant::now();
        if arbiter.writable() {
            self.writable_since.get_or_insert(now);
        } else {
            self.writable_before = self.writable();
            self.writable_since = None;
        }
        let current = (arbiter.state(), arbiter.reason());
        if self.current.0 != current.0 {
            self.since = now;
        }
        let is_new = self.current != current;
        self.current = current;
        is_new
    }

    pub(super) fn record_end(&mut self, session: EndedSession) {
        if self.ended.len() == REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back((Instant::now(), session));
    }

    /// Returns the total time in which the storage was writable.
    pub(super) fn writable(&self) -> Duration {
        let current = self.writable_since.map(|since| since.elapsed());
        self.writable_before + current.unwrap_or_default()
    }

    /// Returns the ended sessions. Computes their ends from the current clock: on a machine without a battery-backed
    /// clock, the clock may have been years off when they ended.
    pub(super) fn ended_sessions(&self) -> Vec<EndedSession> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let ended = self.ended.iter().map(|(at, session)| EndedSession {
            at: now.saturating_sub(at.elapsed()).as_secs(),
            ..session.clone()
        });
        ended.collect()
    }
}
