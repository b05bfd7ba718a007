//! The config file: what may stand in it, its defaults, and one-line errors.

use std::path::PathBuf;
use std::time::Duration;

/// Everything that `/etc/kvmd/pst.toml` can say, with defaults for what it does not.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Path of the Unix stream socket.
    pub socket: PathBuf,
    /// Permission bits of the socket.
    pub socket_mode: u32,
    /// Name of the access group: its members may open sessions, besides root.
    pub group: String,
    /// The `[storage]` table.
    pub storage: StorageConfig,
    /// The `[session]` table.
    pub session: SessionConfig,
}

/// The `[storage]` table, as written: see [`Config::place`] for what it means together with fstab.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageConfig {
    /// Mount point; `None`: the fstab entry with an `X-kvmd.pst-*` option.
    pub mount: Option<PathBuf>,
    /// Storage root, the mount point or a directory below it.
    pub root: Option<PathBuf>,
    /// Owner of the storage root and the data root.
    pub user: Option<String>,
    /// Group of the storage root and the data root.
    pub group: Option<String>,
    /// `KVMD_PST_DATA`, relative to the storage root; empty: the root itself.
    pub data: PathBuf,
    /// Where the mount is looked up.
    pub fstab: PathBuf,
    /// Allow a storage without a block device.
    pub volatile: bool,
}

/// The `[session]` table.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionConfig {
    /// From SIGTERM to SIGKILL for a command that must die.
    pub kill_grace: Duration,
    /// Open connections at most.
    pub limit: usize,
}

/// Where the storage is and to whom it belongs: config, fstab and defaults, decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The mount point, absolute.
    pub mount: PathBuf,
    /// The storage root, absolute: `mount` or below it.
    pub root: PathBuf,
    /// The data root, relative to `root`; empty: `root` itself. Only normal components.
    pub data: PathBuf,
    /// Owner of both roots (a name, or a number as text).
    pub user: String,
    /// Group of both roots (a name, or a number as text).
    pub group: String,
    /// fstab names an atime option for this mount, so `prepare` leaves atime alone.
    pub atime_named: bool,
    /// A storage without a block device is allowed.
    pub volatile: bool,
}
