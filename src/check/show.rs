//! Shows the findings: as text for people, as JSON for programs.

use serde::Serialize;

use super::finding::{Finding, Level};
use crate::table::{Cell, Style, Table};

/// A line for each finding, its advice below it, and a summary at the end.
pub(super) fn text(findings: &[Finding], mut table: Table) -> String {
    let levels = findings.iter().map(|found| found.level.as_str().len());
    let ids = findings.iter().map(|found| found.id.as_str().len());
    let (levels, ids) = (levels.max().unwrap_or(0), ids.max().unwrap_or(0));
    let margin = levels + ids + 4;
    for Finding {
        id,
        level,
        text,
        advice,
    } in findings
    {
        let (id, word) = (id.as_str(), level.as_str());
        let gap = levels - word.len();
        let head = [
            Cell::new(word, style(*level)),
            Cell::plain(format!("{:gap$}  {id:<ids$}  ", "")),
        ];
        table.paragraph(margin, &head, text);
        if let Some(advice) = advice {
            let head = Cell::plain(format!("{:margin$}-> ", ""));
            table.paragraph(margin + 3, &[head], advice);
        }
    }
    table.paragraph(0, &[], summary(findings));
    table.to_string()
}

fn style(level: Level) -> Style {
    match level {
        Level::Ok => Style::Good,
        Level::Skipped => Style::Faint,
        Level::Warning => Style::Notable,
        Level::Error => Style::Bad,
    }
}

fn summary(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|found| found.level == level).count();
    let plural = |count, word: &str| match count {
        1 => format!("1 {word}"),
        _ => format!("{count} {word}s"),
    };
    let result = match (count(Level::Error), count(Level::Warning)) {
        (0, 0) => "All is well".to_owned(),
        (errors, warnings) => format!(
            "{}, {}; see pst-check(8)",
            plural(errors, "error"),
            plural(warnings, "warning")
        ),
    };
    match count(Level::Skipped) {
        0 => format!("{result}."),
        skipped => format!(
            "{result}; {} skipped, run it as root for more.",
            plural(skipped, "check")
        ),
    }
}

#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    findings: &'a [Finding],
}

/// One object and a newline. Fields are only ever added.
pub(super) fn json(findings: &[Finding]) -> String {
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        findings,
    };
    // It fails only for maps with keys that are not strings, and there are none.
    let mut text = serde_json::to_string(&report).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::super::finding::Id;
    use super::*;

    fn some() -> Vec<Finding> {
        vec![
            Id::Kernel.ok("Linux 6.18"),
            Id::FstabOptions.warning("no nofail", "add nofail"),
            Id::FsHealth.skipped("only root can see it"),
        ]
    }

    fn plain(findings: &[Finding]) -> String {
        text(findings, Table::new(None, false))
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_text() {
        let expected = "\
ok       kernel         Linux 6.18
warning  fstab-options  no nofail
                        -> add nofail
skipped  fs-health      only root can see it
0 errors, 1 warning; see pst-check(8); 1 check skipped, run it as root for more.
";
        assert_eq!(plain(&some()), expected);
        let well = "ok  kernel  Linux 6.18\nAll is well.\n";
        assert_eq!(plain(&some()[..1]), well);
    }

    #[test]
    fn text_wraps_where_the_terminal_ends() {
        let long = "ab ".repeat(9) + "a-very-long-word-that-has-no-space-in-it";
        let findings = [Id::Fstab.error(&*long, &*long)];
        let expected = "\
error  fstab  ab ab ab ab ab ab ab ab ab
              a-very-long-word-that-has-
              no-space-in-it
              -> ab ab ab ab ab ab ab ab
                 ab
                 a-very-long-word-that-h
                 as-no-space-in-it
1 error, 0 warnings; see pst-check(8).
";
        assert_eq!(text(&findings, Table::new(Some(40), false)), expected);
    }

    #[test]
    fn colours_change_nothing_but_the_colour() {
        let mut shown = text(&some(), Table::new(None, true));
        assert!(shown.contains("\x1b[1;33mwarning\x1b[0m  "), "{shown:?}");
        for code in ["1;32m", "1;33m", "2m", "0m"] {
            shown = shown.replace(&format!("\x1b[{code}"), "");
        }
        assert_eq!(shown, plain(&some()));
    }

    #[test]
    fn programs_get_one_object() {
        let report: serde_json::Value = serde_json::from_str(&json(&some())).unwrap();
        assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
        let row = &report["findings"][1];
        let fields = ["id", "level", "text", "advice"].map(|key| row[key].as_str());
        let expected = ["fstab-options", "warning", "no nofail", "add nofail"].map(Some);
        assert_eq!(fields, expected);
        assert!(report["findings"][0]["advice"].is_null());
        assert_eq!(report["findings"][2]["level"], "skipped");
    }
}
