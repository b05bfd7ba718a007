//! Prints the messages of `pst run`: one line each, on stderr, in the form of `kvmd-pstrun`.
//! Errors are ignored: there is no other place to report them.

use std::fmt::Display;
use std::io::Write;

#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    /// Print only warnings and errors.
    pub quiet: bool,
}

impl Output {
    pub(super) fn info(self, text: impl Display) {
        if !self.quiet {
            write_line("INFO", text);
        }
    }

    pub(super) fn warning(self, text: impl Display) {
        write_line("WARNING", text);
    }

    pub(super) fn error(self, text: impl Display) {
        write_line("ERROR", text);
    }
}

fn line(level: &str, text: impl Display) -> String {
    format!("-- {level:>7} -- {text}\n")
}

/// Uses one write(2), so that lines of several processes do not mix.
fn write_line(level: &str, text: impl Display) {
    let _ = std::io::stderr().write_all(line(level, text).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn levels_are_right_aligned_to_seven() {
        assert_eq!(line("INFO", "a"), "--    INFO -- a\n");
        assert_eq!(line("WARNING", "a"), "-- WARNING -- a\n");
        assert_eq!(line("ERROR", "a"), "--   ERROR -- a\n");
    }
}
