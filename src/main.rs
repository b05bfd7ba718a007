//! `pst`: which applet is meant, and its exit code.

fn main() -> std::process::ExitCode {
    pst::sys::signal::block_before_threads(); // first: a thread keeps the mask it is started with
    pst::cli::main(std::env::args_os())
}
