//! Reads the config file's keys and checks their values.

use std::ffi::OsStr;
use std::fmt::Display;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::Config;
use crate::escape::{escape, escape_path};
use crate::problem::{Problem, ProblemKind};

/// The size of `sun_path` without the final NUL; unix(7).
const SOCKET_PATH_LIMIT: usize = 107;
/// In seconds. Longer than any init system waits for a service to stop.
const KILL_GRACE_LIMIT: f64 = 3600.0;
/// More than the kernel's default limit of descriptors allows.
const CONNECTIONS_LIMIT: usize = 1_000_000;

type TomlValue<'a> = Spanned<DeValue<'a>>;

/// A config file's path and text. Each problem includes the line and the column.
pub(super) struct ConfigReader<'a> {
    pub path: &'a Path,
    pub text: &'a str,
}

impl ConfigReader<'_> {
    pub(super) fn read(&self) -> Result<Config, Problem> {
        let document = DeTable::parse(self.text).map_err(|error| {
            let words: Vec<&str> = error.message().split_whitespace().collect();
            self.invalid(error.span().unwrap_or_default(), escape(&words.join(" ")))
        })?;
        let mut config = Config::default();
        self.read_table("", document.get_ref(), &mut config)?;
        Ok(config)
    }

    /// Reads the keys of a table; `""` is the document itself.
    fn read_table(
        &self,
        table: &str,
        content: &DeTable<'_>,
        config: &mut Config,
    ) -> Result<(), Problem> {
        for (key, value) in content {
            let name = key.get_ref().as_ref();
            match (table, name) {
                ("", "socket") => config.socket = self.socket(value)?,
                ("", "socket_mode") => config.socket_mode = self.mode(value)?,
                ("", "group") => config.group = self.name(value)?,
                ("", "storage" | "session" | "kvmd_api") => {
                    self.read_table(name, self.table(value)?, config)?;
                }
                ("storage", "mount") => config.storage.mount = Some(self.path(value)?),
                ("storage", "root") => config.storage.root = Some(self.path(value)?),
                ("storage", "user") => config.storage.user = Some(self.name(value)?),
                ("storage", "group") => config.storage.group = Some(self.name(value)?),
                ("storage", "data") => config.storage.data = self.path_below_root(value)?,
                ("storage", "fstab") => config.storage.fstab = self.path(value)?,
                ("storage", "volatile") => config.storage.volatile = self.boolean(value)?,
                ("session", "kill_grace") => config.kill_grace = self.kill_grace(value)?,
                ("session", "limit") => config.limit = self.limit(value)?,
                ("kvmd_api", "path") => config.kvmd_api_path = self.path_below_root(value)?,
                _ => {
                    let (name, known) = (escape(name), known_keys(table));
                    let message = format!("unknown key `{name}`, expected one of {known}");
                    return Err(self.invalid(key.span(), message));
                }
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

    /// Accepts only octal numbers: a decimal `440` would mean 0o670, with more permissions than intended.
    fn mode(&self, value: &TomlValue<'_>) -> Result<u32, Problem> {
        let number = self.integer(value)?;
        let octal = u32::from_str_radix(number.as_str(), 8);
        let problem = match (number.radix(), octal) {
            (8, Ok(mode @ 0..=0o777)) => return Ok(mode),
            (8, _) => format!("{number} is out of range: 0o000 to 0o777"),
            (_, octal) => {
                let example = octal.unwrap_or(0o660);
                format!("{number} is not octal, as a mode must be: write 0o{example:o}")
            }
        };
        Err(self.invalid(value.span(), problem))
    }

    fn limit(&self, value: &TomlValue<'_>) -> Result<usize, Problem> {
        let number = self.integer(value)?;
        let limit = usize::from_str_radix(number.as_str(), number.radix()).ok();
        let limit = limit.filter(|limit| (1..=CONNECTIONS_LIMIT).contains(limit));
        limit.ok_or_else(|| {
            let range = format!("1 to {CONNECTIONS_LIMIT} connections");
            self.invalid(value.span(), format!("{number} is out of range: {range}"))
        })
    }

    fn kill_grace(&self, value: &TomlValue<'_>) -> Result<Duration, Problem> {
        let number = match value.get_ref() {
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            _ => return Err(self.wrong_type(value, "a number")),
        };
        let seconds = number.parse().ok();
        let seconds = seconds.filter(|seconds| *seconds <= KILL_GRACE_LIMIT);
        let grace = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        grace.ok_or_else(|| {
            let range = format!("0 to {KILL_GRACE_LIMIT} seconds");
            self.invalid(value.span(), format!("{number} is out of range: {range}"))
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

fn known_keys(table: &str) -> &'static str {
    match table {
        "storage" => "`mount`, `root`, `user`, `group`, `data`, `fstab`, `volatile`",
        "session" => "`kill_grace`, `limit`",
        "kvmd_api" => "`path`",
        _ => "`socket`, `socket_mode`, `group`, `storage`, `session`, `kvmd_api`",
    }
}

/// Returns the path as mountinfo shows it, without `.` and without double or trailing slashes. `None`
/// if the path is not absolute or has a `..`.
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
