//! A status: all that it shows, taken at one moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::arbiter::{Arbiter, Phase, State};
use super::client::Client;
use super::history::{History, Past};
use super::settings::Settings;
use crate::storage::holders::Holder;
use crate::storage::meter::Counts;
use crate::storage::{StorageInfo, figures};
use crate::sys::file::Space;
use crate::wire::{DaemonMessage, Totals, VERSION};

/// What the worker last said of the storage.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub facts: StorageInfo,
    pub counts: Counts,
    pub space: Option<Space>,
    pub holders: Arc<[Holder]>,
    /// `st_dev` of the data root.
    pub data_device: u64,
}

/// All that a status shows. Shared by everyone who asks at the same time.
#[derive(Debug)]
pub(super) struct Status {
    pub generation: u64,
    pub at: Instant,
    #[cfg(feature = "kvmd-api")]
    pub write_allowed: bool,
    pub head: Vec<DaemonMessage>,
    pub sessions: Vec<(Arc<Client>, Phase)>,
    pub past: Vec<Arc<Past>>,
    pub holders: Arc<[Holder]>,
}

impl Status {
    pub(super) fn new(
        generation: u64,
        settings: &Settings,
        start: Instant,
        arbiter: &Arbiter,
        seen: &Seen,
        history: &History,
        sessions: Vec<(Arc<Client>, Phase)>,
    ) -> Status {
        let state = arbiter.state();
        let mounted = state != State::Absent;
        let space = seen.space.filter(|_| mounted);
        let if_mounted = |text: &str| if mounted { text.into() } else { String::new() };
        let storage = DaemonMessage::Storage {
            version: VERSION,
            whole: true,
            daemon_version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_ms: milliseconds(start.elapsed()),
            state,
            state_ms: milliseconds(history.since.elapsed()),
            reason: arbiter
                .reason()
                .map_or(String::new(), |text| text.to_string()),
            mount: settings.mount.clone(),
            data: settings.data.clone(),
            device: if_mounted(&seen.facts.device),
            fstype: if_mounted(&seen.facts.fstype),
            size: space.map_or(0, |space| space.size),
            free: space.map_or(0, |space| space.free),
        };
        let figures = mounted.then(|| figures::read(seen.facts.number)).flatten();
        let totals = DaemonMessage::Totals(Totals {
            sessions: history.granted,
            denials: history.denials,
            remounts: seen.counts.remounts,
            failed_remounts: seen.counts.failed_remounts,
            writable_ms: milliseconds(history.writable()),
            written: seen.counts.written,
        });
        let mut head = vec![storage];
        head.extend(figures.map(DaemonMessage::Figures));
        head.push(totals);
        Status {
            generation,
            at: Instant::now(),
            #[cfg(feature = "kvmd-api")]
            write_allowed: arbiter.write_allowed(),
            head,
            sessions,
            past: history.past.iter().cloned().collect(),
            holders: seen.holders.clone(),
        }
    }
}

/// As the wire has times.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
