//! The daemon's decisions, as one pure state machine: inputs in, effects out.
//!
//! It owns who has a session and what the storage is to be; it never does I/O, reads no
//! clock and starts nothing itself. The daemon feeds it ([`Arbiter::input`]) and carries out
//! what it says. Its rules stand in the tests beside it, which explore every interleaving.
//!
//! At most one [`Job`] runs at a time; whatever it finds comes back as [`Input::Done`].

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

use super::timeouts::{INSPECT_EVERY, REVOKE_MARGIN};

/// Why a session is lost whose storage somebody remounted.
const READ_ONLY_BY_HAND: &str = "somebody made the storage read-only during a session \
     (`mount -o remount,ro`?); run the command again";

/// Where a session stands that is not, or no longer, simply granted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Unanswered. `seen`: the running job began after it came, so its answer is fresh.
    Waiting { seen: bool },
    /// Told to end, not gone yet.
    Revoked {
        /// When its connection is cut.
        cut: Moment,
    },
    /// Its close is unanswered. `covered`: the running job began after it, so its sync covers it.
    Closing { covered: bool },
}

/// The state machine. See the module's text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Arbiter {
    kill_grace: Duration,
    /// By themselves, because they may be many and nothing is to be done about them: what else there
    /// is is looked through at each input.
    granted: BTreeSet<SessionId>,
    sessions: BTreeMap<SessionId, Stage>,
    /// While pinned, a loss stays: its period must end before anything else is believed.
    health: Health,
    /// The superblock is, as far as known, writable.
    writable: bool,
    /// The worker holds the root's descriptor: grants are good, syncs can report.
    pinned: bool,
    running: Option<Job>,
    look: bool,
    /// Set while the kernel refuses read-only as busy.
    retry: Option<Retry>,
    /// When to look next, where no events tell of errors.
    look_at: Option<Moment>,
    /// Set from the stop on: until when to try for read-only.
    stop_by: Option<Moment>,
    armed: Option<Moment>,
    exited: bool,
}

impl Arbiter {
    /// A machine that knows nothing of its storage yet and starts with a look.
    /// `kill_grace` is what a revoked client needs to end its command.
    pub(super) fn new(kill_grace: Duration) -> (Self, Vec<Effect>) {
        let mut arbiter = Arbiter {
            kill_grace,
            granted: BTreeSet::new(),
            sessions: BTreeMap::new(),
            health: Health::Absent("not looked at yet".into()),
            writable: false,
            pinned: false,
            running: None,
            look: true,
            retry: None,
            look_at: None,
            stop_by: None,
            armed: None,
            exited: false,
        };
        let mut out = Vec::new();
        arbiter.proceed(Moment(Duration::ZERO), &mut out);
        (arbiter, out)
    }

    /// Takes what happened at `now`; returns what to do, in this order.
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
            Input::Recheck => self.look = true,
            Input::WriterClosed => self.released(now),
            Input::Tick => {
                self.armed = None;
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
        self.sessions.insert(id, Stage::Waiting { seen: false });
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
        self.stop_by = Some(self.cut_moment(now));
        self.deny_waiting(DenyReason::Stopping, &stopping(), out, |_| true);
        self.revoke(RevokeReason::Stopping, &stopping(), now, out);
    }

    fn tick(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if self.look_at.is_some_and(|at| at <= now) {
            self.look = true;
            self.look_at = Some(after(now, INSPECT_EVERY));
        }
        for id in self.in_stage(|s| matches!(s, Stage::Revoked { cut } if *cut <= now)) {
            self.sessions.remove(&id);
            out.push(Effect::Disconnect(id));
        }
    }

    /// A writer is about to be gone: try at once, and a few times shortly after.
    fn released(&mut self, now: Moment) {
        if let Some(retry) = &mut self.retry {
            retry.released(now);
        } else if matches!(self.running, Some(Job::MakeReadOnly { .. })) {
            // It may have come too late for this try.
            self.retry.insert(Retry::new(now)).released(now);
        } else if !self.writable {
            // Nobody should have been able to write: somebody made it writable by hand.
            self.look = true;
        }
    }

    fn done(&mut self, outcome: Outcome, now: Moment, out: &mut Vec<Effect>) {
        let job = self.running.take();
        match outcome {
            Outcome::Inspected(seen) => self.looked(seen, now, out),
            Outcome::MadeWritable(seen) => {
                self.health = seen.health;
                self.writable = seen.writable;
                self.pinned = self.healthy();
                self.retry = None;
                self.look_at = self.pinned.then(|| after(now, INSPECT_EVERY));
                if !self.pinned {
                    self.deny_seen(out);
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

    fn looked(&mut self, seen: Inspection, now: Moment, out: &mut Vec<Effect>) {
        self.writable = seen.writable;
        if !self.pinned {
            self.health = seen.health;
        } else if self.lost() {
            // Its period ends, whatever is there now.
        } else if seen.health != Health::Ready || (!seen.writable && self.has_unsynced()) {
            let loss = match seen.health {
                Health::Ready => Health::Failed(READ_ONLY_BY_HAND.into()),
                other => other,
            };
            self.lose(loss, now, out);
        }
        if !self.writable {
            self.retry = None;
        }
    }

    fn made_read_only(
        &mut self,
        remount: Remount,
        sync: Result<(), Text>,
        release: bool,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        let busy = remount == Remount::Busy;
        let must_release = self.must_release();
        self.writable = busy;
        // What was found writable was never looked at as a session's must be.
        self.pinned &= busy && sync.is_ok() && !release;
        match (sync, remount) {
            // A storage that cannot even be made read-only is not to be believed.
            (Err(text), _) | (Ok(()), Remount::Failed(text)) => {
                self.lose(Health::Failed(text), now, out);
            }
            (Ok(()), _) => self.answer_covered(out),
        }
        if busy {
            let retry = self.retry.get_or_insert(Retry::new(now));
            retry.refused(now);
        } else {
            self.retry = None;
        }
        if !self.pinned {
            self.look_at = None;
        }
        // What was lost may be back, or something else may be there now.
        self.look |= must_release;
    }

    /// The storage, or data on it, is lost: everybody who relied on it is told.
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
        let cut = self.cut_moment(now);
        for id in std::mem::take(&mut self.granted) {
            self.sessions.insert(id, Stage::Revoked { cut });
            out.push(Effect::Revoke(id, reason, text.clone()));
        }
    }

    /// Denies those for whom the look that just ended was fresh.
    fn deny_seen(&mut self, out: &mut Vec<Effect>) {
        let (reason, text) = denial(&self.health);
        self.deny_waiting(reason, &text, out, |stage| {
            matches!(stage, Stage::Waiting { seen: true })
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

    /// A sync went well: those whose close came before it are told so.
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

    fn cut_moment(&self, now: Moment) -> Moment {
        after(now, self.kill_grace + REVOKE_MARGIN)
    }

    /// Whether what is pinned is of no use any more.
    fn must_release(&self) -> bool {
        self.pinned && !self.healthy()
    }

    fn healthy(&self) -> bool {
        self.health == Health::Ready && self.writable
    }

    /// Whether somebody may have data there that is not known to be safe.
    fn has_unsynced(&self) -> bool {
        !self.granted.is_empty() || self.any(|s| !matches!(s, Stage::Waiting { .. }))
    }

    /// Whether what is pinned is lost. Then nobody is granted, and all who were are told.
    fn lost(&self) -> bool {
        self.pinned && self.health != Health::Ready
    }

    /// Whether a session may be granted right now, without asking anybody.
    fn can_grant(&self) -> bool {
        self.pinned
            && self.healthy()
            && self.stop_by.is_none()
            && !self.look
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
        // A remount that succeeded yet left it read-only: somebody was faster.
        Health::Ready => (
            DenyReason::Failed,
            "somebody made it read-only again just then: try again".into(),
        ),
    }
}
