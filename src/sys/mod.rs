//! System calls: safe wrappers, one file per subject, and the crate's only unsafe code. No policy.
#![allow(unsafe_code)]

pub(crate) mod clock;
pub mod current;
pub(crate) mod fanotify;
pub mod file;
pub(crate) mod interrupt;
pub mod mount;
pub mod poll;
pub mod process;
pub mod signal;
pub mod socket;
pub(crate) mod user;

use std::io;

// Links the unwinder statically: loading libgcc_s takes 0.12 of the 1.07 ms of `pst --version`.
#[cfg(target_env = "gnu")]
#[link(name = "gcc_eh", kind = "static", modifiers = "-bundle")]
unsafe extern "C" {}

/// Converts the value of a call that returns -1 and sets errno on failure.
fn check<T: PartialEq + From<i8>>(value: T) -> io::Result<T> {
    if value == T::from(-1) {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}
