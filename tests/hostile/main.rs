//! P8 and P9 against people who mean harm: the real binary, a real ext4, and
//! clients that break every rule, as root, as members and as outsiders.

#![allow(clippy::expect_used, unsafe_code)] // all of it is tests

mod attacks;
mod clients;
mod descriptors;
mod holders;
mod obstacles;
#[path = "../e2e/rig/mod.rs"]
#[allow(dead_code, unused_imports)] // shared; each of its users takes a part
mod rig;
mod siege;
