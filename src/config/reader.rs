//! Reads the keys of the config file and checks their values.

use std::ffi::OsStr;
use std::fmt::Display;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::{Config, KvmdApiConfig, SessionConfig, StorageConfig};
use crate::escape::{escape, escape_path};
use crate::problem::{Problem, ProblemKind};

/// The size of `sun_path` without the closing NUL; unix(7).
const SOCKET_PATH_LIMIT: usize = 107;
/// Longer than any init system waits for a service to stop.
const KILL_GRACE_LIMIT: f64 = 3600.0;
/// More than the kernel's default limit of descriptors allows.
const CONNECTIONS_LIMIT: i64 = 1_000_000;

type TomlValue<'a> = Spanned<DeValue<'a>>;

/// A config file's path and text; each problem names the place in it.
pub(super) struct Reader<'a> {
    pub path: &'a Path,
    pub text: &'a str,
}

impl Reader<'_> {
    pub(super) fn read(&self) -> Result<Config, Problem> {
        let document = DeTable::parse(self.text).map_err(|error| {
            let words: Vec<&str> = error.message().split_whitespace().collect();
            self.invalid(error.span().unwrap_or_default(), escape(&words.join(" ")))
        })?;
        let mut config = Config::default();
        for (key, value) in document.get_ref() {
            match key.get_ref().as_ref() {
                "socket" => config.socket = self.socket(value)?,
                "socket_mode" => config.socket_mode = self.mode(value)?,
                "group" => config.group = self.name(value)?,
                "storage" => self.storage(value, &mut config.storage)?,
                "session" => self.session(value, &mut config.session)?,
                "kvmd_api" => self.kvmd_api(value, &mut config.kvmd_api)?,
                _ => {
                    let known =
                        "`socket`, `socket_mode`, `group`, `storage`, `session`, `kvmd_api`";
                    return Err(self.unknown(key, known));
                }
            }
        }
        Ok(config)
    }

    fn storage(&self, table: &TomlValue<'_>, storage: &mut StorageConfig) -> Result<(), Problem> {
        for (key, value) in self.table(table)? {
            match key.get_ref().as_ref() {
                "mount" => storage.mount = Some(self.path(value)?),
                "root" => storage.root = Some(self.path(value)?),
                "user" => storage.user = Some(self.name(value)?),
                "group" => storage.group = Some(self.name(value)?),
                "data" => storage.data = self.path_below_root(value)?,
                "fstab" => storage.fstab = self.path(value)?,
                "volatile" => storage.volatile = self.boolean(value)?,
                _ => {
                    let known = "`mount`, `root`, `user`, `group`, `data`, `fstab`, `volatile`";
                    return Err(self.unknown(key, known));
                }
            }
        }
        Ok(())
    }

    fn session(&self, table: &TomlValue<'_>, session: &mut SessionConfig) -> Result<(), Problem> {
        for (key, value) in self.table(table)? {
            match key.get_ref().as_ref() {
                "kill_grace" => session.kill_grace = self.kill_grace(value)?,
                "limit" => session.limit = self.limit(value)?,
                _ => return Err(self.unknown(key, "`kill_grace`, `limit`")),
            }
        }
        Ok(())
    }

    fn kvmd_api(&self, table: &TomlValue<'_>, api: &mut KvmdApiConfig) -> Result<(), Problem> {
        for (key, value) in self.table(table)? {
            match key.get_ref().as_ref() {
                "path" => api.path = self.path_below_root(value)?,
                _ => return Err(self.unknown(key, "`path`")),
            }
        }
        Ok(())
    }

    fn socket(&self, value: &TomlValue<'_>) -> Result<PathBuf, Problem> {
        let path = self.path(value)?;
        match path.as_os_str().len() {
            0..=SOCKET_PATH_LIMIT => Ok(path),
            _ => Err(self.invalid(
                value.span(),
                format_args!("a socket's path has at most {SOCKET_PATH_LIMIT} bytes"),
            )),
        }
    }

    /// TOML reads `440` as decimal, which is 0o670: more permissions than the writer meant.
    fn mode(&self, value: &TomlValue<'_>) -> Result<u32, Problem> {
        let number = self.integer(value)?;
        let digits = number.as_str();
        let problem = if number.radix() != 8 {
            let octal = digits.chars().all(|digit| digit.is_digit(8));
            let example = if octal { digits } else { "660" };
            format!("{number} is not octal, as a mode must be: write 0o{example}")
        } else if let Ok(mode @ 0..=0o777) = u32::from_str_radix(digits, 8) {
            return Ok(mode);
        } else {
            format!("{number} is out of range: 0o000 to 0o777")
        };
        Err(self.invalid(value.span(), problem))
    }

    fn limit(&self, value: &TomlValue<'_>) -> Result<usize, Problem> {
        let number = self.integer(value)?;
        i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .filter(|limit| (1..=CONNECTIONS_LIMIT).contains(limit))
            .and_then(|limit| usize::try_from(limit).ok())
            .ok_or_else(|| {
                let range = format!("1 to {CONNECTIONS_LIMIT} connections");
                self.out_of_range(value, number, range)
            })
    }

    fn kill_grace(&self, value: &TomlValue<'_>) -> Result<Duration, Problem> {
        let written = match value.get_ref() {
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            _ => return Err(self.wrong_type(value, "a number")),
        };
        written
            .parse()
            .ok()
            .filter(|seconds| *seconds <= KILL_GRACE_LIMIT)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .ok_or_else(|| {
                let range = format!("0 to {KILL_GRACE_LIMIT} seconds");
                self.out_of_range(value, written, range)
            })
    }

    fn name(&self, value: &TomlValue<'_>) -> Result<String, Problem> {
        match self.string(value)? {
            "" => Err(self.invalid(value.span(), "a name must not be empty")),
            name => Ok(name.to_owned()),
        }
    }

    fn path(&self, value: &TomlValue<'_>) -> Result<PathBuf, Problem> {
        let path = self.string(value)?;
        absolute(OsStr::new(path)).ok_or_else(|| {
            let problem = format!("{path:?} must be an absolute path without `..`");
            self.invalid(value.span(), problem)
        })
    }

    fn path_below_root(&self, value: &TomlValue<'_>) -> Result<PathBuf, Problem> {
        let path = self.string(value)?;
        normal_components(Path::new(path)).ok_or_else(|| {
            let rule = "must be a path below the storage root, without `..`";
            self.invalid(value.span(), format_args!("{path:?} {rule}"))
        })
    }

    fn table<'a>(&self, value: &'a TomlValue<'a>) -> Result<&'a DeTable<'a>, Problem> {
        (value.get_ref().as_table()).ok_or_else(|| self.wrong_type(value, "a table"))
    }

    fn string<'a>(&self, value: &'a TomlValue<'_>) -> Result<&'a str, Problem> {
        (value.get_ref().as_str()).ok_or_else(|| self.wrong_type(value, "a string"))
    }

    fn integer<'a>(&self, value: &'a TomlValue<'a>) -> Result<&'a DeInteger<'a>, Problem> {
        (value.get_ref().as_integer()).ok_or_else(|| self.wrong_type(value, "an integer"))
    }

    fn boolean(&self, value: &TomlValue<'_>) -> Result<bool, Problem> {
        (value.get_ref().as_bool()).ok_or_else(|| self.wrong_type(value, "a boolean"))
    }

    fn wrong_type(&self, value: &TomlValue<'_>, expected: &str) -> Problem {
        let found = value.get_ref().type_str();
        let message = format!("invalid type: {found}, expected {expected}");
        self.invalid(value.span(), message)
    }

    fn out_of_range(
        &self,
        value: &TomlValue<'_>,
        written: impl Display,
        range: impl Display,
    ) -> Problem {
        self.invalid(
            value.span(),
            format_args!("{written} is out of range: {range}"),
        )
    }

    fn unknown(&self, key: &Spanned<impl AsRef<str>>, known: &str) -> Problem {
        let name = escape(key.get_ref().as_ref());
        let message = format!("unknown key `{name}`, expected one of {known}");
        self.invalid(key.span(), message)
    }

    /// Puts the file, line and column before the message. The column counts characters.
    pub(super) fn invalid(&self, span: Range<usize>, message: impl Display) -> Problem {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before[line_start..].chars().count() + 1;
        let path = escape_path(self.path);
        Problem::new(format!("{path}:{line}:{column}: {message}")).kind(ProblemKind::Usage)
    }
}

/// Returns the path as mountinfo writes it, without doubled and trailing slashes and `.`; `None` if
/// it is not absolute or has a `..`.
pub(super) fn absolute(path: &OsStr) -> Option<PathBuf> {
    let below = Path::new(path).strip_prefix("/").ok()?;
    Some(Path::new("/").join(normal_components(below)?))
}

fn normal_components(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) if !name.as_bytes().contains(&0) => normal.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(normal)
}
