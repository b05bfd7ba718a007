//! Updates the model's clients and storage after an input.

use super::*;

impl<M: Machine> Model<M> {
    /// Updates the model. Returns the invariant that is violated if a loss is not reported.
    pub(super) fn happened(&mut self, input: &Input) -> usize {
        match input {
            Input::Opened(id) => {
                let fresh = Freshness::NotStarted;
                self.clients.insert(*id, ModelClient::Waiting { fresh });
            }
            Input::Close(id) => {
                if let Some(client) = self.clients.get_mut(id) {
                    if let ModelClient::Granted { lost } | ModelClient::Revoked { lost, .. } =
                        *client
                    {
                        *client = ModelClient::Closing {
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
            Input::Recheck => self.recheck_due = true,
            Input::Stop => self.stopped = true,
            Input::WriterClosed | Input::Tick => {}
            Input::Done(outcome) => return self.done(outcome),
        }
        6
    }

    fn done(&mut self, outcome: &Outcome) -> usize {
        let job = self.running.take();
        let was_pinned = self.pinned;
        let mut cause = 6;
        match outcome {
            Outcome::Inspected(inspection) => {
                self.inspected(inspection);
                let has_unsynced = |client: &ModelClient| client.phase() != Phase::Waiting;
                if !self.pinned || self.lost || inspection.temporary {
                    // There is nothing more to lose, or nothing was lost.
                } else if self.health != HealthKind::Ready {
                    self.lose(self.health);
                } else if !self.writable && self.clients.values().any(has_unsynced) {
                    self.lose(HealthKind::Failed);
                }
            }
            Outcome::MadeWritable(inspection) => {
                self.inspected(inspection);
                self.busy = false;
                self.pinned = self.reported == HealthKind::Ready && self.writable;
            }
            Outcome::MadeReadOnly { remount, sync } => {
                self.busy = matches!(remount, Remount::Busy | Remount::Refused(_));
                self.remount_failed = matches!(remount, Remount::Failed(_));
                self.writable &= *remount != Remount::Done;
                // The refusal hides whether it was made read-only by hand.
                self.writable |= matches!(remount, Remount::Refused(_));
                if sync.is_err() {
                    cause = 3;
                }
                if sync.is_err() || self.remount_failed {
                    self.health = HealthKind::Failed;
                    self.lose(HealthKind::Failed);
                }
                self.pinned = was_pinned
                    && self.busy
                    && sync.is_ok()
                    && matches!(job, Some(Job::MakeReadOnly { release: false, .. }));
                self.covered(sync.is_ok() && was_pinned);
            }
            Outcome::Synced(result) => {
                if result.is_err() {
                    cause = 3;
                    self.health = HealthKind::Failed;
                    self.lose(HealthKind::Failed);
                }
                self.covered(result.is_ok());
            }
            Outcome::Searched => {}
        }
        if !self.pinned {
            self.lost = false;
        }
        for client in self.clients.values_mut() {
            if let ModelClient::Waiting { fresh } = client {
                if *fresh == Freshness::Running {
                    *fresh = Freshness::Done;
                }
            }
        }
        cause
    }

    fn inspected(&mut self, inspection: &Inspection) {
        let found = HealthKind::of(&inspection.health);
        self.temporary = inspection.temporary;
        if self.temporary {
            self.writable |= inspection.writable;
        } else {
            self.known = true;
            self.health = found;
            self.writable = inspection.writable;
            self.remount_failed = false;
        }
        if !(self.lost || self.temporary && self.pinned) {
            self.reported = found;
        }
        self.busy &= self.writable;
    }

    fn lose(&mut self, kind: HealthKind) {
        self.lost = true;
        self.reported = kind;
        for client in self.clients.values_mut() {
            if let ModelClient::Granted { lost }
            | ModelClient::Revoked { lost, .. }
            | ModelClient::Closing { lost, .. } = client
            {
                *lost = true;
            }
        }
    }

    /// Marks the closes that a finished sync covers, because they arrived before it started.
    fn covered(&mut self, success: bool) {
        for client in self.clients.values_mut() {
            if let ModelClient::Closing {
                covered, durable, ..
            } = client
            {
                *durable |= *covered && success;
            }
        }
    }
}
