//! Log lines about the storage and about the ends of sessions.

use std::time::Duration;

use log::Level;

use super::arbiter::{Arbiter, Health, Outcome, Remount, State};
use super::handle::OpenSession;
use crate::units::{HumanBytes, HumanDuration};
use crate::wire::{EndedSession, HolderKind, HolderStatus, SessionOutcome};

/// A longer command is cut in log lines.
const COMMAND_MAX: usize = 80;

/// Cuts an escaped command for a log line.
pub(super) fn cut_command(mut command: String) -> String {
    if let Some((end, _)) = command.char_indices().nth(COMMAND_MAX) {
        command.truncate(end);
        command.push('…');
    }
    command
}

/// Logs the state if it is new and not just a transition. Returns the service manager's status if that is new. It does
/// not change with each remount, because systemd sends every status to all clients of its bus.
pub(super) fn log_state(last: &mut Option<State>, arbiter: &Arbiter) -> Option<String> {
    let state = arbiter.state();
    if matches!(state, State::GoingRo | State::GoingRw) || *last == Some(state) {
        return None;
    }
    let was_well = last.replace(state).is_some_and(is_well);
    let level = match state {
        State::Failed => Level::Error,
        State::Absent | State::Unprepared | State::Stuck => Level::Warn,
        _ if was_well => Level::Debug, // the remount is logged
        _ => Level::Info,
    };
    let reason = arbiter.reason().map(|text| format!(": {text}"));
    let text = format!(
        "storage is {}{}",
        state.as_str(),
        reason.unwrap_or_default()
    );
    log::log!(level, "{text}");
    match is_well(state) {
        true if was_well => None,
        true => Some("storage is read-only, or writable for sessions".into()),
        false => Some(text),
    }
}

/// Whether the storage serves sessions and needs no attention from an administrator.
fn is_well(state: State) -> bool {
    matches!(state, State::ReadOnly | State::ReadWrite)
}

pub(super) fn log_remount(outcome: &Outcome, took: Duration) {
    let (mode, data) = match outcome {
        Outcome::MadeWritable(seen) if seen.health == Health::Ready => ("writable", ""),
        Outcome::MadeReadOnly {
            remount: Remount::Done,
            sync,
        } => match sync {
            Ok(()) => ("read-only", ", its data on stable storage"),
            Err(_) => ("read-only", ", its data may be lost"),
        },
        _ => return,
    };
    log::info!("storage made {mode} in {took:.1?}{data}");
}

/// Logs the end of a session. `text` is the reason, if the outcome needs one.
pub(super) fn log_end(session: &OpenSession, ended: &EndedSession, text: &str) {
    let (level, how) = match ended.ended {
        SessionOutcome::Durable => (Level::Info, "closed"),
        SessionOutcome::Failed => (Level::Error, "closed, its data may be lost: "),
        SessionOutcome::Denied => (Level::Warn, "denied: "),
        SessionOutcome::Revoked => (Level::Info, "ended after it was revoked"),
        SessionOutcome::Gone => (Level::Warn, "ended without a close"),
        SessionOutcome::Cut => (Level::Warn, "disconnected: it was revoked and did not end"),
    };
    let written = ended
        .written
        .map(|n| format!(", {} written", HumanBytes(n)));
    let written = written.unwrap_or_default();
    let lasted = HumanDuration(session.opened.elapsed());
    log::log!(
        level,
        "session {session} {how}{text} (after {lasted}{written})"
    );
}

/// Logs what keeps the storage writable.
pub(super) fn log_holders(holders: &[HolderStatus]) {
    for holder in holders {
        let command = holder.command.as_deref().unwrap_or_default();
        let (pid, uid) = (holder.pid.unwrap_or(0), holder.uid.unwrap_or(0));
        let named = match holder.kind {
            HolderKind::Process => format!("pid {pid} of user {uid}, `{command}`"),
            HolderKind::Loop => command.to_owned(),
            HolderKind::Swap => "a swap file".to_owned(),
            HolderKind::Unknown => "an unknown holder".to_owned(),
        };
        log::warn!("kept from read-only by {named}: {}", holder.path);
    }
}
