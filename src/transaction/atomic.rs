//! `pst run --atomic`: the command works on a copy of a directory, and the copy replaces the directory if the command
//! returns 0.
//!
//! The session's command is this program again: it makes the copy in a working area in the data directory, starts the
//! caller's command, and swaps the copy in, or removes the working area.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, thread};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{
    Access, AtFlags, Mode, OFlags, RenameFlags, accessat, fchmod, fstat, fstatvfs, fsync, mkdirat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Pid, geteuid, getppid};
use rustix::time::{ClockId, clock_gettime};

use super::copy::{Copier, keep_access};
use super::lock;
use super::tree::{Tree, failed, is_directory, names, open};
use crate::escape::{escape, escape_path};
use crate::problem::{Problem, reason};
use crate::run::{self, RunOptions, output};
use crate::storage::remains;
use crate::sys::signal::{self, Received, Signals};
use crate::sys::{file, poll, process};
use crate::units::HumanBytes;

/// The first argument of the session's command; `pst help` does not show it.
pub(crate) const WORD: &str = ".atomic";

/// The working area's permissions, for the caller alone …
const PRIVATE: u32 = 0o700;
/// … and while the command runs, which may change its user. The copy has its own permissions.
const PASSABLE: u32 = 0o711;

/// Runs a session whose command is this program, which runs `options.command` on a copy of `directory`.
pub(crate) fn main(mut options: RunOptions, directory: OsString) -> ExitCode {
    signal::restore_mask(); // another transaction may take long
    let held = lock::hold_early(&options.socket, options.quiet);
    signal::block_handled();
    let held = match held {
        Ok(held) => held,
        Err(problem) => {
            output::error(problem);
            return ExitCode::FAILURE;
        }
    };
    let lock = lock::inode(held.as_ref()).to_string();
    let mut command: Vec<OsString> = vec!["/proc/self/exe".into(), WORD.into(), lock.into()];
    command.extend([options.need.to_string().into(), directory]);
    options.shown_command = Some(options.command.join(OsStr::new(" ")));
    command.append(&mut options.command);
    options.command = command;
    run::main(options)
}

/// What the session's command does.
struct AtomicOptions {
    /// The inode of the lock that `pst run` holds, or 0.
    lock: u64,
    /// The bytes that must be free besides the copy.
    need: u64,
    directory: PathBuf,
    /// Never empty.
    command: Vec<OsString>,
}

impl AtomicOptions {
    fn parse(mut words: impl Iterator<Item = OsString>) -> Option<AtomicOptions> {
        let mut number = || words.next()?.to_str()?.parse().ok();
        let (lock, need) = (number()?, number()?);
        let directory = words.next()?.into();
        let command: Vec<OsString> = words.collect();
        (!command.is_empty()).then_some(AtomicOptions {
            lock,
            need,
            directory,
            command,
        })
    }
}

/// Runs the transaction. Returns the command's exit code, or 1 if the copy is not in place for another reason.
pub(crate) fn run_in_session(words: impl Iterator<Item = OsString>) -> Result<ExitCode, Problem> {
    let (Some(options), Some(data)) = (AtomicOptions::parse(words), env::var_os("KVMD_PST_DATA"))
    else {
        return Err(Problem::new(format!("'{WORD}' is started by pst itself")));
    };
    // It was executed as /proc/self/exe. Not "pst": `killall pst` is for `pst run` alone, which forwards the signal.
    let _ = rustix::thread::set_name(c"atomic");
    let code = transact(&options, Path::new(&data)).unwrap_or_else(|problem| {
        output::error(problem);
        1
    });
    Ok(code.into())
}

fn transact(options: &AtomicOptions, data_path: &Path) -> Result<u8, Problem> {
    let directory = relative_directory(&options.directory, data_path)?;
    let data = file::open_directory(data_path)
        .map_err(|error| Problem::io(format!("cannot open {}", escape_path(data_path)), &error))?;
    signal::restore_mask(); // nothing is changed yet
    let _lock = lock::hold(data.as_fd(), options.lock)?;
    signal::block_handled();
    let signals = Signals::new(signal::handled().chain([libc::SIGCHLD]))
        .map_err(|error| Problem::io("cannot read signals", &error))?;
    remains::remove_all(data.as_fd());
    let transaction = Transaction {
        data,
        directory,
        signals,
    };
    let above = transaction.open_above()?;
    let parent = above.last().unwrap_or(&transaction.data).as_fd();
    let name = transaction.name();
    transaction.check_rights(parent, name)?;
    let before = Tree::list(parent, name, &transaction.directory)?;
    transaction.check_space(&before, options.need)?;
    await_next_tick();
    let mut area = Area::create(&transaction.data)?;
    transaction.copy(&area, &above, before.exists())?;
    let code = transaction.run_command(&options.command, &area, data_path)?;
    if code == 0 {
        transaction.swap(&mut area, &before)?;
    }
    Ok(code)
}

/// Returns `directory`, which is relative to the data directory or absolute, relative to the data directory.
fn relative_directory(directory: &Path, data: &Path) -> Result<PathBuf, Problem> {
    let relative = directory.strip_prefix(data).unwrap_or(directory);
    let mut words = PathBuf::new();
    for component in relative.components() {
        match component {
            Component::Normal(word) => words.push(word),
            Component::CurDir => {}
            _ => {
                let shown = escape_path(directory);
                let text = format!(
                    "{shown} is not below the data directory {}",
                    escape_path(data)
                );
                return Err(Problem::new(text).hint("name a directory below it, without `..`"));
            }
        }
    }
    if words.as_os_str().is_empty() {
        let text = format!(
            "cannot replace the data directory {} itself",
            escape_path(data)
        );
        return Err(Problem::new(text).hint("name a directory below it"));
    }
    Ok(words)
}

/// The directory that the command changes.
struct Transaction {
    data: OwnedFd,
    /// Relative to the data directory, with only normal components.
    directory: PathBuf,
    signals: Signals,
}

impl Transaction {
    /// Opens the directories above the one to replace, from the outermost one. Empty if that is the data directory.
    fn open_above(&self) -> Result<Vec<OwnedFd>, Problem> {
        let mut opened: Vec<OwnedFd> = Vec::new();
        let mut path = PathBuf::new();
        for name in self.directory.parent().into_iter().flatten() {
            path.push(name);
            let parent = opened.last().unwrap_or(&self.data).as_fd();
            let directory = open(parent, name, OFlags::PATH | OFlags::DIRECTORY);
            opened.push(directory.map_err(|error| failed("open", &path, error))?);
        }
        Ok(opened)
    }

    /// Opens the directory that contains the one to replace, below `root`. Returns the latter's name, too.
    fn open_parent(&self, root: BorrowedFd<'_>) -> Result<(OwnedFd, OsString), Problem> {
        let above = self.above();
        let parent = open(root, above.as_os_str(), OFlags::DIRECTORY)
            .map_err(|error| failed("open", above, error))?;
        Ok((parent, self.name().to_owned()))
    }

    fn name(&self) -> &OsStr {
        self.directory.file_name().unwrap_or_default()
    }

    fn above(&self) -> &Path {
        super::path::parent(&self.directory)
    }

    /// Checks that the caller may replace the directory. The copy shows whether the caller may keep its owners.
    fn check_rights(&self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Problem> {
        let may_write = |name: &OsStr| accessat(parent, name, Access::WRITE_OK, AtFlags::EACCESS);
        may_write(OsStr::new(".")).map_err(|error| failed("write to", self.above(), error))?;
        match may_write(name) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("write to", &self.directory, error)),
        }
    }

    fn check_space(&self, tree: &Tree, need: u64) -> Result<(), Problem> {
        let space = fstatvfs(&self.data).map_err(|error| failed("inspect", self.above(), error))?;
        let blocks = match geteuid().is_root() {
            true => space.f_bfree,
            false => space.f_bavail,
        };
        // The working area, and the directories above the copy.
        let more = self.directory.components().count() as u64;
        let needed = (tree.bytes + more * space.f_frsize).saturating_add(need);
        let free = blocks.saturating_mul(space.f_frsize);
        let directory = escape_path(&self.directory);
        if free < needed {
            return Err(Problem::new(format!(
                "PST write is denied: a copy of {directory} needs {needed} bytes ({}), {free} bytes ({}) are free",
                HumanBytes(needed),
                HumanBytes(free)
            ))
            .hint("see `pst status`, and delete what is not needed there (`pst run -- rm FILE`)"));
        }
        let (files, free) = (tree.inodes + more, space.f_favail);
        if space.f_files > 0 && free < files {
            return Err(Problem::new(format!(
                "PST write is denied: a copy of {directory} needs {files} inodes, {free} are free"
            ))
            .hint("see `df -i`, and delete what is not needed there (`pst run -- rm FILE`)"));
        }
        Ok(())
    }

    /// Copies the directory into the working area if it `exists`. Creates the directories above it, with the
    /// permissions of those in `above`.
    fn copy(&self, area: &Area<'_>, above: &[OwnedFd], exists: bool) -> Result<(), Problem> {
        let cannot = |error| failed("create the working area for", &self.directory, error);
        let mut to = area
            .directory
            .try_clone()
            .map_err(|error| Problem::io("cannot copy a descriptor", &error))?;
        for (name, real) in self.directory.iter().zip(above) {
            mkdirat(&to, name, Mode::RWXU).map_err(cannot)?;
            to = open(to.as_fd(), name, OFlags::DIRECTORY).map_err(cannot)?;
            keep_access(real, &to, Path::new(name))?;
        }
        if exists {
            let check = || self.check_signals();
            let from = above.last().unwrap_or(&self.data).as_fd();
            let mut copier = Copier::new(area.directory.as_fd(), &check);
            copier.copy(from, to.as_fd(), self.name(), &self.directory)?;
        }
        set_mode(&area.directory, PASSABLE).map_err(cannot)
    }

    /// Runs the command, and forwards signals to it. Returns its exit code.
    fn run_command(
        &self,
        words: &[OsString],
        area: &Area<'_>,
        data_path: &Path,
    ) -> Result<u8, Problem> {
        self.check_signals()?;
        let path = data_path.join(&area.name);
        let ended = match run::command::start(words, path.as_os_str()) {
            Ok(command) => self.wait(command),
            Err(code) => Ok(code),
        };
        set_mode(&area.directory, PRIVATE)
            .map_err(|error| failed("close the working area for", &self.directory, error))?;
        ended
    }

    /// Waits for the command, and returns its exit code. Forwards the signals that the supervisor forwards: others also
    /// reached the command, or were not for it.
    ///
    /// # Errors
    /// The command returned 0 although a signal asked it to end, as when `pst run` or the daemon was killed.
    fn wait(&self, command: Pid) -> Result<u8, Problem> {
        let mut end = None;
        loop {
            poll::wait([PollFd::new(&self.signals, PollFlags::IN)], None);
            while let Some(received) = self.next_signal(&mut end) {
                let parent = getppid().map(Pid::as_raw_pid);
                if received.signal != libc::SIGCHLD && Some(received.sender) == parent {
                    let _ = process::signal_child(command, received.signal); // it may run as another user
                }
            }
            while let Ok(Some((pid, code))) = process::reap() {
                if pid == command {
                    while self.next_signal(&mut end).is_some() {} // the others were for the command
                    return match end {
                        Some(signal) if code == 0 => Err(self.interrupted(signal)),
                        _ => Ok(code),
                    };
                }
            }
        }
    }

    /// Reads a signal. Notes it in `end` if it asks a program to end.
    fn next_signal(&self, end: &mut Option<libc::c_int>) -> Option<Received> {
        let received = self.signals.next()?;
        if matches!(received.signal, libc::SIGTERM | libc::SIGHUP) {
            *end = Some(received.signal);
        }
        Some(received)
    }

    /// # Errors
    /// A signal arrived that would end a program.
    fn check_signals(&self) -> Result<(), Problem> {
        while let Some(received) = self.signals.next() {
            if !matches!(received.signal, libc::SIGCHLD | libc::SIGWINCH) {
                return Err(self.interrupted(received.signal));
            }
        }
        Ok(())
    }

    fn interrupted(&self, signal: libc::c_int) -> Problem {
        let (name, directory) = (signal::name(signal), escape_path(&self.directory));
        Problem::new(format!(
            "interrupted by {name}, so {directory} is unchanged"
        ))
    }

    /// Swaps the copy in, on stable storage.
    ///
    /// # Errors
    /// The old directory is still there unless the message says otherwise. A copy that is on the card and not in place
    /// is kept, and named.
    fn swap(&self, area: &mut Area<'_>, before: &Tree) -> Result<(), Problem> {
        let shown = escape_path(&self.directory);
        let keep = |area: &mut Area<'_>, problem| area.keep(problem, &self.directory);
        let made = self
            .check_area(area)
            .map_err(|problem| keep(area, problem))?;
        let parent = self.open_parent(self.data.as_fd());
        let (parent, name) = parent.map_err(|problem| keep(area, problem))?;
        let (from, _) = self.open_parent(area.directory.as_fd())?;
        file::sync_filesystem(area.directory.as_fd()).map_err(|error| {
            let text = format!("cannot flush the copy to the card, so {shown} is unchanged");
            Problem::io(text, &error)
        })?;
        self.check_unchanged(parent.as_fd(), before, false)
            .map_err(|problem| keep(area, problem))?;
        self.check_signals()?;
        let (source, target, flags) = match (before.exists(), made) {
            (false, false) => return Ok(()),
            (false, true) => (&from, &parent, RenameFlags::NOREPLACE),
            (true, true) => (&from, &parent, RenameFlags::EXCHANGE),
            (true, false) => (&parent, &from, RenameFlags::NOREPLACE), // the command removed it
        };
        renameat_with(source, &name, target, &name, flags)
            .map_err(|error| keep(area, failed("replace", &self.directory, error)))?;
        if before.exists() {
            // Again, for a change between the first check and the swap.
            let unchanged = self.check_unchanged(from.as_fd(), before, true);
            unchanged.map_err(|problem| {
                let back = renameat_with(target, &name, source, &name, flags);
                let problem = back.map_or_else(
                    |error| failed("put back", &self.directory, error),
                    |()| problem,
                );
                keep(area, problem)
            })?;
        }
        fsync(&parent).and_then(|()| fsync(&from)).map_err(|error| {
            area.stays = true; // the next transaction removes it
            let text = format!("{shown} is replaced, but that may not be on stable storage");
            Problem::io(text, &error.into())
        })
    }

    /// Checks that the directory in `parent` is still as it was `before`.
    fn check_unchanged(
        &self,
        parent: BorrowedFd<'_>,
        before: &Tree,
        renamed: bool,
    ) -> Result<(), Problem> {
        let mut now = Tree::list(parent, self.name(), &self.directory)?;
        if renamed {
            now.ignore_rename(before);
        }
        match now.first_difference(before) {
            None => Ok(()),
            Some(path) => Err(Problem::new(format!(
                "{} changed while the command ran, so {} is not replaced",
                escape_path(path),
                escape_path(&self.directory)
            ))),
        }
    }

    /// Checks that the command has left nothing in the working area but the copy: it would be lost. Returns whether
    /// there is a copy.
    fn check_area(&self, area: &Area<'_>) -> Result<bool, Problem> {
        let mut above = PathBuf::from(".");
        for word in &self.directory {
            let list = open(area.directory.as_fd(), above.as_os_str(), OFlags::DIRECTORY)
                .and_then(|directory| names(&directory))
                .map_err(|error| failed("read", &above, error))?;
            if let Some(other) = list.iter().find(|name| *name != word) {
                let other = escape_path(&above.join(other))
                    .trim_start_matches("./")
                    .to_owned();
                let directory = escape_path(&self.directory);
                return Err(Problem::new(format!(
                    "the command created {other}, which is not in {directory}, so {directory} is not replaced"
                )));
            }
            above.push(word);
        }
        match statat(&area.directory, &self.directory, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_directory(&stat) => Ok(true),
            Ok(_) => {
                let directory = escape_path(&self.directory);
                Err(Problem::new(format!(
                    "the command left no directory as {directory}"
                )))
            }
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(failed("read", &self.directory, error)),
        }
    }
}

/// The working area, locked. Removed when dropped, unless it stays.
struct Area<'a> {
    data: BorrowedFd<'a>,
    directory: OwnedFd,
    /// In the data directory.
    name: OsString,
    stays: bool,
}

impl Area<'_> {
    fn create(data: &OwnedFd) -> Result<Area<'_>, Problem> {
        let data = data.as_fd();
        let (directory, name) = remains::create_directory(data)
            .map_err(|error| failed("create a working area in", Path::new("."), error))?;
        Ok(Area {
            data,
            directory,
            name,
            stays: false,
        })
    }

    /// Gives the working area a name that no transaction removes. Returns the problem with that name.
    fn keep(&mut self, problem: Problem, directory: &Path) -> Problem {
        let name = format!(
            "pst-kept{}",
            self.name.to_string_lossy().trim_start_matches(".pst")
        );
        let renamed = renameat_with(
            self.data,
            &self.name,
            self.data,
            &name,
            RenameFlags::NOREPLACE,
        );
        match renamed {
            Ok(()) => {
                self.stays = true;
                let copy = escape_path(&Path::new(&name).join(directory));
                problem.hint(format!("the copy is kept as {copy} in the data directory"))
            }
            Err(error) => problem.hint(format!(
                "the copy cannot be kept: {}",
                reason(&error.into())
            )),
        }
    }

    fn remove(&self) -> Result<(), Errno> {
        for name in names(&self.directory)? {
            remains::remove_tree(self.directory.as_fd(), &name)?;
        }
        unlinkat(self.data, &self.name, AtFlags::REMOVEDIR)
    }
}

impl Drop for Area<'_> {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        if let Err(error) = self.remove() {
            let name = escape(self.name.as_encoded_bytes());
            let text = format!("cannot remove the working area {name}");
            output::warning(
                Problem::io(text, &error.into()).hint("the next `pst run --atomic` tries again"),
            );
        }
    }
}

/// Sets the permissions of a directory in the working area, but not whether new files get its group.
fn set_mode(directory: &OwnedFd, mode: u32) -> Result<(), Errno> {
    let set_group_id = fstat(directory)?.st_mode & 0o2000;
    fchmod(directory, Mode::from_raw_mode(set_group_id | mode))
}

/// Waits until the clock of ctimes has moved on, so that a later change has a later ctime.
fn await_next_tick() {
    let now = || {
        let time = clock_gettime(ClockId::RealtimeCoarse);
        (time.tv_sec, time.tv_nsec)
    };
    let start = now();
    while now() == start {
        thread::sleep(Duration::from_millis(1));
    }
}
