//! The messages of `pst run`: one line each on stderr, formatted like kvmd-pstrun's. Write errors are
//! ignored, because there is no other place to report them.

use std::fmt::Display;
use std::io::Write;

pub(super) fn info(quiet: bool, text: impl Display) {
    if !quiet {
        print("INFO", text);
    }
}

pub(super) fn warning(text: impl Display) {
    print("WARNING", text);
}

pub(super) fn error(text: impl Display) {
    print("ERROR", text);
}

/// Uses one write(2), so that the lines of several processes do not mix.
fn print(level: &str, text: impl Display) {
    let _ = std::io::stderr().write_all(line(level, text).as_bytes());
}

fn line(level: &str, text: impl Display) -> String {
    format!("-- {level:>7} -- {text}\n")
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
