//! A directory as this process sees it: its device, and whether it can be written to.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::{check, file};

/// What is at a path, as this process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    /// The device, as stat(2) says it.
    pub device: u64,
    /// The mount or the superblock is read-only; see statvfs(3).
    pub read_only: bool,
}

/// Looks at a directory, through one descriptor, so that both answers are about
/// the same; see open(2), statx(2) and fstatvfs(3).
pub(crate) fn look_at(path: &CStr) -> io::Result<Sight> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: a string that ends in 0; the new descriptor is nobody else's; the
    // structure is read only after the call that fills it succeeded.
    unsafe {
        let fd = check(libc::open(path.as_ptr(), flags))?;
        let fd = OwnedFd::from_raw_fd(fd);
        let mut vfs = MaybeUninit::<libc::statvfs64>::uninit();
        check(libc::fstatvfs64(fd.as_raw_fd(), vfs.as_mut_ptr()))?;
        Ok(Sight {
            device: file::status(fd.as_fd())?.device,
            read_only: vfs.assume_init().f_flag & libc::ST_RDONLY != 0,
        })
    }
}
