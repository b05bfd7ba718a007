//! What a look comes to: findings, and the ids by which they are known for ever.

use serde::Serialize;

use crate::logging::OneLine;

/// The ids, and all of them in a list: each is a heading of pst-check(8).
macro_rules! ids {
    ($($id:ident = $text:literal,)*) => {
        /// What a finding is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Id {
            $(#[doc = $text] $id,)*
        }

        impl Id {
            /// Every one, in the order of the manual.
            #[cfg(test)]
            pub const ALL: &[Id] = &[$(Id::$id),*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Id::$id => $text,)*
                }
            }
        }
    };
}

ids! {
    Kernel = "kernel",
    KernelCalls = "kernel-calls",
    Config = "config",
    Fstab = "fstab",
    FstabNodev = "fstab-nodev",
    FstabNosuid = "fstab-nosuid",
    FstabNoexec = "fstab-noexec",
    FstabRo = "fstab-ro",
    FstabErrors = "fstab-errors",
    FstabNofail = "fstab-nofail",
    FstabKvmd = "fstab-kvmd",
    Owner = "owner",
    Mount = "mount",
    MountOptions = "mount-options",
    MountOverlay = "mount-overlay",
    MountShared = "mount-shared",
    MountPrepared = "mount-prepared",
    Roots = "roots",
    Device = "device",
    DeviceLabel = "device-label",
    DeviceReadOnly = "device-read-only",
    Card = "card",
    CardCache = "card-cache",
    FsAlive = "fs-alive",
    FsErrors = "fs-errors",
    FsRecovery = "fs-recovery",
    FsSpace = "fs-space",
    FsInodes = "fs-inodes",
    Group = "group",
    Access = "access",
    Socket = "socket",
    SocketMode = "socket-mode",
    Daemon = "daemon",
    DaemonVersion = "daemon-version",
    DaemonConfig = "daemon-config",
    DaemonCapabilities = "daemon-capabilities",
    State = "state",
    UnitService = "unit-service",
    UnitSocket = "unit-socket",
    UnitMounted = "unit-mounted",
    UnitKvmdPst = "unit-kvmd-pst",
    Symlinks = "symlinks",
    PathOrder = "path-order",
}

/// How bad it is; the worst decides about the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    /// Could not be looked at by this user.
    Unseen,
    /// Works, but not as well or as safely as it could.
    Warning,
    Error,
}

impl Level {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unseen => "unseen",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One line of the result. Whoever makes one escapes the foreign names in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub id: Id,
    pub level: Level,
    pub text: String,
    /// What to do about it.
    pub advice: Option<String>,
}

impl Finding {
    fn new(id: Id, level: Level, text: &str, advice: Option<&str>) -> Finding {
        // Messages of other modules may quote what is not theirs.
        let harmless = |text: &str| OneLine(text).to_string();
        Finding {
            id,
            level,
            text: harmless(text),
            advice: advice.map(harmless),
        }
    }

    /// It is as it should be.
    pub(super) fn ok(id: Id, text: impl AsRef<str>) -> Finding {
        Finding::new(id, Level::Ok, text.as_ref(), None)
    }

    /// This user could not look.
    pub(super) fn unseen(id: Id, text: impl AsRef<str>) -> Finding {
        Finding::new(id, Level::Unseen, text.as_ref(), None)
    }

    /// It works, but should be better.
    pub(super) fn warning(id: Id, text: impl AsRef<str>, advice: impl AsRef<str>) -> Finding {
        Finding::new(id, Level::Warning, text.as_ref(), Some(advice.as_ref()))
    }

    /// It keeps something from working.
    pub(super) fn error(id: Id, text: impl AsRef<str>, advice: impl AsRef<str>) -> Finding {
        Finding::new(id, Level::Error, text.as_ref(), Some(advice.as_ref()))
    }

    /// An error whose message, as other applets show it, may end with what to do; `otherwise` if it
    /// does not.
    pub(super) fn told(id: Id, message: &str, otherwise: &str) -> Finding {
        let order = message.find(": run `").map(|at| (at, at + 2));
        let order = message.find("; ").map(|at| (at, at + 2)).or(order);
        match order {
            Some((end, start)) => Finding::error(id, &message[..end], &message[start..]),
            None => Finding::error(id, message, otherwise),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_message_says_to_do_is_its_advice() {
        for (message, text, advice) in [
            ("a: b; mend c; or d", "a: b", "mend c; or d"),
            ("a is not: run `b`", "a is not", "run `b`"),
            ("a: run `b`; or c", "a: run `b`", "or c"),
            ("a: b", "a: b", "x"),
        ] {
            let found = Finding::told(Id::State, message, "x");
            assert_eq!(
                (&*found.text, found.advice.as_deref()),
                (text, Some(advice))
            );
        }
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
