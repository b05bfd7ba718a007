//! A finding: what it is about, how bad it is, what was found and what to do about it.

use serde::Serialize;

use crate::logging::OneLine;
use crate::problem::Problem;

macro_rules! ids {
    ($($id:ident = $text:literal,)*) => {
        /// What a finding is about. Each id is a heading of pst-check(8).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        pub(super) enum Id {
            $(#[serde(rename = $text)] $id,)*
        }

        impl Id {
            /// All ids, in the order of the manual.
            #[cfg(test)]
            const ALL: &[Id] = &[$(Id::$id),*];

            pub(super) fn as_str(self) -> &'static str {
                match self {
                    $(Id::$id => $text,)*
                }
            }
        }
    };
}

ids! {
    Kernel = "kernel",
    Config = "config",
    Fstab = "fstab",
    FstabOptions = "fstab-options",
    Owner = "owner",
    Mount = "mount",
    MountOptions = "mount-options",
    MountFilesystem = "mount-filesystem",
    MountPrepared = "mount-prepared",
    Directories = "directories",
    Device = "device",
    Card = "card",
    FsHealth = "fs-health",
    FsErrors = "fs-errors",
    FsJournal = "fs-journal",
    FsSpace = "fs-space",
    Group = "group",
    Access = "access",
    Socket = "socket",
    Daemon = "daemon",
    DaemonVersion = "daemon-version",
    DaemonConfig = "daemon-config",
    DaemonCapabilities = "daemon-capabilities",
    State = "state",
    Units = "units",
    KvmdPst = "kvmd-pst",
    Path = "path",
}

/// How bad a finding is. The worst one decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    /// This user may not look.
    Skipped,
    /// Works, but less well or less safely than it could.
    Warning,
    /// Keeps something from working.
    Error,
}

impl Level {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub id: Id,
    pub level: Level,
    pub text: String,
    /// What to do; `None` if there is nothing to do.
    pub advice: Option<String>,
}

impl Id {
    pub(super) fn ok(self, text: impl AsRef<str>) -> Finding {
        self.finding(Level::Ok, text, None)
    }

    pub(super) fn skipped(self, text: impl AsRef<str>) -> Finding {
        self.finding(Level::Skipped, text, None)
    }

    pub(super) fn warning(self, text: impl AsRef<str>, advice: impl AsRef<str>) -> Finding {
        self.finding(Level::Warning, text, Some(advice.as_ref()))
    }

    pub(super) fn error(self, text: impl AsRef<str>, advice: impl AsRef<str>) -> Finding {
        self.finding(Level::Error, text, Some(advice.as_ref()))
    }

    /// An error with the problem's hint as the advice; `otherwise` if it has none.
    pub(super) fn problem(self, problem: &Problem, otherwise: &str) -> Finding {
        self.error(&problem.what, problem.hint.as_deref().unwrap_or(otherwise))
    }

    fn finding(self, level: Level, text: impl AsRef<str>, advice: Option<&str>) -> Finding {
        Finding {
            id: self,
            level,
            // Errors from outside may be quoted in it.
            text: OneLine(text.as_ref()).to_string(),
            advice: advice.map(|advice| OneLine(advice).to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problems_hint_is_the_advice() {
        let problem = Problem::new("it failed; really");
        let found = Id::State.problem(&problem, "see `dmesg`");
        assert_eq!(found.text, "it failed; really");
        assert_eq!(found.advice.as_deref(), Some("see `dmesg`"));
        let found = Id::State.problem(&problem.hint("run `x`"), "see `dmesg`");
        assert_eq!(found.advice.as_deref(), Some("run `x`"));
    }

    #[test]
    fn every_id_is_a_heading_of_the_manual_and_no_other_is() {
        let manual = include_str!("../../contrib/man/pst-check.8");
        let (_, findings) = manual.split_once("\n.Sh FINDINGS\n").unwrap();
        let (findings, _) = findings.split_once("\n.Sh ").unwrap();
        let headings: Vec<&str> = findings
            .lines()
            .filter_map(|line| line.strip_prefix(".Ss "))
            .collect();
        let ids: Vec<&str> = Id::ALL.iter().map(|id| id.as_str()).collect();
        assert_eq!(headings, ids);
    }
}
