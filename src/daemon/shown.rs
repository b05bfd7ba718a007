//! What a status is told of the daemon, in the protocol's words. Nothing here changes anything.

use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use super::arbiter::{Phase, SessionId, State};
use super::core::Core;
use super::times::WATCH_EVERY;
use crate::storage::figures;
use crate::wire::{DaemonMessage, Figures, Totals, VERSION};

/// What the kernel has counted of the filesystem, read for a status; never from the medium. That
/// costs more than all else in it.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The last change when it was read.
    pub change: u64,
    at: Instant,
    figures: Option<Figures>,
}

impl Core {
    /// What the kernel has counted: as it is now, or, for one who `watches`, of a moment ago.
    /// He hears again of what changed since, so that many of them cost no more than one.
    pub fn reading(&self, watches: bool) -> Reading {
        if let Some(reading) = &*self.reading.borrow() {
            if watches && reading.at.elapsed() < WATCH_EVERY {
                return reading.clone();
            }
        }
        let mounted = self.arbiter.borrow().state() != State::Absent;
        let number = self.facts.borrow().number;
        let reading = Reading {
            change: self.changes.last(),
            at: Instant::now(),
            figures: mounted.then(|| figures::read(number)).flatten(),
        };
        self.reading.replace(Some(reading.clone()));
        reading
    }

    /// The first message of a status.
    pub fn storage_message(&self, whole: bool) -> DaemonMessage {
        let arbiter = self.arbiter.borrow();
        let facts = self.facts.borrow();
        let state = arbiter.state();
        let mounted = state != State::Absent;
        let space = self.space().filter(|_| mounted);
        let if_mounted = |text: &str| if mounted { text.into() } else { String::new() };
        DaemonMessage::Storage {
            version: VERSION,
            whole,
            daemon_version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_ms: milliseconds(self.start.elapsed()),
            state,
            state_ms: milliseconds(self.ledger.borrow().since().elapsed()),
            reason: arbiter
                .reason()
                .map_or(String::new(), |text| text.to_string()),
            mount: self.mount.as_os_str().as_bytes().to_vec(),
            data: self.data.as_os_str().as_bytes().to_vec(),
            device: if_mounted(&facts.device),
            fstype: if_mounted(&facts.fstype),
            size: space.map_or(0, |space| space.size),
            free: space.map_or(0, |space| space.free),
        }
    }

    /// What ext4 itself has counted.
    pub fn figures_message(&self, reading: Reading) -> Option<DaemonMessage> {
        reading.figures.map(DaemonMessage::Figures)
    }

    /// What the daemon has counted.
    pub fn totals_message(&self) -> DaemonMessage {
        let ledger = self.ledger.borrow();
        DaemonMessage::Totals(Totals {
            sessions: ledger.granted,
            denials: ledger.denials,
            remounts: ledger.counts.remounts,
            failed_remounts: ledger.counts.failed_remounts,
            writable_ms: milliseconds(ledger.writable(Instant::now())),
            written: ledger.counts.written,
        })
    }

    /// The first session after `last` that changed after the change `seen`.
    pub fn session_message(
        &self,
        last: SessionId,
        seen: u64,
    ) -> Option<(SessionId, DaemonMessage)> {
        let seats = self.seats.borrow();
        let mut later = seats.range(SessionId(last.0 + 1)..);
        later
            .find(|(_, seat)| seat.changed.get() > seen)
            .map(|(id, seat)| {
                let message = DaemonMessage::Session {
                    id: id.0,
                    pid: seat.peer.pid,
                    uid: seat.peer.uid,
                    phase: self.arbiter.borrow().phase(*id).unwrap_or(Phase::Closing),
                    age_ms: milliseconds(seat.opened.elapsed()),
                    command: seat.command.to_vec(),
                };
                (*id, message)
            })
    }

    /// The session that ended as the `number`th; `None` if it is forgotten.
    pub fn past_message(&self, number: u64) -> Option<DaemonMessage> {
        let ledger = self.ledger.borrow();
        ledger.past(number).map(|past| DaemonMessage::Past {
            id: past.id.0,
            pid: past.pid,
            uid: past.uid,
            ended: past.ended,
            ago_ms: milliseconds(past.at.elapsed()),
            lasted_ms: milliseconds(past.lasted),
            written: past.written,
            command: past.command().to_vec(),
        })
    }

    /// One of those who keep the storage from going read-only; counted from 0.
    pub fn holder_message(&self, number: usize) -> Option<DaemonMessage> {
        let holders = self.holders.borrow();
        holders.get(number).map(|holder| DaemonMessage::Holder {
            kind: holder.kind,
            pid: holder.pid,
            uid: holder.uid,
            command: holder.command.clone(),
            path: holder.path.clone(),
        })
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
