//! What the daemon remembers for its status: since when the state lasts, totals, and the sessions that ended last.
//! It is bounded, and gone with the daemon.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::arbiter::{Arbiter, State, Text};
use super::handle::OpenSession;
use super::status::seconds;
use crate::escape::escape;
use crate::wire::{EndedSession, SessionOutcome};

/// Ended sessions that are remembered.
const REMEMBERED: usize = 64;
/// Bytes of each of their commands.
const COMMAND_MAX: usize = 256;

/// What a status shows of the state.
#[derive(Debug, PartialEq, Eq)]
struct StateRecord {
    state: State,
    reason: Option<Text>,
    writable: bool,
}

impl StateRecord {
    fn of(arbiter: &Arbiter) -> StateRecord {
        StateRecord {
            state: arbiter.state(),
            reason: arbiter.reason(),
            writable: arbiter.writable(),
        }
    }
}

#[derive(Debug)]
pub(super) struct History {
    current: StateRecord,
    /// When the storage got into its state.
    pub since: Instant,
    writable_since: Option<Instant>,
    writable_before: Duration,
    /// Sessions granted.
    pub granted: u64,
    /// Clients refused.
    pub denials: u64,
    /// The oldest first, each with the time of its end.
    ended: VecDeque<(Instant, EndedSession)>,
}

impl History {
    pub(super) fn new(arbiter: &Arbiter, now: Instant) -> History {
        History {
            current: StateRecord::of(arbiter),
            since: now,
            writable_since: None,
            writable_before: Duration::ZERO,
            granted: 0,
            denials: 0,
            ended: VecDeque::with_capacity(REMEMBERED),
        }
    }

    /// Records the state. Returns whether a status shows another one now.
    pub(super) fn record_state(&mut self, arbiter: &Arbiter) -> bool {
        let (now, record) = (Instant::now(), StateRecord::of(arbiter));
        if self.current == record {
            return false;
        }
        if self.current.state != record.state {
            self.since = now;
        }
        match (self.writable_since, record.writable) {
            (Some(since), false) => {
                self.writable_before += now - since;
                self.writable_since = None;
            }
            (None, true) => self.writable_since = Some(now),
            _ => {}
        }
        self.current = record;
        true
    }

    /// Records the end of a session. `written` is the device's counter now. Returns the record.
    pub(super) fn record_end(
        &mut self,
        session: &OpenSession,
        outcome: SessionOutcome,
        written: Option<u64>,
    ) -> &EndedSession {
        if self.ended.len() == REMEMBERED {
            self.ended.pop_front();
        }
        let before = session.written_before;
        let command = &session.command[..session.command.len().min(COMMAND_MAX)];
        let ended = EndedSession {
            id: session.id.0,
            pid: session.peer.pid,
            uid: session.peer.uid,
            user: String::new(),
            command: escape(command).to_string(),
            ended: outcome,
            at: 0, // filled in for each status
            duration: seconds(session.opened.elapsed()),
            written: before
                .zip(written)
                .map(|(before, now)| now.saturating_sub(before)),
        };
        self.ended.push_back((Instant::now(), ended));
        &self.ended[self.ended.len() - 1].1
    }

    /// Returns how long the storage was writable in all.
    pub(super) fn writable(&self) -> Duration {
        let current = self.writable_since.map(|since| since.elapsed());
        self.writable_before + current.unwrap_or_default()
    }

    /// Returns the sessions that ended, with the time of their end by the clock of now: on a machine without a
    /// battery-backed clock, the clock of then may have been years off.
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
