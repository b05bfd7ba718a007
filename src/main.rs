//! `pst`: runs the command that is meant and returns its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    pst::sys::signal::begin(); // first: a thread keeps the signal mask that it starts with
    pst::cli::main(std::env::args_os())
}
