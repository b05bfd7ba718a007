//! A terminal's size.

use std::os::fd::AsFd;

/// A terminal's size, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub columns: usize,
    pub rows: usize,
}

/// A terminal's size, 80 by 24 if it does not know; `None` for anything but a terminal.
pub(crate) fn size(of: impl AsFd) -> Option<Size> {
    let size = rustix::termios::tcgetwinsize(of).ok()?;
    let known = |count: u16, otherwise| match count {
        0 => otherwise,
        _ => usize::from(count),
    };
    Some(Size {
        columns: known(size.ws_col, 80),
        rows: known(size.ws_row, 24),
    })
}
