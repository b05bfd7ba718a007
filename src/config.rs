//! The config file: what may stand in it, its defaults, and one-line errors.
//! Touches nothing else than that file and, for [`Config::place`], fstab.

mod location;
mod tables;

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::escape::escape;
use tables::{Invalid, Tables};

pub use location::{Fault, LocationError, StorageLocation};

/// Where the config file is, unless `-c` or PST_CONFIG says otherwise.
pub const DEFAULT_PATH: &str = "/etc/kvmd/pst.toml";

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
    /// The `[kvmd_api]` table; also understood by a build without that API.
    pub kvmd_api: KvmdApiConfig,
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
    pub limit: usize,
}

/// The `[kvmd_api]` table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KvmdApiConfig {
    /// The path that clients are told, relative to the storage root; empty: the root itself.
    pub path: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: "/run/kvmd/pst.sock".into(),
            socket_mode: 0o660,
            group: "kvmd-pst".into(),
            storage: StorageConfig::default(),
            session: SessionConfig::default(),
            kvmd_api: KvmdApiConfig::default(),
        }
    }
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            mount: None,
            root: None,
            user: None,
            group: None,
            data: "data".into(),
            fstab: "/etc/fstab".into(),
            volatile: false,
        }
    }
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            kill_grace: Duration::from_secs(1),
            limit: 1024,
        }
    }
}

/// What is wrong with a config file, and where: one line.
#[derive(Debug, PartialEq)]
pub struct ConfigError {
    path: PathBuf,
    /// Line and column, from 1; the column counts characters.
    position: Option<(usize, usize)>,
    message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", escape(self.path.as_os_str().as_bytes()))?;
        if let Some((line, column)) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads a config file. One that is not there is as good as an empty one, unless it is
    /// `required`.
    pub fn load(path: &Path, required: bool) -> Result<Config, ConfigError> {
        let fail = |position, message| ConfigError {
            path: path.to_owned(),
            position,
            message,
        };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => {
                return Ok(Config::default());
            }
            Err(error) => return Err(fail(None, format!("cannot read: {error}"))),
        };
        match std::str::from_utf8(&bytes) {
            Ok(text) => Config::parse(text, path),
            Err(error) => {
                let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                let position = position(&before, before.len());
                Err(fail(Some(position), "not UTF-8".into()))
            }
        }
    }

    /// Understands a config file's text; `path` is for the error only.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let fault = match toml::from_str::<Tables>(text) {
            Ok(tables) => match tables.check(text) {
                Ok(config) => return Ok(config),
                Err(invalid) => invalid,
            },
            Err(error) => Invalid {
                span: error.span(),
                message: one_line(error.message()),
            },
        };
        Err(ConfigError {
            path: path.to_owned(),
            position: fault.span.map(|span| position(text, span.start)),
            message: fault.message,
        })
    }
}

/// The toml crate's message in its users' words, and on one harmless line whatever it quotes.
fn one_line(message: &str) -> String {
    let mut line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    for (serde, ours) in [
        ("unknown field", "unknown key"),
        (" as i128, expected i64", ", expected a 64-bit integer"),
        ("expected i64", "expected an integer"),
        ("expected f64", "expected a number"),
    ] {
        line = line.replacen(serde, ours, 1);
    }
    escape(&line).to_string()
}

/// Line and column, both from 1, of a byte.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests;
