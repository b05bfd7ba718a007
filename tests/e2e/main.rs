//! End to end: the real binary on real filesystems, one test for each promise
//! and each way in which it could be broken. `make test` runs them; the rig
//! says what it checks after each.

#![allow(clippy::expect_used)] // all of it is tests, not only what bears the attribute

mod admission;
mod atomic;
mod atomic_faults;
mod atomic_races;
mod check;
mod cli;
mod codes;
mod commit;
mod completions;
mod edit;
mod environment;
mod errors;
mod filesystems;
mod full;
mod holders;
mod idle;
#[cfg(feature = "kvmd-api")]
mod kvmd_api;
mod limits;
mod log;
mod loss;
mod manual;
mod medium;
mod mounting;
mod namespaces;
mod passing;
mod prepare;
mod put;
mod put_faults;
mod readme;
mod repair;
mod resources;
mod rig;
mod rig_itself;
mod sandbox;
mod sharing;
mod signals;
mod start;
mod status;
mod stop;
mod systemd;
mod terminal;
mod tree;
mod watch;
