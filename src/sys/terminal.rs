//! A terminal's size.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use super::check;

/// A terminal's size, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub columns: usize,
    /// How many lines it has.
    pub rows: usize,
}

/// How large a terminal is; `None` for what is none. One that does not know is taken as 80 by 24.
/// TIOCGWINSZ of ioctl_tty(2).
pub(crate) fn size(of: impl AsFd) -> Option<Size> {
    let mut out = MaybeUninit::<libc::winsize>::uninit();
    // SAFETY: `out` is large enough for what the call writes.
    let done = check(unsafe {
        libc::ioctl(
            of.as_fd().as_raw_fd(),
            libc::TIOCGWINSZ as libc::Ioctl,
            out.as_mut_ptr(),
        )
    });
    done.ok()?;
    // SAFETY: the call succeeded, so it has written the whole struct.
    let out = unsafe { out.assume_init() };
    let known = |count: u16, otherwise| match count {
        0 => otherwise,
        _ => usize::from(count),
    };
    Some(Size {
        columns: known(out.ws_col, 80),
        rows: known(out.ws_row, 24),
    })
}
