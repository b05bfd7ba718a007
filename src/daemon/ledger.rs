//! What the daemon remembers for its status: since when things are as they are, what was counted,
//! and the sessions that ended last. Bounded, whatever comes; gone with the daemon. No clock is
//! read here.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::arbiter::{SessionId, State, Text};
use super::seat::{Seat, Stage};
use crate::storage::meter::Counts;
use crate::wire::Ended;

/// So many sessions that ended are remembered.
pub const REMEMBERED: usize = 64;
/// And so much of their commands, in bytes.
const COMMAND: usize = 256;

/// How things stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The storage's state.
    pub state: State,
    /// Why it is not well.
    pub reason: Option<Text>,
    /// Whether the superblock is writable.
    pub writable: bool,
}

/// A session that ended.
#[derive(Debug)]
pub struct Past {
    /// Its number.
    pub id: SessionId,
    /// The client's process.
    pub pid: u32,
    /// The client's user.
    pub uid: u32,
    /// How it ended.
    pub ended: Ended,
    /// When it ended.
    pub at: Instant,
    /// How long it lasted.
    pub lasted: Duration,
    /// Bytes written to the device meanwhile, where they are counted.
    pub written: Option<u64>,
    // In place: boxes of all sizes among what else comes and goes would keep its memory from the
    // kernel.
    command: [u8; COMMAND],
    length: usize,
}

impl Past {
    /// The beginning of its command.
    pub fn command(&self) -> &[u8] {
        self.command.get(..self.length).unwrap_or(&[])
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Ledger {
    standing: Standing,
    since: Instant,
    writable_since: Option<Instant>,
    writable: Duration,
    /// Sessions granted.
    pub granted: u64,
    /// Clients that were denied one, for whatever reason.
    pub denials: u64,
    /// What the storage has cost.
    pub counts: Counts,
    past: VecDeque<Past>,
    /// All that ever ended.
    ended: u64,
    /// All up to this one were looked at for being open too long.
    reminded: SessionId,
}

impl Ledger {
    /// A new one: nothing is known.
    pub fn new(standing: Standing, now: Instant) -> Ledger {
        Ledger {
            standing,
            since: now,
            writable_since: None,
            writable: Duration::ZERO,
            granted: 0,
            denials: 0,
            counts: Counts::default(),
            past: VecDeque::with_capacity(REMEMBERED),
            ended: 0,
            reminded: SessionId(0),
        }
    }

    /// How things stand now; true if that is news.
    pub fn stands(&mut self, standing: Standing, now: Instant) -> bool {
        if self.standing == standing {
            return false;
        }
        if self.standing.state != standing.state {
            self.since = now;
        }
        if let Some(since) = self.writable_since.filter(|_| !standing.writable) {
            self.writable += now - since;
            self.writable_since = None;
        } else if standing.writable {
            self.writable_since.get_or_insert(now);
        }
        self.standing = standing;
        true
    }

    /// When it got into its state.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// How long it was writable in all.
    pub fn writable(&self, now: Instant) -> Duration {
        let current = self.writable_since.map(|since| now - since);
        self.writable + current.unwrap_or_default()
    }

    /// A session ended.
    pub fn ended(&mut self, seat: &Seat, ended: Ended, now: Instant) {
        if self.past.len() == REMEMBERED {
            self.past.pop_front();
        }
        self.ended += 1;
        let mut command = [0; COMMAND];
        let length = seat.command.len().min(COMMAND);
        for (to, from) in command.iter_mut().zip(&seat.command) {
            *to = *from;
        }
        let before = match seat.stage() {
            Stage::Granted { written, .. } => written,
            Stage::Asked => None,
        };
        let written = before.zip(self.counts.written);
        self.past.push_back(Past {
            id: seat.id,
            pid: seat.peer.pid,
            uid: seat.peer.uid,
            ended,
            at: now,
            lasted: now - seat.opened,
            written: written.map(|(before, now)| now.saturating_sub(before)),
            command,
            length,
        });
    }

    /// How many sessions ever ended. The last of them has this number.
    pub fn ends(&self) -> u64 {
        self.ended
    }

    /// The session that ended as the `number`th; `None` if it is forgotten.
    pub fn past(&self, number: u64) -> Option<&Past> {
        let from_last = usize::try_from(self.ended.checked_sub(number)?).ok()?;
        self.past.get(self.past.len().checked_sub(from_last + 1)?)
    }

    /// The numbers of those that ended after the `known`th and are remembered: few, however many
    /// there were.
    pub fn ended_after(&self, known: u64) -> RangeInclusive<u64> {
        let oldest = self.ended + 1 - self.past.len() as u64;
        oldest.max(known + 1)..=self.ended
    }

    /// Which of the open sessions have just become open for too long: each is named once.
    /// `sessions` come in the order in which they were opened, those after `reminded`.
    pub fn overdue(
        &mut self,
        sessions: impl Iterator<Item = (SessionId, Instant)>,
        longest: Duration,
        now: Instant,
    ) -> Vec<SessionId> {
        let due = sessions.take_while(|(_, opened)| now.duration_since(*opened) >= longest);
        let due: Vec<SessionId> = due.map(|(id, _)| id).collect();
        self.reminded = due.last().copied().unwrap_or(self.reminded);
        due
    }

    /// The last that was named as overdue.
    pub fn reminded(&self) -> SessionId {
        self.reminded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::Peer;

    fn standing(state: State, writable: bool) -> Standing {
        Standing {
            state,
            reason: None,
            writable,
        }
    }

    fn ledger(now: Instant) -> Ledger {
        Ledger::new(standing(State::ReadOnly, false), now)
    }

    fn second(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_state_is_since_it_began_and_writable_time_adds_up() {
        let start = Instant::now();
        let mut ledger = ledger(start);
        assert!(!ledger.stands(standing(State::ReadOnly, false), start + second(1)));
        assert_eq!(ledger.since(), start);
        for (state, writable, at, since, total) in [
            (State::GoingRw, false, 2, 2, 0),
            (State::ReadWrite, true, 3, 3, 0),
            (State::GoingRo, true, 5, 5, 2),
            (State::Stuck, true, 6, 6, 3),
            (State::ReadOnly, false, 8, 8, 5),
            (State::Failed, false, 9, 9, 5),
        ] {
            let now = start + second(at);
            assert!(ledger.stands(standing(state, writable), now));
            assert_eq!(ledger.since(), start + second(since));
            assert_eq!(ledger.writable(now), second(total), "{state:?}");
        }
        assert_eq!(ledger.writable(start + second(20)), second(5));
    }

    #[test]
    fn p9_only_the_last_ends_are_remembered_and_only_the_beginning_of_their_commands() {
        let now = Instant::now();
        let mut ledger = ledger(now);
        assert!(ledger.past(0).is_none() && ledger.past(1).is_none());
        for id in 1..=1000 {
            let peer = Peer {
                pid: 1,
                uid: 2,
                gid: 3,
            };
            let seat = Seat::new(SessionId(id), peer, vec![b'x'; 1024], 0);
            ledger.ended(&seat, Ended::Durable, now);
        }
        let count = ledger.past.len();
        assert_eq!((count, ledger.past.capacity()), (REMEMBERED, REMEMBERED));
        assert_eq!(ledger.ends(), 1000);
        for (known, first) in [(0, 937), (936, 937), (937, 938), (1000, 1001)] {
            assert_eq!(ledger.ended_after(known), first..=1000, "{known}");
        }
        ledger.ended = 1 << 60;
        assert_eq!(ledger.ended_after(1000).count(), REMEMBERED);
        ledger.ended = 1000;
        for number in [0, 1, 936, 1001] {
            assert!(ledger.past(number).is_none(), "{number}");
        }
        for number in [937, 1000] {
            let past = ledger.past(number).expect("remembered");
            assert_eq!(past.id, SessionId(number));
            assert_eq!(past.command(), [b'x'; COMMAND]);
        }
    }

    #[test]
    fn a_session_that_is_open_for_too_long_is_named_once() {
        let start = Instant::now();
        let mut ledger = ledger(start);
        let open = |after: SessionId| {
            (1..=3)
                .map(|n| (SessionId(n), start + second(n)))
                .filter(move |(id, _)| *id > after)
        };
        let mut named = Vec::new();
        for at in 0..=20 {
            let sessions = open(ledger.reminded());
            named.push(ledger.overdue(sessions, second(10), start + second(at)));
        }
        let expected = |at| match at {
            11..=13 => vec![SessionId(at - 10)],
            _ => vec![],
        };
        assert_eq!(named, (0..=20).map(expected).collect::<Vec<_>>());
    }
}
