//! Descriptors of files and directories: opening beneath a root, owner and mode, identity,
//! what statfs says, syncing, locking.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::check;

/// A path as a C string.
///
/// # Errors
/// `InvalidInput` if it contains a NUL byte.
pub fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the path contains a NUL byte"))
}

/// Opens a directory for reading, following symlinks. open(2).
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: `path` is a valid C string; the call returns a new descriptor or -1.
    let fd = check(unsafe { libc::open(path.as_ptr(), flags) })?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens the directory `path` below `root`, without following any symlink, leaving `root`'s tree
/// or crossing a mount. openat2(2); Linux 5.6.
///
/// # Errors
/// ELOOP for a symlink on the way, ENOTDIR for what is no directory, EXDEV for a mount.
pub fn open_directory_beneath(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: open_how is plain old data for which all zeroes is a valid value.
    let mut how: libc::open_how = unsafe { MaybeUninit::zeroed().assume_init() };
    how.flags = (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_NO_SYMLINKS
        | libc::RESOLVE_NO_MAGICLINKS
        | libc::RESOLVE_BENEATH
        | libc::RESOLVE_NO_XDEV;
    // SAFETY: `path` is a valid C string, `how` a live struct of the size given.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    })?;
    // SAFETY: the kernel has just made this descriptor for us alone; descriptors are ints.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Makes a directory below `parent`. mkdirat(2).
pub fn make_directory(parent: BorrowedFd<'_>, name: &CStr, mode: libc::mode_t) -> io::Result<()> {
    // SAFETY: `name` is a valid C string.
    check(unsafe { libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), mode) }).map(drop)
}

/// Sets owner and group. fchown(2).
pub fn set_owner(file: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::fchown(file.as_raw_fd(), uid, gid) }).map(drop)
}

/// Sets the permission bits. fchmod(2).
pub fn set_mode(file: BorrowedFd<'_>, mode: libc::mode_t) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::fchmod(file.as_raw_fd(), mode) }).map(drop)
}

/// What stat says of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Device number of the filesystem (`st_dev`).
    pub device: u64,
    pub inode: u64,
    pub uid: u32,
    pub gid: u32,
    /// Permission bits, with set-id and sticky ones.
    pub mode: u32,
}

/// statx(2): glibc's fstat fails on 32-bit processors where a time is past 2038.
pub fn status(file: BorrowedFd<'_>) -> io::Result<Status> {
    let stat = statx(file, libc::STATX_BASIC_STATS)?;
    Ok(Status {
        device: device_number(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mode: u32::from(stat.stx_mode & 0o7777),
    })
}

/// Identity of a mount, from statx(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MountId {
    /// The number that mountinfo's first field shows. Used again after an unmount.
    pub shown: u64,
    /// A number never used again while the system runs; 0 before Linux 6.8.
    pub unique: u64,
    /// The file is the root of its mount.
    pub is_root: bool,
}

/// Which mount an open file belongs to. statx(2) with STATX_MNT_ID (5.8) and
/// STATX_MNT_ID_UNIQUE (6.8).
pub fn mount_id(file: BorrowedFd<'_>) -> io::Result<MountId> {
    const UNIQUE: u32 = 0x4000;
    let shown = statx(file, libc::STATX_MNT_ID)?;
    if shown.stx_mask & libc::STATX_MNT_ID == 0 {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    let unique = statx(file, UNIQUE)?;
    let is_root = shown.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0;
    Ok(MountId {
        shown: shown.stx_mnt_id,
        unique: if unique.stx_mask & UNIQUE != 0 {
            unique.stx_mnt_id
        } else {
            0
        },
        is_root,
    })
}

fn statx(file: BorrowedFd<'_>, mask: u32) -> io::Result<libc::statx> {
    let mut out = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is a valid C string, `out` is large enough for what the call writes.
    check(unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            mask,
            out.as_mut_ptr(),
        )
    })?;
    // SAFETY: zeroed plain old data is a valid value, whatever part the call has written.
    Ok(unsafe { out.assume_init() })
}

/// `st_dev` and number of links of what a path leads to, as the kernel has them at hand: no server
/// is asked. statx(2) with AT_STATX_DONT_SYNC.
pub fn peek(path: &Path) -> io::Result<(u64, u32)> {
    let path = c_path(path)?;
    let mut out = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: `path` is a valid C string, `out` is large enough for what the call writes.
    check(unsafe {
        libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT,
            libc::STATX_NLINK,
            out.as_mut_ptr(),
        )
    })?;
    // SAFETY: zeroed plain old data is a valid value, whatever part the call has written.
    let out = unsafe { out.assume_init() };
    let device = device_number(out.stx_dev_major, out.stx_dev_minor);
    Ok((device, out.stx_nlink))
}

/// `st_dev` of a device's two numbers. makedev(3).
pub fn device_number(major: u32, minor: u32) -> u64 {
    libc::makedev(major, minor)
}

/// What statvfs says of the filesystem and mount of an open file. Bytes, not blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub size: u64,
    /// Bytes that any user may still use.
    pub free: u64,
    /// Bytes that root may still use: ext4 keeps some back for it.
    pub free_for_root: u64,
    /// So many more files can be made; `None` where the filesystem does not count them.
    pub free_inodes: Option<u64>,
    /// The mount or its superblock is read-only. Says nothing about health.
    pub read_only: bool,
    /// Nothing on the mount can be executed.
    pub no_exec: bool,
}

pub fn space(file: BorrowedFd<'_>) -> io::Result<Space> {
    let mut out = MaybeUninit::<libc::statvfs64>::uninit();
    // SAFETY: `out` is large enough for what the call writes.
    check(unsafe { libc::fstatvfs64(file.as_raw_fd(), out.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it has written the whole struct.
    let out = unsafe { out.assume_init() };
    // The field's width differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    let block = out.f_frsize as u64;
    Ok(Space {
        size: out.f_blocks.saturating_mul(block),
        free: out.f_bavail.saturating_mul(block),
        free_for_root: out.f_bfree.saturating_mul(block),
        free_inodes: (out.f_files > 0).then_some(out.f_favail),
        read_only: out.f_flag & libc::ST_RDONLY != 0,
        no_exec: out.f_flag & libc::ST_NOEXEC != 0,
    })
}

/// How many inodes the filesystem of an open file has, and how many of them any user may still
/// use; 0 of 0 where they are made as needed. fstatvfs(3), the 64-bit one.
pub fn inodes(file: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let mut out = MaybeUninit::<libc::statvfs64>::uninit();
    // SAFETY: `out` is large enough for what the call writes.
    check(unsafe { libc::fstatvfs64(file.as_raw_fd(), out.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it has written the whole struct.
    let out = unsafe { out.assume_init() };
    Ok((out.f_files, out.f_favail))
}

/// Writes the whole filesystem of an open file to the medium, and reports, once per descriptor,
/// what could not be written since the descriptor was opened. syncfs(2); reports since Linux 5.8.
pub fn sync_filesystem(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::syncfs(file.as_raw_fd()) }).map(drop)
}

/// _IOW('f', 43, __u32), the same on every architecture that the kernel's generic ioctl
/// encoding covers (x86, arm, arm64, riscv).
const EXT4_IOC_CHECKPOINT: u32 = 0x4004_662b;

/// Asks an ext4 filesystem whether its journal is alive, by EXT4_IOC_CHECKPOINT without flags
/// (Linux 5.14; needs CAP_SYS_ADMIN). Costs nothing while the journal is empty; otherwise it
/// writes the journal back, so ask only when the superblock is read-only or lost.
///
/// # Errors
/// EIO if the journal was aborted; ENOTTY on other filesystems; EPERM without the capability.
pub fn checkpoint_journal(directory: BorrowedFd<'_>) -> io::Result<()> {
    let flags: u32 = 0;
    // SAFETY: the kernel reads one u32 through the pointer, which is live.
    check(unsafe {
        libc::ioctl(
            directory.as_raw_fd(),
            EXT4_IOC_CHECKPOINT as libc::Ioctl,
            &raw const flags,
        )
    })
    .map(drop)
}

/// Takes an exclusive advisory lock without waiting; it lasts as long as the open file. flock(2).
///
/// # Errors
/// `WouldBlock` if somebody else has it.
pub fn lock_exclusive(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

/// Sets which permission bits new files never get; returns the one before. umask(2).
pub fn set_umask(mask: libc::mode_t) -> libc::mode_t {
    // SAFETY: takes no pointer and cannot fail.
    unsafe { libc::umask(mask) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File, FileTimes};
    use std::mem::offset_of;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;
    use std::time::{Duration, SystemTime};

    use crate::sys::directory::look_at;

    /// A directory that is gone at the end.
    struct Dir(std::path::PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let path = std::env::temp_dir().join(format!("pst-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Dir(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn structures_are_as_the_kernel_has_them_on_every_processor() {
        use libc::{open_how, statx};
        assert_eq!(
            (size_of::<open_how>(), offset_of!(open_how, resolve)),
            (24, 16)
        );
        assert_eq!(
            (size_of::<statx>(), offset_of!(statx, stx_mnt_id)),
            (256, 144)
        );
        assert_eq!(libc::SYS_openat2, 437);
    }

    #[test]
    fn times_that_do_not_fit_32_bits_hide_no_file() {
        let dir = Dir::new("2100");
        let open = File::open(&dir.0).unwrap();
        let year_2100 = SystemTime::UNIX_EPOCH + Duration::from_secs(4_102_444_800);
        let times = FileTimes::new()
            .set_modified(year_2100)
            .set_accessed(year_2100);
        open.set_times(times).unwrap();
        let expected = fs::metadata(&dir.0).unwrap();
        assert_eq!(expected.mtime(), 4_102_444_800);
        let found = status(open.as_fd()).unwrap();
        assert_eq!(
            (found.device, found.inode),
            (expected.dev(), expected.ino())
        );
        let sight = look_at(&c_path(&dir.0).unwrap()).unwrap();
        assert_eq!(sight.device, expected.dev());
    }

    #[test]
    fn a_file_of_more_than_32_bits_has_a_status() {
        let dir = Dir::new("large");
        let large = File::create(dir.0.join("large")).unwrap();
        large.set_len(5 << 30).unwrap();
        let expected = large.metadata().unwrap();
        assert_eq!(expected.len(), 5 << 30);
        let found = status(large.as_fd()).unwrap();
        assert_eq!(found.inode, expected.ino());
        assert_eq!((found.uid, found.gid), (expected.uid(), expected.gid()));
        assert_eq!(found.mode, expected.mode() & 0o7777);
        assert_eq!(peek(&dir.0.join("large")).unwrap(), (expected.dev(), 1));
    }

    #[test]
    fn sizes_are_bytes_in_64_bits() {
        let root = open_directory(Path::new("/")).unwrap();
        let said = Command::new("stat")
            .args(["-f", "-c", "%S %b", "/"])
            .output()
            .unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let (block, count) = said.trim().split_once(' ').unwrap();
        let size = block.parse::<u64>().unwrap() * count.parse::<u64>().unwrap();
        let found = space(root.as_fd()).unwrap();
        assert_eq!(found.size, size);
        assert!(found.free <= size);
    }

    #[test]
    fn device_numbers_are_put_together_as_stat_has_them() {
        assert_eq!(device_number(8, 1), 0x801);
        assert_eq!(device_number(0x12345, 0x6789a), 0x0001_2000_6783_459a);
        let root = fs::metadata("/").unwrap();
        assert_eq!(peek(Path::new("/")).unwrap().0, root.dev());
    }

    #[test]
    fn a_mount_has_the_number_that_mountinfo_shows() {
        let proc = open_directory(Path::new("/proc")).unwrap();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let is_proc = |line: &&str| line.split(' ').nth(4) == Some("/proc");
        let line = table.lines().rfind(is_proc).unwrap();
        let found = mount_id(proc.as_fd()).unwrap();
        assert_eq!(line.split(' ').next(), Some(&*found.shown.to_string()));
        assert!(found.is_root);
        let below = open_directory(Path::new("/proc/self/")).unwrap();
        assert!(!mount_id(below.as_fd()).unwrap().is_root);
    }

    #[test]
    fn only_ext4_is_asked_for_its_journal() {
        // _IOW('f', 43, __u32) as asm-generic/ioctl.h puts it together.
        assert_eq!(
            EXT4_IOC_CHECKPOINT,
            1 << 30 | 4 << 16 | u32::from(b'f') << 8 | 43
        );
        let proc = open_directory(Path::new("/proc")).unwrap();
        let error = checkpoint_journal(proc.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
