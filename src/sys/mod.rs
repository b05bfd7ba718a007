//! The only unsafe code: small safe wrappers over libc, one file per subject.
//! Nothing here decides anything; every wrapper names its man page.
#![allow(unsafe_code)]

pub mod descriptor;
pub mod fanotify;
pub mod file;
pub mod mount;
pub mod poll;
pub mod process;
pub mod signal;
pub mod socket;
pub mod user;
