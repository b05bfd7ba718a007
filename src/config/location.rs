//! Where the storage is: config, fstab and defaults, decided. Looks at no mount.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Config;
use super::tables::absolute;
use crate::escape::escape;
use crate::fstab::{self, Entry, FstabError};

/// An fstab entry with such an option is the storage's.
const MARK: &str = "X-kvmd.pst-";
const ROOT: &str = "X-kvmd.pst-root";
const USER: &str = "X-kvmd.pst-user";
const GROUP: &str = "X-kvmd.pst-group";

/// Owner and group where nothing names others.
const DEFAULT_OWNER: &str = "kvmd-pst";

/// Where the storage is and to whom it belongs: config, fstab and defaults, decided.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageLocation {
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

/// Why it cannot be said where the storage is.
#[derive(Debug)]
pub enum LocationError {
    /// fstab cannot be read, or not be understood.
    Fstab(FstabError),
    /// No entry of this fstab has an `X-kvmd.pst-*` option.
    NoEntry(PathBuf),
    /// Several entries of this fstab have one: their lines.
    SeveralEntries(PathBuf, Vec<usize>),
    /// The storage's entry in this fstab, in this line, cannot be the storage.
    Entry(PathBuf, usize, Fault),
    /// The config file alone says what cannot be the storage.
    Config(Fault),
}

/// What cannot be the storage.
#[derive(Debug)]
pub enum Fault {
    /// The mount point is no absolute path without `..`.
    Mount(PathBuf),
    /// The root filesystem would be switched.
    RootFilesystem,
    /// The value of this option is no absolute path without `..`, or no UTF-8.
    Option(&'static str, OsString),
    /// The storage root is not the mount point or below it.
    Outside { root: PathBuf, mount: PathBuf },
}

impl fmt::Display for LocationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fstab(error) => write!(
                f,
                "{error}; mend it, or set storage.fstab in the config file to another file"
            ),
            Self::NoEntry(fstab) => write!(
                f,
                "{}: no entry has an {MARK}* option; add {USER}={DEFAULT_OWNER} to the options of the storage's entry, or set storage.mount in the config file",
                escape(fstab.as_os_str().as_bytes())
            ),
            Self::SeveralEntries(fstab, lines) => {
                let lines: Vec<String> = lines.iter().map(usize::to_string).collect();
                write!(
                    f,
                    "{}: lines {} have {MARK}* options; only one entry may be the storage's: remove them from the others, or set storage.mount in the config file",
                    escape(fstab.as_os_str().as_bytes()),
                    lines.join(", ")
                )
            }
            Self::Entry(fstab, line, fault) => {
                write!(
                    f,
                    "{}:{line}: {fault}; mend this entry",
                    escape(fstab.as_os_str().as_bytes())
                )?;
                match fault {
                    Fault::Option(..) => Ok(()),
                    _ => f.write_str(", or set storage.mount and storage.root in the config file"),
                }
            }
            Self::Config(fault) => {
                write!(
                    f,
                    "{fault}; mend storage.mount or storage.root in the config file"
                )
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount(path) => write!(
                f,
                "the storage's mount point '{}' is no absolute path without `..`",
                escape(path.as_os_str().as_bytes())
            ),
            Self::RootFilesystem => {
                f.write_str("the storage must be a filesystem of its own, not `/`")
            }
            Self::Option(name, value) => {
                write!(f, "{name}={} makes no sense", escape(value.as_bytes()))
            }
            Self::Outside { root, mount } => write!(
                f,
                "the storage root {} is not below the mount point {}",
                escape(root.as_os_str().as_bytes()),
                escape(mount.as_os_str().as_bytes())
            ),
        }
    }
}

impl std::error::Error for LocationError {}

impl Config {
    /// The storage's entry in fstab. Only where `storage.mount` is set may the file or the entry be
    /// missing.
    pub fn entry(&self) -> Result<Option<Entry>, LocationError> {
        let storage = &self.storage;
        let entries = match fstab::read(&storage.fstab) {
            Err(error) if error.is_missing() && storage.mount.is_some() => Vec::new(),
            answer => answer.map_err(LocationError::Fstab)?,
        };
        Ok(match &storage.mount {
            Some(mount) => entry_at(&entries, mount).cloned(),
            None => Some(the_marked(&entries, &storage.fstab)?.clone()),
        })
    }

    /// Where the storage is and whose. Reads fstab: also where `storage.mount` is set, for the
    /// other things that its entry says.
    pub fn place(&self) -> Result<StorageLocation, LocationError> {
        let storage = &self.storage;
        let entry = self.entry()?;
        decide(self, entry.as_ref()).map_err(|fault| match &entry {
            Some(entry) if storage.mount.is_none() || matches!(fault, Fault::Option(..)) => {
                LocationError::Entry(storage.fstab.clone(), entry.line, fault)
            }
            _ => LocationError::Config(fault),
        })
    }
}

/// The entry of a mount point, one with an option of ours first.
fn entry_at<'a>(entries: &'a [Entry], mount: &Path) -> Option<&'a Entry> {
    let mut there = entries.iter().filter(|entry| entry.mount == mount);
    let marked = there.clone().find(|entry| entry.has_option_beginning(MARK));
    marked.or_else(|| there.next())
}

/// The one entry with an option of ours.
fn the_marked<'a>(entries: &'a [Entry], fstab: &Path) -> Result<&'a Entry, LocationError> {
    let marked: Vec<&Entry> = entries
        .iter()
        .filter(|entry| entry.has_option_beginning(MARK))
        .collect();
    match marked[..] {
        [] => Err(LocationError::NoEntry(fstab.to_owned())),
        [entry] => Ok(entry),
        _ => {
            let lines = marked.iter().map(|entry| entry.line).collect();
            Err(LocationError::SeveralEntries(fstab.to_owned(), lines))
        }
    }
}

fn decide(config: &Config, entry: Option<&Entry>) -> Result<StorageLocation, Fault> {
    let storage = &config.storage;
    let written = match (&storage.mount, entry) {
        (Some(mount), _) => mount.as_path(),
        (None, Some(entry)) => entry.mount.as_path(),
        (None, None) => Path::new(""),
    };
    let mount = absolute(written.as_os_str()).map_err(|_| Fault::Mount(written.to_owned()))?;
    if mount == Path::new("/") {
        return Err(Fault::RootFilesystem);
    }
    let root = match (&storage.root, value(entry, ROOT)) {
        (Some(root), _) => root.clone(),
        (None, Some(root)) => absolute(root).map_err(|_| Fault::Option(ROOT, root.to_owned()))?,
        (None, None) => mount.clone(),
    };
    if !root.starts_with(&mount) {
        return Err(Fault::Outside { root, mount });
    }
    Ok(StorageLocation {
        mount,
        root,
        data: storage.data.clone(),
        user: owner(storage.user.as_ref(), entry, USER)?,
        group: owner(storage.group.as_ref(), entry, GROUP)?,
        atime_named: entry.is_some_and(Entry::names_atime),
        volatile: storage.volatile,
    })
}

/// The config's name, else the option's, else the default.
fn owner(
    name: Option<&String>,
    entry: Option<&Entry>,
    option: &'static str,
) -> Result<String, Fault> {
    match (name, value(entry, option)) {
        (Some(name), _) => Ok(name.clone()),
        (None, Some(name)) => match name.to_str() {
            Some(name) => Ok(name.to_owned()),
            None => Err(Fault::Option(option, name.to_owned())),
        },
        (None, None) => Ok(DEFAULT_OWNER.to_owned()),
    }
}

/// An option's value; one without or with an empty value says nothing.
fn value<'a>(entry: Option<&'a Entry>, option: &str) -> Option<&'a OsStr> {
    let value = entry?.option(option)?;
    (!value.is_empty()).then_some(value)
}
