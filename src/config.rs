//! The config file: its settings, their defaults, and the storage's location from config and fstab.

mod location;
mod reader;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::reader::ConfigReader;
use crate::escape::{escape, escape_path};
use crate::problem::{Problem, ProblemKind};
use crate::sys::user;

pub use self::location::StorageLocation;

/// The config file, unless `-c` or PST_CONFIG names another.
pub const DEFAULT_PATH: &str = "/etc/kvmd/pst.toml";

/// A config file's settings; see pst.toml(5).
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub socket: PathBuf,
    pub socket_mode: u32,
    /// The access group: its members and root may open sessions.
    pub group: String,
    pub storage: StorageConfig,
    /// The time between SIGTERM and SIGKILL for a command that must end.
    pub kill_grace: Duration,
    /// The maximum number of open connections.
    pub limit: usize,
    /// The path that kvmd's API reports, relative to the storage root; empty: the root itself. Builds
    /// without that API accept and ignore it.
    pub kvmd_api_path: PathBuf,
}

/// The `[storage]` table as written; [`Config::storage_location`] combines it with fstab.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageConfig {
    /// `None`: the mount point of the fstab entry with an `X-kvmd.pst-*` option.
    pub mount: Option<PathBuf>,
    /// The storage root: the mount point or a directory below it.
    pub root: Option<PathBuf>,
    /// The owner of the storage root and the data directory.
    pub user: Option<String>,
    /// The group of the storage root and the data directory.
    pub group: Option<String>,
    /// `KVMD_PST_DATA`, relative to the storage root; empty: the root itself.
    pub data: PathBuf,
    pub fstab: PathBuf,
    /// Allow a storage without a block device.
    pub volatile: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: "/run/kvmd/pst.sock".into(),
            socket_mode: 0o660,
            group: "kvmd-pst".into(),
            storage: StorageConfig {
                mount: None,
                root: None,
                user: None,
                group: None,
                data: "data".into(),
                fstab: "/etc/fstab".into(),
                volatile: false,
            },
            kill_grace: Duration::from_secs(1),
            limit: 1024,
            kvmd_api_path: PathBuf::new(),
        }
    }
}

impl Config {
    /// Reads a config file. The defaults apply if there is none, unless it is `required`.
    pub fn load(path: &Path, required: bool) -> Result<Config, Problem> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if !required && error.kind() == ErrorKind::NotFound => {
                return Ok(Config::default());
            }
            Err(error) => {
                let what = format!("cannot read {}", escape_path(path));
                return Err(Problem::io(what, &error).kind(ProblemKind::Usage));
            }
        };
        match std::str::from_utf8(&bytes) {
            Ok(text) => Config::parse(text, path),
            Err(error) => {
                let end = error.valid_up_to();
                let text = &String::from_utf8_lossy(&bytes[..end]);
                Err(ConfigReader { path, text }.invalid(end..end, "not UTF-8"))
            }
        }
    }

    /// Parses a config file; `path` is only for error messages.
    pub fn parse(text: &str, path: &Path) -> Result<Config, Problem> {
        ConfigReader { path, text }.read()
    }

    /// Looks up the access group.
    pub(crate) fn access_gid(&self) -> Result<u32, Problem> {
        let name = escape(&self.group);
        let gid = user::gid_by_name(&self.group).map_err(|error| {
            let what = format!("cannot look up the access group '{name}'");
            Problem::io(what, &error).hint("check nsswitch.conf(5)")
        })?;
        gid.ok_or_else(|| {
            let hint = format!(
                "`groupadd --system {name}`, or name another as `group` in the config file"
            );
            Problem::new(format!("there is no access group '{name}'")).hint(hint)
        })
    }
}

#[cfg(test)]
mod tests;
