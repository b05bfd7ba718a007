//! The config file: what may stand in it, its defaults, and one-line errors.
//! Touches nothing else than that file and, for [`Config::place`], fstab.

mod place;

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use toml::Spanned;

use crate::escape::escape;

pub use place::{Fault, Place, PlaceError};

/// Where the config file is, unless `-c` or PST_CONFIG says otherwise.
pub const DEFAULT_PATH: &str = "/etc/kvmd/pst.toml";

/// What a `sockaddr_un` holds, without the closing NUL; unix(7).
const SOCKET_PATH_LIMIT: usize = 107;
/// Longer than any init system waits for a service to stop.
const KILL_GRACE_LIMIT: f64 = 3600.0;
/// More than the kernel's default for a process's descriptors lets through.
const CONNECTIONS_LIMIT: i64 = 1_000_000;

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
    /// Open connections at most.
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

/// The file's structure. What values are allowed is checked after it, with their places at hand.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tables {
    socket: Option<Spanned<String>>,
    socket_mode: Option<Spanned<i64>>,
    group: Option<Spanned<String>>,
    storage: Table<StorageTable>,
    session: Table<SessionTable>,
    kvmd_api: Table<KvmdApiTable>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StorageTable {
    mount: Option<Spanned<String>>,
    root: Option<Spanned<String>>,
    user: Option<Spanned<String>>,
    group: Option<Spanned<String>>,
    data: Option<Spanned<String>>,
    fstab: Option<Spanned<String>>,
    volatile: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SessionTable {
    kill_grace: Option<Spanned<f64>>,
    limit: Option<Spanned<i64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct KvmdApiTable {
    path: Option<Spanned<String>>,
}

/// What serde derives takes an array for a table, its elements for the keys in turn: this does not.
#[derive(Default)]
struct Table<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TableVisitor(PhantomData))
    }
}

struct TableVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for TableVisitor<T> {
    type Value = Table<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Table<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Table)
    }
}

/// A fault, and the bytes of the text that it is about.
struct Invalid {
    span: Option<Range<usize>>,
    message: String,
}

impl Tables {
    fn check(self, text: &str) -> Result<Config, Invalid> {
        let Config {
            socket,
            socket_mode,
            group,
            storage,
            session,
            kvmd_api,
        } = Config::default();
        Ok(Config {
            socket: checked(self.socket, text, checked_socket)?.unwrap_or(socket),
            socket_mode: checked(self.socket_mode, text, checked_mode)?.unwrap_or(socket_mode),
            group: checked(self.group, text, checked_name)?.unwrap_or(group),
            storage: self.storage.0.check(text, storage)?,
            session: self.session.0.check(text, session)?,
            kvmd_api: self.kvmd_api.0.check(text, kvmd_api)?,
        })
    }
}

impl StorageTable {
    fn check(self, text: &str, default: StorageConfig) -> Result<StorageConfig, Invalid> {
        Ok(StorageConfig {
            mount: checked(self.mount, text, checked_path)?,
            root: checked(self.root, text, checked_path)?,
            user: checked(self.user, text, checked_name)?,
            group: checked(self.group, text, checked_name)?,
            data: checked(self.data, text, checked_data)?.unwrap_or(default.data),
            fstab: checked(self.fstab, text, checked_path)?.unwrap_or(default.fstab),
            volatile: self.volatile.unwrap_or(default.volatile),
        })
    }
}

impl SessionTable {
    fn check(self, text: &str, default: SessionConfig) -> Result<SessionConfig, Invalid> {
        let kill_grace = checked(self.kill_grace, text, checked_grace)?;
        let limit = checked(self.limit, text, checked_limit)?;
        Ok(SessionConfig {
            kill_grace: kill_grace.unwrap_or(default.kill_grace),
            limit: limit.unwrap_or(default.limit),
        })
    }
}

impl KvmdApiTable {
    fn check(self, text: &str, default: KvmdApiConfig) -> Result<KvmdApiConfig, Invalid> {
        Ok(KvmdApiConfig {
            path: checked(self.path, text, checked_data)?.unwrap_or(default.path),
        })
    }
}

/// A value, if there is one, checked by `check`, which also gets it as it is written.
fn checked<T, U>(
    value: Option<Spanned<T>>,
    text: &str,
    check: impl FnOnce(T, &str) -> Result<U, String>,
) -> Result<Option<U>, Invalid> {
    let Some(value) = value else { return Ok(None) };
    let span = value.span();
    let written = text.get(span.clone()).unwrap_or_default();
    match check(value.into_inner(), written) {
        Ok(value) => Ok(Some(value)),
        Err(message) => Err(Invalid {
            span: Some(span),
            message,
        }),
    }
}

fn checked_path(value: String, _: &str) -> Result<PathBuf, String> {
    absolute(OsStr::new(&value)).map_err(|rule| format!("{value:?} {rule}"))
}

fn checked_socket(value: String, written: &str) -> Result<PathBuf, String> {
    let path = checked_path(value, written)?;
    if path.as_os_str().len() > SOCKET_PATH_LIMIT {
        return Err(format!(
            "a socket's path has at most {SOCKET_PATH_LIMIT} bytes"
        ));
    }
    Ok(path)
}

fn checked_data(value: String, _: &str) -> Result<PathBuf, String> {
    let rule = "must be a path below the storage root, without `..`";
    normal_components(Path::new(&value), rule).map_err(|rule| format!("{value:?} {rule}"))
}

fn checked_name(value: String, _: &str) -> Result<String, String> {
    match value.is_empty() {
        true => Err("a name must not be empty".into()),
        false => Ok(value),
    }
}

/// TOML reads `440` as decimal, which is 0o670: more than the writer meant.
fn checked_mode(value: i64, written: &str) -> Result<u32, String> {
    if !written.starts_with("0o") {
        let octal = written.chars().all(|digit| digit.is_digit(8));
        let example = if octal { written } else { "660" };
        return Err(format!(
            "{written} is not octal, as a mode must be: write 0o{example}"
        ));
    }
    match u32::try_from(value) {
        Ok(mode @ 0..=0o777) => Ok(mode),
        _ => Err(format!("{written} is out of range: 0o000 to 0o777")),
    }
}

fn checked_grace(value: f64, written: &str) -> Result<Duration, String> {
    match Duration::try_from_secs_f64(value) {
        Ok(grace) if value <= KILL_GRACE_LIMIT => Ok(grace),
        _ => Err(format!(
            "{written} is out of range: 0 to {KILL_GRACE_LIMIT} seconds"
        )),
    }
}

fn checked_limit(value: i64, written: &str) -> Result<usize, String> {
    match usize::try_from(value) {
        Ok(limit) if (1..=CONNECTIONS_LIMIT).contains(&value) => Ok(limit),
        _ => Err(format!(
            "{written} is out of range: 1 to {CONNECTIONS_LIMIT} connections"
        )),
    }
}

/// The path without doubled and trailing slashes and `.`, as mountinfo has it; or the rule that it
/// breaks.
fn absolute(path: &OsStr) -> Result<PathBuf, &'static str> {
    let rule = "must be an absolute path without `..`";
    let below = Path::new(path).strip_prefix("/").map_err(|_| rule)?;
    Ok(Path::new("/").join(normal_components(below, rule)?))
}

fn normal_components(path: &Path, rule: &'static str) -> Result<PathBuf, &'static str> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) if !name.as_bytes().contains(&0) => normal.push(name),
            Component::CurDir => {}
            _ => return Err(rule),
        }
    }
    Ok(normal)
}

/// The toml crate's message in its users' words, and on one line whatever it quotes.
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
    line
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
