//! The context of the controller and of every connection: settings and the controller's handle.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::handle::{Handle, Request};
use crate::config::{Config, StorageLocation};
use crate::sys::socket::Peer;

#[derive(Debug)]
pub(super) struct Context {
    pub config: Config,
    pub access_gid: u32,
    /// The service manager keeps the socket, so it starts the next daemon, and no client is refused.
    pub activated: bool,
    pub mount: Vec<u8>,
    /// The data directory, absolute, for `Granted`.
    pub data: Vec<u8>,
    /// The path that kvmd's API reports.
    #[cfg(feature = "kvmd-api")]
    pub api_path: String,
    pub controller: Handle,
}

impl Context {
    pub(super) fn new(
        config: Config,
        location: &StorageLocation,
        access_gid: u32,
        controller: Handle,
        activated: bool,
    ) -> Context {
        Context {
            activated,
            access_gid,
            mount: bytes(location.mount.clone()),
            data: bytes(location.root.join(&location.data)),
            #[cfg(feature = "kvmd-api")]
            api_path: {
                let path = bytes(location.root.join(&config.kvmd_api_path));
                String::from_utf8_lossy(&path).into_owned() // JSON holds only UTF-8
            },
            config,
            controller,
        }
    }

    /// Logs that this client may not open sessions, and returns the text for it.
    pub(super) fn not_admitted(&self, peer: Peer) -> String {
        let group = &self.config.group;
        let line = format!("{peer} was refused: not in the group '{group}'");
        self.controller.warn(peer.uid, line);
        self.controller.send(Request::TurnedAway);
        format!(
            "user {} is neither root nor in the group '{group}': have an administrator run \
             `usermod -aG {group} USER`, and log in again",
            peer.uid
        )
    }
}

/// Returns the path's bytes without a trailing slash.
fn bytes(path: PathBuf) -> Vec<u8> {
    let path: PathBuf = path.components().collect();
    path.as_os_str().as_bytes().to_vec()
}
