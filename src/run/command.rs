//! The command's first moments: from its process to its exec, as the caller would
//! have started it.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::output;
use crate::escape::escape;
use crate::shortage;
use crate::sys::file;
use crate::sys::process::{self, Pid, Program};
use crate::sys::{own, signal};

/// Enough for us. execvp(3) needs more on top, a pointer for each word, when it
/// gives a script without an interpreter's name to the shell.
const STACK: usize = 64 << 10;

/// Starts the command. That its exec failed is said by the new process itself,
/// and seen by its code, as in a shell: 127 not found, 126 not executable.
pub fn start(program: &Program) -> io::Result<Pid> {
    let stack = STACK + program.count() * size_of::<usize>();
    process::start(stack, &mut || {
        signal::restore_for_command();
        let error = program.exec();
        signal::shield_message();
        let message = output::error_line(format_args!(
            "Can't run {}: {error}{}",
            escape(program.name()),
            advice(program.name(), &error)
        ));
        signal::restore_mask();
        own::write_to_stderr(message.as_bytes());
        std::mem::forget(message); // it is the keeper's memory, and a signal may come
        code_of(&error)
    })
}

/// What to do about a program that cannot be executed.
fn advice(name: &[u8], error: &io::Error) -> String {
    let shown = escape(name);
    let path = Path::new(OsStr::from_bytes(name));
    let file = fs::metadata(path).ok().filter(|_| name.contains(&b'/'));
    match (error.raw_os_error(), file) {
        _ if name.is_empty() => "; its name is empty: is a variable not set?".into(),
        (Some(libc::ENOENT), None) if !name.contains(&b'/') && !is_in_path(path) => {
            "; it is not in PATH".into()
        }
        (Some(libc::ENOENT), _) if !name.contains(&b'/') => format!(
            "; it is in PATH: what is missing is its interpreter, see `head -n 1 $(which {shown})`"
        ),
        (Some(libc::ENOENT), Some(_)) => {
            "; it is there: what is missing is its interpreter, see its first line".into()
        }
        (Some(libc::EACCES), Some(file)) if file.is_dir() => "; it is a directory".into(),
        (Some(libc::EACCES), Some(_)) if lies_on_noexec(path) => format!(
            "; nothing can be executed where it lies, that is mounted `noexec`: \
             have its interpreter read it, like `bash {shown}`"
        ),
        (Some(libc::EACCES), Some(file)) if file.mode() & 0o111 == 0 => {
            format!("; it is not executable: `chmod +x {shown}`, or `bash {shown}` for a script")
        }
        (Some(libc::EACCES), _) if name.contains(&b'/') => {
            format!("; see whom it and the directories above let pass with `namei -l {shown}`")
        }
        (Some(libc::EACCES), _) => {
            format!("; what is called so in PATH may not be executed: see `type -a {shown}`")
        }
        (Some(libc::ETXTBSY), _) => format!("; somebody writes to it: see `fuser -v {shown}`"),
        _ => shortage::advice(error).into(),
    }
}

/// Whether a directory of PATH has something of this name.
fn is_in_path(name: &Path) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(name).exists())
}

fn lies_on_noexec(path: &Path) -> bool {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path);
    file.and_then(|file| file::space(file.as_fd()))
        .is_ok_and(|space| space.no_exec)
}

fn code_of(error: &io::Error) -> u8 {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => 127,
        _ => 126,
    }
}
