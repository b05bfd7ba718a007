//! The words that the screen and the lines of a watch share.

use std::time::SystemTime;

use super::snapshot::{Holder, Past};
use crate::amount::Bytes;
use crate::sys::clock::LocalTime;
use crate::wire::{Ended, HolderKind, State};

pub(super) fn meaning(state: State) -> &'static str {
    match state {
        State::Absent => "not mounted, no session can be opened",
        State::Unprepared => "mounted, but not ready for sessions",
        State::ReadOnly => "read-only, a power cut costs nothing",
        State::GoingRw => "about to be writable",
        State::ReadWrite => "writable, in use",
        State::GoingRo => "about to be read-only",
        State::Stuck => "should be read-only, but something holds it writable",
        State::Failed => "the storage does not work, sessions are denied",
    }
}

pub(super) fn ending(ended: Ended) -> &'static str {
    match ended {
        Ended::Durable => "well",
        Ended::Failed => "doubtful",
        Ended::Denied => "denied",
        Ended::Revoked => "revoked",
        Ended::Gone => "gone",
        Ended::Cut => "cut off",
    }
}

/// What a holder is called where its command stands.
pub(super) fn holder_command(holder: &Holder) -> &str {
    match holder.kind {
        HolderKind::Process | HolderKind::Loop => &holder.command,
        HolderKind::Swap => "swap",
        HolderKind::Unknown => "-",
    }
}

/// Bytes that a session wrote.
pub(super) fn written(past: &Past) -> String {
    bytes(past.written)
}

/// Bytes that perhaps nobody counted.
pub(super) fn bytes(count: Option<u64>) -> String {
    count.map_or("?".into(), |count| Bytes(count).to_string())
}

/// A point of time, as short as it can be told today.
pub(super) fn when(time: SystemTime) -> String {
    let (Some(then), Some(now)) = (LocalTime::of(time), LocalTime::of(SystemTime::now())) else {
        return "?".into();
    };
    let day = |time: LocalTime| (time.year, time.month, time.day);
    match day(then) == day(now) {
        true => clock(then),
        false => date(then),
    }
}

/// `14:03:59`.
pub(super) fn clock(time: LocalTime) -> String {
    format!("{:02}:{:02}:{:02}", time.hour, time.minute, time.second)
}

/// `2026-11-25 14:03`.
fn date(time: LocalTime) -> String {
    format!(
        "{}-{:02}-{:02} {:02}:{:02}",
        time.year, time.month, time.day, time.hour, time.minute
    )
}
