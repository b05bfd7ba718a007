//! The process that stores a file, in the place of a session's command: the new file gets its name when it is complete
//! and on stable storage.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path};
use std::process::ExitCode;

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown, flock, fstat,
    fsync, linkat, openat, renameat, unlinkat,
};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::attributes;
use super::input::Input;
use super::path::{DataDirectory, Place, cannot, irregular, parent};
use crate::escape::escape_path;
use crate::problem::Problem;
use crate::storage::remains;
use crate::sys::signal::{self, Signals};
use crate::sys::user;

/// The first argument of such a process; `pst help` does not show it.
pub(crate) const WORD: &str = ".store";

const BLOCK: usize = 1 << 20;

/// What FILE must still be, so that no other change is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Any,
    Absent,
    Unchanged(Version),
}

/// Changes with each change to a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: u64,
}

impl Version {
    pub(crate) fn of(status: &Stat) -> Version {
        Version {
            inode: status.st_ino as _,
            size: status.st_size as _,
            seconds: status.st_ctime as _,
            nanoseconds: status.st_ctime_nsec as _,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StoreOptions {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub parents: bool,
    pub expected: Expected,
    pub file: OsString,
}

impl StoreOptions {
    /// Returns the command that stores `input`.
    pub(super) fn command(&self, input: &Input) -> Vec<OsString> {
        let number = |value: Option<u32>| value.map_or_else(String::new, |value| value.to_string());
        let expected = match self.expected {
            Expected::Any => String::new(),
            Expected::Absent => "absent".into(),
            Expected::Unchanged(version) => format!(
                "{} {} {} {}",
                version.inode, version.size, version.seconds, version.nanoseconds
            ),
        };
        let words = [
            "/proc/self/exe".into(),
            WORD.into(),
            input.file.as_raw_fd().to_string(),
            input.size.to_string(),
            number(self.mode),
            number(self.uid),
            number(self.gid),
            u8::from(self.parents).to_string(),
            expected,
        ];
        words
            .into_iter()
            .map(OsString::from)
            .chain([self.file.clone()])
            .collect()
    }

    /// Parses the words after [`WORD`]: the input's descriptor and size, and the options.
    fn parse(words: impl Iterator<Item = OsString>) -> Option<(u32, u64, StoreOptions)> {
        let words: Vec<OsString> = words.collect();
        let [fd, size, mode, uid, gid, parents, expected, file] = words.as_slice() else {
            return None;
        };
        let number = |word: &OsString| match word.to_str()? {
            "" => Some(None),
            digits => digits.parse::<u32>().ok().map(Some),
        };
        let numbers = expected.to_str()?.split(' ').map(str::parse::<i64>);
        let numbers: Result<Vec<i64>, _> = numbers.collect();
        let expected = match (expected.to_str()?, numbers.as_deref()) {
            ("", _) => Expected::Any,
            ("absent", _) => Expected::Absent,
            (_, Ok(&[inode, size, seconds, nanoseconds])) => Expected::Unchanged(Version {
                inode: inode as u64,
                size: size as u64,
                seconds,
                nanoseconds: nanoseconds as u64,
            }),
            _ => return None,
        };
        let options = StoreOptions {
            mode: number(mode)?,
            uid: number(uid)?,
            gid: number(gid)?,
            parents: parents == "1",
            expected,
            file: file.clone(),
        };
        Some((
            fd.to_str()?.parse().ok()?,
            size.to_str()?.parse().ok()?,
            options,
        ))
    }
}

/// Stores the file in the data directory that KVMD_PST_DATA names. The signals that would end a program are blocked, so
/// that nothing temporary stays; they are read between two blocks of content.
pub(crate) fn main(words: impl Iterator<Item = OsString>) -> Result<ExitCode, Problem> {
    let (Some((fd, size, options)), Some(data)) =
        (StoreOptions::parse(words), env::var_os("KVMD_PST_DATA"))
    else {
        return Err(Problem::new(format!("'{WORD}' is started by pst itself")));
    };
    let _ = rustix::thread::set_name(c"pst"); // it was executed as /proc/self/exe
    let content = File::open(format!("/proc/self/fd/{fd}"))
        .map_err(|error| Problem::io("cannot open the input again", &error))?;
    let data = DataDirectory::open(Path::new(&data))?;
    let path = data.relative(Path::new(&options.file))?;
    remains::remove_all(data.directory.as_fd());
    let mut made = MadeDirectories::default();
    if options.parents {
        made.make(&data, parent(&path))?;
    }
    let place = data.locate(&path)?;
    let shown = data.full(&place.directory_path).join(&place.name);
    remains::remove_files(place.directory.as_fd());
    let storing = Storing {
        options: &options,
        data: &data,
        place: &place,
        path: &shown,
    };
    storing.store(content, size)?;
    made.keep();
    Ok(ExitCode::SUCCESS)
}

/// Directories that `-p` made. Removed when dropped, unless the file was stored.
#[derive(Default)]
struct MadeDirectories(Vec<(OwnedFd, OsString)>);

impl MadeDirectories {
    /// Makes a directory and those above it, as far as they are missing.
    fn make(&mut self, data: &DataDirectory, path: &Path) -> Result<(), Problem> {
        if !matches!(data.open_directory(path), Err(Errno::NOENT)) || path == Path::new(".") {
            return Ok(()); // `locate` returns another error
        }
        self.make(data, parent(path))?;
        if !matches!(path.components().next_back(), Some(Component::Normal(_))) {
            return Ok(());
        }
        let place = data.place(path)?;
        let full = data.full(path);
        let all = Mode::RWXU | Mode::RWXG | Mode::RWXO; // less the umask
        match rustix::fs::mkdirat(&place.directory, &place.name, all) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(()),
            Err(error) => {
                let problem = cannot("make the directory", &full, error);
                return Err(match error {
                    Errno::NOSPC => problem.hint("see `df` and `df -i`, and delete something"),
                    _ => problem,
                });
            }
        }
        let synced = fsync(&place.directory);
        self.0.push((place.directory, place.name));
        synced.map_err(|error| cannot("sync the directory of", &full, error))
    }

    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for MadeDirectories {
    fn drop(&mut self) {
        while let Some((directory, name)) = self.0.pop() {
            // Fails if another process has put a file there.
            let _ = unlinkat(directory, name, AtFlags::REMOVEDIR);
        }
    }
}

struct Storing<'a> {
    options: &'a StoreOptions,
    data: &'a DataDirectory,
    place: &'a Place,
    /// For messages.
    path: &'a Path,
}

impl Storing<'_> {
    fn store(&self, content: File, size: u64) -> Result<(), Problem> {
        let old = self.status()?;
        self.check(old.as_ref())?;
        let directory = &self.place.directory;
        // Without a name, so that nobody else can open it; open(2).
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file: File = openat(directory, ".", flags, Mode::from_raw_mode(0o666))
            .map_err(|error| self.cannot_create(error))?
            .into();
        self.set_attributes(&file, old.as_ref())?;
        self.copy(content, &file, size)?;
        if let Some(mode) = self.options.mode {
            self.set_mode(&file, mode)?; // writing has cleared the set-id bits
        }
        fsync(&file).map_err(|error| self.cannot("sync", error))?;
        if !self.place.is_current(self.data) {
            let directory = escape_path(&self.data.full(&self.place.directory_path));
            return Err(Problem::new(format!(
                "{directory} was replaced meanwhile, so nothing is stored"
            )));
        }
        self.check(self.status()?.as_ref())?;
        self.put_in_place(&file).map_err(|error| match error {
            Errno::EXIST => self.changed(),
            Errno::PERM | Errno::ACCESS => self.cannot_replace(),
            error => self.cannot("replace", error),
        })?;
        fsync(directory).map_err(|error| {
            let text = format!(
                "{} has its new content, but it may not be on stable storage",
                escape_path(self.path)
            );
            Problem::io(text, &error.into())
        })
    }

    fn status(&self) -> Result<Option<Stat>, Problem> {
        self.place
            .status()
            .map_err(|error| self.cannot("read the status of", error))
    }

    /// Checks that the old file may be replaced.
    fn check(&self, old: Option<&Stat>) -> Result<(), Problem> {
        let is_expected = match (self.options.expected, old) {
            (Expected::Any, _) | (Expected::Absent, None) => true,
            (Expected::Unchanged(version), Some(old)) => version == Version::of(old),
            _ => false,
        };
        if !is_expected {
            return Err(self.changed());
        }
        let Some(old) = old else {
            return Ok(());
        };
        if let Some(kind) = irregular(old) {
            return Err(Problem::new(format!(
                "{} is {kind}, not a file",
                escape_path(self.path)
            )));
        }
        match self.sticky_refusal(old) {
            Some(problem) => Err(problem),
            None => Ok(()),
        }
    }

    /// Returns why the directory's sticky bit forbids this user to replace the old file, if it does; unlink(2).
    fn sticky_refusal(&self, old: &Stat) -> Option<Problem> {
        let directory = fstat(&self.place.directory).ok()?;
        let user = rustix::process::geteuid().as_raw();
        let is_sticky = directory.st_mode & libc::S_ISVTX != 0;
        if !is_sticky || [directory.st_uid, old.st_uid].contains(&user) {
            return None;
        }
        let capabilities = rustix::thread::capabilities(None);
        if capabilities.is_ok_and(|sets| sets.effective.contains(CapabilitySet::FOWNER)) {
            return None;
        }
        let owner = user::user_name(old.st_uid);
        let text = format!(
            "{} belongs to user {owner}, and its directory is sticky: only its owner, the \
             directory's owner and root may replace it",
            escape_path(self.path)
        );
        Some(Problem::new(text).hint("run this command as one of them"))
    }

    /// Sets the owner, the extended attributes with the ACLs, and the mode, before there is any content.
    fn set_attributes(&self, file: &File, old: Option<&Stat>) -> Result<(), Problem> {
        let new = fstat(file).map_err(|error| self.cannot("read the status of", error))?;
        let uid = self.options.uid.or(old.map(|old| old.st_uid));
        let gid = self.options.gid.or(old.map(|old| old.st_gid));
        let uid = uid.filter(|uid| *uid != new.st_uid);
        let gid = gid.filter(|gid| *gid != new.st_gid);
        if uid.is_some() || gid.is_some() {
            fchown(file, uid.map(Uid::from_raw), gid.map(Gid::from_raw))
                .map_err(|error| self.cannot_own(uid, gid, error))?;
        }
        if old.is_some() {
            attributes::copy(self.place, file, self.path)?;
        }
        let mode = self.options.mode.or(old.map(|old| old.st_mode & 0o7777));
        mode.map_or(Ok(()), |mode| self.set_mode(file, mode))
    }

    fn set_mode(&self, file: &File, mode: u32) -> Result<(), Problem> {
        fchmod(file, Mode::from_raw_mode(mode))
            .map_err(|error| self.cannot("set the mode of", error))
    }

    /// Gives the complete file its name. It has another name for a moment, because linkat(2) replaces nothing.
    fn put_in_place(&self, file: &File) -> Result<(), Errno> {
        let directory = &self.place.directory;
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        let link = |name| linkat(CWD, &source, directory, name, AtFlags::SYMLINK_FOLLOW);
        if self.options.expected == Expected::Absent {
            return link(&self.place.name);
        }
        // Another transaction does not remove a file that is locked.
        flock(file, FlockOperation::NonBlockingLockExclusive)?;
        let temporary = remains::new_name();
        link(&temporary)?;
        let renamed = renameat(directory, &temporary, directory, &self.place.name);
        if renamed.is_err() {
            // Fails on a lost storage; then the next transaction removes it.
            let _ = unlinkat(directory, &temporary, AtFlags::empty());
        }
        renamed
    }

    fn copy(&self, mut content: File, mut file: &File, size: u64) -> Result<(), Problem> {
        let signals = Signals::new(signal::handled())
            .map_err(|error| Problem::io("cannot read signals", &error))?;
        let mut buffer = vec![0; BLOCK.min(usize::try_from(size).unwrap_or(BLOCK)) + 1];
        let mut copied = 0;
        loop {
            if let Some(received) = signals
                .next()
                .filter(|received| received.signal != libc::SIGWINCH)
            {
                let name = signal::name(received.signal);
                return Err(Problem::new(format!(
                    "interrupted by {name}, so {} is unchanged",
                    escape_path(self.path)
                )));
            }
            let count = match content.read(&mut buffer) {
                Ok(0) if copied == size => return Ok(()),
                Ok(0) => return Err(Problem::new("the input was truncated")),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Problem::io("cannot read the input again", &error)),
            };
            file.write_all(&buffer[..count])
                .map_err(|error| self.cannot_write(&error))?;
            copied += count as u64;
        }
    }

    fn cannot(&self, act: &str, error: Errno) -> Problem {
        cannot(act, self.path, error)
    }

    fn cannot_write(&self, error: &io::Error) -> Problem {
        let problem = Problem::io(
            format_args!("cannot write {}", escape_path(self.path)),
            error,
        );
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => problem.hint(
                "the old content is unchanged; see `df -h` and `quota`, and delete something",
            ),
            _ => problem,
        }
    }

    fn cannot_create(&self, error: Errno) -> Problem {
        let directory = self.data.full(&self.place.directory_path);
        let problem = cannot("create a file in", &directory, error);
        match error {
            Errno::ACCESS => problem.hint(format!(
                "see its permissions with `ls -ld {}`",
                escape_path(&directory)
            )),
            Errno::NOSPC => problem.hint("see `df -i`, and delete something"),
            _ => problem,
        }
    }

    fn cannot_own(&self, uid: Option<u32>, gid: Option<u32>, error: Errno) -> Problem {
        let uid = uid.map(|uid| format!("user {}", user::user_name(uid)));
        let gid = gid.map(|gid| format!("group {}", user::group_name(gid)));
        let owner: Vec<String> = uid.into_iter().chain(gid).collect();
        let text = format!(
            "cannot give {} to {}",
            escape_path(self.path),
            owner.join(" and ")
        );
        let problem = Problem::io(text, &error.into());
        match error {
            Errno::PERM => {
                problem.hint("only root may, or a member of that group for the group alone")
            }
            _ => problem,
        }
    }

    fn cannot_replace(&self) -> Problem {
        let text = format!(
            "cannot replace {}: operation not permitted",
            escape_path(self.path)
        );
        Problem::new(text).hint("see `lsattr -d` for it and its directory, and their owners")
    }

    fn changed(&self) -> Problem {
        Problem::new(format!(
            "{} was changed meanwhile, so nothing is stored",
            escape_path(self.path)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_reach_the_process_that_stores() {
        let version = Version {
            inode: 1,
            size: 2,
            seconds: -3,
            nanoseconds: 4,
        };
        for expected in [
            Expected::Any,
            Expected::Absent,
            Expected::Unchanged(version),
        ] {
            for id in [None, Some(0), Some(u32::MAX - 1)] {
                let input = Input {
                    file: File::open("/dev/null").unwrap(),
                    size: 7,
                };
                let options = StoreOptions {
                    mode: id.map(|_| 0o600),
                    uid: id,
                    gid: id,
                    parents: id.is_some(),
                    expected,
                    file: "-a b".into(),
                };
                let words = options.command(&input);
                assert_eq!(words[1], WORD);
                let fd = input.file.as_raw_fd() as u32;
                let parsed = StoreOptions::parse(words.into_iter().skip(2));
                assert_eq!(parsed, Some((fd, 7, options)));
            }
        }
    }
}
