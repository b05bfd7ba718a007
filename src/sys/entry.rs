//! Where the kernel's `exec` of this program arrives: C's `main`, without Rust's runtime around it,
//! which would read `/proc/self/maps` and prepare for a stack overflow's message first. Part of the
//! binary, not of the library.

use std::ffi::{c_char, c_int};
use std::process::ExitCode;

#[cfg(not(target_env = "gnu"))]
compile_error!("the arguments come to std::env by themselves with glibc only");

/// The arguments come to `std::env` by themselves, as with glibc they do.
// SAFETY: there is no other `main`, and it has the type that the C library calls.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, words: *mut *mut c_char) -> c_int {
    // SAFETY: what the C library gives to `main`.
    unsafe { pst::sys::current::arguments_are(count, words) };
    let code = crate::run();
    // It does not tell its number.
    let number = (0..=u8::MAX).find(|number| ExitCode::from(*number) == code);
    std::process::exit(number.unwrap_or(u8::MAX).into())
}

// What unwinds is linked in: nothing here does but a panic's backtrace, and to load the shared
// library for that takes a tenth of what a session takes.
#[link(name = "gcc_eh", kind = "static", modifiers = "-bundle")]
// SAFETY: nothing is declared.
unsafe extern "C" {}
