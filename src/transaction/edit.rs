//! `pst edit`: an editor changes a private copy outside the storage, and a session stores the result.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::process::{WaitOptions, waitpid};

use super::path::{DataDirectory, cannot, irregular};
use super::store::{Expected, StoreOptions, Version};
use super::{input, put};
use crate::client;
use crate::escape::{escape, escape_path};
use crate::problem::{Problem, ProblemKind};
use crate::storage::remains;
use crate::sys::process;
use crate::sys::signal::{self, Signals};
use crate::table::print;

/// The editors that are tried if neither VISUAL nor EDITOR is set.
const EDITORS: [&str; 3] = ["nano", "vim", "vi"];

#[derive(Debug)]
pub(crate) struct EditOptions {
    pub socket: PathBuf,
    /// The config file, which may name the storage's owner.
    pub config: PathBuf,
    pub file: OsString,
}

/// Exit code 0 means that the edited file is on stable storage, or that nothing was changed.
pub(crate) fn main(options: EditOptions) -> Result<ExitCode, Problem> {
    let editor = find_editor()?;
    let (_, status) = client::ask_status(&options.socket, false)
        .map_err(|error| Problem::from(error).kind(ProblemKind::Other))?; // exit code 1, as of `pst run`
    let data = DataDirectory::open(Path::new(&status.storage.data))?;
    let (old, expected) = read_old(&data, Path::new(&options.file))?;
    let shown = escape(options.file.as_encoded_bytes()).to_string();
    let mut copy = Copy::create(Path::new(&options.file), &old)?;
    let data_path = data.path.clone();
    drop(data); // open, it would keep the storage mounted
    if let Err(problem) = edit(&editor, &copy.path, &data_path) {
        copy.stays = copy.read().is_ok_and(|new| new != old);
        return Err(copy.name_if_kept(problem));
    }
    let new = copy.read()?;
    if new == old {
        print(&format!("{shown} is unchanged\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    copy.stays = true; // whatever fails now
    let input = input::read(Some(&copy.path)).map_err(|problem| copy.name_if_kept(problem))?;
    let store = StoreOptions {
        mode: None,
        uid: None,
        gid: None,
        parents: false,
        expected,
        file: options.file,
    };
    let code = put::store_in_session(options.socket, options.config, "pst edit ", &input, store);
    if code == ExitCode::SUCCESS {
        copy.stays = false;
        return Ok(code);
    }
    Err(copy.name_if_kept(Problem::new(format!("storing {shown} failed"))))
}

/// Returns the content of the file that is edited, empty if there is none yet, and what the file must still be when the
/// result is stored.
fn read_old(data: &DataDirectory, file: &Path) -> Result<(Vec<u8>, Expected), Problem> {
    let place = data.locate(&data.relative(file)?)?;
    let shown = data.full(&place.directory_path).join(&place.name);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let old = match place.status() {
        Ok(None) => return Ok((Vec::new(), Expected::Absent)),
        Ok(Some(status)) => match irregular(&status) {
            Some(kind) => {
                let text = format!("{} is {kind}, not a file", escape_path(&shown));
                return Err(Problem::new(text));
            }
            None => openat(&place.directory, &place.name, flags, Mode::empty()),
        },
        Err(error) => Err(error),
    };
    let read = old.and_then(|old| {
        let version = Version::of(&fstat(&old)?);
        let mut content = Vec::new();
        File::from(old)
            .read_to_end(&mut content)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok((content, Expected::Unchanged(version)))
    });
    read.map_err(|error| cannot("read", &shown, error))
}

/// Returns the editor's command line, for a shell.
fn find_editor() -> Result<OsString, Problem> {
    let set = |name: &&str| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(editor) = ["VISUAL", "EDITOR"].iter().find_map(set) {
        return Ok(editor);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there =
        |name: &&&str| env::split_paths(&path).any(|directory| directory.join(name).is_file());
    match EDITORS.iter().find(is_there) {
        Some(name) => Ok(name.into()),
        None => Err(Problem::new("no editor found").hint("set EDITOR to one")),
    }
}

/// Runs the editor on this file, in the foreground.
fn edit(editor: &OsStr, path: &Path, data: &Path) -> Result<(), Problem> {
    let shown = escape(editor.as_encoded_bytes()).to_string();
    // The editor may have options. Without exec, ^C could end the shell and leave the editor.
    let mut script = OsString::from("exec ");
    script.push(editor);
    script.push(" \"$@\"");
    let words = ["sh".into(), "-c".into(), script, "sh".into(), path.into()];
    // ^C and ^\ are for the editor, and ^Z stops both. What would end this process waits for the editor.
    let blocked = [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM];
    let signals =
        Signals::new(blocked).map_err(|error| Problem::io("cannot read signals", &error))?;
    signal::restore_mask();
    signal::block(blocked);
    let started = process::spawn(&words, "KVMD_PST_DATA", data.as_os_str());
    let ended = started.and_then(|editor| {
        loop {
            match waitpid(Some(editor), WaitOptions::empty()) {
                Err(Errno::INTR) => {}
                ended => return Ok(ended?),
            }
        }
    });
    signal::block_handled();
    while let Some(received) = signals.next() {
        if [libc::SIGHUP, libc::SIGTERM].contains(&received.signal) {
            let name = signal::name(received.signal);
            return Err(Problem::new(format!(
                "interrupted by {name}, so nothing is stored"
            )));
        }
    }
    match ended {
        Ok(Some((_, status))) if status.exit_status() == Some(0) => Ok(()),
        Ok(Some((_, status))) => {
            let how = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("returned {code}"),
                (_, signal) => format!("was ended by {}", signal::name(signal.unwrap_or(0))),
            };
            Err(Problem::new(format!(
                "the editor `{shown}` {how}, so nothing is stored"
            )))
        }
        Ok(None) => Err(Problem::new(format!("lost the editor `{shown}`"))),
        Err(error) => Err(Problem::io(
            format!("cannot run the editor `{shown}`"),
            &error,
        )),
    }
}

/// The copy that the editor gets, in a directory of its own. Removed when dropped, unless it stays.
struct Copy {
    directory: PathBuf,
    path: PathBuf,
    stays: bool,
}

impl Copy {
    /// Creates it in TMPDIR, with the file's own name: editors choose the syntax by it.
    fn create(file: &Path, content: &[u8]) -> Result<Copy, Problem> {
        let mut name = OsString::from("pst-edit");
        name.push(
            remains::new_name()
                .to_string_lossy()
                .trim_start_matches(".pst"),
        );
        let directory = env::temp_dir().join(name);
        let path = directory.join(file.file_name().unwrap_or_default());
        let failed = |error| {
            Problem::io(format!("cannot create {}", escape_path(&path)), &error)
                .hint("set TMPDIR to a directory where you can write")
        };
        DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(failed)?;
        let copy = Copy {
            directory,
            path: path.clone(),
            stays: false,
        };
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let written = options
            .open(&path)
            .and_then(|mut file| file.write_all(content));
        written.map_err(failed)?;
        Ok(copy)
    }

    fn name_if_kept(&self, problem: Problem) -> Problem {
        match self.stays {
            true => problem.hint(format!(
                "the edited copy is kept as {}",
                escape_path(&self.path)
            )),
            false => problem,
        }
    }

    fn read(&self) -> Result<Vec<u8>, Problem> {
        fs::read(&self.path).map_err(|error| {
            let problem = Problem::io(format!("cannot read {}", escape_path(&self.path)), &error);
            match error.kind() {
                ErrorKind::NotFound => problem.hint("the editor removed it, so nothing is stored"),
                _ => problem,
            }
        })
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if !self.stays {
            let _ = fs::remove_dir_all(&self.directory); // with what the editor left beside it
        }
    }
}
