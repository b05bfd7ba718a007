//! A finding: its subject, its level, what was found, and the advice.

use std::fmt;

use serde::Serialize;

use crate::problem::Problem;

/// The subject of a finding. The ids are headings of pst-check(8), in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
#[serde(rename_all = "kebab-case")]
pub(super) enum Id {
    Kernel,
    Links,
    Config,
    Fstab,
    FstabOptions,
    Owner,
    Mount,
    MountOptions,
    MountFilesystem,
    MountPrepared,
    Directories,
    Device,
    Card,
    FsHealth,
    FsErrors,
    FsJournal,
    FsSpace,
    Remains,
    Group,
    Access,
    Socket,
    Daemon,
    DaemonVersion,
    DaemonConfig,
    DaemonCapabilities,
    State,
    Units,
    KvmdPst,
    KvmdConfig,
    KvmdData,
    Path,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// The worst level decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    /// This user cannot see it.
    Skipped,
    /// It works, but less well or less safely than it could.
    Warning,
    /// It keeps something from working.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub id: Id,
    pub level: Level,
    pub text: String,
    /// `None` if there is nothing to do.
    pub advice: Option<String>,
}

impl Id {
    pub(super) fn ok(self, text: impl Into<String>) -> Finding {
        self.finding(Level::Ok, text, None)
    }

    pub(super) fn skipped(self, text: impl Into<String>) -> Finding {
        self.finding(Level::Skipped, text, None)
    }

    pub(super) fn warning(self, text: impl Into<String>, advice: impl Into<String>) -> Finding {
        self.finding(Level::Warning, text, Some(advice.into()))
    }

    pub(super) fn error(self, text: impl Into<String>, advice: impl Into<String>) -> Finding {
        self.finding(Level::Error, text, Some(advice.into()))
    }

    /// Returns an error with the problem's hint as advice.
    pub(super) fn problem(self, Problem { what, hint, .. }: Problem) -> Finding {
        self.error(what, hint.as_deref().unwrap_or("see pst-check(8)"))
    }

    fn finding(self, level: Level, text: impl Into<String>, advice: Option<String>) -> Finding {
        Finding {
            id: self,
            level,
            text: text.into(),
            advice,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problems_hint_is_the_advice() {
        let problem = Problem::new("it failed; really");
        let found = Id::State.problem(problem.clone());
        assert_eq!(found.text, "it failed; really");
        assert_eq!(found.advice.as_deref(), Some("see pst-check(8)"));
        let found = Id::State.problem(problem.hint("run `x`"));
        assert_eq!(found.advice.as_deref(), Some("run `x`"));
    }

    #[test]
    fn the_ids_are_the_headings_of_the_manual() {
        let manual = include_str!("../../contrib/man/pst-check.8");
        let (_, findings) = manual.split_once("\n.Sh FINDINGS\n").unwrap();
        let (findings, _) = findings.split_once("\n.Sh ").unwrap();
        let mut count = 0;
        for heading in findings
            .lines()
            .filter_map(|line| line.strip_prefix(".Ss "))
        {
            let id: Id = serde_json::from_value(heading.into()).unwrap();
            assert_eq!((id as usize, id.to_string()), (count, heading.to_owned()));
            count += 1;
        }
        assert_eq!(count, Id::Path as usize + 1, "an id has no heading");
    }
}
