//! The status for people: the state first, and what it means.

use std::time::{Duration, UNIX_EPOCH};

use super::layout::{Column, Look, Page, Piece};
use super::snapshot::{Since, Snapshot};
use super::words::{bytes, ending, holder_command, meaning, when, written};
use crate::amount::{Bytes, Span};
use crate::wire::{Ended, Figures, Incident, State};

/// So many of the sessions that ended are shown.
const LAST: usize = 8;

/// The whole screen. `still`: it will not be drawn again as time goes by, so it tells ages; else
/// it tells points of time.
pub(super) fn show(snapshot: &Snapshot, mut page: Page, still: bool) -> Vec<String> {
    let state = snapshot.state;
    let mark = Piece::new(state.as_str(), look(state));
    page.marked("state", mark, &format!(": {}", meaning(state)));
    if !snapshot.reason.is_empty() {
        page.value("why", &snapshot.reason);
    }
    page.value("since", &moment(snapshot.since, still));
    page.value("mount", &mount(snapshot));
    page.value("data", &snapshot.data);
    let daemon = format!(
        "pst {}, pid {}, since {}",
        snapshot.daemon_version,
        snapshot.daemon_pid,
        moment(snapshot.started, still)
    );
    page.value("daemon", &daemon);
    holders(&mut page, snapshot);
    sessions(&mut page, snapshot, still);
    past(&mut page, snapshot);
    totals(&mut page, snapshot);
    page.into_lines()
}

fn look(state: State) -> Look {
    match state {
        State::ReadOnly => Look::Good,
        State::GoingRw | State::ReadWrite | State::GoingRo => Look::Notable,
        State::Absent | State::Unprepared | State::Stuck | State::Failed => Look::Bad,
    }
}

fn moment(since: Since, still: bool) -> String {
    let clock = when(since.clock());
    match still {
        true => format!("{clock} ({} ago)", Span(since.age())),
        false => clock,
    }
}

fn mount(snapshot: &Snapshot) -> String {
    if snapshot.device.is_empty() {
        return snapshot.mount.clone();
    }
    let space = match snapshot.size {
        0 => String::new(),
        size => format!(", {}, {} free", Bytes(size), Bytes(snapshot.free)),
    };
    format!(
        "{} ({} on {}{space})",
        snapshot.mount, snapshot.fstype, snapshot.device
    )
}

fn holders(page: &mut Page, snapshot: &Snapshot) {
    if snapshot.holders.is_empty() {
        return;
    }
    page.value("held by", "");
    let columns = [
        Column::number("PID"),
        Column::long("USER", 8),
        Column::long("COMMAND", 12),
        Column::long("PATH", 16),
    ];
    let rows = snapshot.holders.iter().map(|holder| {
        let (pid, user) = match holder.pid {
            0 => ("-".into(), "-".into()),
            pid => (pid.to_string(), holder.user.clone()),
        };
        let command = holder_command(holder).to_owned();
        [pid, user, command, holder.path.clone()].map(Piece::plain)
    });
    page.table(columns, &rows.collect::<Vec<_>>());
}

fn sessions(page: &mut Page, snapshot: &Snapshot, still: bool) {
    if snapshot.sessions.is_empty() {
        return page.value("sessions", "none");
    }
    let long = snapshot.sessions.values().filter(|s| s.is_long()).count();
    let count = snapshot.sessions.len();
    page.value(
        "sessions",
        &match long {
            0 => count.to_string(),
            long => format!("{count}, {long} open for more than an hour (!)"),
        },
    );
    let columns = [
        Column::number("ID"),
        Column::number("PID"),
        Column::long("USER", 8),
        Column::new(if still { "AGE" } else { "SINCE" }),
        Column::new("STATE"),
        Column::long("COMMAND", 12),
    ];
    let rows = snapshot.sessions.iter().map(|(id, session)| {
        let mut age = match still {
            true => Span(session.opened.age()).to_string(),
            false => when(session.opened.clock()),
        };
        let long = session.is_long();
        if long {
            age.push_str(" !");
        }
        [
            Piece::plain(id.to_string()),
            Piece::plain(session.pid.to_string()),
            Piece::plain(&session.user),
            Piece::new(age, if long { Look::Bad } else { Look::Plain }),
            Piece::plain(session.phase.as_str()),
            Piece::plain(&session.command),
        ]
    });
    page.table(columns, &rows.collect::<Vec<_>>());
}

fn past(page: &mut Page, snapshot: &Snapshot) {
    if snapshot.past.is_empty() {
        return;
    }
    page.value("last", "");
    let columns = [
        Column::number("ID"),
        Column::long("USER", 8),
        Column::new("WHEN"),
        Column::number("LASTED"),
        Column::new("ENDED"),
        Column::number("WRITTEN"),
        Column::long("COMMAND", 12),
    ];
    let rows = snapshot.past.iter().rev().take(LAST).map(|past| {
        let look = match past.ended {
            Ended::Durable => Look::Plain,
            Ended::Failed => Look::Bad,
            _ => Look::Notable,
        };
        [
            Piece::plain(past.id.to_string()),
            Piece::plain(&past.user),
            Piece::plain(when(past.at.clock())),
            Piece::plain(Span(past.lasted).to_string()),
            Piece::new(ending(past.ended), look),
            Piece::plain(written(past)),
            Piece::plain(&past.command),
        ]
    });
    page.table(columns, &rows.collect::<Vec<_>>());
}

fn totals(page: &mut Page, snapshot: &Snapshot) {
    let totals = &snapshot.totals;
    let counted = format!(
        "sessions {}, denials {}, remounts {} ({} failed)",
        totals.sessions, totals.denials, totals.remounts, totals.failed_remounts
    );
    page.value("in all", &counted);
    let cost = format!(
        "{} writable, {} written to the device",
        Span(Duration::from_millis(totals.writable_ms)),
        bytes(totals.written)
    );
    page.value("", &cost);
    if let Some(figures) = &snapshot.figures {
        ext4(page, figures);
    }
}

fn ext4(page: &mut Page, figures: &Figures) {
    let written = format!(
        "{} written in its life, {} since it was mounted, {}",
        Bytes(figures.lifetime),
        Bytes(figures.mounted),
        match figures.errors {
            0 => "no errors".into(),
            1 => "1 error".into(),
            count => format!("{count} errors"),
        }
    );
    page.value("ext4", &written);
    let errors = [("first", &figures.first), ("last", &figures.last)];
    for (which, incident) in errors {
        if let Some(incident) = incident {
            page.value("", &format!("{which} error: {}", error(incident)));
        }
    }
}

fn error(incident: &Incident) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(incident.time));
    format!(
        "{}, in {} (line {})",
        time.map_or("?".into(), when),
        incident.function,
        incident.line
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::snapshot::Collector;
    use crate::wire::{DaemonMessage, Phase, VERSION};

    const HOUR: u64 = 60 * 60 * 1000;

    fn snapshot(state: State, reason: &str, ages: &[u64], command: &[u8]) -> Collector {
        let mut collector = Collector::default();
        let mut take = |message| collector.take(message).expect("in its place");
        take(DaemonMessage::Storage {
            version: VERSION,
            whole: true,
            daemon_version: "1".into(),
            pid: 1,
            uptime_ms: 1,
            state,
            state_ms: 1,
            reason: reason.into(),
            mount: b"/m".to_vec(),
            data: b"/m/data".to_vec(),
            device: "/dev/x".into(),
            fstype: "ext4".into(),
            size: 1,
            free: 1,
        });
        for (id, age_ms) in (1..).zip(ages) {
            take(DaemonMessage::Session {
                id,
                pid: 1,
                uid: 0,
                phase: Phase::Granted,
                age_ms: *age_ms,
                command: command.to_vec(),
            });
        }
        collector
    }

    fn page(collector: &Collector, width: Option<usize>, colour: bool) -> Vec<String> {
        let snapshot = collector.snapshot().expect("told");
        show(snapshot, Page::new(width, colour), true)
    }

    #[test]
    fn a_session_that_is_open_for_more_than_an_hour_is_marked() {
        let two = snapshot(State::ReadWrite, "", &[HOUR - 60_000, HOUR], b"vi");
        let lines = page(&two, None, false);
        let marked: Vec<&String> = lines.iter().filter(|line| line.contains('!')).collect();
        assert_eq!(marked.len(), 2, "{lines:#?}");
        assert_eq!(marked[0], "sessions  2, 1 open for more than an hour (!)");
        assert!(
            marked[1].contains("1 h 0 min ! granted vi"),
            "{}",
            marked[1]
        );
        let none = snapshot(State::ReadWrite, "", &[1], b"vi");
        assert!(!page(&none, None, false).concat().contains('!'));
    }

    #[test]
    fn the_state_comes_first_in_its_words_and_its_colour() {
        for (state, code) in [
            (State::ReadOnly, "1;32"),
            (State::ReadWrite, "1;33"),
            (State::Stuck, "1;31"),
            (State::Absent, "1;31"),
        ] {
            let told = snapshot(state, "", &[], b"");
            let (name, words) = (state.as_str(), meaning(state));
            let first = &page(&told, None, true)[0];
            assert!(first.ends_with(&format!("\x1b[{code}m{name}\x1b[0m: {words}")));
            assert_eq!(
                page(&told, None, false)[0],
                format!("state     {name}: {words}")
            );
        }
    }

    #[test]
    fn hostile_names_break_no_line() {
        let name = "\x1b[2J\n\r\u{202e}\u{65e5}\u{672c}".repeat(30);
        let told = snapshot(State::Stuck, &name, &[1, 2], name.as_bytes());
        for width in [1, 20, 80, 200] {
            for line in page(&told, Some(width), false) {
                assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'));
                let columns: usize = line.chars().map(|c| 1 + usize::from(c >= '\u{3000}')).sum();
                assert!(columns <= width, "{line:?}");
            }
        }
    }
}
