//! Findings for people, and for programs.

use std::env;
use std::fmt::Write;
use std::io;

use serde::Serialize;

use super::finding::{Finding, Level};
use crate::sys::terminal;

/// How a terminal, or what is none, wants it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub colour: bool,
    /// Columns; `None`: lines are as long as they are.
    pub width: Option<usize>,
}

impl Style {
    /// What stdout is, and NO_COLOR says.
    pub(super) fn of_stdout() -> Style {
        let size = terminal::size(io::stdout());
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Style {
            colour: size.is_some() && !plain && !dumb,
            width: size.map(|size| size.columns),
        }
    }
}

/// A line for each finding, what to do below it, and how many there are.
pub(super) fn text(findings: &[Finding], style: Style) -> String {
    let ids = findings.iter().map(|finding| finding.id.as_str().len());
    let ids = ids.max().unwrap_or(0);
    let levels = findings.iter().map(|finding| finding.level.as_str().len());
    let levels = levels.max().unwrap_or(0);
    let margin = levels + ids + 4;
    let mut out = String::new();
    for finding in findings {
        let (on, off) = colour(finding.level, style);
        let (level, id) = (finding.level.as_str(), finding.id.as_str());
        // Writing to a string cannot fail.
        let _ = write!(out, "{on}{level:<levels$}{off}  {id:<ids$}  ");
        put(&mut out, &finding.text, margin, style);
        if let Some(advice) = &finding.advice {
            let _ = write!(out, "{:margin$}-> ", "");
            put(&mut out, advice, margin + 3, style);
        }
    }
    out.push_str(&summary(findings));
    out
}

fn colour(level: Level, style: Style) -> (&'static str, &'static str) {
    if !style.colour {
        return ("", "");
    }
    let on = match level {
        Level::Ok => "\x1b[32m",
        Level::Unseen => "\x1b[36m",
        Level::Warning => "\x1b[33m",
        Level::Error => "\x1b[31;1m",
    };
    (on, "\x1b[0m")
}

/// A text that begins after `margin` columns, broken where the terminal ends: between words, and
/// within those that are longer than a line.
fn put(out: &mut String, text: &str, margin: usize, style: Style) {
    let room = style
        .width
        .map_or(usize::MAX, |width| width.saturating_sub(margin).max(20));
    let mut column = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > room {
            let _ = write!(out, "\n{:margin$}", "");
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        for letter in word.chars() {
            if column == room {
                let _ = write!(out, "\n{:margin$}", "");
                column = 0;
            }
            out.push(letter);
            column += 1;
        }
    }
    out.push('\n');
}

fn summary(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|found| found.level == level).count();
    let plural = |count, word: &str| match count {
        1 => format!("1 {word}"),
        _ => format!("{count} {word}s"),
    };
    let mut text = match (count(Level::Error), count(Level::Warning)) {
        (0, 0) => "All is well".to_owned(),
        (errors, warnings) => format!(
            "{}, {}; pst-check(8) says more about each",
            plural(errors, "error"),
            plural(warnings, "warning")
        ),
    };
    match count(Level::Unseen) {
        0 => {}
        unseen => {
            let _ = write!(
                text,
                "; {} could not be seen, root may see more",
                plural(unseen, "thing")
            );
        }
    }
    text.push_str(".\n");
    text
}

#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    findings: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    id: &'static str,
    level: Level,
    text: &'a str,
    /// What to do; `null` if nothing is to be done.
    advice: Option<&'a str>,
}

/// One object, and a newline. Fields are only ever added.
pub(super) fn json(findings: &[Finding]) -> String {
    let findings = findings.iter().map(|finding| Row {
        id: finding.id.as_str(),
        level: finding.level,
        text: &finding.text,
        advice: finding.advice.as_deref(),
    });
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        findings: findings.collect(),
    };
    // It fails only for maps whose keys are no strings; there are none.
    let mut text = serde_json::to_string(&report).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::super::finding::Id;
    use super::*;

    const PLAIN: Style = Style {
        colour: false,
        width: None,
    };

    fn some() -> Vec<Finding> {
        vec![
            Finding::ok(Id::Kernel, "Linux 6.18"),
            Finding::warning(Id::FstabNofail, "no nofail", "add nofail"),
            Finding::unseen(Id::FsAlive, "it takes root"),
        ]
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let expected = "\
ok       kernel        Linux 6.18
warning  fstab-nofail  no nofail
                       -> add nofail
unseen   fs-alive      it takes root
0 errors, 1 warning; pst-check(8) says more about each; 1 thing could not be seen, root may see more.
";
        assert_eq!(text(&some(), PLAIN), expected);
        let well = text(&some()[..1], PLAIN);
        assert_eq!(well, "ok  kernel  Linux 6.18\nAll is well.\n");
    }

    #[test]
    fn on_a_terminal_words_go_to_the_next_line_where_it_ends() {
        let style = Style {
            colour: false,
            width: Some(40),
        };
        let long = "ab ".repeat(9) + "a-very-long-word-that-has-no-space-in-it";
        let shown = text(&[Finding::error(Id::Fstab, &*long, &*long)], style);
        let expected = "\
error  fstab  ab ab ab ab ab ab ab ab ab
              a-very-long-word-that-has-
              no-space-in-it
              -> ab ab ab ab ab ab ab ab
                 ab
                 a-very-long-word-that-h
                 as-no-space-in-it
1 error, 0 warnings; pst-check(8) says more about each.
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn colours_change_nothing_but_the_colour() {
        let style = Style {
            colour: true,
            width: None,
        };
        let mut shown = text(&some(), style);
        assert!(shown.contains("\x1b[33mwarning\x1b[0m  "));
        for code in ["32m", "33m", "36m", "0m"] {
            shown = shown.replace(&format!("\x1b[{code}"), "");
        }
        assert_eq!(shown, text(&some(), PLAIN));
    }

    #[test]
    fn programs_get_one_object() {
        let report: serde_json::Value = serde_json::from_str(&json(&some())).unwrap();
        assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
        let row = &report["findings"][1];
        let fields = ["id", "level", "text", "advice"].map(|key| row[key].as_str());
        let expected = ["fstab-nofail", "warning", "no nofail", "add nofail"].map(Some);
        assert_eq!(fields, expected);
        assert!(report["findings"][0]["advice"].is_null());
    }
}
