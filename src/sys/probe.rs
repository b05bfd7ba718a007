//! Whether the kernel knows a system call: by calls that cannot succeed, since they are given no
//! valid descriptor.

use std::io;

use super::check;

/// What the kernel says to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Known,
    Missing,
    /// EPERM, before it looked at the arguments: by a filter, or for want of a capability.
    Refused,
}

/// The calls that `pst` cannot do without, and the kernel's answer to each.
pub(crate) fn calls() -> [(&'static str, Answer); 5] {
    [
        ("fspick", ask(libc::SYS_fspick)),
        ("fsconfig", ask(libc::SYS_fsconfig)),
        ("mount_setattr", ask(libc::SYS_mount_setattr)),
        ("openat2", ask(libc::SYS_openat2)),
        ("pidfd_open", ask(libc::SYS_pidfd_open)),
    ]
}

/// Makes the call with -1 for every argument: for the calls above that is no descriptor, no valid
/// pointer or size, no process and no flags.
fn ask(number: libc::c_long) -> Answer {
    let none: libc::c_long = -1;
    // SAFETY: no memory is at the address -1, so the kernel neither reads nor writes any of ours;
    // all of these calls fail on such arguments before they do anything.
    match check(unsafe { libc::syscall(number, none, none, none, none, none) }) {
        Err(error) => answer(&error),
        Ok(_) => Answer::Known,
    }
}

fn answer(error: &io::Error) -> Answer {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => Answer::Missing,
        Some(libc::EPERM) => Answer::Refused,
        _ => Answer::Known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_knows_them_and_not_one_that_there_is_not() {
        for (name, answer) in calls() {
            assert_ne!(answer, Answer::Missing, "{name}");
        }
        assert_eq!(ask(100_000), Answer::Missing);
    }
}
