//! Decides the consequences of each input: grants, the next job, the timer, the exit.

use super::{Arbiter, Effect, Health, Job, Moment, Stage, denial};

impl Arbiter {
    /// Grants waiting sessions if possible, starts the next job and sets the timer, or exits.
    pub(super) fn proceed(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if self.can_grant() {
            for id in self.in_stage(|s| matches!(s, Stage::Waiting { .. })) {
                self.sessions.remove(&id);
                self.granted.insert(id);
                out.push(Effect::Grant(id));
                self.retry = None;
            }
        }
        if self.lost() {
            // The lost period ends first; later requests get a new inspection.
            let (reason, text) = denial(&self.health);
            self.deny_waiting(reason, &text, out, |_| true);
        }
        if self.running.is_none() {
            if let Some(job) = self.next_job(now) {
                self.start(job, out);
            } else {
                self.exited = self.stop_complete(now);
            }
        }
        self.set_timer(now, out);
        if self.exited {
            let clean = !self.writable;
            out.push(Effect::Exit { clean });
        }
    }

    fn next_job(&mut self, now: Moment) -> Option<Job> {
        let waiting = self.any(|s| matches!(s, Stage::Waiting { .. }));
        // `MakeWritable` also inspects, so a waiting client need not wait for inspections, which other
        // users can trigger without end.
        if self.inspect_due && (self.pinned || !waiting) {
            return Some(Job::Inspect);
        }
        let revoked = self.any(|s| matches!(s, Stage::Revoked { .. }));
        let working = revoked || !self.granted.is_empty();
        if working {
            let closing = self.any(|s| matches!(s, Stage::Closing { .. }));
            return closing.then_some(Job::Sync);
        }
        if self.must_release() {
            return Some(self.make_read_only(true));
        }
        if waiting {
            return Some(Job::MakeWritable);
        }
        if self.retry.as_ref().is_some_and(|retry| retry.search) {
            return Some(Job::FindHolders);
        }
        let due = self.retry.as_ref().is_none_or(|retry| retry.next <= now);
        let last_try = self.stop_by.is_some_and(|by| by <= now);
        let release = self.health != Health::Ready;
        (self.writable && due && !(last_try && self.retry.is_some()))
            .then(|| self.make_read_only(release))
    }

    fn make_read_only(&self, release: bool) -> Job {
        let awaited = self.any(|s| matches!(s, Stage::Closing { .. }));
        Job::MakeReadOnly { release, awaited }
    }

    fn start(&mut self, job: Job, out: &mut Vec<Effect>) {
        match job {
            Job::Inspect | Job::MakeWritable => self.inspect_due = false,
            Job::FindHolders => {
                if let Some(retry) = &mut self.retry {
                    retry.search = false;
                }
            }
            Job::MakeReadOnly { .. } | Job::Sync => {}
        }
        for stage in self.sessions.values_mut() {
            match stage {
                Stage::Waiting { covered } => *covered = job == Job::MakeWritable,
                Stage::Closing { covered } => {
                    *covered = matches!(job, Job::Sync | Job::MakeReadOnly { .. });
                }
                Stage::Revoked { .. } => {}
            }
        }
        self.running = Some(job);
        out.push(Effect::Start(job));
    }

    fn stop_complete(&self, now: Moment) -> bool {
        let Some(by) = self.stop_by else {
            return false;
        };
        self.granted.is_empty() && self.sessions.is_empty() && (!self.writable || by <= now)
    }

    fn set_timer(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let disconnects = self.sessions.values().filter_map(|stage| match stage {
            Stage::Revoked { disconnect_at } => Some(*disconnect_at),
            _ => None,
        });
        let idle_retry = self.retry.as_ref().filter(|_| self.running.is_none());
        let moments = [
            idle_retry.map(|retry| retry.next),
            self.inspect_at,
            disconnects.min(),
            self.stop_by.filter(|by| *by > now),
        ];
        let next = moments.into_iter().flatten().min();
        let next = next.filter(|_| !self.exited);
        if next != self.timer {
            self.timer = next;
            out.push(Effect::SetTimer(next));
        }
    }
}
