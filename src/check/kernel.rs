//! The kernel: its version, and the calls without which nothing works.

use super::finding::{Finding, Id};
use super::sight::Sight;
use crate::escape::escape;
use crate::sys::probe::{self, Answer};

/// mount_setattr, the newest of the calls, came with it.
const LEAST: (u32, u32) = (5, 12);

/// Its version, and what it can do.
pub(super) fn look(sight: &Sight) -> Vec<Finding> {
    let release = sight.line("/proc/sys/kernel/osrelease");
    vec![
        version(&release.unwrap_or_default()),
        calls(&probe::calls(), sight.is_root()),
    ]
}

fn version(release: &str) -> Finding {
    let (major, minor) = LEAST;
    let shown = escape(release);
    match numbers(release) {
        Some(found) if found >= LEAST => Finding::ok(Id::Kernel, format!("Linux {shown}")),
        Some(_) => Finding::error(
            Id::Kernel,
            format!("Linux {shown} is too old: it takes {major}.{minor}"),
            "upgrade the kernel",
        ),
        None => Finding::unseen(
            Id::Kernel,
            format!("no version is told by /proc/sys/kernel/osrelease ('{shown}')"),
        ),
    }
}

fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn calls(answers: &[(&'static str, Answer)], root: bool) -> Finding {
    let named = |answer| {
        let names = answers.iter().filter(|(_, given)| *given == answer);
        names.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    let (missing, refused) = (named(Answer::Missing), named(Answer::Refused));
    if !missing.is_empty() {
        return Finding::error(
            Id::KernelCalls,
            format!("this kernel does not know {missing}"),
            "upgrade the kernel, or whatever stands between it and this process (a container, an emulator)",
        );
    }
    // Some of them are root's anyway.
    if root && !refused.is_empty() {
        return Finding::error(
            Id::KernelCalls,
            format!("root is refused {refused}"),
            "let the container or sandbox that this runs in allow them, or run outside of it",
        );
    }
    Finding::ok(Id::KernelCalls, format!("{} are known", list(answers)))
}

fn list(answers: &[(&'static str, Answer)]) -> String {
    let names: Vec<&str> = answers.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (release, level) in [
            ("6.18.5", Level::Ok),
            ("5.12.0-rc1+", Level::Ok),
            ("10.0", Level::Ok),
            ("5.11.22-generic", Level::Error),
            ("4.19.0", Level::Error),
            ("", Level::Unseen),
            ("mainline", Level::Unseen),
        ] {
            assert_eq!(version(release).level, level, "{release}");
        }
    }

    #[test]
    fn a_call_that_is_missing_is_named() {
        let answers = [("fspick", Answer::Known), ("openat2", Answer::Missing)];
        let found = calls(&answers, false);
        assert_eq!(found.level, Level::Error);
        assert!(found.text.ends_with("does not know openat2"), "{found:?}");
        let answers = [("fspick", Answer::Refused)];
        assert_eq!(calls(&answers, false).level, Level::Ok);
        assert_eq!(calls(&answers, true).level, Level::Error);
    }
}
