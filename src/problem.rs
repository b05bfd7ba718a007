//! The error that a user reads: what failed, why, and the next step.

use std::fmt;
use std::io;

/// Displays as one line: `what`, then the hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What failed, on which object, and why.
    pub what: String,
    /// The next step, as an imperative or a command to run.
    pub hint: Option<String>,
    pub kind: ProblemKind,
}

/// Decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// Wrong usage, configuration or output: exit code 2.
    Usage,
    /// No daemon, or no valid answer from it: exit code 3 of `pst status`.
    NoDaemon,
    /// A shortage that may pass by itself, so the daemon tries again. Exit code 1, as for `Other`.
    Temporary,
    Other,
}

impl Problem {
    pub fn new(what: impl Into<String>) -> Problem {
        Problem {
            what: what.into(),
            hint: None,
            kind: ProblemKind::Other,
        }
    }

    /// Returns "`what`: reason". If a limit was reached, the hint says where to raise it.
    pub fn io(what: impl fmt::Display, error: &io::Error) -> Problem {
        let hint = limit_hint(error).map(str::to_owned);
        let interrupted = matches!(error.raw_os_error(), Some(libc::EINTR | libc::ENOBUFS));
        let kind = match hint.is_some() || interrupted {
            true => ProblemKind::Temporary,
            false => ProblemKind::Other,
        };
        Problem {
            hint,
            kind,
            ..Problem::new(format!("{what}: {}", reason(error)))
        }
    }

    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Problem {
        Problem {
            hint: Some(hint.into()),
            ..self
        }
    }

    #[must_use]
    pub fn kind(self, kind: ProblemKind) -> Problem {
        Problem { kind, ..self }
    }
}

impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// Returns the system's words for the error, such as "no such file or directory".
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(code) => uncapitalized(text.trim_end_matches(&format!(" (os error {code})"))),
        None => text,
    }
}

/// Returns a library's message in our style, with a small first letter.
pub(crate) fn uncapitalized(text: &str) -> String {
    let mut text = text.to_owned();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    text
}

/// Returns where to raise the limit that was reached.
fn limit_hint(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::EMFILE => Some("see `ulimit -n`, or the unit's LimitNOFILE="),
        libc::ENFILE => Some("see `sysctl fs.file-nr`"),
        libc::EAGAIN => Some("too many processes: see `ulimit -u`, or the unit's TasksMax="),
        libc::ENOMEM => Some("see `free`, or the unit's MemoryMax="),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_its_next_step_on_the_same_line() {
        let problem = Problem::new("cannot open /x: permission denied");
        assert_eq!(problem.to_string(), "cannot open /x: permission denied");
        let problem = problem.hint("run pst as root").kind(ProblemKind::Usage);
        assert_eq!(
            problem.to_string(),
            "cannot open /x: permission denied; run pst as root"
        );
        assert_eq!(problem.kind, ProblemKind::Usage);
    }

    #[test]
    fn the_hint_for_a_reached_limit_says_where_to_raise_it() {
        for (errno, names) in [
            (libc::EMFILE, "LimitNOFILE="),
            (libc::ENFILE, "fs.file-nr"),
            (libc::EAGAIN, "TasksMax="),
            (libc::ENOMEM, "MemoryMax="),
        ] {
            let problem = Problem::io("cannot start", &io::Error::from_raw_os_error(errno));
            assert!(problem.what.starts_with("cannot start: "), "{problem}");
            assert!(!problem.what.contains("os error"), "{problem}");
            assert_eq!(problem.kind, ProblemKind::Temporary);
            assert!(problem.hint.is_some_and(|hint| hint.contains(names)));
        }
        let other = Problem::io("cannot start", &io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!((&other.hint, other.kind), (&None, ProblemKind::Other));
        assert_eq!(other.what, "cannot start: operation not permitted");
    }

    #[test]
    fn a_reason_has_no_rust_error_number() {
        let unknown = io::Error::from_raw_os_error(5000);
        assert_eq!(reason(&unknown), "unknown error 5000");
        assert_eq!(reason(&io::Error::other("No luck")), "No luck");
    }
}
