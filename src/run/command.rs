//! The command's first moments: from its process to its exec, as the caller would
//! have started it.

use std::io;

use super::output::Output;
use crate::escape::escape;
use crate::sys::process::{self, Pid, Program};
use crate::sys::signal;

/// Enough for us. execvp(3) needs more on top, a pointer for each word, when it
/// gives a script without an interpreter's name to the shell.
const STACK: usize = 64 << 10;

/// Starts the command. That its exec failed is said by the new process itself,
/// and seen by its code, as in a shell: 127 not found, 126 not executable.
pub fn start(program: &Program, output: Output) -> io::Result<Pid> {
    let stack = STACK + program.count() * size_of::<usize>();
    process::start(stack, &mut || {
        signal::restore_for_command();
        let error = program.exec();
        signal::shield_message();
        output.error(format_args!(
            "Can't run {}: {error}",
            escape(program.name())
        ));
        code_of(&error)
    })
}

fn code_of(error: &io::Error) -> u8 {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => 127,
        _ => 126,
    }
}
