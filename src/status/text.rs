//! The status for people: the state first, and what it means.

use std::fmt::Write;
use std::time::Duration;

use super::Snapshot;
use crate::wire::{HolderKind, State};

/// The whole screen.
pub fn show(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    let state = snapshot.state;
    line(
        &mut out,
        "state",
        &format!("{}: {}", state.as_str(), meaning(state)),
    );
    if !snapshot.reason.is_empty() {
        line(&mut out, "reason", &snapshot.reason);
    }
    line(&mut out, "mount", &snapshot.mount);
    line(&mut out, "data", &snapshot.data);
    if !snapshot.device.is_empty() {
        let device = format!("{} ({})", snapshot.device, snapshot.fstype);
        line(&mut out, "device", &device);
    }
    if snapshot.size > 0 {
        let space = format!("{}, {} free", bytes(snapshot.size), bytes(snapshot.free));
        line(&mut out, "size", &space);
    }
    let daemon = format!(
        "pst {}, pid {}, up {}",
        snapshot.daemon_version,
        snapshot.daemon_pid,
        age(snapshot.uptime)
    );
    line(&mut out, "daemon", &daemon);
    sessions(&mut out, snapshot);
    holders(&mut out, snapshot);
    out
}

fn line(out: &mut String, name: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{name:<9}{value}");
}

fn meaning(state: State) -> &'static str {
    match state {
        State::Absent => "not mounted, nobody can write",
        State::Unprepared => "mounted, but not ready for sessions",
        State::ReadOnly => "read-only, a power cut costs nothing",
        State::GoingRw => "about to be writable",
        State::ReadWrite => "writable, in use",
        State::GoingRo => "about to be read-only",
        State::Stuck => "should be read-only, but something holds it writable",
        State::Failed => "the storage does not work, sessions are denied",
    }
}

fn sessions(out: &mut String, snapshot: &Snapshot) {
    if snapshot.sessions.is_empty() {
        return line(out, "sessions", "none");
    }
    line(out, "sessions", &snapshot.sessions.len().to_string());
    let rows = snapshot.sessions.iter().map(|session| {
        [
            session.id.to_string(),
            session.pid.to_string(),
            session.user.clone(),
            age(session.age),
            session.command.clone(),
        ]
    });
    table(out, ["ID", "PID", "USER", "AGE", "COMMAND"], rows.collect());
}

fn holders(out: &mut String, snapshot: &Snapshot) {
    if snapshot.holders.is_empty() {
        return;
    }
    line(out, "held by", "");
    let rows = snapshot.holders.iter().map(|holder| {
        let dash = || "-".to_owned();
        let command = match holder.kind {
            HolderKind::Process | HolderKind::Loop => holder.command.clone(),
            HolderKind::Swap => "swap".to_owned(),
            HolderKind::Unknown => dash(),
        };
        match holder.kind {
            HolderKind::Process => [
                holder.pid.to_string(),
                holder.user.clone(),
                command,
                holder.path.clone(),
            ],
            _ => [dash(), dash(), command, holder.path.clone()],
        }
    });
    table(out, ["PID", "USER", "COMMAND", "PATH"], rows.collect());
}

/// Columns as wide as their widest cell; the last may be of any length.
fn table<const N: usize>(out: &mut String, head: [&str; N], rows: Vec<[String; N]>) {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned))
        .chain(rows)
        .collect();
    for row in &rows {
        let mut text = String::from(" ");
        for (column, cell) in row.iter().enumerate() {
            let widest = rows.iter().filter_map(|row| row.get(column));
            let widest = widest.map(|cell| cell.chars().count()).max().unwrap_or(0);
            let _ = write!(text, " {cell:<widest$}");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
}

fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64 / 1024.0;
    let mut unit = units[0];
    for larger in &units[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_are_short() {
        assert_eq!(age(Duration::from_secs(59)), "59 s");
        assert_eq!(age(Duration::from_secs(61)), "1 min 1 s");
        assert_eq!(age(Duration::from_secs(7260)), "2 h 1 min");
        assert_eq!(age(Duration::from_secs(90_000)), "1 d 1 h");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(256 << 20), "256.0 MiB");
    }

    #[test]
    fn columns_are_aligned() {
        let mut out = String::new();
        table(&mut out, ["A", "B"], vec![["long".into(), "x".into()]]);
        assert_eq!(out, "  A    B\n  long x\n");
    }
}
