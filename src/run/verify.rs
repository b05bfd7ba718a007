//! P3: whether the storage that was granted is the one that is seen here, and is writable here.
//! A service in a mount namespace of its own may see another.

use std::ffi::{CString, OsStr};
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Failure;
use super::opening::Grant;
use crate::escape::escape;
use crate::problem::Problem;
use crate::sys::directory::{self, Sight};

/// Looks at the data root, as the command would.
pub(super) fn check(grant: &Grant) -> Result<(), Failure> {
    let path = Path::new(OsStr::from_bytes(&grant.data));
    let data = escape(&grant.data);
    let elsewhere = || {
        format!(
            "is not mounted in this mount namespace, or something else is mounted over it: \
         compare `findmnt -T {data}` with `pst status`, and restart this service or login"
        )
    };
    match look_at(path) {
        Ok(sight) if sight.device != grant.device => Err(failure(grant, elsewhere())),
        Ok(sight) if sight.read_only => Err(failure(
            grant,
            "is read-only in this mount namespace: restart this service or login if it began \
             before `pst prepare`; a unit with ProtectSystem=strict needs ReadWritePaths= for it",
        )),
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) if !above_is_granted(path, grant.device) => {
                Err(failure(grant, elsewhere()))
            }
            Some(libc::ENOENT) => Err(failure(
                grant,
                "is missing on it, somebody removed it: it is made anew when all sessions are \
                 over (`pst status` names them), then try again",
            )),
            Some(libc::ENOTDIR) => Err(failure(
                grant,
                "is no directory on it: have an administrator remove what stands in its place",
            )),
            Some(libc::EACCES) => Err(failure(
                grant,
                format!("cannot be reached: {error}; see who may pass with `namei -l {data}`"),
            )),
            _ => Err(failure(grant, Problem::io("cannot be opened", &error))),
        },
    }
}

fn failure(grant: &Grant, what: impl Display) -> Failure {
    let data = escape(&grant.data);
    Failure::new(format_args!("the storage was granted, but {data} {what}"))
}

/// Whether the nearest directory above that is there is on the granted storage.
fn above_is_granted(path: &Path, device: u64) -> bool {
    let mut above = path.ancestors().skip(1);
    above
        .find_map(|path| look_at(path).ok())
        .is_some_and(|sight| sight.device == device)
}

fn look_at(path: &Path) -> std::io::Result<Sight> {
    directory::look_at(&CString::new(path.as_os_str().as_bytes())?)
}
