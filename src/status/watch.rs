//! `pst status --watch`: shows each new status until the daemon or the reader of the output ends.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};

use super::text::{self, Times};
use super::{add_processes, json};
use crate::client::DaemonConnection;
use crate::problem::{Problem, ProblemKind};
use crate::sys::poll;
use crate::sys::signal::{self, Signals};
use crate::table::{Table, print, terminal_size};
use crate::wire::{State, Status};

/// Moves the cursor to the terminal's first line and clears it.
const CLEAR: &str = "\x1b[H\x1b[J";

const LEAVE: &str = "^C ends the watch";

/// A screen that is redrawn in place. It changes only the terminal's text, so there is nothing to
/// restore at the end.
#[derive(Debug)]
pub(super) struct Screen {
    /// SIGWINCH and SIGCONT, which need a redraw.
    signals: Signals,
    /// Moves the cursor to the first line of the next drawing.
    to_first_line: String,
}

impl Screen {
    pub(super) fn new() -> Result<Screen, Problem> {
        if terminal_size().is_none() {
            return Err(Problem::new("--watch needs a terminal")
                .hint("use --watch --json")
                .kind(ProblemKind::Usage));
        }
        let signals = [libc::SIGWINCH, libc::SIGCONT];
        signal::block(signals);
        Ok(Screen {
            signals: Signals::new(signals)
                .map_err(|error| Problem::io("cannot wait for signals", &error))?,
            to_first_line: "\r".into(),
        })
    }

    /// Takes the signals that arrived. Returns whether the screen must be redrawn.
    fn take_signals(&mut self) -> bool {
        let mut arrived = false;
        while let Some(received) = self.signals.next() {
            arrived = true;
            // SIGWINCH: the terminal may have broken or joined lines. SIGCONT, after ^Z and `fg`:
            // other programs have written below the old lines. signalfd(2) reads SIGWINCH last.
            self.to_first_line = match received.signal {
                libc::SIGWINCH => CLEAR.into(),
                _ => "\r".into(),
            };
        }
        arrived
    }

    fn draw(&mut self, status: &Status, times: Times) -> String {
        let mut table = Table::for_stdout();
        text::fill(&mut table, status, times);
        let text = table.to_string();
        let mut lines: Vec<&str> = text.lines().collect();
        // One row is for the last line, which stays, and the cursor is below it.
        let rows = terminal_size().map_or(usize::MAX, |(_, rows)| rows.saturating_sub(2));
        let hidden = lines.len().saturating_sub(rows);
        lines.truncate(rows);
        let last = match hidden {
            0 => LEAVE.to_owned(),
            _ => format!("{hidden} more lines do not fit; {LEAVE}"),
        };
        lines.push(&last);
        self.to_first_line.clone() + &self.redraw(&lines)
    }

    /// Returns the lines, each with a clear to its end, and a clear of what is below them.
    fn redraw(&mut self, lines: &[&str]) -> String {
        self.to_first_line = format!("\r\x1b[{}A", lines.len());
        lines.join("\x1b[K\n") + "\x1b[K\n\x1b[J"
    }
}

/// Shows `status` and each following status: on the screen, or else as one line of JSON. Returns the
/// last state when the reader of the output is gone.
pub(super) fn follow(
    mut connection: DaemonConnection,
    mut status: Status,
    mut screen: Option<Screen>,
) -> Result<State, Problem> {
    let mut times = Times::now();
    loop {
        let text = match &mut screen {
            Some(screen) => screen.draw(&status, times),
            None => json(&status),
        };
        if !print(&text)? {
            return Ok(status.storage.state);
        }
        loop {
            if let Some(new) = connection.next_status(Instant::now())? {
                status = add_processes(new);
                times = Times::now();
                break;
            }
            if !wait(&connection, screen.as_ref()) {
                return Ok(status.storage.state);
            }
            if let Some(screen) = &mut screen {
                if screen.take_signals() {
                    break;
                }
            }
        }
    }
}

/// Waits for the daemon, a signal or the end of the output's reader. Returns false if the reader is
/// gone.
fn wait(connection: &DaemonConnection, screen: Option<&Screen>) -> bool {
    let connection = connection.as_fd();
    let signals = screen.map_or(connection, |screen| screen.signals.as_fd());
    let stdout = io::stdout();
    let watched = [
        PollFd::new(&stdout, PollFlags::empty()), // reports the end of its reader
        PollFd::from_borrowed_fd(connection, PollFlags::IN),
        PollFd::from_borrowed_fd(signals, PollFlags::IN),
    ];
    let [reader_gone, ..] = poll::wait(watched, None);
    !reader_gone
}
