//! Sizes and durations as people write and read them. Units of sizes are powers of 1024.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use crate::escape::escape;
use crate::problem::{Problem, ProblemKind};

/// Displays a number of bytes: `512 B`, `1.5 KiB`, `256.0 MiB`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HumanBytes(pub u64);

impl fmt::Display for HumanBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = units[0];
        for larger in &units[1..] {
            if value < 1023.95 {
                break;
            }
            value /= 1024.0;
            unit = larger;
        }
        write!(f, "{value:.1} {unit}")
    }
}

/// Displays a duration in at most two units: `0.25 s`, `59 s`, `2 h 1 min`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HumanDuration(pub Duration);

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..10 => write!(f, "{:.2} s", self.0.as_secs_f64()),
            10..60 => write!(f, "{seconds} s"),
            60..3600 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            3600..86_400 => write!(f, "{} h {} min", seconds / 3600, seconds / 60 % 60),
            _ => write!(f, "{} d {} h", seconds / 86_400, seconds / 3600 % 24),
        }
    }
}

/// Parses a number of bytes, alone or with K, M or G.
pub(crate) fn parse_size(text: &OsStr) -> Result<u64, Problem> {
    let (digits, unit) = match text.as_bytes() {
        [digits @ .., b'K'] => (digits, 1 << 10),
        [digits @ .., b'M'] => (digits, 1 << 20),
        [digits @ .., b'G'] => (digits, 1 << 30),
        digits => (digits, 1),
    };
    let digits = Some(digits).filter(|digits| digits.iter().all(u8::is_ascii_digit));
    let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| {
            let text = escape(text.as_bytes());
            Problem::new(format!(
                "invalid size '{text}' (use a number of bytes, or one with K, M or G)"
            ))
            .kind(ProblemKind::Usage)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (count, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (256 << 20, "256.0 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(HumanBytes(count).to_string(), shown);
        }
    }

    #[test]
    fn durations_are_short() {
        for (milliseconds, shown) in [
            (0, "0.00 s"),
            (1234, "1.23 s"),
            (59_999, "59 s"),
            (61_000, "1 min 1 s"),
            (7_260_000, "2 h 1 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(
                HumanDuration(Duration::from_millis(milliseconds)).to_string(),
                shown
            );
        }
    }

    #[test]
    fn a_size_is_bytes_or_a_power_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("1", 1),
            ("0010", 10),
            ("5K", 5 << 10),
            ("5M", 5 << 20),
            ("3G", 3 << 30),
            ("18446744073709551615", u64::MAX),
            ("17179869183G", 17_179_869_183 << 30),
        ] {
            assert_eq!(parse_size(OsStr::new(text)), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn any_other_size_is_an_error() {
        for text in [
            "",
            "K",
            "-1",
            "+5",
            "5k",
            "5MB",
            "5MiB",
            "5T",
            "1.5M",
            " 5",
            "5 M",
            "0x10",
            "1e3",
            "५",
            "Мb",
            "18446744073709551616",
            "17179869184G",
        ] {
            let problem = parse_size(OsStr::new(text)).unwrap_err();
            assert_eq!(problem.kind, ProblemKind::Usage);
            let line = problem.to_string();
            assert!(
                line.starts_with(&format!("invalid size '{text}'")),
                "{line}"
            );
            assert!(line.contains("K, M or G"), "{line}");
        }
    }
}
