//! P8 and P9 against attackers: the real binary, a real ext4, and clients that break every rule, as root,
//! as members of the access group and as outsiders.

#![allow(clippy::expect_used, unsafe_code)] // only tests

mod attacks;
mod clients;
mod descriptors;
mod holders;
mod obstacles;
#[path = "../e2e/rig/mod.rs"]
#[allow(dead_code, unused_imports)] // shared; each test binary uses a part
mod rig;
mod siege;
