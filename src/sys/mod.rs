//! The only unsafe code: small safe wrappers over libc, one file per subject.
//! Nothing here decides anything; every wrapper names its man page.
#![allow(unsafe_code)]

pub(crate) mod clock;
pub mod current;
pub(crate) mod descriptor;
pub(crate) mod directory;
pub(crate) mod fanotify;
pub mod file;
pub mod mount;
pub mod poll;
pub(crate) mod probe;
pub mod process;
pub mod signal;
pub(crate) mod socket;
pub mod stream;
pub(crate) mod terminal;
pub(crate) mod user;

use std::io;

/// The value of a call that returns -1 and sets errno on failure.
fn check<T: PartialEq + From<i8>>(value: T) -> io::Result<T> {
    if value == T::from(-1) {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}
