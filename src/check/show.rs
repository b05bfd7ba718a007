//! Formats the findings: as text for people, as JSON for programs.

use serde::Serialize;

use super::finding::{Finding, Level};
use crate::table::{Cell, Style, Table};

/// The indent of a finding's text: the widths of the longest level and the longest id.
const MARGIN: usize = 30;

/// Formats each finding with its advice below it, and a summary at the end.
pub(super) fn text(findings: &[Finding], mut table: Table) -> String {
    for finding in findings {
        let Finding { id, level, .. } = finding;
        let head = [
            Cell::new(format!("{level:<9}"), style(*level)),
            Cell::plain(format!("{id:<21}")),
        ];
        table.paragraph(MARGIN, &head, &finding.text);
        if let Some(advice) = &finding.advice {
            let head = Cell::plain(format!("{:MARGIN$}-> ", ""));
            table.paragraph(MARGIN + 3, &[head], advice);
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
    match [Level::Error, Level::Warning, Level::Skipped].map(count) {
        [0, 0, 0] => "All is well.".to_owned(),
        [0, 0, skipped] => format!("All is well; checks skipped: {skipped}, run as root for more."),
        [errors, warnings, skipped] => {
            format!("Errors: {errors}, warnings: {warnings}, skipped: {skipped}; see pst-check(8).")
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    findings: &'a [Finding],
}

/// Formats one JSON object and a newline. Later versions may add fields, but never remove one.
pub(super) fn json(findings: &[Finding]) -> String {
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        findings,
    };
    // Fails only for maps with keys that are not strings, and there are none.
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
    fn texts_are_in_one_column() {
        let expected = "\
ok       kernel               Linux 6.18
warning  fstab-options        no nofail
                              -> add nofail
skipped  fs-health            only root can see it
Errors: 0, warnings: 1, skipped: 1; see pst-check(8).
";
        assert_eq!(plain(&some()), expected);
        assert!(plain(&some()[..1]).ends_with("\nAll is well.\n"));
        let skipped = plain(&some()[2..]);
        assert!(skipped.ends_with("\nAll is well; checks skipped: 1, run as root for more.\n"));
    }

    #[test]
    fn text_wraps_at_the_terminals_width() {
        let long = "ab ".repeat(12) + "a-very-long-word-that-has-no-space-in-it";
        let findings = [Id::Fstab.error(&*long, &*long)];
        let expected = "\
error    fstab                ab ab ab ab ab ab ab ab ab ab ab ab
                              a-very-long-word-that-has-no-space-i
                              n-it
                              -> ab ab ab ab ab ab ab ab ab ab ab
                                 ab
                                 a-very-long-word-that-has-no-spac
                                 e-in-it
Errors: 1, warnings: 0, skipped: 0; see pst-check(8).
";
        assert_eq!(text(&findings, Table::new(Some(66), false)), expected);
    }

    #[test]
    fn colours_do_not_change_the_text() {
        let mut shown = text(&some(), Table::new(None, true));
        assert!(shown.contains("\x1b[1;33mwarning  \x1b[0m"), "{shown:?}");
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
