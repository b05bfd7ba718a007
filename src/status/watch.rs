//! `--watch`: shows what changes, as it is told, until the daemon or the reader is gone.

use std::io::{self, Write};
use std::os::fd::AsFd;

use super::layout::Page;
use super::lines::Lines;
use super::snapshot::{Collector, Snapshot};
use super::{Fault, json, text};
use crate::client::Connection;
use crate::sys::poll::{self, Watch};
use crate::sys::signal::{self, Signals};
use crate::sys::terminal;

/// Where a watch is shown.
#[derive(Debug)]
pub(super) enum Display {
    /// A JSON object a line.
    Json,
    /// A line for each change.
    Lines(Lines),
    /// The whole screen, drawn again in its place.
    Screen(Screen),
}

impl Display {
    /// For a standard output that is a terminal or not.
    pub(super) fn new(json: bool, terminal: bool, colour: bool) -> io::Result<Display> {
        Ok(match (json, terminal) {
            (true, _) => Display::Json,
            (false, false) => Display::Lines(Lines::default()),
            (false, true) => Display::Screen(Screen::new(colour)?),
        })
    }

    fn show(&mut self, snapshot: &Snapshot) -> String {
        match self {
            Display::Json => json::show(snapshot),
            Display::Lines(lines) => lines.about(snapshot),
            Display::Screen(screen) => screen.draw(snapshot),
        }
    }
}

/// A screen that is drawn again and again, below what was there before. Nothing of the terminal is
/// changed but the text, so whatever ends this leaves it well.
#[derive(Debug)]
pub(super) struct Screen {
    colour: bool,
    /// Tell of a new size, and that others may have written meanwhile (`fg` after ^Z).
    signals: Signals,
    /// So many lines of ours end at the cursor.
    drawn: usize,
}

impl Screen {
    fn new(colour: bool) -> io::Result<Screen> {
        let signals = [libc::SIGWINCH, libc::SIGCONT];
        signal::block(signals);
        Ok(Screen {
            colour,
            signals: Signals::new(signals)?,
            drawn: 0,
        })
    }

    /// Takes signals that came; what to write before the next drawing, if there is to be one.
    fn disturbed(&mut self) -> io::Result<Option<&'static str>> {
        let mut before = None;
        while let Some(received) = self.signals.next()? {
            self.drawn = 0; // these lines are somewhere else now
            before = match received.signal {
                // Lines may have been broken or joined: the whole screen is drawn anew.
                libc::SIGWINCH => Some("\x1b[H\x1b[J"),
                _ => before.or(Some("")),
            };
        }
        Ok(before)
    }

    /// What brings the cursor up to our first line, the lines, and the removal of what is below.
    fn draw(&mut self, snapshot: &Snapshot) -> String {
        let size = terminal::size(io::stdout());
        let page = Page::new(size.map(|size| size.columns), self.colour);
        let mut lines = text::show(snapshot, page, false);
        if let Some(size) = size {
            // The cursor stands below the last.
            lines.truncate(size.rows.saturating_sub(1));
        }
        let mut out = match self.drawn {
            0 => "\r".to_owned(),
            count => format!("\r\x1b[{count}A"),
        };
        for line in &lines {
            out.push_str(line);
            out.push_str("\x1b[K\n");
        }
        out.push_str("\x1b[J");
        self.drawn = lines.len();
        out
    }
}

/// Shows all that is told from now on. Ends well when nobody reads it any more.
pub(super) fn follow(
    connection: &mut Connection,
    collector: &mut Collector,
    mut display: Display,
) -> Result<(), Fault> {
    loop {
        while let Some(message) = connection.receive()? {
            // What follows an update may be the beginning of the next one.
            let whole = super::take(collector, message)?;
            if let Some(snapshot) = collector.snapshot().filter(|_| whole) {
                write(&display.show(snapshot))?;
            }
        }
        wait(connection, &display)?;
        if let Display::Screen(screen) = &mut display {
            let disturbed = screen.disturbed().map_err(Fault::waiting)?;
            if let (Some(before), Some(snapshot)) = (disturbed, collector.snapshot()) {
                let text = format!("{before}{}", screen.draw(snapshot));
                write(&text)?;
            }
        }
    }
}

/// Waits for news, for a signal, or for the reader's end.
fn wait(connection: &Connection, display: &Display) -> Result<(), Fault> {
    let stdout = io::stdout();
    let stdout = stdout.as_fd();
    let news = Watch::new(connection, libc::POLLIN);
    // A pipe or terminal that nobody reads any more tells that by itself.
    let reader = Watch::new(&stdout, 0);
    let mut watches = vec![news, reader];
    if let Display::Screen(screen) = display {
        watches.push(Watch::new(&screen.signals, libc::POLLIN));
    }
    poll::wait(&mut watches, None).map_err(Fault::waiting)?;
    match watches.get(1).is_some_and(Watch::seen) {
        true => Err(Fault::NoReader),
        false => Ok(()),
    }
}

/// Writes it all at once, so that a terminal never shows half of it.
fn write(text: &str) -> Result<(), Fault> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}
