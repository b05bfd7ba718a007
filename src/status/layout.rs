//! Text in columns, in colour where wanted, and never wider than the terminal. It knows nothing of
//! what is shown.

use std::fmt::Write;

use unicode_width::UnicodeWidthChar;

/// What stands for what was cut off.
const CUT: char = '…';

/// How a piece of text looks, where there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Plain,
    Faint,
    Good,
    Notable,
    Bad,
}

impl Look {
    /// The parameters of SGR, console_codes(4).
    fn code(self) -> &'static str {
        match self {
            Look::Plain => "",
            Look::Faint => "2",
            Look::Good => "1;32",
            Look::Notable => "1;33",
            Look::Bad => "1;31",
        }
    }
}

/// A piece of text and its look.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub text: String,
    pub look: Look,
}

impl Piece {
    pub(super) fn plain(text: impl Into<String>) -> Piece {
        Piece::new(text, Look::Plain)
    }

    pub(super) fn new(text: impl Into<String>, look: Look) -> Piece {
        let text = text.into();
        Piece { text, look }
    }
}

#[derive(Debug)]
pub(super) struct Page {
    /// No line is wider, and it is not 0; `None`: as wide as it is.
    width: Option<usize>,
    colour: bool,
    lines: Vec<String>,
}

/// How wide the names before values are.
const NAME: usize = 10;

impl Page {
    /// An empty page, for a terminal of this width if it is for one.
    pub(super) fn new(width: Option<usize>, colour: bool) -> Page {
        Page {
            width: width.map(|width| width.max(1)),
            colour,
            lines: Vec::new(),
        }
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        self.lines
    }

    /// A name, and its value behind it: on as many lines as it takes.
    pub(super) fn value(&mut self, name: &str, value: &str) {
        self.marked(name, Piece::plain(""), value);
    }

    /// The same, with a marked word before the value.
    pub(super) fn marked(&mut self, name: &str, mark: Piece, value: &str) {
        let room = self.width.map(|width| width.saturating_sub(NAME).max(1));
        let taken = width_of(&mark.text);
        let mut first = true;
        for text in wrapped(value, room, taken) {
            let name = if first { name } else { "" };
            let mark = if first {
                mark.clone()
            } else {
                Piece::plain("")
            };
            first = false;
            let name = Piece::new(padded(name, NAME), Look::Faint);
            self.line(&[name, mark, Piece::plain(text)]);
        }
    }

    /// Columns as wide as their widest cell; those that can be cut share what the others leave,
    /// and the last of them gets most.
    pub(super) fn table<const N: usize>(&mut self, columns: [Column; N], rows: &[[Piece; N]]) {
        let head = columns.map(|column| Piece::new(column.name, Look::Faint));
        let rows: Vec<&[Piece; N]> = std::iter::once(&head).chain(rows).collect();
        let mut widths = [0; N];
        for (column, width) in widths.iter_mut().enumerate() {
            let cells = rows.iter().filter_map(|row| row.get(column));
            *width = cells.map(|cell| width_of(&cell.text)).max().unwrap_or(0);
        }
        if let Some(all) = self.width {
            shrink(&columns, &mut widths, all.saturating_sub(2));
        }
        for row in rows {
            let mut pieces = vec![Piece::plain("  ")];
            for (column, cell) in row.iter().enumerate() {
                let width = widths.get(column).copied().unwrap_or(0);
                let cut = cut(&cell.text, width);
                let text = match columns.get(column).is_some_and(|c| c.right) {
                    true => format!("{}{cut}", spaces(width - width_of(&cut).min(width))),
                    false if column + 1 == N => cut,
                    false => padded(&cut, width),
                };
                pieces.push(Piece::new(text, cell.look));
                if column + 1 < N {
                    pieces.push(Piece::plain(" "));
                }
            }
            self.line(&pieces);
        }
    }

    /// One line, cut where the terminal ends.
    pub(super) fn line(&mut self, pieces: &[Piece]) {
        let whole: usize = pieces.iter().map(|piece| width_of(&piece.text)).sum();
        let room = self.width.unwrap_or(whole);
        let mut left = if whole > room { room - 1 } else { room };
        let mut out = String::new();
        for piece in pieces {
            let text = fitting(&piece.text, left);
            self.paint(&mut out, text, piece.look);
            left -= width_of(text);
            if text.len() < piece.text.len() {
                out.push(CUT);
                break;
            }
        }
        self.lines.push(out.trim_end().to_owned());
    }

    fn paint(&self, out: &mut String, text: &str, look: Look) {
        // Writing to a string cannot fail.
        let _ = match (self.colour, look.code()) {
            (false, _) | (true, "") => write!(out, "{text}"),
            (true, _) if text.trim_end().is_empty() => write!(out, "{text}"),
            (true, code) => {
                // A line's end is looked for by its last space.
                let words = text.trim_end();
                let rest = &text[words.len()..];
                write!(out, "\x1b[{code}m{words}\x1b[0m{rest}")
            }
        };
    }
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub name: &'static str,
    /// Numbers stand to the right.
    pub right: bool,
    /// It may be cut where there is no room, down to so many characters.
    pub least: Option<usize>,
}

impl Column {
    /// One that is never cut.
    pub(super) const fn new(name: &'static str) -> Column {
        Column {
            name,
            right: false,
            least: None,
        }
    }

    pub(super) const fn number(name: &'static str) -> Column {
        Column {
            right: true,
            ..Column::new(name)
        }
    }

    /// One that may be cut.
    pub(super) const fn long(name: &'static str, least: usize) -> Column {
        Column {
            least: Some(least),
            ..Column::new(name)
        }
    }
}

/// Takes what is too much from the columns that can be cut, the widest first.
fn shrink(columns: &[Column], widths: &mut [usize], all: usize) {
    let spaces = widths.len().saturating_sub(1);
    loop {
        let total = widths.iter().sum::<usize>() + spaces;
        if total <= all {
            return;
        }
        let longer = columns
            .iter()
            .zip(widths.iter_mut())
            .filter_map(|(column, width)| {
                let least = column.least?;
                (*width > least).then_some(width)
            });
        match longer.max_by_key(|width| **width) {
            Some(width) => *width -= 1,
            None => return, // the lines are cut
        }
    }
}

/// A text that is no wider than `room`; what is missing shows.
fn cut(text: &str, room: usize) -> String {
    if width_of(text) <= room {
        return text.to_owned();
    }
    match room {
        0 => String::new(),
        room => format!("{}{CUT}", fitting(text, room - 1)),
    }
}

/// The beginning of a text, as far as it fits.
fn fitting(text: &str, mut room: usize) -> &str {
    for (at, c) in text.char_indices() {
        match room.checked_sub(c.width().unwrap_or(0)) {
            Some(left) => room = left,
            None => return text.split_at(at).0,
        }
    }
    text
}

/// How many columns a text takes: as terminals have it, one character after another.
fn width_of(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

fn padded(text: &str, width: usize) -> String {
    format!("{text}{}", spaces(width.saturating_sub(width_of(text))))
}

fn spaces(count: usize) -> String {
    " ".repeat(count)
}

/// A text on lines of `room`, broken between words where that goes. The first has `taken` less.
fn wrapped(text: &str, room: Option<usize>, taken: usize) -> Vec<String> {
    let Some(room) = room else {
        return vec![text.to_owned()];
    };
    let mut lines = vec![String::new()];
    let mut left = room.saturating_sub(taken);
    for word in text.split_inclusive(' ') {
        if width_of(word.trim_end()) > left && left < room {
            lines.push(String::new());
            left = room;
        }
        for c in word.chars() {
            let width = c.width().unwrap_or(0);
            if c != ' ' && width > left {
                lines.push(String::new());
                left = room;
            }
            left = left.saturating_sub(width);
            if let Some(line) = lines.last_mut() {
                line.push(c);
            }
        }
    }
    for line in &mut lines {
        line.truncate(line.trim_end().len());
    }
    lines
}

#[cfg(test)]
mod tests;
