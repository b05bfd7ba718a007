//! What happens to the truth: to the storage, and to whom it concerns.

use super::*;

impl<M: Machine> World<M> {
    /// The world's own view of what happens. Returns the rule that tells whom it must reach.
    pub(super) fn happens(&mut self, input: &Input) -> usize {
        match input {
            Input::Opened(id) => {
                let fresh = Fresh::No;
                self.clients.insert(*id, Client::Waiting { fresh });
            }
            Input::Close(id) => {
                if let Some(client) = self.clients.get_mut(id) {
                    if let Client::Granted { lost } | Client::Revoked { lost, .. } = *client {
                        *client = Client::Closing {
                            lost,
                            covered: false,
                            durable: false,
                        };
                    }
                }
            }
            Input::Disconnected(id) => {
                self.clients.remove(id);
            }
            Input::Recheck => self.suspect = true,
            Input::Stop => self.stopped = true,
            Input::WriterClosed | Input::Tick => {}
            Input::Done(outcome) => return self.done(outcome),
        }
        6
    }

    fn done(&mut self, outcome: &Outcome) -> usize {
        let job = self.running.take();
        let was_held = self.pinned;
        let mut cause = 6;
        match outcome {
            Outcome::Inspected(seen) => {
                self.see(seen);
                let has_unsynced = |client: &Client| client.phase() != Phase::Waiting;
                if !self.pinned || self.lost {
                    // Nothing that could be lost.
                } else if self.kind != Kind::Ready {
                    self.lose(self.kind);
                } else if !self.writable && self.clients.values().any(has_unsynced) {
                    self.lose(Kind::Failed);
                }
            }
            Outcome::MadeWritable(seen) => {
                self.see(seen);
                self.busy = false;
                self.pinned = self.kind == Kind::Ready && self.writable;
            }
            Outcome::MadeReadOnly { remount, sync } => {
                self.busy = *remount == Remount::Busy;
                self.given_up = matches!(remount, Remount::Failed(_));
                self.writable &= *remount != Remount::Done;
                if sync.is_err() {
                    cause = 3;
                }
                if sync.is_err() || self.given_up {
                    self.kind = Kind::Failed;
                    self.lose(Kind::Failed);
                }
                self.pinned = was_held
                    && self.busy
                    && sync.is_ok()
                    && matches!(job, Some(Job::MakeReadOnly { release: false, .. }));
                self.covered(sync.is_ok() && was_held);
            }
            Outcome::Synced(result) => {
                if result.is_err() {
                    cause = 3;
                    self.kind = Kind::Failed;
                    self.lose(Kind::Failed);
                }
                self.covered(result.is_ok());
            }
            Outcome::Searched => {}
        }
        if !self.pinned {
            self.lost = false;
        }
        for client in self.clients.values_mut() {
            if let Client::Waiting { fresh } = client {
                if *fresh == Fresh::Running {
                    *fresh = Fresh::Done;
                }
            }
        }
        cause
    }

    fn see(&mut self, seen: &Inspection) {
        self.known = true;
        self.kind = Kind::of(&seen.health);
        self.writable = seen.writable;
        if !self.lost {
            self.told = self.kind;
        }
        self.given_up = false;
        self.busy &= seen.writable;
    }

    fn lose(&mut self, kind: Kind) {
        self.lost = true;
        self.told = kind;
        for client in self.clients.values_mut() {
            if let Client::Granted { lost }
            | Client::Revoked { lost, .. }
            | Client::Closing { lost, .. } = client
            {
                *lost = true;
            }
        }
    }

    /// A sync ended; it covers the closes that it began after.
    fn covered(&mut self, success: bool) {
        for client in self.clients.values_mut() {
            if let Client::Closing {
                covered, durable, ..
            } = client
            {
                *durable |= *covered && success;
            }
        }
    }
}
