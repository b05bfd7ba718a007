//! Lays out text for people: named values, paragraphs and tables, never wider than the terminal.

use std::fmt::{self, Display, Formatter};
use std::io::{self, ErrorKind, Write};
use std::{env, iter, mem};

use rustix::termios::tcgetwinsize;
use unicode_width::UnicodeWidthChar;

use crate::logging::OneLine;
use crate::problem::{Problem, ProblemKind};

/// Replaces text that was cut off.
const ELLIPSIS: char = '…';

/// The width of the names before values.
const NAME_WIDTH: usize = 10;

/// The minimum width of a shrinkable column.
const MIN_WIDTH: usize = 4;

/// The blanks before a table's first column.
const INDENT: usize = 2;

/// How text is highlighted if there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Faint,
    Good,
    Notable,
    Bad,
}

/// A part of a line, without control characters.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(crate) fn plain(text: impl Display) -> Cell {
        Cell::new(text, Style::Plain)
    }

    /// Escapes control characters: all text for a terminal goes through here.
    pub(crate) fn new(text: impl Display, style: Style) -> Cell {
        let text = OneLine(text).to_string();
        Cell { text, style }
    }

    fn blank(width: usize) -> Cell {
        Cell::plain(" ".repeat(width))
    }

    fn width(&self) -> usize {
        width_of(&self.text)
    }

    /// Cuts the text to `room` columns, including the ellipsis.
    fn cut(&self, room: usize) -> Cell {
        let text = match room {
            _ if self.width() <= room => self.text.clone(),
            0 => String::new(),
            _ => format!("{}{ELLIPSIS}", prefix(&self.text, room - 1)),
        };
        Cell { text, ..*self }
    }
}

/// A table's column, with its heading.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    Fixed(&'static str),
    /// Aligned to the right.
    Number(&'static str),
    /// May be cut to [`MIN_WIDTH`] if the terminal is too narrow.
    Shrinkable(&'static str),
}

impl Column {
    fn heading(self) -> Cell {
        let (Self::Fixed(name) | Self::Number(name) | Self::Shrinkable(name)) = self;
        Cell::new(name, Style::Faint)
    }
}

/// Returns the columns and rows of the terminal on standard output. `None` if there is no terminal,
/// or TERM is `dumb`.
pub(crate) fn terminal_size() -> Option<(usize, usize)> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    let is_dumb = env::var_os("TERM").is_some_and(|name| name == "dumb");
    let or_default = |count: u16, default| match count {
        0 => default, // a serial line, for example
        _ => usize::from(count),
    };
    (!is_dumb).then(|| (or_default(size.ws_col, 80), or_default(size.ws_row, 24)))
}

/// Prints a text. Returns false if standard output is a pipe whose reader is gone. Other failures are
/// usage errors.
pub(crate) fn print(text: &str) -> Result<bool, Problem> {
    let mut stdout = io::stdout();
    let written = stdout.write_all(text.as_bytes());
    match written.and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Problem::io("cannot write to stdout", &error).kind(ProblemKind::Usage)),
    }
}

/// Finished lines; [`Display`] writes each with a newline.
#[derive(Debug)]
pub(crate) struct Table {
    width: usize,
    colour: bool,
    lines: Vec<String>,
}

impl Table {
    /// Without a width, lines are as long as their text.
    pub(crate) fn new(width: Option<usize>, colour: bool) -> Table {
        Table {
            width: width.unwrap_or(usize::MAX).max(1),
            colour,
            lines: Vec::new(),
        }
    }

    /// Uses the terminal's width, and colours unless NO_COLOR is set. Without a terminal, neither.
    pub(crate) fn for_stdout() -> Table {
        let width = terminal_size().map(|(columns, _)| columns);
        let colour = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Table::new(width, colour && width.is_some())
    }

    /// Adds a name and its value, wrapped.
    pub(crate) fn value(&mut self, name: &str, value: impl Display) {
        self.styled_value(name, Cell::plain(""), value);
    }

    /// Adds a name and its value, which begins with a styled word.
    pub(crate) fn styled_value(&mut self, name: &str, word: Cell, rest: impl Display) {
        let name = Cell::new(name, Style::Faint);
        let gap = Cell::blank(NAME_WIDTH.saturating_sub(name.width()));
        self.paragraph(NAME_WIDTH, &[name, gap, word], rest);
    }

    /// Adds a text that starts after `head` and continues on lines indented by `margin`.
    pub(crate) fn paragraph(&mut self, margin: usize, head: &[Cell], text: impl Display) {
        let margin = margin.min(self.width / 2);
        let taken: usize = head.iter().map(Cell::width).sum();
        let first = self.width.saturating_sub(taken);
        let text = Cell::plain(text).text;
        for (number, text) in wrap(&text, first, self.width - margin).iter().enumerate() {
            let mut line = match number {
                0 => head.to_vec(),
                _ => vec![Cell::blank(margin)],
            };
            line.push(Cell::plain(text.trim_end()));
            self.line(&line);
        }
    }

    /// Adds a heading and a line for each row. Columns are as wide as their widest cell. If the
    /// terminal is too narrow, shrinkable columns are cut, the widest first.
    pub(crate) fn rows<const N: usize>(
        &mut self,
        columns: [Column; N],
        rows: impl IntoIterator<Item = [Cell; N]>,
    ) {
        let heading = columns.map(Column::heading);
        let rows: Vec<[Cell; N]> = iter::once(heading).chain(rows).collect();
        let mut widths = [0; N];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.width().max(*width);
            }
        }
        shrink(&columns, &mut widths, self.width);
        for row in &rows {
            let mut line = Vec::new();
            let mut gap = INDENT;
            for ((column, cell), width) in columns.iter().zip(row).zip(widths) {
                let cell = cell.cut(width);
                let padding = width - cell.width();
                let (before, after) = match column {
                    Column::Number(_) => (padding, 0),
                    Column::Fixed(_) | Column::Shrinkable(_) => (0, padding),
                };
                line.extend([Cell::blank(gap + before), cell]);
                gap = after + 1;
            }
            self.line(&line);
        }
    }

    /// Adds a line, cut to the terminal's width.
    fn line(&mut self, cells: &[Cell]) {
        let whole: usize = cells.iter().map(Cell::width).sum();
        let mut room = self.width;
        if whole > room {
            room -= 1; // for the ellipsis
        }
        let mut line = String::new();
        for cell in cells {
            let text = prefix(&cell.text, room);
            room -= width_of(text);
            line.push_str(&self.paint(text, cell.style));
            if text.len() < cell.text.len() {
                line.push(ELLIPSIS);
                break;
            }
        }
        line.truncate(line.trim_end().len());
        self.lines.push(line);
    }

    /// Colours a text; console_codes(4).
    fn paint(&self, text: &str, style: Style) -> String {
        let code = match style {
            Style::Faint => "2",
            Style::Good => "1;32",
            Style::Notable => "1;33",
            Style::Bad => "1;31",
            Style::Plain => return text.to_owned(),
        };
        match self.colour && !text.is_empty() {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Narrows the widest shrinkable columns until a row fits or all have the minimum width.
fn shrink(columns: &[Column], widths: &mut [usize], room: usize) {
    let gaps = INDENT + widths.len().saturating_sub(1);
    while gaps + widths.iter().sum::<usize>() > room {
        let columns = columns.iter().zip(widths.iter_mut());
        let shrinkable = columns.filter_map(|(column, width)| match column {
            Column::Shrinkable(_) if *width > MIN_WIDTH => Some(width),
            _ => None,
        });
        match shrinkable.max_by_key(|width| **width) {
            Some(width) => *width -= 1,
            None => return, // `line` cuts the rest
        }
    }
}

/// Breaks a text into lines of `room` columns, the first one of `first` columns, between words if
/// possible.
fn wrap(text: &str, first: usize, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut left = first;
    for word in text.split_inclusive(' ') {
        if width_of(word.trim_end()) > left && left < room {
            lines.push(mem::take(&mut line));
            left = room;
        }
        for c in word.chars() {
            let width = c.width().unwrap_or(0);
            if c != ' ' && width > left {
                lines.push(mem::take(&mut line));
                left = room;
            }
            left = left.saturating_sub(width);
            line.push(c);
        }
    }
    lines.push(line);
    lines
}

/// Returns the longest beginning of a text that fits into `room` columns.
fn prefix(text: &str, mut room: usize) -> &str {
    for (at, c) in text.char_indices() {
        match room.checked_sub(c.width().unwrap_or(0)) {
            Some(left) => room = left,
            None => return &text[..at],
        }
    }
    text
}

/// Returns the number of columns that a text needs on a terminal.
fn width_of(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

#[cfg(test)]
mod tests;
