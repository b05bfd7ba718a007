//! Starts the command, or explains why it cannot be started.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::Pid;

use super::output;
use crate::escape::escape;
use crate::problem::Problem;
use crate::sys::{process, signal};

/// Starts the command, with `data` as its KVMD_PST_DATA. If that fails, a process in the command's place prints why
/// and exits like a shell:
/// 127 if it is not found, 126 if it is not executable; 1 if a resource is exhausted. That process is ended
/// like the command, so a blocked stderr does not keep the session open.
///
/// # Errors
/// There is no such process either. Prints why and returns the exit code.
pub(crate) fn start(words: &[OsString], data: &OsStr) -> Result<Pid, u8> {
    let error = match process::spawn(words, "KVMD_PST_DATA", data) {
        Ok(command) => return Ok(command),
        Err(error) => error,
    };
    let code = match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => 1,
        Some(libc::ENOENT | libc::ENOTDIR) => 127,
        _ => 126,
    };
    let forked = process::fork();
    if let Ok(Some(in_place)) = forked {
        return Ok(in_place);
    }
    if forked.is_ok() {
        signal::restore_mask();
        signal::block([libc::SIGTTOU]); // a message from the background must not stop it
    }
    let name = words[0].as_bytes();
    let problem = explain(name, &error);
    if forked.is_err() {
        output::try_error(problem);
        return Err(code);
    }
    output::error(problem);
    std::process::exit(code.into())
}

/// Says why the command cannot be executed, like a shell, and what to do about it.
fn explain(name: &[u8], error: &io::Error) -> Problem {
    let what = format!("Can't run {}", escape(name));
    let path = Path::new(OsStr::from_bytes(name));
    if error.raw_os_error() == Some(libc::ENOENT) && !name.contains(&b'/') && !is_in_path(path) {
        return Problem::new(format!("{what}: command not found"));
    }
    let problem = Problem::io(what, error);
    match hint(name, error) {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// Returns what to do about a program that cannot be executed.
fn hint(name: &[u8], error: &io::Error) -> Option<String> {
    let shown = escape(name);
    let path = Path::new(OsStr::from_bytes(name));
    let errno = error.raw_os_error()?;
    if !name.contains(&b'/') {
        let text = format!(
            "it is in PATH, but its interpreter is missing: see `head -n 1 $(which {shown})`"
        );
        return (errno == libc::ENOENT).then_some(text);
    }
    Some(match (errno, fs::metadata(path)) {
        (libc::ENOENT, Ok(_)) => {
            "it exists, but its interpreter is missing: see its first line".into()
        }
        (libc::EACCES, Ok(file)) if file.is_dir() => "it is a directory".into(),
        (libc::EACCES, Ok(_)) if is_on_noexec(path) => format!(
            "it is on a filesystem that is mounted `noexec`: \
             run it with its interpreter, like `bash {shown}`"
        ),
        (libc::EACCES, Ok(file)) if file.mode() & 0o111 == 0 => {
            format!("it is not executable: `chmod +x {shown}`, or `bash {shown}` for a script")
        }
        (libc::EACCES, _) => {
            format!("see the permissions of it and of the directories above: `namei -l {shown}`")
        }
        (libc::ETXTBSY, _) => {
            format!("some process has it open for writing: see `fuser -v {shown}`")
        }
        _ => return None,
    })
}

/// Whether a directory of PATH contains a file with this name.
fn is_in_path(name: &Path) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

fn is_on_noexec(path: &Path) -> bool {
    statvfs(path).is_ok_and(|space| space.f_flag.contains(StatVfsMountFlags::NOEXEC))
}
