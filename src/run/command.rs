//! The command's first moments: from fork to exec, as the caller would have started it.

use std::io;

use super::output::Output;
use crate::escape::escape;
use crate::sys::process::{self, Fork, Pid, Program};
use crate::sys::signal;

/// Starts the command. That its exec failed is said by the new process itself,
/// and seen by its code, as in a shell: 127 not found, 126 not executable.
pub fn start(program: &Program, output: Output) -> io::Result<Pid> {
    match process::fork()? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => {
            signal::restore_for_command();
            let error = program.exec();
            signal::shield_message();
            output.error(format_args!(
                "Can't run {}: {error}",
                escape(program.name())
            ));
            process::exit_now(code_of(&error))
        }
    }
}

fn code_of(error: &io::Error) -> u8 {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => 127,
        _ => 126,
    }
}
