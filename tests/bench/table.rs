//! The table: one row per figure, with the reference that it is compared to and its target.

use std::fmt::Write;
use std::time::Duration;

/// Samples of one figure.
#[derive(Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    pub fn push_time(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1e3);
    }

    pub fn append(&mut self, mut other: Samples) {
        self.0.append(&mut other.0);
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The smallest sample that is at least as large as this part of all samples. There must be one.
    pub fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (part * sorted.len() as f64).ceil() as usize;
        sorted[at.saturating_sub(1)]
    }
}

/// One line of the table. A figure without a target is shown to be watched.
#[derive(Default)]
pub struct Row {
    figure: String,
    rounds: String,
    measured: String,
    reference: String,
    ratio: String,
    target: String,
    met: Option<bool>,
}

impl Row {
    pub fn new(figure: &str) -> Row {
        Row {
            figure: figure.to_owned(),
            ..Row::default()
        }
    }

    pub fn rounds(mut self, rounds: usize) -> Row {
        self.rounds = rounds.to_string();
        self
    }

    pub fn measured(mut self, measured: impl Into<String>) -> Row {
        self.measured = measured.into();
        self
    }

    pub fn reference(mut self, reference: impl Into<String>) -> Row {
        self.reference = reference.into();
        self
    }

    /// The measured figure divided by the reference.
    pub fn ratio(mut self, ratio: f64) -> Row {
        self.ratio = format!("{ratio:.2}");
        self
    }

    pub fn target(mut self, target: &str, met: bool) -> Row {
        self.target = target.to_owned();
        self.met = Some(met);
        self
    }

    /// A figure that cannot be measured here, and why.
    pub fn missing(mut self, target: &str, why: &str) -> Row {
        self.target = target.to_owned();
        self.measured = why.to_owned();
        self
    }

    fn cells(&self) -> [&str; 7] {
        let met = match self.met {
            Some(true) => "yes",
            Some(false) => "NO",
            None if self.target.is_empty() => "",
            None => "?",
        };
        [
            &self.figure,
            &self.measured,
            &self.reference,
            &self.ratio,
            &self.target,
            met,
            &self.rounds,
        ]
    }
}

/// All rows, aligned.
pub fn render(rows: &[Row]) -> String {
    let head = [
        "figure",
        "measured",
        "reference",
        "ratio",
        "target",
        "met",
        "rounds",
    ];
    let lines: Vec<[&str; 7]> = std::iter::once(head)
        .chain(rows.iter().map(Row::cells))
        .collect();
    let width = |column: usize| {
        let widths = lines.iter().map(|line| line[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            write!(row, "{cell:width$}  ").expect("a string");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

pub fn milliseconds(value: f64) -> String {
    format!("{value:.2} ms")
}

pub fn rate(value: f64) -> String {
    format!("{value:.0}/s")
}

pub fn kibibytes(value: f64) -> String {
    format!("{value:.1} KiB")
}
