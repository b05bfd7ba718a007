//! `pst` keeps a small storage partition read-only and makes it writable only while a client works with it.
//!
//! The crate is a library only for its own tests and fuzz targets: its interface is the binary's.

pub(crate) mod check;
pub mod cli;
pub(crate) mod client;
pub mod config;
pub mod daemon;
pub mod escape;
pub mod fstab;
pub(crate) mod logging;
pub mod problem;
pub(crate) mod run;
pub(crate) mod status;
pub mod storage;
pub mod sys;
pub(crate) mod systemd;
pub(crate) mod table;
pub(crate) mod units;
pub mod wire;
