//! What can happen next in the world, and which of it leads to rest.

use super::super::{Input, Job, Outcome, Remount, SessionId};
use super::{Client, Kind, Machine, Move, SIGHTS, World, seen, why};

impl<M: Machine> World<M> {
    /// Everything that can happen now with these clients, and whether it is a fault.
    pub fn moves(&self, clients: impl Iterator<Item = SessionId>) -> Vec<(Move, u8)> {
        if self.exited {
            return Vec::new();
        }
        let mut moves = Vec::new();
        for id in clients {
            match self.clients.get(&id) {
                None => moves.push((Input::Opened(id), 0)),
                Some(client) => {
                    if matches!(client, Client::Granted { .. } | Client::Revoked { .. }) {
                        moves.push((Input::Close(id), 0));
                    }
                    moves.push((Input::Disconnected(id), 0));
                }
            }
        }
        for (outcome, faults) in self.outcomes() {
            moves.push((Input::Done(outcome), faults));
        }
        if !self.suspect {
            moves.push((Input::Recheck, 1));
        }
        moves.push((Input::WriterClosed, 1));
        if !self.stopped {
            moves.push((Input::Stop, 0));
        }
        let moves = moves.into_iter();
        let moves = moves.map(|(input, faults)| (Move::Input(input), faults));
        moves.chain(self.time().map(|time| (time, 0))).collect()
    }

    fn time(&self) -> Option<Move> {
        self.armed.map(|at| {
            if at <= self.now {
                Move::Input(Input::Tick)
            } else {
                Move::Wait
            }
        })
    }

    /// What the running job may bring back, the best first, and whether it is a fault.
    fn outcomes(&self) -> Vec<(Outcome, u8)> {
        let bad = || Err(why());
        let other = |(kind, writable): (Kind, bool), of_kind_only: bool| {
            let same = kind == self.kind && (of_kind_only || writable == self.writable);
            u8::from(self.known && !same)
        };
        match self.running {
            None => Vec::new(),
            Some(Job::Inspect) => {
                let mut all: Vec<(Outcome, u8)> = SIGHTS
                    .into_iter()
                    .map(|sight| (Outcome::Inspected(seen(sight)), other(sight, false)))
                    .collect();
                all.sort_by_key(|(_, faults)| *faults);
                all
            }
            Some(Job::MakeWritable) => {
                let good = (Kind::Ready, true);
                let mut all = vec![(Outcome::MadeWritable(seen(good)), other(good, true))];
                for sight in SIGHTS {
                    if sight != good {
                        // To end well yet read-only takes somebody else.
                        let faults = other(sight, false).max(u8::from(sight.0 == Kind::Ready));
                        all.push((Outcome::MadeWritable(seen(sight)), faults));
                    }
                }
                all.sort_by_key(|(_, faults)| *faults);
                all
            }
            Some(Job::MakeReadOnly { .. }) => {
                let mut all = vec![(Remount::Done, 0), (Remount::Failed(why()), 1)];
                if self.writable {
                    all.push((Remount::Busy, 0));
                }
                let made = |remount, sync| Outcome::MadeReadOnly { remount, sync };
                let both = |(remount, faults): (Remount, u8)| {
                    [
                        (made(remount.clone(), Ok(())), faults),
                        (made(remount, bad()), faults + 1),
                    ]
                };
                all.into_iter().flat_map(both).collect()
            }
            Some(Job::Sync) => vec![(Outcome::Synced(Ok(())), 0), (Outcome::Synced(bad()), 1)],
            Some(Job::FindHolders) => vec![(Outcome::Searched, 0)],
        }
    }

    fn best(&self) -> Option<Move> {
        let best = self.outcomes().into_iter().next()?;
        Some(Move::Input(Input::Done(best.0)))
    }

    /// Busy for ever; but nothing that is a fault.
    fn busiest(&self) -> Option<Move> {
        let busy = |(outcome, faults): &(Outcome, u8)| {
            let remount = Remount::Busy;
            *faults == 0
                && *outcome
                    == Outcome::MadeReadOnly {
                        remount,
                        sync: Ok(()),
                    }
        };
        match self.outcomes().into_iter().find(busy) {
            Some((outcome, _)) => Some(Move::Input(Input::Done(outcome))),
            None => self.best(),
        }
    }

    /// The next move on the way to rest: all leave, every job succeeds, the time passes.
    pub fn settling(&self) -> Option<Move> {
        if self.exited {
            return None;
        }
        let first = self.clients.keys().next();
        first
            .map(|id| Move::Input(Input::Disconnected(*id)))
            .or_else(|| self.best())
            .or_else(|| self.time())
    }

    /// The next move if nobody leaves, and every job succeeds.
    pub fn patient(&self) -> Option<Move> {
        let job = self.best().or_else(|| self.time());
        job.filter(|_| !self.exited)
    }

    /// The next move if nobody leaves, and the kernel says busy as long as it can.
    pub fn stubborn(&self) -> Option<Move> {
        let job = self.busiest().or_else(|| self.time());
        job.filter(|_| !self.exited)
    }
}
