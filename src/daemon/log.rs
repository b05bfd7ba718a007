//! Log lines about the storage and about the ends of sessions, and the limit of the lines that users can cause at will.

use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::time::{Duration, Instant};

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

/// Lines about one subject that are logged in one period. A session has two.
const LINES_MAX: u64 = 60;
const PERIOD: Duration = Duration::from_secs(60);
/// Users from here on share one limit: a user can have thousands of subordinate uids, usually from 100,000 on.
const SHARED_UIDS: u32 = 65_536;

/// Limits the lines that sessions and connections cause: a loop of them must not fill the journal or use up its rate
/// limit. What an administrator must see is not limited: the storage's state, its holders and lost data.
#[derive(Debug)]
pub(super) struct LogLimit {
    /// The start of the current period.
    start: Instant,
    /// Counts the lines of the period, with those that were left out.
    lines: BTreeMap<Subject, u64>,
}

/// The subject of a limited line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    User(u32),
    OtherUsers,
    Remounts,
}

impl Subject {
    pub(super) fn user(uid: u32) -> Subject {
        match uid {
            ..SHARED_UIDS => Subject::User(uid),
            _ => Subject::OtherUsers,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::User(uid) => write!(f, "user {uid}"),
            Subject::OtherUsers => write!(f, "users from {SHARED_UIDS} on"),
            Subject::Remounts => write!(f, "remounts"),
        }
    }
}

impl LogLimit {
    pub(super) fn new(start: Instant) -> LogLimit {
        let lines = BTreeMap::new();
        LogLimit { start, lines }
    }

    /// Counts a line. Returns whether to log it. The first line after a period also logs what was left out.
    pub(super) fn allows(&mut self, subject: Subject, now: Instant) -> bool {
        if now.duration_since(self.start) >= PERIOD {
            self.log_left_out();
            self.start = now;
        }
        let count = self.lines.entry(subject).or_default();
        *count += 1;
        *count <= LINES_MAX
    }

    /// Logs how many lines were left out, and counts from 0 again.
    pub(super) fn log_left_out(&mut self) {
        for (subject, count) in mem::take(&mut self.lines) {
            if count > LINES_MAX {
                log::warn!(
                    "{} log lines about {subject} were left out",
                    count - LINES_MAX
                );
            }
        }
    }
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

/// Logs a remount, always if data may be lost.
pub(super) fn log_remount(limit: &mut LogLimit, outcome: &Outcome, took: Duration) {
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
    let lost = matches!(outcome, Outcome::MadeReadOnly { sync: Err(_), .. });
    if lost || limit.allows(Subject::Remounts, Instant::now()) {
        log::info!("storage made {mode} in {took:.1?}{data}");
    }
}

/// Logs the end of a session, always if its data may be lost. `text` is the reason, if the outcome needs one.
pub(super) fn log_end(
    limit: &mut LogLimit,
    session: &OpenSession,
    ended: &EndedSession,
    text: &str,
) {
    let (level, how) = match ended.ended {
        SessionOutcome::Durable => (Level::Info, "closed"),
        SessionOutcome::Failed => (Level::Error, "closed, its data may be lost: "),
        SessionOutcome::Denied => (Level::Warn, "denied: "),
        SessionOutcome::Revoked => (Level::Info, "ended after it was revoked"),
        SessionOutcome::Gone => (Level::Warn, "ended without a close"),
        SessionOutcome::Cut => (Level::Warn, "disconnected: it was revoked and did not end"),
    };
    let subject = Subject::user(session.peer.uid);
    if level != Level::Error && !limit.allows(subject, Instant::now()) {
        return;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_about_each_subject_are_limited_for_a_period() {
        let start = Instant::now();
        let mut limit = LogLimit::new(start);
        let mut allowed = |subject, after| {
            let now = start + after;
            (0..1000).filter(|_| limit.allows(subject, now)).count()
        };
        assert_eq!(allowed(Subject::user(1000), Duration::ZERO), 60);
        assert_eq!(allowed(Subject::user(1001), Duration::ZERO), 60);
        assert_eq!(allowed(Subject::Remounts, Duration::ZERO), 60);
        assert_eq!(allowed(Subject::user(165_536), Duration::ZERO), 60);
        assert_eq!(allowed(Subject::user(165_537), Duration::ZERO), 0);
        assert_eq!(allowed(Subject::user(1000), Duration::from_secs(59)), 0);
        assert_eq!(allowed(Subject::user(1000), PERIOD), 60);
    }
}
