//! Lists a directory tree: what it needs on the storage, and the identity of each entry, so that a later list shows
//! whether the tree has changed. Follows no symlink and crosses no mount.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat2, statat};
use rustix::io::Errno;

use crate::escape::escape_path;
use crate::problem::Problem;

/// Changes with each change to an entry.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    kind: u32,
    inode: u64,
    ctime: (i64, u64),
}

/// A tree at one moment. Empty if it does not exist.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// In the order of their paths, which are relative to the data directory. The first is the tree's root.
    entries: Vec<(PathBuf, Version)>,
    /// The bytes that a copy needs.
    pub bytes: u64,
    /// The inodes that a copy needs.
    pub inodes: u64,
}

impl Tree {
    /// Lists the tree `name` in `parent`, which the messages call `path`.
    pub(super) fn list(parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<Tree, Problem> {
        let mut lister = Lister::default();
        match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(lister.tree),
            Err(error) => return Err(failed("read", path, error)),
            Ok(stat) if is_directory(&stat) => lister.device = stat.st_dev as _,
            Ok(_) => {
                let what = format!("{} is not a directory", escape_path(path));
                return Err(Problem::new(what).hint("--atomic takes a directory"));
            }
        }
        lister.visit(parent, name, path)?;
        lister.check_links()?;
        Ok(lister.tree)
    }

    pub(super) fn exists(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Returns an entry that has changed since `before`.
    pub(super) fn first_difference<'a>(&'a self, before: &'a Tree) -> Option<&'a Path> {
        let pairs = self.entries.iter().zip(&before.entries);
        let same = pairs.take_while(|(now, then)| now == then).count();
        let differing = self.entries.get(same).or(before.entries.get(same));
        differing.map(|(path, _)| path.as_path())
    }

    /// Makes the root's version that of `other`, because renaming a directory changes its ctime.
    pub(super) fn ignore_rename(&mut self, other: &Tree) {
        if let (Some((_, version)), Some((_, others))) =
            (self.entries.first_mut(), other.entries.first())
        {
            version.ctime = others.ctime;
        }
    }
}

#[derive(Default)]
struct Lister {
    tree: Tree,
    device: u64,
    /// For each inode with hard links: one of its names, the links found, and all its links.
    links: HashMap<u64, (PathBuf, u64, u64)>,
}

impl Lister {
    fn visit(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<(), Problem> {
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed("read", path, error))?;
        if stat.st_dev != self.device {
            return Err(failed("copy", path, Errno::XDEV));
        }
        let version = Version {
            kind: stat.st_mode & libc::S_IFMT,
            inode: stat.st_ino as _,
            ctime: (stat.st_ctime as _, stat.st_ctime_nsec as _),
        };
        self.tree.entries.push((path.to_owned(), version));
        if is_directory(&stat) || self.is_first_link(&stat, path) {
            self.tree.inodes += 1;
            self.tree.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
        if is_directory(&stat) {
            let directory = open(parent, name, OFlags::DIRECTORY)
                .map_err(|error| failed("read", path, error))?;
            for name in names(&directory).map_err(|error| failed("read", path, error))? {
                self.visit(directory.as_fd(), &name, &path.join(&name))?;
            }
        }
        Ok(())
    }

    fn is_first_link(&mut self, stat: &Stat, path: &Path) -> bool {
        let all: u64 = stat.st_nlink as _;
        if all <= 1 {
            return true;
        }
        let link = self.links.entry(stat.st_ino);
        let (_, found, _) = link.or_insert_with(|| (path.to_owned(), 0, all));
        *found += 1;
        *found == 1
    }

    /// # Errors
    /// A file also has a name outside the tree, which a copy would cut off.
    fn check_links(&self) -> Result<(), Problem> {
        let outside = self.links.values().find(|(_, found, all)| found != all);
        let Some((path, found, all)) = outside else {
            return Ok(());
        };
        let path = escape_path(path);
        let what = format!("{path} has {all} hard links, only {found} of them in the directory");
        Err(Problem::new(what).hint(format!("a copy cannot keep that: `cp -p` {path} first")))
    }
}

/// Opens an entry, for reading or as O_PATH. Follows no symlink, leaves no mount, and does not wait at a FIFO.
pub(super) fn open(parent: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if !flags.contains(OFlags::PATH) {
        flags |= OFlags::NONBLOCK | OFlags::NOCTTY;
    }
    let resolve = ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::BENEATH
        | ResolveFlags::NO_XDEV;
    openat2(parent, name, flags, Mode::empty(), resolve)
}

/// Returns the names in a directory, in order.
pub(super) fn names(directory: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort();
    Ok(names)
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Returns "cannot `verb` `path`: reason", with a hint where it helps.
pub(super) fn failed(verb: &str, path: &Path, error: Errno) -> Problem {
    let path = escape_path(path);
    let problem = Problem::io(format!("cannot {verb} {path}"), &error.into());
    match error {
        Errno::XDEV => problem.hint("something is mounted there; unmount it first"),
        Errno::LOOP => problem.hint("it is a symbolic link; name the directory that it leads to"),
        Errno::PERM | Errno::ACCESS => problem.hint(format!(
            "run it as root or as the owner; see `ls -ld {path}`"
        )),
        _ => problem,
    }
}
