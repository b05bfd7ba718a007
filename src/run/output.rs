//! The messages of `pst run`: one line each on stderr, formatted like kvmd-pstrun's. Write errors are
//! ignored, because there is no other place to report them.

use std::fmt::Display;
use std::io::{Write, stderr};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use crate::sys::poll;

pub(crate) fn info(quiet: bool, text: impl Display) {
    if !quiet {
        print("INFO", text);
    }
}

pub(crate) fn warning(text: impl Display) {
    print("WARNING", text);
}

pub(crate) fn error(text: impl Display) {
    print("ERROR", text);
}

/// Like [`warning`], but drops the message if stderr is blocked.
pub(super) fn try_warning(text: impl Display) {
    if !is_blocked() {
        warning(text);
    }
}

/// Like [`error`], but drops the message if stderr is blocked. For a process that must not wait, because it keeps the
/// session open.
pub(super) fn try_error(text: impl Display) {
    if !is_blocked() {
        error(text);
    }
}

/// Whether writing to stderr would wait: a full pipe, or a terminal that is stopped by ^S.
fn is_blocked() -> bool {
    let stderr = stderr();
    let stderr = PollFd::new(&stderr, PollFlags::OUT);
    poll::wait([stderr], Some(Duration::ZERO)) == [false]
}

/// Uses one write(2), so that the lines of several processes do not mix.
fn print(level: &str, text: impl Display) {
    let _ = stderr().write_all(line(level, text).as_bytes());
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
