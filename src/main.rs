//! The `pst` binary: blocks signals and hands over to `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    pst::sys::signal::begin(); // first: a thread keeps the signal mask that it starts with
    pst::cli::main(std::env::args_os())
}
