//! The storage's location and owner: combines config file, fstab and defaults. Inspects no mount.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::reader::absolute;
use super::{Config, StorageConfig};
use crate::escape::{escape, escape_path};
use crate::fstab::{self, Entry};
use crate::problem::Problem;

/// The fstab entry with an option that begins with this is the storage's.
const MARK: &str = "X-kvmd.pst-";
const ROOT: &str = "X-kvmd.pst-root";
const USER: &str = "X-kvmd.pst-user";
const GROUP: &str = "X-kvmd.pst-group";

/// The owner and the group if config and fstab name none.
const DEFAULT_OWNER: &str = "kvmd-pst";

/// The storage's mount point, directories and owner.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageLocation {
    pub mount: PathBuf,
    /// The storage root, absolute: `mount` or below it.
    pub root: PathBuf,
    /// The data directory, relative to `root`, with only normal components; empty: `root` itself.
    pub data: PathBuf,
    /// The owner of both directories (a name, or a number as text).
    pub user: String,
    /// The group of both directories (a name, or a number as text).
    pub group: String,
    /// fstab names an atime option for this mount, so `prepare` keeps it.
    pub atime_named: bool,
    /// Allow a storage without a block device.
    pub volatile: bool,
}

impl Config {
    /// Returns the storage's entry in fstab: the first that is marked, or that of `storage.mount`. Only
    /// with `storage.mount`, the file or the entry may be missing.
    pub fn fstab_entry(&self) -> Result<Option<Entry>, Problem> {
        let entries = read_fstab(&self.storage)?;
        let is_marked = |entry: &&Entry| entry.has_option_beginning(MARK);
        let Some(mount) = &self.storage.mount else {
            let marked = entries.iter().find(is_marked).cloned();
            return marked
                .map(Some)
                .ok_or_else(|| none_marked(&self.storage.fstab));
        };
        let mut there = entries.iter().filter(|entry| entry.mount == *mount);
        let entry = there.clone().find(is_marked).or_else(|| there.next());
        Ok(entry.cloned())
    }

    /// Returns a warning if several entries of fstab are marked, of which only the first counts.
    pub(crate) fn extra_entries(&self) -> Option<Problem> {
        let entries = read_fstab(&self.storage).ok()?;
        let marked = entries
            .iter()
            .filter(|entry| entry.has_option_beginning(MARK));
        let lines: Vec<String> = marked.map(|entry| entry.line.to_string()).collect();
        let [first, _, ..] = &lines[..] else {
            return None;
        };
        if self.storage.mount.is_some() {
            return None; // the config file decides
        }
        let fstab = escape_path(&self.storage.fstab);
        let what = format!(
            "{fstab}: lines {} have {MARK}* options: only line {first} counts",
            lines.join(", ")
        );
        let hint = "keep them only in the storage's entry, or set storage.mount in the config file";
        Some(Problem::new(what).hint(hint))
    }

    /// Whether the storage's entry is unknown because no entry has one of our options.
    pub(crate) fn lacks_marked_entry(&self) -> bool {
        let is_marked = |entry: &Entry| entry.has_option_beginning(MARK);
        let lacks = |entries: Vec<Entry>| !entries.iter().any(is_marked);
        self.storage.mount.is_none() && read_fstab(&self.storage).is_ok_and(lacks)
    }

    /// Returns the storage's location. Reads fstab even if `storage.mount` is set, for the options of
    /// its entry.
    pub fn storage_location(&self) -> Result<StorageLocation, Problem> {
        let entry = self.fstab_entry()?;
        let storage = &self.storage;
        let sources = Sources {
            storage,
            entry: entry.as_ref(),
        };
        let mount = sources.mount()?;
        let root = sources.root(&mount)?;
        Ok(StorageLocation {
            root,
            mount,
            data: storage.data.clone(),
            user: sources.owner(storage.user.as_ref(), USER)?,
            group: sources.owner(storage.group.as_ref(), GROUP)?,
            atime_named: entry.is_some_and(|entry| entry.names_atime()),
            volatile: storage.volatile,
        })
    }
}

fn read_fstab(storage: &StorageConfig) -> Result<Vec<Entry>, Problem> {
    let hint = "fix it, or set storage.fstab in the config file to another file";
    let path = escape_path(&storage.fstab);
    let text = match fs::read(&storage.fstab) {
        Err(error) if error.kind() == ErrorKind::NotFound && storage.mount.is_some() => Vec::new(),
        text => {
            text.map_err(|error| Problem::io(format!("cannot read {path}"), &error).hint(hint))?
        }
    };
    fstab::parse(&text).map_err(|(line, fields)| {
        let expected = "at least 4 fields (device, mount point, type, options)";
        Problem::new(format!("{path}:{line}: {fields} of {expected}")).hint(hint)
    })
}

/// Explains that no entry is marked as the storage's.
fn none_marked(fstab: &Path) -> Problem {
    let fstab = escape_path(fstab);
    Problem::new(format!("{fstab}: no entry has an {MARK}* option")).hint(format!(
        "add {USER}={DEFAULT_OWNER} to the options of the storage's entry, \
         or set storage.mount in the config file"
    ))
}

/// The sources of a location. The config file has precedence over the entry.
struct Sources<'a> {
    storage: &'a StorageConfig,
    entry: Option<&'a Entry>,
}

impl Sources<'_> {
    fn mount(&self) -> Result<PathBuf, Problem> {
        let of_entry = self.entry.map(|entry| &entry.mount);
        let written = self.storage.mount.as_ref().or(of_entry);
        let written = written.map_or(Path::new(""), |mount| mount.as_path());
        let mount = absolute(written.as_os_str()).ok_or_else(|| {
            let mount = escape_path(written);
            let rule = "is not an absolute path without `..`";
            self.wrong_location(&format!("the storage's mount point '{mount}' {rule}"))
        })?;
        if mount == Path::new("/") {
            let what = "the storage must be a filesystem of its own, not `/`";
            return Err(self.wrong_location(what));
        }
        Ok(mount)
    }

    fn root(&self, mount: &Path) -> Result<PathBuf, Problem> {
        let root = match (&self.storage.root, self.option(ROOT)) {
            (Some(root), _) => root.clone(),
            (None, Some((entry, value))) => {
                let rule = "must be an absolute path without `..`";
                absolute(value).ok_or_else(|| self.wrong_option(entry, ROOT, value, rule))?
            }
            (None, None) => mount.to_owned(),
        };
        if !root.starts_with(mount) {
            let (root, mount) = (escape_path(&root), escape_path(mount));
            let what = format!("the storage root {root} is not below the mount point {mount}");
            return Err(self.wrong_location(&what));
        }
        Ok(root)
    }

    /// Returns the name in the config, else the one in the option, else the default.
    fn owner(&self, name: Option<&String>, option: &str) -> Result<String, Problem> {
        match (name, self.option(option)) {
            (Some(name), _) => Ok(name.clone()),
            (None, Some((entry, value))) => match value.to_str() {
                Some(name) => Ok(name.to_owned()),
                None => Err(self.wrong_option(entry, option, value, "must be UTF-8")),
            },
            (None, None) => Ok(DEFAULT_OWNER.to_owned()),
        }
    }

    /// Returns the value of an option of the entry, unless it is empty.
    fn option(&self, name: &str) -> Option<(&Entry, &OsStr)> {
        let entry = self.entry?;
        let value = entry.option(name).filter(|value| !value.is_empty())?;
        Some((entry, value))
    }

    fn wrong_option(&self, entry: &Entry, name: &str, value: &OsStr, rule: &str) -> Problem {
        let value = escape(value.as_bytes());
        self.in_fstab(entry, &format!("{name}={value} {rule}"))
            .hint("fix this entry")
    }

    fn wrong_location(&self, what: &str) -> Problem {
        match self.entry {
            Some(entry) if self.storage.mount.is_none() => self
                .in_fstab(entry, what)
                .hint("fix this entry, or set storage.mount and storage.root in the config file"),
            _ => Problem::new(what).hint("fix storage.mount or storage.root in the config file"),
        }
    }

    fn in_fstab(&self, entry: &Entry, what: &str) -> Problem {
        let fstab = escape_path(&self.storage.fstab);
        Problem::new(format!("{fstab}:{}: {what}", entry.line))
    }
}
