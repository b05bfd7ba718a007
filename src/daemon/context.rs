//! What every connection is given.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use std::os::unix::ffi::OsStrExt;

use smol::channel::Receiver;

use super::handle::{Handle, Request};
use crate::config::{Config, StorageLocation};
use crate::sys::socket::Peer;

/// The part of the config and of fstab that the tasks need.
#[derive(Debug)]
pub(super) struct Settings {
    /// The mount point.
    pub mount: Vec<u8>,
    /// The data directory.
    pub data: Vec<u8>,
    /// The time from SIGTERM to SIGKILL for a command that must die.
    pub kill_grace: Duration,
    /// Connections that may be open at once.
    pub limit: usize,
    pub access_gid: u32,
    pub access_group: String,
    /// The path that kvmd's API reports.
    #[cfg(feature = "kvmd-api")]
    pub api_path: String,
}

impl Settings {
    pub(super) fn new(config: &Config, location: &StorageLocation, access_gid: u32) -> Settings {
        let bytes = |path: PathBuf| {
            let path: PathBuf = path.components().collect(); // without a slash at the end
            path.as_os_str().as_bytes().to_vec()
        };
        Settings {
            mount: bytes(location.mount.clone()),
            data: bytes(location.root.join(&location.data)),
            kill_grace: config.session.kill_grace,
            limit: config.session.limit,
            access_gid,
            access_group: config.group.clone(),
            #[cfg(feature = "kvmd-api")]
            api_path: {
                let path = bytes(location.root.join(&config.kvmd_api.path));
                String::from_utf8_lossy(&path).into_owned() // JSON can hold nothing else
            },
        }
    }
}

#[derive(Debug)]
pub(super) struct Context {
    pub settings: Rc<Settings>,
    pub controller: Handle,
    /// Closed after the first inspection of the storage.
    pub started: Receiver<()>,
    /// Closed when the daemon begins to stop.
    pub running: Receiver<()>,
}

impl Context {
    pub(super) fn is_stopping(&self) -> bool {
        self.running.is_closed()
    }

    /// Logs that this client may not open sessions, and returns the text for it.
    pub(super) fn not_admitted(&self, peer: Peer) -> String {
        let group = &self.settings.access_group;
        log::warn!("{peer} was refused: not in the group '{group}'");
        self.controller.send(Request::TurnedAway);
        format!(
            "user {} is neither root nor in the group '{group}': have an administrator run \
             `usermod -aG {group} USER`, and log in again",
            peer.uid
        )
    }
}
