//! The log lines about the storage.

use std::time::Duration;

use log::Level;

use super::arbiter::{Arbiter, Health, Outcome, Remount, State};
use crate::wire::{HolderKind, HolderStatus};

/// Decides which changes of the state are logged.
#[derive(Debug, Default)]
pub(super) struct StateLog {
    last: Option<State>,
    /// The storage was remounted since the last line, and that was logged.
    remounted: bool,
}

/// The storage serves sessions, as opposed to a state that an administrator must know of.
fn is_well(state: State) -> bool {
    matches!(state, State::ReadOnly | State::ReadWrite)
}

impl StateLog {
    /// Logs the state if it is new and lasts. Returns the status for the service manager if that is new: not each
    /// remount, because systemd passes every status on to the whole bus.
    pub(super) fn update(&mut self, arbiter: &Arbiter) -> Option<String> {
        let state = arbiter.state();
        if matches!(state, State::GoingRo | State::GoingRw) {
            return None;
        }
        let remounted = std::mem::take(&mut self.remounted);
        if self.last == Some(state) {
            return None;
        }
        let before = self.last.replace(state);
        let reason = arbiter
            .reason()
            .map_or(String::new(), |text| format!(": {text}"));
        let level = match state {
            State::Failed => Level::Error,
            State::Absent | State::Unprepared | State::Stuck => Level::Warn,
            _ if remounted => Level::Debug,
            _ => Level::Info,
        };
        let text = format!("storage is {}{reason}", state.as_str());
        log::log!(level, "{text}");
        match (is_well(state), before.is_some_and(is_well)) {
            (true, true) => None,
            (true, false) => Some("storage is read-only, or writable for sessions".into()),
            (false, _) => Some(text),
        }
    }

    pub(super) fn log_remount(&mut self, outcome: &Outcome, took: Duration) {
        match outcome {
            Outcome::MadeWritable(seen) if seen.health == Health::Ready => {
                log::info!("storage made writable in {took:.1?}");
            }
            Outcome::MadeReadOnly {
                remount: Remount::Done,
                sync,
            } => {
                let synced = match sync {
                    Ok(()) => "its data on stable storage",
                    Err(_) => "its data may be lost",
                };
                log::info!("storage made read-only in {took:.1?}, {synced}");
            }
            _ => return,
        }
        self.remounted = true;
    }
}

/// Names what keeps the storage writable.
pub(super) fn log_holders(holders: &[HolderStatus]) {
    for holder in holders {
        let path = &holder.path;
        let command = holder.command.as_deref().unwrap_or("");
        match holder.kind {
            HolderKind::Process => log::warn!(
                "kept from read-only by pid {} of user {}, `{command}`: {path}",
                holder.pid.unwrap_or(0),
                holder.uid.unwrap_or(0)
            ),
            HolderKind::Loop => log::warn!("kept from read-only by {command}: {path}"),
            HolderKind::Swap => log::warn!("kept from read-only by a swap file: {path}"),
            HolderKind::Unknown => log::warn!("kept from read-only; {path}"),
        }
    }
}
