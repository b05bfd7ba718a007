//! Fills in the status document, and encodes it once for all clients that ask at the same time.

use std::time::{Duration, Instant};

use super::arbiter::{Arbiter, Phase, SessionId, State};
use super::context::Settings;
use super::handle::OpenSession;
use super::history::History;
use crate::escape::escape;
use crate::storage::StorageReport;
use crate::wire::{
    CHUNK_MAX, DaemonMessage, DaemonStatus, HolderStatus, Message, SessionStatus, Status,
    StorageStatus, Totals, VERSION,
};

/// A status at one moment.
#[derive(Debug)]
pub(super) struct StatusSnapshot {
    /// The controller's count of changes.
    pub generation: u64,
    pub created: Instant,
    /// The open sessions.
    #[cfg(feature = "kvmd-api")]
    pub clients: usize,
    /// Whether any session may write.
    #[cfg(feature = "kvmd-api")]
    pub write_allowed: bool,
    /// The document as messages of the wire.
    pub bytes: Vec<u8>,
}

impl StatusSnapshot {
    pub(super) fn new(generation: u64, arbiter: &Arbiter, status: &Status) -> StatusSnapshot {
        StatusSnapshot {
            generation,
            created: Instant::now(),
            #[cfg(feature = "kvmd-api")]
            clients: status.sessions.len(),
            #[cfg(feature = "kvmd-api")]
            write_allowed: arbiter.write_allowed(),
            bytes: encode(status),
        }
    }
}

pub(super) fn describe<'a>(
    settings: &Settings,
    start: Instant,
    arbiter: &Arbiter,
    history: &History,
    report: &StorageReport,
    holders: &[HolderStatus],
    sessions: impl Iterator<Item = (&'a SessionId, &'a OpenSession)>,
) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        daemon: DaemonStatus {
            pid: std::process::id(),
            uptime: seconds(start.elapsed()),
        },
        storage: storage(settings, arbiter, history, report),
        sessions: sessions
            .map(|(id, session)| SessionStatus {
                id: id.0,
                pid: session.peer.pid,
                uid: session.peer.uid,
                user: String::new(),
                command: escape(&session.command).to_string(),
                age: seconds(session.opened.elapsed()),
                state: arbiter.phase(*id).unwrap_or(Phase::Closing),
            })
            .collect(),
        holders: holders.to_vec(),
        past: history.ended_sessions(),
        totals: Totals {
            sessions: history.granted,
            denials: history.denials,
            remounts: report.remounts,
            failed_remounts: report.failed_remounts,
            writable: seconds(history.writable()),
            written: report.written,
        },
        ext4: report.ext4.filter(|_| arbiter.state() != State::Absent),
    }
}

fn storage(
    settings: &Settings,
    arbiter: &Arbiter,
    history: &History,
    report: &StorageReport,
) -> StorageStatus {
    let state = arbiter.state();
    let mounted = state != State::Absent;
    let space = report.space.filter(|_| mounted);
    let if_mounted = |text: &str| if mounted { text.into() } else { String::new() };
    StorageStatus {
        state,
        reason: arbiter
            .reason()
            .map(|text| escape(text.as_bytes()).to_string()),
        mount: escape(&settings.mount).to_string(),
        data: escape(&settings.data).to_string(),
        device: if_mounted(&report.device),
        fstype: if_mounted(&report.fstype),
        size: space.map_or(0, |space| space.size),
        free: space.map_or(0, |space| space.free),
        state_age: seconds(history.since.elapsed()),
    }
}

fn encode(status: &Status) -> Vec<u8> {
    // It fails only for maps with keys that are not strings, and there are none.
    let json = serde_json::to_vec(status).unwrap_or_default();
    let chunks = json.chunks(CHUNK_MAX);
    let count = chunks.len();
    let mut bytes = Vec::with_capacity(json.len() + 16 * count);
    for (number, chunk) in chunks.enumerate() {
        let message = DaemonMessage::Status {
            version: VERSION,
            last: number + 1 == count,
            bytes: chunk.to_vec(),
        };
        message.encode(&mut bytes);
    }
    bytes
}

/// Rounds to milliseconds: more digits would only make the document longer.
pub(super) fn seconds(time: Duration) -> f64 {
    time.as_millis() as f64 / 1000.0
}
