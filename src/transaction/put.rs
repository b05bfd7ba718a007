//! `pst put`: stores its input as a file, all or nothing.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

use super::input;
use super::store::{Expected, StoreOptions};
use crate::escape::escape;
use crate::problem::{Problem, ProblemKind};
use crate::run::{self, RunOptions};
use crate::sys::user;

#[derive(Debug)]
pub(crate) struct PutOptions {
    pub socket: PathBuf,
    /// The config file, which may name the storage's owner.
    pub config: PathBuf,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Makes missing directories.
    pub parents: bool,
    pub allow_empty: bool,
    pub file: OsString,
    /// `None` or "-" is standard input.
    pub source: Option<PathBuf>,
}

/// Reads the input to its end, and then stores it in a session. The exit code is 0 only when the new file is on stable
/// storage.
pub(crate) fn main(options: PutOptions) -> Result<ExitCode, Problem> {
    let input = input::read(options.source.as_deref())?;
    let shown = escape(options.file.as_encoded_bytes()).to_string();
    if input.size == 0 && !options.allow_empty {
        return Err(
            Problem::new(format!("the input is empty, so {shown} is unchanged"))
                .hint("pass --allow-empty to store an empty file"),
        );
    }
    let store = StoreOptions {
        mode: options.mode,
        uid: options.uid,
        gid: options.gid,
        parents: options.parents,
        expected: Expected::Any,
        file: options.file,
    };
    Ok(store_in_session(
        options.socket,
        options.config,
        "pst put ",
        &input,
        store,
    ))
}

/// Runs a session whose command is this program, which stores the input. `name` begins the command that `pst status`
/// shows.
pub(super) fn store_in_session(
    socket: PathBuf,
    config: PathBuf,
    name: &str,
    input: &input::Input,
    store: StoreOptions,
) -> ExitCode {
    let mut shown_command = OsString::from(name);
    shown_command.push(&store.file);
    run::main(RunOptions {
        socket,
        config,
        quiet: true,
        need: input.size.max(1), // an empty file needs an inode
        command: store.command(input),
        shown_command: Some(shown_command),
    })
}

/// Parses the permissions of `-m`, in octal.
pub(crate) fn parse_mode(text: &OsStr) -> Result<u32, Problem> {
    let digits = text
        .to_str()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let mode = digits.and_then(|digits| u32::from_str_radix(digits, 8).ok());
    mode.filter(|mode| *mode <= 0o7777).ok_or_else(|| {
        let text = escape(text.as_encoded_bytes());
        usage(format!(
            "invalid mode '{text}' (use an octal number, such as 600)"
        ))
    })
}

/// Parses `-o OWNER[:GROUP]`. Either may be empty, which means unchanged.
pub(crate) fn parse_owner(text: &OsStr) -> Result<(Option<u32>, Option<u32>), Problem> {
    let invalid = || {
        let text = escape(text.as_encoded_bytes());
        usage(format!(
            "invalid owner '{text}' (use OWNER, OWNER:GROUP or :GROUP)"
        ))
    };
    let words = text.to_str().ok_or_else(invalid)?;
    let (owner, group) = words.split_once(':').unwrap_or((words, ""));
    if owner.is_empty() && group.is_empty() {
        return Err(invalid());
    }
    let find = |kind: &str, name: &str, id: fn(&str) -> std::io::Result<Option<u32>>| {
        if name.is_empty() {
            return Ok(None);
        }
        let what = format!("cannot look up {kind} {}", escape(name));
        match id(name) {
            Ok(Some(id)) => Ok(Some(id)),
            Ok(None) => Err(usage(format!("there is no {kind} {}", escape(name)))),
            Err(error) => Err(Problem::io(what, &error)),
        }
    };
    let uid = find("user", owner, user::uid_by_name)?;
    let gid = find("group", group, user::gid_by_name)?;
    Ok((uid, gid))
}

fn usage(what: String) -> Problem {
    Problem::new(what).kind(ProblemKind::Usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_octal() {
        for (text, mode) in [("600", 0o600), ("0644", 0o644), ("7777", 0o7777), ("0", 0)] {
            assert_eq!(parse_mode(OsStr::new(text)), Ok(mode));
        }
        for text in ["", "8", "10000", "u=rw", "+600", "-1", " 600", "0o600"] {
            let problem = parse_mode(OsStr::new(text)).unwrap_err();
            assert!(problem.what.starts_with("invalid mode"), "{problem}");
            assert_eq!(problem.kind, ProblemKind::Usage);
        }
    }

    #[test]
    fn an_owner_is_a_user_a_group_or_both() {
        for (text, ids) in [
            ("root", (Some(0), None)),
            ("root:", (Some(0), None)),
            (":root", (None, Some(0))),
            ("12345:54321", (Some(12345), Some(54321))),
        ] {
            assert_eq!(parse_owner(OsStr::new(text)), Ok(ids), "{text}");
        }
        for text in [
            "",
            ":",
            "no-such-name-here",
            "root:no-such-name-here",
            "a:b:c",
        ] {
            let problem = parse_owner(OsStr::new(text)).unwrap_err();
            assert_eq!(problem.kind, ProblemKind::Usage, "{text}");
        }
    }
}
