//! `pst run` from outside: the real binary, a real command, and a daemon that
//! does what each test says. P3 to P7, as far as the client keeps them.
#![allow(unsafe_code, clippy::unwrap_used)]

mod codes;
mod environment;
mod openings;
mod rig;
mod signals;
mod terminal;
mod tree;
