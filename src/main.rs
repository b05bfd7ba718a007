//! `pst`: which applet is meant, and its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    pst::cli::main(std::env::args_os())
}
