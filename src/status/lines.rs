//! What changed, for people who read it from a pipe or a file: a line each.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::SystemTime;

use super::snapshot::{Past, Snapshot};
use super::words::{clock, ending, holder_command, meaning, written};
use crate::amount::Span;
use crate::sys::clock::LocalTime;
use crate::wire::State;

/// What was said so far.
#[derive(Debug, Default)]
pub(super) struct Lines {
    state: Option<(State, String)>,
    open: BTreeSet<u64>,
    long: BTreeSet<u64>,
    /// Those that are remembered, of whose end was told, or that had ended before.
    ended: BTreeSet<u64>,
    holders: Vec<String>,
}

impl Lines {
    /// The lines about what is new in a snapshot.
    pub(super) fn about(&mut self, snapshot: &Snapshot) -> String {
        let time = LocalTime::of(SystemTime::now()).map_or("?".into(), clock);
        let mut out = String::new();
        for line in self.news(snapshot) {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{time} {line}");
        }
        out
    }

    fn news(&mut self, snapshot: &Snapshot) -> Vec<String> {
        let first = self.state.is_none();
        let mut lines = Vec::new();
        for past in &snapshot.past {
            if self.ended.insert(past.id) && !first {
                lines.push(end(past));
            }
        }
        let remembered = snapshot.past.iter().map(|past| past.id);
        self.ended.clear();
        self.ended.extend(remembered);
        for (id, session) in &snapshot.sessions {
            let who = format!(
                "session {id} of {}, pid {}: {}",
                session.user, session.pid, session.command
            );
            if self.open.insert(*id) {
                lines.push(format!("open: {who}"));
            }
            if session.is_long() && self.long.insert(*id) {
                let age = Span(session.opened.age());
                lines.push(format!("open for {age}: {who}"));
            }
        }
        self.open.retain(|id| snapshot.sessions.contains_key(id));
        self.long.retain(|id| snapshot.sessions.contains_key(id));
        let state = (snapshot.state, snapshot.reason.clone());
        // Where it passes through such a state, what comes of it follows.
        let passing = matches!(state.0, State::GoingRo | State::GoingRw) && !first;
        if !passing && self.state.as_ref() != Some(&state) {
            lines.push(self::state(snapshot));
            self.state = Some(state);
        }
        let holders = snapshot.holders.iter().map(|holder| {
            let command = holder_command(holder);
            let path = &holder.path;
            match holder.pid {
                0 => format!("held by {command}: {path}"),
                pid => format!("held by pid {pid} of {}, {command}: {path}", holder.user),
            }
        });
        let holders: Vec<String> = holders.collect();
        let new = holders.iter().filter(|line| !self.holders.contains(line));
        lines.extend(new.cloned());
        self.holders = holders;
        lines
    }
}

fn state(snapshot: &Snapshot) -> String {
    let state = snapshot.state;
    let reason = match snapshot.reason.as_str() {
        "" => String::new(),
        reason => format!("; {reason}"),
    };
    format!("state {}: {}{reason}", state.as_str(), meaning(state))
}

fn end(past: &Past) -> String {
    format!(
        "ended: session {} of {}, pid {}: {} after {}, {} written: {}",
        past.id,
        past.user,
        past.pid,
        ending(past.ended),
        Span(past.lasted),
        written(past),
        past.command
    )
}
