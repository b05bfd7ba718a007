//! Lists the possible transitions of the model, and the strategies that lead to rest.

use super::super::{Input, Job, Outcome, Remount, SessionId};
use super::{
    HALF_DONE, HIDDEN, HealthKind, INSPECTIONS, Machine, Model, ModelClient, Transition,
    inspection, why,
};

impl<M: Machine> Model<M> {
    /// Returns every transition that is possible with these clients, and its number of faults.
    pub fn transitions(&self, clients: impl Iterator<Item = SessionId>) -> Vec<(Transition, u8)> {
        if self.exited {
            return Vec::new();
        }
        let mut transitions = Vec::new();
        for id in clients {
            match self.clients.get(&id) {
                None => transitions.push((Input::Opened(id), 0)),
                Some(client) => {
                    if matches!(
                        client,
                        ModelClient::Granted { .. } | ModelClient::Revoked { .. }
                    ) {
                        transitions.push((Input::Close(id), 0));
                    }
                    transitions.push((Input::Disconnected(id), 0));
                }
            }
        }
        for (outcome, faults) in self.outcomes() {
            transitions.push((Input::Done(outcome), faults));
        }
        if !self.recheck_due {
            transitions.push((Input::Recheck, 1));
        }
        transitions.push((Input::WriterClosed, 1));
        if !self.stopped {
            transitions.push((Input::Stop, 0));
        }
        let transitions = transitions.into_iter();
        let transitions = transitions.map(|(input, faults)| (Transition::Input(input), faults));
        transitions
            .chain(self.next_time().map(|time| (time, 0)))
            .collect()
    }

    fn next_time(&self) -> Option<Transition> {
        self.timer.map(|at| {
            if at <= self.now {
                Transition::Input(Input::Tick)
            } else {
                Transition::Wait
            }
        })
    }

    /// Returns the possible outcomes of the running job, best first, and their number of faults.
    fn outcomes(&self) -> Vec<(Outcome, u8)> {
        let failed = || Err(why());
        let other = |(kind, writable): (HealthKind, bool), health_only: bool| {
            let irrelevant = health_only || kind == HealthKind::Absent;
            let same = kind == self.health && (irrelevant || writable == self.writable);
            u8::from(self.known && !same)
        };
        match self.running {
            None => Vec::new(),
            Some(Job::Inspect) => {
                let mut all: Vec<(Outcome, u8)> = INSPECTIONS
                    .into_iter()
                    .map(|found| {
                        let outcome = Outcome::Inspected(inspection(found, false));
                        (outcome, other(found, false))
                    })
                    .collect();
                all.push((Outcome::Inspected(inspection(HIDDEN, true)), 1));
                all.sort_by_key(|(_, faults)| *faults);
                all
            }
            Some(Job::MakeWritable) => {
                let good = (HealthKind::Ready, true);
                let made = |found, temporary| Outcome::MadeWritable(inspection(found, temporary));
                let mut all = vec![(made(good, false), other(good, true))];
                for found in INSPECTIONS {
                    if found != good {
                        // Ready but read-only: a remount by hand interfered.
                        let faults =
                            other(found, false).max(u8::from(found.0 == HealthKind::Ready));
                        all.push((made(found, false), faults));
                    }
                }
                all.extend([HIDDEN, HALF_DONE].map(|found| (made(found, true), 1)));
                all.sort_by_key(|(_, faults)| *faults);
                all
            }
            Some(Job::MakeReadOnly { .. }) => {
                let mut all = vec![
                    (Remount::Done, 0),
                    (Remount::Failed(why()), 1),
                    (Remount::Refused(why()), 1),
                ];
                if self.writable {
                    all.push((Remount::Busy, 0));
                }
                let made = |remount, sync| Outcome::MadeReadOnly { remount, sync };
                let both = |(remount, faults): (Remount, u8)| {
                    [
                        (made(remount.clone(), Ok(())), faults),
                        (made(remount, failed()), faults + 1),
                    ]
                };
                all.into_iter().flat_map(both).collect()
            }
            Some(Job::Sync) => vec![(Outcome::Synced(Ok(())), 0), (Outcome::Synced(failed()), 1)],
            Some(Job::FindHolders) => vec![(Outcome::Searched, 0)],
        }
    }

    fn best(&self) -> Option<Transition> {
        let best = self.outcomes().into_iter().next()?;
        Some(Transition::Input(Input::Done(best.0)))
    }

    /// Returns "busy" whenever it is possible without a fault, else the best outcome.
    fn busiest(&self) -> Option<Transition> {
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
            Some((outcome, _)) => Some(Transition::Input(Input::Done(outcome))),
            None => self.best(),
        }
    }

    /// Returns the next transition if every client leaves and every job succeeds.
    pub fn settling(&self) -> Option<Transition> {
        if self.exited {
            return None;
        }
        let first = self.clients.keys().next();
        first
            .map(|id| Transition::Input(Input::Disconnected(*id)))
            .or_else(|| self.best())
            .or_else(|| self.next_time())
    }

    /// Returns the next transition if no client leaves and every job succeeds.
    pub fn patient(&self) -> Option<Transition> {
        let job = self.best().or_else(|| self.next_time());
        job.filter(|_| !self.exited)
    }

    /// Returns the next transition if no client leaves and the kernel says busy whenever it can.
    pub fn stubborn(&self) -> Option<Transition> {
        let job = self.busiest().or_else(|| self.next_time());
        job.filter(|_| !self.exited)
    }
}
