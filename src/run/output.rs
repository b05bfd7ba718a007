//! What `run` says: one line a message, on stderr, in `kvmd-pstrun`'s form.
//! It never fails: there is nobody else to tell.

use std::fmt::Display;
use std::io::Write;

/// Where messages go. With `quiet`, nothing below ERROR is said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub quiet: bool,
}

impl Output {
    /// What happens when all goes well.
    pub(super) fn info(self, text: impl Display) {
        if !self.quiet {
            write_line("INFO", text);
        }
    }

    /// What takes longer than it should.
    pub(super) fn warning(self, text: impl Display) {
        if !self.quiet {
            write_line("WARNING", text);
        }
    }

    /// Why it did not work.
    pub(super) fn error(self, text: impl Display) {
        write_line("ERROR", text);
    }
}

fn line(level: &str, text: impl Display) -> String {
    format!("-- {level:>7} -- {text}\n")
}

/// With one write(2), so that lines of several processes do not mix.
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
