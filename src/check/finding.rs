//! What a look comes to: findings, and the ids by which they are known for ever.

use serde::Serialize;

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

            /// As it is shown.
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
    UnitKvmdPst = "unit-kvmd-pst",
    Symlinks = "symlinks",
    PathOrder = "path-order",
}

/// How bad it is; the worst decides about the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Could not be looked at by this user.
    Unseen,
    /// Works, but not as well or as safely as it could.
    Warning,
    /// Keeps it from working.
    Error,
}

impl Level {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unseen => "unseen",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One line of the result. Its texts are safe to print: whoever makes one escapes foreign names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub id: Id,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What to do about it.
    pub advice: Option<String>,
}

impl Finding {
    /// It is as it should be.
    pub fn ok(id: Id, text: impl Into<String>) -> Finding {
        Finding {
            id,
            level: Level::Ok,
            text: text.into(),
            advice: None,
        }
    }

    /// This user could not look.
    pub fn unseen(id: Id, text: impl Into<String>) -> Finding {
        Finding {
            id,
            level: Level::Unseen,
            text: text.into(),
            advice: None,
        }
    }

    /// It works, but should be better.
    pub fn warning(id: Id, text: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding {
            id,
            level: Level::Warning,
            text: text.into(),
            advice: Some(advice.into()),
        }
    }

    /// It keeps something from working.
    pub fn error(id: Id, text: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding {
            id,
            level: Level::Error,
            text: text.into(),
            advice: Some(advice.into()),
        }
    }

    /// An error whose message, as other applets show it, may end with what to do, after a
    /// semicolon; `otherwise` if it does not.
    pub fn told(id: Id, message: &str, otherwise: &str) -> Finding {
        match message.split_once("; ") {
            Some((text, advice)) => Finding::error(id, text, advice),
            None => Finding::error(id, message, otherwise),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
