//! What ran out, and where its limit is: the next step, for errors that any program can meet.

use std::io;

/// Behind the error's own text; empty if nothing ran out.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => {
            "; too many files are open: see `ulimit -n`, or the unit's LimitNOFILE="
        }
        Some(libc::ENFILE) => {
            "; too many files are open in the whole system: see `sysctl fs.file-nr`"
        }
        Some(libc::EAGAIN) => "; too many processes: see `ulimit -u`, or the unit's TasksMax=",
        Some(libc::ENOMEM) => "; no memory is left: see `free`, or the unit's MemoryMax=",
        _ => "",
    }
}
