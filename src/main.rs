//! `pst`: which applet is meant, and its exit code.
#![no_main]

#[allow(unsafe_code)]
#[path = "sys/entry.rs"]
mod entry;

fn run() -> std::process::ExitCode {
    pst::sys::signal::begin(); // first: a thread keeps the signal mask that it is started with
    pst::cli::main(std::env::args_os())
}
