//! The status as text for people, with the state and its meaning first.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::sys::clock::local_time;
use crate::table::{Cell, Column, Style, Table};
use crate::units::{HumanBytes, HumanDuration};
use crate::wire::{
    DaemonStatus, EndedSession, Ext4Stats, HolderStatus, SessionOutcome, SessionStatus, State,
    Status, StorageStatus, Totals,
};

/// The number of ended sessions that are shown.
const ENDED_SHOWN: usize = 8;

/// Formats points in time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// When the status, with its ages, was received: seconds since 1970.
    received: f64,
    /// Show ages, too. They would become wrong on a screen that stays.
    pub with_ages: bool,
}

impl Times {
    pub(super) fn now() -> Times {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Times {
            received: now.unwrap_or_default().as_secs_f64(),
            with_ages: false,
        }
    }

    /// Formats the moment `age` seconds ago: `14:03:59 (5 min 3 s ago)`.
    fn since(self, age: f64) -> String {
        let clock = self.clock(self.received - age);
        match self.with_ages {
            true => format!("{clock} ({} ago)", span(age)),
            false => clock,
        }
    }

    /// Formats a time today as `14:03:59`, on another day as `2026-11-25 14:03`.
    fn clock(self, seconds: f64) -> String {
        let local = |seconds: f64| local_time(seconds.floor() as i64);
        let (Some(time), Some(now)) = (local(seconds), local(self.received)) else {
            return "?".into();
        };
        let (hour, minute) = (time.tm_hour, time.tm_min);
        if (time.tm_year, time.tm_yday) == (now.tm_year, now.tm_yday) {
            return format!("{hour:02}:{minute:02}:{:02}", time.tm_sec);
        }
        let (year, month, day) = (1900 + time.tm_year, 1 + time.tm_mon, time.tm_mday);
        format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}")
    }
}

pub(super) fn fill(table: &mut Table, status: &Status, times: Times) {
    let storage = &status.storage;
    let (style, meaning) = describe(storage.state);
    let state = Cell::new(storage.state.as_str(), style);
    table.styled_value("state", state, format!(": {meaning}"));
    if let Some(reason) = &storage.reason {
        table.value("why", reason);
    }
    table.value("since", times.since(storage.state_age));
    if is_full(storage) {
        let what = match storage.free {
            0 => ": no space is free",
            _ => ": no inode is free, so no file can be created",
        };
        table.styled_value("space", Cell::new("FULL", Style::Bad), what);
    }
    table.value("mount", mount(storage));
    table.value("data", &storage.data);
    let DaemonStatus { pid, uptime } = status.daemon;
    let (version, since) = (&status.version, times.since(uptime));
    table.value("daemon", format!("pst {version}, pid {pid}, since {since}"));
    fill_holders(table, &status.holders);
    fill_sessions(table, &status.sessions, times);
    fill_ended(table, &status.past, times);
    fill_totals(table, &status.totals);
    if let Some(ext4) = &status.ext4 {
        fill_ext4(table, ext4);
    }
}

fn describe(state: State) -> (Style, &'static str) {
    use Style::{Bad, Good, Notable};
    match state {
        State::Absent => (Bad, "not mounted, no session can be opened"),
        State::Unprepared => (Bad, "mounted, but not ready for sessions"),
        State::ReadOnly => (Good, "read-only, a power cut costs nothing"),
        State::GoingRw => (Notable, "about to be writable"),
        State::ReadWrite => (Notable, "writable, in use"),
        State::GoingRo => (Notable, "about to be read-only"),
        State::Stuck => (Bad, "should be read-only, but is still writable"),
        State::Failed => (Bad, "the storage does not work, sessions are denied"),
    }
}

fn mount(storage: &StorageStatus) -> String {
    let StorageStatus { mount, device, .. } = storage;
    if device.is_empty() {
        return mount.clone();
    }
    let space = match storage.size {
        0 => String::new(),
        size => format!(", {}, {} free", HumanBytes(size), HumanBytes(storage.free)),
    };
    format!("{mount} ({} on {device}{space})", storage.fstype)
}

/// Whether users other than root can write nothing more, or create no file.
fn is_full(storage: &StorageStatus) -> bool {
    storage.size > 0 && (storage.free == 0 || storage.free_inodes == Some(0))
}

fn fill_holders(table: &mut Table, holders: &[HolderStatus]) {
    for (number, holder) in holders.iter().enumerate() {
        let command = holder.command.as_deref().unwrap_or(holder.kind.as_str());
        let process = match (holder.pid, &holder.user) {
            (Some(pid), Some(user)) => format!(" (pid {pid}, user {user})"),
            _ => String::new(),
        };
        let name = if number == 0 { "held by" } else { "" };
        table.value(name, format!("{command}{process}: {}", holder.path));
    }
}

fn fill_sessions(table: &mut Table, sessions: &[SessionStatus], times: Times) {
    if sessions.is_empty() {
        return table.value("sessions", "none");
    }
    table.value("sessions", sessions.len());
    let columns = [
        Column::Number("ID"),
        Column::Number("PID"),
        Column::Shrinkable("USER"),
        Column::Fixed(if times.with_ages { "AGE" } else { "SINCE" }),
        Column::Fixed("STATE"),
        Column::Shrinkable("COMMAND"),
    ];
    let rows = sessions.iter().map(|session| {
        let since = match times.with_ages {
            true => span(session.age),
            false => times.since(session.age),
        };
        [
            Cell::plain(session.id),
            Cell::plain(session.pid),
            Cell::plain(&session.user),
            Cell::plain(since),
            Cell::plain(match session.stopped {
                true => format!("{}, stopped", session.state.as_str()),
                false => session.state.as_str().into(),
            }),
            Cell::plain(&session.command),
        ]
    });
    table.rows(columns, rows);
}

fn fill_ended(table: &mut Table, sessions: &[EndedSession], times: Times) {
    if sessions.is_empty() {
        return;
    }
    table.value("last", "");
    let columns = [
        Column::Number("ID"),
        Column::Shrinkable("USER"),
        Column::Fixed("WHEN"),
        Column::Number("LASTED"),
        Column::Fixed("ENDED"),
        Column::Number("WRITTEN"),
        Column::Shrinkable("COMMAND"),
    ];
    let shown = || sessions.iter().rev().take(ENDED_SHOWN);
    let rows = shown().map(|session| {
        [
            Cell::plain(session.id),
            Cell::plain(&session.user),
            Cell::plain(times.clock(session.at as f64)),
            Cell::plain(span(session.duration)),
            Cell::new(session.ended.as_str(), outcome_style(session.ended)),
            Cell::plain(bytes(session.written)),
            Cell::plain(&session.command),
        ]
    });
    table.rows(columns, rows);
    let mut explained = BTreeMap::new();
    for outcome in shown().map(|session| session.ended) {
        if let Some(meaning) = explain(outcome) {
            explained.insert(outcome.as_str(), meaning);
        }
    }
    for (word, meaning) in explained {
        table.value("", format!("{word}: {meaning}"));
    }
}

/// Explains how a session ended, unless that is usual.
fn explain(outcome: SessionOutcome) -> Option<&'static str> {
    match outcome {
        SessionOutcome::Durable => None,
        SessionOutcome::Failed => Some("the data may not be on the card"),
        SessionOutcome::Denied => Some("the session was not granted"),
        SessionOutcome::Revoked => {
            Some("the storage failed or the daemon stopped; the command ended")
        }
        SessionOutcome::Gone => Some("the client ended without closing the session"),
        SessionOutcome::Cut => Some("revoked, but the client did not end: disconnected"),
    }
}

fn outcome_style(outcome: SessionOutcome) -> Style {
    match outcome {
        SessionOutcome::Durable => Style::Plain,
        SessionOutcome::Failed => Style::Bad,
        _ => Style::Notable,
    }
}

fn fill_totals(table: &mut Table, totals: &Totals) {
    let counted = format!(
        "{} sessions, {} denied, {} remounts, {} refused",
        totals.sessions, totals.denials, totals.remounts, totals.failed_remounts
    );
    table.value("in all", counted);
    let (writable, written) = (span(totals.writable), bytes(totals.written));
    table.value(
        "",
        format!("{writable} writable, {written} written to the device"),
    );
}

fn fill_ext4(table: &mut Table, ext4: &Ext4Stats) {
    let (lifetime, since_mount) = (HumanBytes(ext4.lifetime), HumanBytes(ext4.since_mount));
    let errors = ext4.errors;
    table.value(
        "ext4",
        format!(
            "{lifetime} written in its life, {since_mount} since it was mounted, errors {errors}"
        ),
    );
}

fn span(seconds: f64) -> String {
    HumanDuration(Duration::try_from_secs_f64(seconds).unwrap_or_default()).to_string()
}

fn bytes(count: Option<u64>) -> String {
    count.map_or("?".into(), |count| HumanBytes(count).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::escape::escape;
    use crate::wire::Phase;

    fn status(state: State, reason: Option<&str>, command: &str) -> Status {
        let session = |id, age| SessionStatus {
            id,
            pid: 1,
            uid: 0,
            user: command.into(),
            command: command.into(),
            age,
            state: Phase::Granted,
            stopped: false,
        };
        Status {
            version: "1".into(),
            daemon: DaemonStatus {
                pid: 1,
                uptime: 1.0,
            },
            storage: StorageStatus {
                state,
                reason: reason.map(str::to_owned),
                mount: "/m".into(),
                data: "/m/data".into(),
                device: "/dev/x".into(),
                fstype: "ext4".into(),
                size: 1,
                free: 1,
                free_inodes: Some(1),
                state_age: 1.0,
            },
            sessions: vec![session(1, 7260.0), session(2, 61.0)],
            holders: Vec::new(),
            past: Vec::new(),
            totals: Totals::default(),
            ext4: None,
        }
    }

    fn with_ages() -> Times {
        Times {
            with_ages: true,
            ..Times::now()
        }
    }

    fn lines(status: &Status, mut table: Table, times: Times) -> Vec<String> {
        fill(&mut table, status, times);
        table.to_string().lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_state_comes_first_with_its_meaning_and_colour() {
        for (state, code) in [
            (State::ReadOnly, "1;32"),
            (State::ReadWrite, "1;33"),
            (State::Stuck, "1;31"),
            (State::Absent, "1;31"),
        ] {
            let status = status(state, None, "");
            let (name, words) = (state.as_str(), describe(state).1);
            let first = |colour| {
                let lines = lines(&status, Table::new(None, colour), with_ages());
                lines[0].clone()
            };
            assert!(first(true).ends_with(&format!("\x1b[{code}m{name}\x1b[0m: {words}")));
            assert_eq!(first(false), format!("state     {name}: {words}"));
        }
    }

    #[test]
    fn a_text_has_ages_only_if_it_does_not_stay_on_the_screen() {
        let status = status(State::ReadWrite, None, "vi");
        let text = |times| lines(&status, Table::new(None, false), times).join("\n");
        let read_at_once = text(with_ages());
        for part in [
            "(1.00 s ago)",
            "AGE ",
            " 2 h 1 min granted vi",
            " 1 min 1 s granted vi",
        ] {
            assert!(read_at_once.contains(part), "{read_at_once}");
        }
        let stays = text(Times::now());
        assert!(stays.contains("SINCE"), "{stays}");
        for part in ["ago", "AGE", " min "] {
            assert!(!stays.contains(part), "{stays}");
        }
    }

    #[test]
    fn absurd_numbers_do_not_panic() {
        for absurd in [f64::NAN, f64::INFINITY, -1e300, 1e300] {
            let mut status = status(State::ReadOnly, None, "");
            status.storage.state_age = absurd;
            status.totals.writable = absurd;
            for times in [with_ages(), Times::now()] {
                assert!(!lines(&status, Table::new(None, false), times).is_empty());
            }
        }
    }

    #[test]
    fn hostile_names_do_not_break_lines() {
        let raw = "\x1b[2J\n\r\u{202e}\u{65e5}\u{672c}".repeat(30);
        let escaped = escape(&raw).to_string(); // as the daemon sends it
        for (name, forbidden) in [(&escaped, Some('\u{202e}')), (&raw, None)] {
            let status = status(State::Stuck, Some(name), name);
            for width in [1, 20, 80, 200] {
                let table = Table::new(Some(width), false);
                for line in lines(&status, table, with_ages()) {
                    assert!(!line.contains(|c: char| c.is_control() || Some(c) == forbidden));
                    let wide = |c| usize::from(c >= '\u{3000}');
                    let hidden = |c| usize::from(c == '\u{202e}');
                    let columns: usize = line.chars().map(|c| 1 + wide(c) - hidden(c)).sum();
                    assert!(columns <= width, "{line:?}");
                }
            }
        }
    }
}
