//! Paths below the data directory. Opening one never leaves the directory: the users of the storage can replace
//! directories with symlinks at any time.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, openat2};
use rustix::io::Errno;

use crate::escape::escape_path;
use crate::problem::Problem;

/// As many symlinks as the kernel follows; path_resolution(7).
const SYMLINK_LIMIT: usize = 40;

/// How often a lookup is repeated if a rename elsewhere disturbed it; openat2(2), EAGAIN.
const ATTEMPTS: usize = 100;

/// The data directory, open.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    pub directory: OwnedFd,
    pub path: PathBuf,
}

/// A name in an open directory below the data directory. No file may have it yet.
#[derive(Debug)]
pub(crate) struct Place {
    pub directory: OwnedFd,
    /// Relative to the data directory; "." is the data directory itself.
    pub directory_path: PathBuf,
    pub name: OsString,
}

impl DataDirectory {
    pub(crate) fn open(path: &Path) -> Result<DataDirectory, Problem> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(directory) => Ok(DataDirectory {
                directory,
                path: path.to_owned(),
            }),
            Err(error) => Err(cannot("open", path, error)),
        }
    }

    /// Returns the absolute path, for messages.
    pub(crate) fn full(&self, path: &Path) -> PathBuf {
        self.path.join(path).components().collect() // without "/./"
    }

    /// Returns the user's `path` relative to the data directory.
    ///
    /// # Errors
    /// It is absolute and not below the data directory, or it cannot name a file.
    pub(crate) fn relative(&self, path: &Path) -> Result<PathBuf, Problem> {
        let shown = escape_path(path);
        let data = escape_path(&self.path);
        if path.as_os_str().is_empty() {
            return Err(Problem::new("the file's name is empty"));
        }
        let relative = match path.is_absolute() {
            false => path,
            true => path.strip_prefix(&self.path).map_err(|_| {
                Problem::new(format!("{shown} is not below the data directory {data}"))
                    .hint("give a path relative to it")
            })?,
        };
        let bytes = path.as_os_str().as_bytes();
        let last = relative.components().next_back();
        let names_directory = bytes.ends_with(b"/") || bytes.ends_with(b"/.");
        if names_directory || !matches!(last, Some(Component::Normal(_))) {
            let text = format!("{shown} names a directory, not a file");
            return Err(Problem::new(text).hint("add the file's name"));
        }
        Ok(relative.to_owned())
    }

    /// Opens the directory of the file at `path`, which is relative. If the file is a symlink, follows it.
    pub(crate) fn locate(&self, path: &Path) -> Result<Place, Problem> {
        let mut path = path.to_owned();
        for _ in 0..SYMLINK_LIMIT {
            let place = self.place(&path)?;
            let target = match rustix::fs::readlinkat(&place.directory, &place.name, Vec::new()) {
                Ok(target) => PathBuf::from(OsStr::from_bytes(target.as_bytes())),
                Err(Errno::INVAL | Errno::NOENT) => return Ok(place), // no symlink; no file
                Err(error) => return Err(cannot("read", &self.full(&path), error)),
            };
            let shown = escape_path(&self.full(&path));
            if target.is_absolute() {
                let target = escape_path(&target);
                let text = format!("{shown} is a symlink to the absolute path {target}");
                return Err(
                    Problem::new(text).hint("name the file itself, or make the symlink relative")
                );
            }
            path = parent(&path).join(target);
            if !matches!(path.components().next_back(), Some(Component::Normal(_))) {
                let text = format!("{shown} is a symlink to a directory");
                return Err(Problem::new(text).hint("add the file's name"));
            }
        }
        Err(cannot("follow", &self.full(&path), Errno::LOOP))
    }

    /// Opens the directory of the file at `path`, whose last component is a name.
    pub(crate) fn place(&self, path: &Path) -> Result<Place, Problem> {
        let directory_path = parent(path).to_owned();
        let directory = self
            .open_directory(&directory_path)
            .map_err(|error| self.cannot_open(&directory_path, error))?;
        Ok(Place {
            directory,
            directory_path,
            name: path.file_name().unwrap_or_default().to_owned(),
        })
    }

    /// Opens a directory at a relative path. Follows symlinks that stay below the data directory.
    pub(crate) fn open_directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let open = || openat2(&self.directory, path, flags, Mode::empty(), resolve);
        let mut opened = open();
        for _ in 1..ATTEMPTS {
            if !matches!(opened, Err(Errno::AGAIN | Errno::INTR)) {
                break;
            }
            opened = open();
        }
        opened
    }

    /// Explains why [`DataDirectory::open_directory`] failed.
    pub(crate) fn cannot_open(&self, path: &Path, error: Errno) -> Problem {
        let full = self.full(path);
        match error {
            Errno::XDEV => {
                let (shown, data) = (escape_path(&full), escape_path(&self.path));
                let text = format!("{shown} leaves the data directory {data}");
                Problem::new(text).hint(
                    "use no absolute symlinks, no other mounts, and no `..` that leads out of it",
                )
            }
            Errno::NOENT => cannot("open", &full, error)
                .hint("create the directory first (`pst put -p` does that)"),
            error => cannot("open", &full, error),
        }
    }
}

impl Place {
    /// Returns the file's status without following a symlink; `None` if there is no file.
    pub(crate) fn status(&self) -> Result<Option<Stat>, Errno> {
        match rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => Ok(Some(status)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the directory is still the one at its path.
    pub(crate) fn is_current(&self, data: &DataDirectory) -> bool {
        let identify = |directory: &OwnedFd| {
            let status = rustix::fs::fstat(directory.as_fd()).ok()?;
            Some((status.st_dev, status.st_ino))
        };
        let now = data.open_directory(&self.directory_path).ok();
        now.and_then(|now| identify(&now)) == identify(&self.directory)
    }
}

/// Returns the kind of a file that is not a regular file, for messages.
pub(crate) fn irregular(status: &Stat) -> Option<&'static str> {
    match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some("a directory"),
        FileType::Symlink => Some("a symlink"),
        FileType::Fifo => Some("a named pipe"),
        FileType::Socket => Some("a socket"),
        _ => Some("a device"),
    }
}

/// Returns the directory of a relative path, "." if it has none.
pub(crate) fn parent(path: &Path) -> &Path {
    let parent = path.parent();
    parent
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Returns "cannot `act` `path`: reason".
pub(crate) fn cannot(act: &str, path: &Path, error: Errno) -> Problem {
    Problem::io(
        format_args!("cannot {act} {}", escape_path(path)),
        &error.into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::tests::TempDir;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn an_absolute_path_is_taken_below_the_data_directory_only() {
        let dir = TempDir::new("relative");
        let data = DataDirectory::open(&dir.0).unwrap();
        for (path, relative) in [
            (dir.0.join("a/b"), "a/b"),
            ("a".into(), "a"),
            ("./a".into(), "./a"),
        ] {
            assert_eq!(data.relative(&path), Ok(PathBuf::from(relative)));
        }
        for (path, message) in [
            ("", "the file's name is empty"),
            ("/etc/passwd", "is not below the data directory"),
            ("a/", "names a directory"),
            ("a/.", "names a directory"),
            (".", "names a directory"),
            ("..", "names a directory"),
            ("a/..", "names a directory"),
        ] {
            let problem = data.relative(Path::new(path)).unwrap_err();
            assert!(problem.what.contains(message), "{path}: {problem}");
        }
        let itself = data.relative(&dir.0).unwrap_err();
        assert!(itself.what.contains("names a directory"), "{itself}");
    }

    #[test]
    fn only_relative_symlinks_that_stay_below_are_followed() {
        let dir = TempDir::new("locate");
        let data = DataDirectory::open(&dir.0).unwrap();
        fs::create_dir(dir.0.join("sub")).unwrap();
        symlink("../target", dir.0.join("sub/link")).unwrap();
        symlink("sub", dir.0.join("to-sub")).unwrap();
        for path in ["sub/link", "to-sub/link", "target", "sub/../target"] {
            let place = data.locate(Path::new(path)).unwrap();
            assert_eq!(place.name, "target", "{path}");
            let same = rustix::fs::fstat(&place.directory).unwrap().st_ino;
            assert_eq!(same, rustix::fs::fstat(&data.directory).unwrap().st_ino);
            assert!(place.is_current(&data));
        }
        symlink("/etc/passwd", dir.0.join("absolute")).unwrap();
        symlink("../outside", dir.0.join("out")).unwrap();
        symlink("/etc", dir.0.join("etc")).unwrap();
        symlink("loop", dir.0.join("loop")).unwrap();
        symlink("..", dir.0.join("up")).unwrap();
        for (path, message) in [
            ("absolute", "is a symlink to the absolute path /etc/passwd"),
            ("out", "leaves the data directory"),
            ("../x", "leaves the data directory"),
            ("etc/passwd", "leaves the data directory"),
            ("up/x", "leaves the data directory"),
            ("up", "is a symlink to a directory"),
            ("loop", "cannot follow"),
            (
                "none/x",
                "no such file or directory; create the directory first",
            ),
        ] {
            let problem = data.locate(Path::new(path)).unwrap_err();
            assert!(problem.to_string().contains(message), "{path}: {problem}");
        }
    }
}
