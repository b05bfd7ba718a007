//! Decides which sessions are granted, and when the storage switches.
//!
//! A pure state machine without I/O, clock or async: the controller passes in events
//! ([`Arbiter::input`]) and carries out the effects that come back. At most one [`Job`] runs at a
//! time, and its result comes back as [`Input::Done`]. The tests in this directory check the
//! invariants over every interleaving of a small model.

mod retry;
mod schedule;
mod types;
mod view;

#[cfg(test)]
mod explore;
#[cfg(test)]
mod model;
#[cfg(test)]
mod mutants;
#[cfg(test)]
mod random;
#[cfg(test)]
mod regressions;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::retry::Retry;
pub(super) use self::types::{
    CloseResult, DenyReason, Effect, Health, Input, Inspection, Job, Moment, Outcome, Remount,
    RevokeReason, SessionId, Text,
};
pub(super) use crate::wire::{Phase, State};

use super::timeouts::{INSPECT_EVERY, RETRY_FIRST, RETRY_LONGEST, REVOKE_MARGIN};

/// The reason for a session whose storage was remounted by hand.
const READ_ONLY_BY_HAND: &str = "the storage was made read-only by hand during a session \
     (`mount -o remount,ro`?); run the command again";

/// The stage of a session that is not granted, or no longer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Waits for the grant. `covered`: the running job started after the request and answers it.
    Waiting { covered: bool },
    /// Must end; the client is still connected, but not beyond `disconnect_at`.
    Revoked { disconnect_at: Moment },
    /// Waits for the answer to its close. `covered`: the running job started after the close, so
    /// its sync includes this session's data.
    Closing { covered: bool },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Arbiter {
    kill_grace: Duration,
    /// Not in `sessions`, which every input iterates over: there may be many granted sessions, and
    /// they need no work.
    granted: BTreeSet<SessionId>,
    sessions: BTreeMap<SessionId, Stage>,
    /// A loss is sticky while `pinned`: only the end of the writable period clears it.
    health: Health,
    /// Whether the superblock was writable at the last report.
    writable: bool,
    /// The worker holds the root directory's descriptor, so a sync reports lost writes.
    pinned: bool,
    running: Option<Job>,
    inspect_due: bool,
    /// Set while the kernel refuses the remount to read-only, but may allow it later.
    retry: Option<Retry>,
    /// The next inspection without an event: routinely of a pinned storage, because not every failure
    /// causes an event, and after a temporary failure.
    inspect_at: Option<Moment>,
    /// Set while the last inspection failed temporarily: the wait before the next one.
    inspect_wait: Option<Duration>,
    /// Set once the daemon stops: the deadline for the remount to read-only.
    stop_by: Option<Moment>,
    timer: Option<Moment>,
    exited: bool,
}

impl Arbiter {
    /// Starts with an inspection, because the state of the storage is unknown.
    /// `kill_grace` is the time that a revoked client needs to end its command.
    pub(super) fn new(kill_grace: Duration) -> (Self, Vec<Effect>) {
        let mut arbiter = Arbiter {
            kill_grace,
            granted: BTreeSet::new(),
            sessions: BTreeMap::new(),
            health: Health::Absent("not inspected yet".into()),
            writable: false,
            pinned: false,
            running: None,
            inspect_due: true,
            retry: None,
            inspect_at: None,
            inspect_wait: None,
            stop_by: None,
            timer: None,
            exited: false,
        };
        let mut out = Vec::new();
        arbiter.proceed(Moment(Duration::ZERO), &mut out);
        (arbiter, out)
    }

    /// Processes an input at `now`. Returns the effects in order.
    pub(super) fn input(&mut self, input: Input, now: Moment) -> Vec<Effect> {
        let mut out = Vec::new();
        if self.exited {
            return out;
        }
        match input {
            Input::Opened(id) => self.opened(id, &mut out),
            Input::Close(id) => self.close(id, &mut out),
            Input::Disconnected(id) => {
                self.granted.remove(&id);
                self.sessions.remove(&id);
            }
            Input::Done(outcome) => self.done(outcome, now, &mut out),
            Input::Recheck => self.inspect_due = true,
            Input::WriterClosed => self.writer_closed(now),
            Input::Tick => {
                self.timer = None;
                self.tick(now, &mut out);
            }
            Input::Stop => self.stop(now, &mut out),
        }
        self.proceed(now, &mut out);
        out
    }

    fn opened(&mut self, id: SessionId, out: &mut Vec<Effect>) {
        if self.stop_by.is_some() {
            out.push(Effect::Deny(id, DenyReason::Stopping, stopping()));
            return;
        }
        self.sessions.insert(id, Stage::Waiting { covered: false });
    }

    fn close(&mut self, id: SessionId, out: &mut Vec<Effect>) {
        let lost = self.lost();
        let revoked = matches!(self.sessions.get(&id), Some(Stage::Revoked { .. }));
        if !self.granted.remove(&id) && !revoked {
            return;
        }
        if lost {
            let (_, text) = denial(&self.health);
            self.sessions.remove(&id);
            out.push(Effect::Closed(id, CloseResult::Failed, text));
        } else {
            self.sessions.insert(id, Stage::Closing { covered: false });
        }
    }

    fn stop(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if self.stop_by.is_some() {
            return;
        }
        self.stop_by = Some(self.disconnect_deadline(now));
        self.deny_waiting(DenyReason::Stopping, &stopping(), out, |_| true);
        self.revoke(RevokeReason::Stopping, &stopping(), now, out);
    }

    fn tick(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if self.inspect_at.is_some_and(|at| at <= now) {
            self.inspect_due = true;
            self.inspect_at = None;
        }
        for id in self
            .in_stage(|s| matches!(s, Stage::Revoked { disconnect_at } if *disconnect_at <= now))
        {
            self.sessions.remove(&id);
            out.push(Effect::Disconnect(id));
        }
    }

    /// Schedules an attempt now and a few shortly after, because the event arrives just before the
    /// kernel drops the writer.
    fn writer_closed(&mut self, now: Moment) {
        if let Some(retry) = &mut self.retry {
            retry.writer_closed(now);
        } else if matches!(self.running, Some(Job::MakeReadOnly { .. })) {
            // The running attempt may have been too early.
            self.retry.insert(Retry::new(now)).writer_closed(now);
        } else if !self.writable {
            // A writer on a read-only storage: it may have been made writable by hand.
            self.inspect_due = true;
        }
    }

    fn done(&mut self, outcome: Outcome, now: Moment, out: &mut Vec<Effect>) {
        let job = self.running.take();
        match outcome {
            Outcome::Inspected(found) => self.inspected(found, now, out),
            Outcome::MadeWritable(found) => {
                self.note_writable(&found);
                self.health = found.health;
                self.pinned = self.healthy();
                self.retry = None;
                self.schedule_inspection(found.temporary, now);
                if !self.pinned {
                    self.deny_covered(out);
                }
            }
            Outcome::MadeReadOnly { remount, sync } => {
                let release = matches!(job, Some(Job::MakeReadOnly { release: true, .. }));
                self.made_read_only(remount, sync, release, now, out);
            }
            Outcome::Synced(result) => match result {
                Ok(()) => self.answer_covered(out),
                Err(text) => self.lose(Health::Failed(text), now, out),
            },
            Outcome::Searched => {}
        }
    }

    fn inspected(&mut self, found: Inspection, now: Moment, out: &mut Vec<Effect>) {
        self.note_writable(&found);
        self.schedule_inspection(found.temporary, now);
        if !self.pinned {
            self.health = found.health;
        } else if self.lost() || found.temporary {
            // A lost period ends first, regardless of the current mount. A temporary failure is no
            // loss: the next inspection decides.
        } else if found.health != Health::Ready || (!found.writable && self.has_unsynced()) {
            let loss = match found.health {
                Health::Ready => Health::Failed(READ_ONLY_BY_HAND.into()),
                other => other,
            };
            self.lose(loss, now, out);
        }
        if !self.writable {
            self.retry = None;
        }
    }

    /// Notes whether the superblock is writable. A temporary failure may have hidden it.
    fn note_writable(&mut self, found: &Inspection) {
        self.writable = found.writable || (found.temporary && self.writable);
    }

    /// Schedules the next inspection that needs no event. An idle storage gets one only after a
    /// temporary failure.
    fn schedule_inspection(&mut self, temporary: bool, now: Moment) {
        let doubled = |wait: Duration| (wait * 2).min(RETRY_LONGEST);
        self.inspect_wait = temporary.then(|| self.inspect_wait.map_or(RETRY_FIRST, doubled));
        let routine = self.pinned.then_some(INSPECT_EVERY);
        let wait = [self.inspect_wait, routine].into_iter().flatten().min();
        self.inspect_at = wait.map(|wait| after(now, wait));
    }

    fn made_read_only(
        &mut self,
        remount: Remount,
        sync: Result<(), Text>,
        release: bool,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        let must_release = self.must_release();
        self.writable = remount.may_be_writable();
        // `&=`: a storage that was found writable was never validated for a session.
        self.pinned &= self.writable && sync.is_ok() && !release;
        if self.writable {
            let retry = self.retry.get_or_insert(Retry::new(now));
            retry.refused(&remount, now);
        } else {
            self.retry = None;
        }
        if !self.pinned && self.inspect_wait.is_none() {
            self.inspect_at = None;
        }
        match (sync, remount) {
            // A failed remount is a loss, too: the storage's state is unknown.
            (Err(text), _) | (Ok(()), Remount::Failed(text)) => {
                self.lose(Health::Failed(text), now, out);
            }
            (Ok(()), _) => self.answer_covered(out),
        }
        // The lost storage may be back, or another one may be mounted.
        self.inspect_due |= must_release;
    }

    /// Reports the loss of the storage, or of data on it, to every session that relied on it.
    fn lose(&mut self, loss: Health, now: Moment, out: &mut Vec<Effect>) {
        let (_, text) = denial(&loss);
        self.health = loss;
        self.revoke(RevokeReason::Lost, &text, now, out);
        for id in self.in_stage(|s| matches!(s, Stage::Closing { .. })) {
            self.sessions.remove(&id);
            out.push(Effect::Closed(id, CloseResult::Failed, text.clone()));
        }
    }

    fn revoke(&mut self, reason: RevokeReason, text: &Text, now: Moment, out: &mut Vec<Effect>) {
        let disconnect_at = self.disconnect_deadline(now);
        for id in std::mem::take(&mut self.granted) {
            self.sessions.insert(id, Stage::Revoked { disconnect_at });
            out.push(Effect::Revoke(id, reason, text.clone()));
        }
    }

    /// Denies the sessions that the finished job covers.
    fn deny_covered(&mut self, out: &mut Vec<Effect>) {
        let (reason, text) = denial(&self.health);
        self.deny_waiting(reason, &text, out, |stage| {
            matches!(stage, Stage::Waiting { covered: true })
        });
    }

    fn deny_waiting(
        &mut self,
        reason: DenyReason,
        text: &Text,
        out: &mut Vec<Effect>,
        which: impl Fn(&Stage) -> bool,
    ) {
        for id in self.in_stage(|s| matches!(s, Stage::Waiting { .. }) && which(s)) {
            self.sessions.remove(&id);
            out.push(Effect::Deny(id, reason, text.clone()));
        }
    }

    /// Answers the closes that a successful sync covers.
    fn answer_covered(&mut self, out: &mut Vec<Effect>) {
        for id in self.in_stage(|s| *s == Stage::Closing { covered: true }) {
            self.sessions.remove(&id);
            out.push(Effect::Closed(id, CloseResult::Durable, "".into()));
        }
    }

    fn in_stage(&self, which: impl Fn(&Stage) -> bool) -> Vec<SessionId> {
        let matching = self.sessions.iter().filter(|(_, stage)| which(stage));
        matching.map(|(id, _)| *id).collect()
    }

    fn any(&self, which: impl Fn(&Stage) -> bool) -> bool {
        self.sessions.values().any(which)
    }

    fn disconnect_deadline(&self, now: Moment) -> Moment {
        after(now, self.kill_grace + REVOKE_MARGIN)
    }

    /// Whether the pinned descriptor must be closed, because the storage is not healthy.
    fn must_release(&self) -> bool {
        self.pinned && !self.healthy()
    }

    fn healthy(&self) -> bool {
        self.health == Health::Ready && self.writable
    }

    /// Whether any session may have data that is not known to be on the card.
    fn has_unsynced(&self) -> bool {
        !self.granted.is_empty() || self.any(|s| !matches!(s, Stage::Waiting { .. }))
    }

    /// Whether the storage of this writable period is lost. No session is granted until it ends.
    fn lost(&self) -> bool {
        self.pinned && self.health != Health::Ready
    }

    /// Whether a session can be granted at once, without a job.
    fn can_grant(&self) -> bool {
        self.pinned
            && self.healthy()
            && self.stop_by.is_none()
            && !self.inspect_due
            && !matches!(
                self.running,
                Some(Job::Inspect | Job::MakeWritable | Job::MakeReadOnly { .. })
            )
    }
}

fn after(now: Moment, wait: Duration) -> Moment {
    Moment(now.0 + wait)
}

fn stopping() -> Text {
    "the daemon is stopping".into()
}

fn denial(health: &Health) -> (DenyReason, Text) {
    match health {
        Health::Absent(text) => (DenyReason::Absent, text.clone()),
        Health::Unprepared(text) => (DenyReason::Unprepared, text.clone()),
        Health::Failed(text) => (DenyReason::Failed, text.clone()),
        // The remount to read-write succeeded, but it was reverted by hand.
        Health::Ready => (
            DenyReason::Failed,
            "the storage was made read-only again at once, by hand; run the command again".into(),
        ),
    }
}
