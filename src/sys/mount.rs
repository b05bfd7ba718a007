//! Switching a superblock and a mount's own flags: the calls of the new mount API.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::check;
use super::poll::{self, Watch};

/// Whether a superblock takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    ReadOnly,
    ReadWrite,
}

// From linux/mount.h; the values are part of the kernel's interface. fspick(2) and fsconfig(2)
// are the same on every architecture, as are all system calls since number 424.
const FSPICK_CLOEXEC: libc::c_uint = 0x1;
const FSPICK_EMPTY_PATH: libc::c_uint = 0x8;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_CMD_RECONFIGURE: libc::c_uint = 7;
const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_ATIME: u64 = 0x70;
const MOUNT_ATTR_NOATIME: u64 = 0x10;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Switches the superblock under `root`, which is a descriptor of a mount's root, for every mount
/// and namespace at once. fspick(2), fsconfig(2); Linux 5.2.
///
/// # Errors
/// EBUSY when something still writes; EROFS and others when the device or the filesystem refuses.
pub fn switch_superblock(root: BorrowedFd<'_>, mode: Mode) -> io::Result<()> {
    // SAFETY: the path is a valid C string; the call takes no other pointer and returns a new
    // descriptor or -1.
    let context = check(unsafe {
        libc::syscall(
            libc::SYS_fspick,
            root.as_raw_fd(),
            c"".as_ptr(),
            FSPICK_CLOEXEC | FSPICK_EMPTY_PATH,
        )
    })?;
    // SAFETY: the kernel has just made this descriptor for us alone; descriptors are ints.
    let context = unsafe { OwnedFd::from_raw_fd(context as libc::c_int) };
    let flag = match mode {
        Mode::ReadOnly => c"ro",
        Mode::ReadWrite => c"rw",
    };
    fsconfig(context.as_fd(), FSCONFIG_SET_FLAG, Some(flag))?;
    fsconfig(context.as_fd(), FSCONFIG_CMD_RECONFIGURE, None)
}

fn fsconfig(context: BorrowedFd<'_>, command: libc::c_uint, key: Option<&CStr>) -> io::Result<()> {
    let key = key.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: `key` is null or a valid C string, as the two commands used here demand; the value
    // is null for both.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            key,
            std::ptr::null::<libc::c_void>(),
            0,
        )
    })
    .map(drop)
}

/// Clears the read-only flag of the mount whose root is `root`, in this mount namespace, and, if
/// asked to, sets noatime. mount_setattr(2); Linux 5.12.
///
/// # Errors
/// ENOSYS before 5.12; EPERM without CAP_SYS_ADMIN or where the flag is locked.
pub fn clear_mount_read_only(root: BorrowedFd<'_>, noatime: bool) -> io::Result<()> {
    let mut attr = MountAttr {
        set: 0,
        clear: MOUNT_ATTR_RDONLY,
        propagation: 0,
        userns_fd: 0,
    };
    if noatime {
        attr.clear |= MOUNT_ATTR_ATIME;
        attr.set |= MOUNT_ATTR_NOATIME;
    }
    // SAFETY: the path is a valid C string, `attr` is a live struct of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            root.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Whether one of these open mountinfo files tells of a change in its mount namespace, since it was
/// opened or last asked, or does so within this time (`None`: whatever it takes, or a signal).
/// proc_pid_mountinfo(5) (POLLPRI); epoll(7) does not serve for these.
pub fn has_changed(files: &[BorrowedFd<'_>], within: Option<Duration>) -> io::Result<bool> {
    let watches = files.iter().map(|file| Watch::new(file, libc::POLLPRI));
    let mut watches: Vec<Watch<'_>> = watches.collect();
    poll::wait(&mut watches, within)?;
    Ok(watches.iter().any(Watch::seen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_calls_are_the_kernels_on_every_processor() {
        assert_eq!((libc::SYS_fsconfig, libc::SYS_fspick), (431, 433));
        assert_eq!(libc::SYS_mount_setattr, 442);
        assert_eq!(size_of::<MountAttr>(), 32);
        assert_eq!(offset_of!(MountAttr, clear), 8);
        assert_eq!(offset_of!(MountAttr, userns_fd), 24);
    }
}
