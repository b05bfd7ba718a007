//! `pst run` from outside: the real binary, a real command, and a daemon that
//! does what each test says. P3 to P7, as far as the client keeps them.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used)] // only tests

/// Leaves the test out where nobody is root on the whole machine.
macro_rules! needs_root {
    ($why:expr) => {
        if $crate::privilege::lacks_root() {
            $crate::privilege::leave_out($why);
            return;
        }
    };
}

/// Leaves the test out where it has no mount namespace of its own, as in a chroot.
macro_rules! needs_mounts {
    () => {
        if $crate::privilege::lacks_mounts() {
            $crate::privilege::leave_out(
                "a mount namespace of its own, which a chroot cannot have",
            );
            return;
        }
    };
}

/// Leaves the test out where not even a user namespace lets it mount.
macro_rules! needs_namespaces {
    () => {
        if $crate::privilege::lacks_namespaces() {
            $crate::privilege::leave_out("a user namespace of its own");
            return;
        }
    };
}

mod codes;
mod environment;
mod openings;
#[allow(dead_code)] // the end-to-end tests use all of it
#[path = "../e2e/rig/privilege.rs"]
mod privilege;
mod rig;
mod signals;
mod terminal;
mod tree;
