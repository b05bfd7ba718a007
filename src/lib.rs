//! `pst` keeps a small storage partition read-only all the time and makes it
//! writable only while somebody works with it.
//!
//! The crate is a library only for its own tests and fuzzers; its interface is
//! the binary's, not this one.

pub mod amount;
pub mod check;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod escape;
pub mod fstab;
pub mod logging;
pub mod run;
pub mod shortage;
pub mod size;
pub mod status;
pub mod storage;
pub mod sys;
pub mod systemd;
pub mod wire;
