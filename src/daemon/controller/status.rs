//! The status document: filled in, and encoded once for all clients that ask at the same time.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use smol::channel::bounded;

use super::Controller;
use crate::daemon::arbiter::{Phase, State};
use crate::daemon::handle::{OpenSession, StatusSnapshot};
use crate::daemon::timeouts::STATUS_INTERVAL;
use crate::escape::escape;
use crate::storage::StorageReport;
use crate::sys::file::Space;
use crate::wire::{
    CHUNK_MAX, DaemonMessage, DaemonStatus, EndedSession, Message, SessionOutcome, SessionStatus,
    Status, StorageStatus, Totals, VERSION,
};

/// Bytes of older snapshots that may still be on their way to slow clients when a new one is created. Above this limit,
/// clients get the last snapshot again: clients that do not read must not use up the memory.
const SNAPSHOTS_MAX: usize = 2 << 20;
/// Bytes of a command that are kept after its session.
const ENDED_COMMAND_MAX: usize = 256;

impl Controller {
    /// Returns the last snapshot if it is recent, else a new one. With `fresh`, it includes the latest change.
    pub(super) fn status(&mut self, fresh: bool) -> Arc<StatusSnapshot> {
        let too_much_unsent = self.unsent_bytes() > SNAPSHOTS_MAX;
        if let Some(last) = &self.snapshot {
            let usable = !fresh || !last.outdated.is_closed();
            if too_much_unsent || (usable && last.created.elapsed() < STATUS_INTERVAL) {
                return last.clone();
            }
        }
        let (at_change, outdated) = bounded(1);
        self.at_change = Some(at_change);
        let snapshot = Arc::new(StatusSnapshot {
            created: Instant::now(),
            outdated,
            #[cfg(feature = "kvmd-api")]
            clients: self.sessions.len(),
            #[cfg(feature = "kvmd-api")]
            write_allowed: self.arbiter.write_allowed(),
            bytes: encode(&self.describe()),
        });
        if let Some(last) = self.snapshot.replace(snapshot.clone()) {
            self.old_snapshots.push(Arc::downgrade(&last));
        }
        snapshot
    }

    /// Returns the size of the earlier snapshots that are still being sent.
    fn unsent_bytes(&mut self) -> usize {
        self.old_snapshots.retain(|old| old.strong_count() > 0);
        let sizes = self.old_snapshots.iter().filter_map(Weak::upgrade);
        sizes.map(|old| old.bytes.len()).sum()
    }

    fn describe(&self) -> Status {
        let unmounted = StorageReport::default();
        let report = match self.arbiter.state() {
            State::Absent => &unmounted,
            _ => &self.report,
        };
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            daemon: DaemonStatus {
                pid: std::process::id(),
                uptime: seconds(self.start.elapsed()),
            },
            storage: self.describe_storage(report),
            sessions: self
                .sessions
                .values()
                .map(|session| self.describe_session(session))
                .collect(),
            holders: self.holders.clone(),
            past: self.history.ended_sessions(),
            totals: Totals {
                sessions: self.history.granted,
                denials: self.history.denials,
                remounts: self.report.remounts,
                failed_remounts: self.report.failed_remounts,
                writable: seconds(self.history.writable()),
                written: self.report.written,
            },
            ext4: report.ext4,
        }
    }

    fn describe_storage(&self, report: &StorageReport) -> StorageStatus {
        let reason = self.arbiter.reason();
        StorageStatus {
            state: self.arbiter.state(),
            reason: reason.map(|text| escape(&*text).to_string()),
            mount: escape(&self.context.mount).to_string(),
            data: escape(&self.context.data).to_string(),
            device: report.device.clone(),
            fstype: report.fstype.clone(),
            size: report.space.map_or(0, |space| space.size),
            free: report.space.map_or(0, |space| space.free),
            free_inodes: report.space.and_then(Space::free_inodes),
            state_age: seconds(self.history.since.elapsed()),
        }
    }

    fn describe_session(&self, session: &OpenSession) -> SessionStatus {
        SessionStatus {
            id: session.id.0,
            pid: session.peer.pid,
            uid: session.peer.uid,
            user: String::new(),
            command: escape(&session.command).to_string(),
            age: seconds(session.opened.elapsed()),
            state: self.arbiter.phase(session.id).unwrap_or(Phase::Closing),
            stopped: false,
        }
    }
}

/// Describes a session that ends now. `written` is the device's counter.
pub(super) fn describe_ended(
    session: &OpenSession,
    outcome: SessionOutcome,
    written: Option<u64>,
) -> EndedSession {
    let command = &session.command[..session.command.len().min(ENDED_COMMAND_MAX)];
    let written = session.written_before.zip(written);
    EndedSession {
        id: session.id.0,
        pid: session.peer.pid,
        uid: session.peer.uid,
        user: String::new(),
        command: escape(command).to_string(),
        ended: outcome,
        at: 0, // filled in for each status
        duration: seconds(session.opened.elapsed()),
        written: written.map(|(before, now)| now.saturating_sub(before)),
    }
}

fn encode(status: &Status) -> Vec<u8> {
    // Fails only for maps with keys that are not strings, and there are none.
    let json = serde_json::to_vec(status).unwrap_or_default();
    let mut chunks = json.chunks(CHUNK_MAX);
    let mut bytes = Vec::with_capacity(json.len() + 16 * chunks.len());
    while let Some(chunk) = chunks.next() {
        let message = DaemonMessage::Status {
            version: VERSION,
            last: chunks.len() == 0,
            bytes: chunk.to_vec(),
        };
        message.encode(&mut bytes);
    }
    bytes
}

/// Rounds to milliseconds, to keep the document short.
fn seconds(time: Duration) -> f64 {
    time.as_millis() as f64 / 1000.0
}
