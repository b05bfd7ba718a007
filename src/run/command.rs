//! The command's first moments: from its process to its exec, as the caller would
//! have started it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::output::Output;
use crate::escape::escape;
use crate::problem::limit_hint;
use crate::sys::file;
use crate::sys::process::{self, Pid};

/// Starts the command. If it cannot be executed, that is said, and the code is a shell's: 127 not
/// found, 126 not executable.
pub(super) fn start(
    words: &[OsString],
    data: &OsStr,
    output: Output,
) -> io::Result<Result<Pid, u8>> {
    let error = match process::spawn(words, "KVMD_PST_DATA", data) {
        Ok(command) => return Ok(Ok(command)),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE)
            ) =>
        {
            return Err(error);
        }
        Err(error) => error,
    };
    let name = words[0].as_bytes();
    output.error(format_args!(
        "Can't run {}: {error}{}",
        escape(name),
        advice(name, &error)
    ));
    Ok(Err(code_of(&error)))
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
        _ => limit_hint(error).map_or(String::new(), |hint| format!("; {hint}")),
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
