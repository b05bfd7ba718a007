//! Mounts: switching the superblock and clearing a mount's own read-only flag.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::mount::{FsPickFlags, fsconfig_reconfigure, fsconfig_set_flag, fspick};

use super::check;

/// Whether a superblock allows writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    ReadOnly,
    ReadWrite,
}

// From linux/mount.h; the values are part of the kernel's interface.
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

/// Switches the superblock under `root`, a descriptor of a mount's root, for every mount and
/// namespace at once. fspick(2), fsconfig(2); Linux 5.2.
///
/// # Errors
/// EBUSY if something still holds the filesystem writable; EROFS and others if the device or the
/// filesystem refuses.
pub fn switch_superblock(root: BorrowedFd<'_>, mode: Mode) -> io::Result<()> {
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
    let context = fspick(root, c"", flags)?;
    let flag = match mode {
        Mode::ReadOnly => c"ro",
        Mode::ReadWrite => c"rw",
    };
    fsconfig_set_flag(context.as_fd(), flag)?;
    Ok(fsconfig_reconfigure(context.as_fd())?)
}

/// Clears the read-only flag of the mount whose root is `root`, in this mount namespace, and sets
/// its noatime flag if `noatime` is set. mount_setattr(2); Linux 5.12.
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
    // SAFETY: the path is a valid C string; `attr` is live and of the size that is passed.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_struct_layout_is_the_kernels_on_every_architecture() {
        assert_eq!(libc::SYS_mount_setattr, 442);
        assert_eq!(size_of::<MountAttr>(), 32);
        assert_eq!(offset_of!(MountAttr, clear), 8);
        assert_eq!(offset_of!(MountAttr, userns_fd), 24);
    }
}
