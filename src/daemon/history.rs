//! What the daemon remembers for its status: since when things are as they are, what was counted,
//! and the sessions that ended last. Bounded; gone with the daemon.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::arbiter::{Arbiter, State, Text};
use super::client::Client;
use crate::wire::Ended;

/// So many sessions that ended are remembered.
pub(crate) const REMEMBERED: usize = 64;
/// And so much of their commands, in bytes.
const COMMAND: usize = 256;

#[derive(Debug)]
pub(super) struct Past {
    pub id: u64,
    pub pid: u32,
    pub uid: u32,
    pub ended: Ended,
    pub at: Instant,
    pub lasted: Duration,
    /// Bytes written to the device meanwhile, where they are counted.
    pub written: Option<u64>,
    pub command: Box<[u8]>,
}

impl Past {
    /// `before` and `now`: bytes written to the device by the grant and by now.
    pub(super) fn new(
        client: &Client,
        ended: Ended,
        before: Option<u64>,
        now: Option<u64>,
    ) -> Past {
        let command = &client.command;
        let at = Instant::now();
        Past {
            id: client.id.0,
            pid: client.peer.pid,
            uid: client.peer.uid,
            ended,
            at,
            lasted: at - client.opened,
            written: before
                .zip(now)
                .map(|(before, now)| now.saturating_sub(before)),
            command: command[..command.len().min(COMMAND)].into(),
        }
    }
}

#[derive(Debug)]
pub(super) struct History {
    shown: (State, Option<Text>, bool),
    /// When the storage got into its state.
    pub since: Instant,
    writable_since: Option<Instant>,
    writable: Duration,
    pub granted: u64,
    /// Clients that were denied one.
    pub denials: u64,
    /// The sessions that ended last, the oldest first.
    pub past: VecDeque<Arc<Past>>,
}

impl History {
    pub(super) fn new(arbiter: &Arbiter, now: Instant) -> History {
        History {
            shown: shown(arbiter),
            since: now,
            writable_since: None,
            writable: Duration::ZERO,
            granted: 0,
            denials: 0,
            past: VecDeque::with_capacity(REMEMBERED),
        }
    }

    /// How things stand now; true if that is news.
    pub(super) fn state_is(&mut self, arbiter: &Arbiter) -> bool {
        let (now, shown) = (Instant::now(), shown(arbiter));
        if self.shown == shown {
            return false;
        }
        if self.shown.0 != shown.0 {
            self.since = now;
        }
        match (self.writable_since, shown.2) {
            (Some(since), false) => {
                self.writable += now - since;
                self.writable_since = None;
            }
            (None, true) => self.writable_since = Some(now),
            _ => {}
        }
        self.shown = shown;
        true
    }

    /// How long the storage was writable in all.
    pub(super) fn writable(&self) -> Duration {
        let current = self.writable_since.map(|since| since.elapsed());
        self.writable + current.unwrap_or_default()
    }

    pub(super) fn add(&mut self, past: Past) {
        if self.past.len() == REMEMBERED {
            self.past.pop_front();
        }
        self.past.push_back(Arc::new(past));
    }
}

fn shown(arbiter: &Arbiter) -> (State, Option<Text>, bool) {
    (arbiter.state(), arbiter.reason(), arbiter.writable())
}
