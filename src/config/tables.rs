//! The config file's tables as serde reads them, and which values may stand there.

use std::ffi::OsStr;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use toml::Spanned;

use super::{Config, KvmdApiConfig, SessionConfig, StorageConfig};

/// What a `sockaddr_un` holds, without the closing NUL; unix(7).
const SOCKET_PATH_LIMIT: usize = 107;
/// Longer than any init system waits for a service to stop.
const KILL_GRACE_LIMIT: f64 = 3600.0;
/// More than the kernel's default for a process's descriptors lets through.
const CONNECTIONS_LIMIT: i64 = 1_000_000;

/// The file's structure. What values are allowed is checked after it, with their places at hand.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tables {
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
pub(super) struct Invalid {
    pub span: Option<Range<usize>>,
    pub message: String,
}

impl Tables {
    /// The values, with defaults for what does not stand in `text`.
    pub(super) fn check(self, text: &str) -> Result<Config, Invalid> {
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
pub(super) fn absolute(path: &OsStr) -> Result<PathBuf, &'static str> {
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
