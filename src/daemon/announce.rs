//! What the log and the service manager are told of the storage.

use std::time::Instant;

use super::arbiter::{Condition, Outcome, Remount, State};
use super::core::{Core, standing};
use super::worker::Report;
use crate::escape::escape;
use crate::storage::holders::{Holder, HolderKind};
use crate::sys::own;

impl Core {
    /// The storage's state, where it is news.
    pub(super) fn tell_state(&self) {
        let (state, reason, settled, stuck) = {
            let arbiter = self.arbiter.borrow();
            let (settled, stuck) = (arbiter.settled(), arbiter.stuck());
            (arbiter.state(), arbiter.reason(), settled, stuck)
        };
        if !stuck {
            self.holders.borrow_mut().clear();
        }
        let now = standing(&self.arbiter.borrow());
        if self.ledger.borrow_mut().stands(now, Instant::now()) {
            self.changes.note();
        }
        let passing = matches!(state, State::GoingRo | State::GoingRw);
        let remounted = !passing && self.remounted.take();
        if !passing && (self.ready.get() || settled) && self.told.get() != Some(state) {
            let before = self.told.replace(Some(state));
            let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
            let level = match state {
                State::Failed => log::Level::Error,
                State::Absent | State::Unprepared | State::Stuck => log::Level::Warn,
                State::ReadOnly | State::ReadWrite if remounted => log::Level::Debug,
                _ => log::Level::Info,
            };
            log::log!(level, "storage is {}{reason}", state.as_str());
            // Not of each remount: PID 1 passes each STATUS on to the whole bus, which costs more
            // than the remount.
            match (is_well(state), before.is_some_and(is_well)) {
                (true, true) => {}
                (true, false) => {
                    self.tell_manager("STATUS=storage is read-only, or writable for sessions")
                }
                (false, _) => {
                    self.tell_manager(&format!("STATUS=storage is {}{reason}", state.as_str()));
                }
            }
        }
        if settled && !self.ready.replace(true) {
            self.tell_manager("READY=1");
            own::forget_code_used(); // by the start: the loader, the configuration
            self.changes.note();
        }
    }

    /// Waits until the first look is over.
    pub async fn looked(&self) {
        let watcher = self.changes.watcher();
        while !self.ready.get() {
            watcher.after(self.changes.last()).await;
        }
    }

    /// A remount, with its time. That the kernel said busy shows in the state.
    pub(super) fn tell_remount(&self, report: &Report) {
        let took = report.took;
        match &report.outcome {
            Outcome::MadeWritable(seen) if seen.condition == Condition::Ready => {
                log::info!("storage made writable in {took:.1?}");
            }
            Outcome::MadeReadOnly { remount, sync } if *remount == Remount::Done => {
                let synced = match sync {
                    Ok(()) => "its data on the medium",
                    Err(_) => "its data perhaps lost",
                };
                log::info!("storage made read-only in {took:.1?}, {synced}");
            }
            _ => return,
        }
        self.remounted.set(true);
    }

    /// Who keeps the storage from going read-only, where that is news.
    pub(super) fn name_holders(&self, holders: Vec<Holder>) {
        if *self.holders.borrow() == holders {
            return;
        }
        for holder in &holders {
            let path = escape(&holder.path);
            let command = escape(&holder.command);
            match holder.kind {
                HolderKind::Process => log::warn!(
                    "kept from read-only by pid {} of user {}, `{command}`: {path}",
                    holder.pid,
                    holder.uid
                ),
                HolderKind::Loop => log::warn!("kept from read-only by {command}: {path}"),
                HolderKind::Swap => log::warn!("kept from read-only by a swap file: {path}"),
                HolderKind::Unknown => log::warn!("kept from read-only; {path}"),
            }
        }
        self.holders.replace(holders);
        self.changes.note();
    }
}

fn is_well(state: State) -> bool {
    matches!(state, State::ReadOnly | State::ReadWrite)
}
