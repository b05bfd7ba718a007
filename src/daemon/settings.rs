//! What the config and fstab say, as the daemon's tasks need it. Nothing of it changes.

use std::time::Duration;

#[derive(Debug)]
pub(super) struct Settings {
    pub mount: Vec<u8>,
    pub data: Vec<u8>,
    /// From SIGTERM to SIGKILL for a command that must die.
    pub kill_grace: Duration,
    /// Connections that may be open.
    pub limit: usize,
    /// The access group's number and name.
    pub access: (u32, String),
    /// The path that kvmd's clients are told.
    #[cfg(feature = "kvmd-api")]
    pub api_path: String,
}
