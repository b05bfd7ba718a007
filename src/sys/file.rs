//! Files and directories: opening, mount identity, free space, the ext4 journal, sync and locks.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags,
};
use rustix::ioctl::{Setter, opcode};

/// Opens a directory for reading, following symlinks. open(2).
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens the directory `path` below `root` without following a symlink, leaving `root`'s tree or
/// crossing a mount. openat2(2); Linux 5.6.
///
/// # Errors
/// ELOOP for a symlink on the way, ENOTDIR for anything but a directory, EXDEV for a mount.
pub fn open_directory_beneath(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::BENEATH
        | ResolveFlags::NO_XDEV;
    Ok(rustix::fs::openat2(
        root,
        path,
        flags,
        Mode::empty(),
        resolve,
    )?)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MountId {
    /// The number in mountinfo's first field. The kernel reuses it after an unmount.
    pub shown: u64,
    /// A number that the kernel never reuses while the system runs; 0 before Linux 6.8.
    pub unique: u64,
    /// The file is the root of its mount.
    pub is_root: bool,
}

/// Identifies the mount of an open file. statx(2) with STATX_MNT_ID (Linux 5.8) and
/// STATX_MNT_ID_UNIQUE (6.8).
pub fn mount_id(file: BorrowedFd<'_>) -> io::Result<MountId> {
    const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
    let statx = |mask| rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, mask);
    let shown = statx(StatxFlags::MNT_ID)?;
    if shown.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    let unique = statx(UNIQUE)?;
    Ok(MountId {
        shown: shown.stx_mnt_id,
        unique: match unique.stx_mask & UNIQUE.bits() {
            0 => 0,
            _ => unique.stx_mnt_id,
        },
        is_root: shown.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    })
}

/// Returns `st_dev` and the number of links of the file at `path` as the kernel has cached them,
/// without asking a network server. statx(2) with AT_STATX_DONT_SYNC.
pub fn peek(path: &Path) -> io::Result<(u64, u32)> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(CWD, path, flags, StatxFlags::NLINK)?;
    let device = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
    Ok((device, stat.stx_nlink))
}

/// A filesystem's space, in bytes and inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub size: u64,
    /// Bytes that any user may still use.
    pub free: u64,
    /// 0 if the filesystem creates inodes as needed.
    pub inodes: u64,
    /// Files that any user may still create.
    pub free_inodes: u64,
    /// The mount or its superblock is read-only.
    pub read_only: bool,
}

impl Space {
    /// Returns the files that any user may still create; `None` without a fixed number of inodes.
    pub fn free_inodes(self) -> Option<u64> {
        (self.inodes > 0).then_some(self.free_inodes)
    }
}

/// Reads the space of the filesystem of an open file. fstatvfs(3).
pub fn space(file: BorrowedFd<'_>) -> io::Result<Space> {
    let vfs = rustix::fs::fstatvfs(file)?;
    let bytes = |blocks: u64| blocks.saturating_mul(vfs.f_frsize);
    Ok(Space {
        size: bytes(vfs.f_blocks),
        free: bytes(vfs.f_bavail),
        inodes: vfs.f_files,
        free_inodes: vfs.f_favail,
        read_only: vfs.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
    })
}

/// Declared only in the kernel, in fs/ext4/ext4.h.
const EXT4_IOC_CHECKPOINT: rustix::ioctl::Opcode = opcode::write::<u32>(b'f', 43);

/// Checks that an ext4 journal is alive, with EXT4_IOC_CHECKPOINT without flags (Linux 5.14; needs
/// CAP_SYS_ADMIN). An empty journal costs nothing. A dirty one is written back, so call this only
/// if the superblock is read-only or lost.
///
/// # Errors
/// EIO if the journal was aborted; ENOTTY on other filesystems; EPERM without the capability.
pub fn checkpoint_journal(directory: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the kernel reads one u32, the flags.
    unsafe {
        let no_flags = Setter::<EXT4_IOC_CHECKPOINT, u32>::new(0);
        Ok(rustix::ioctl::ioctl(directory, no_flags)?)
    }
}

/// Flushes the filesystem of an open file. Reports, once per descriptor, writes that failed since
/// the descriptor was opened. syncfs(2); reports since Linux 5.8.
pub fn sync_filesystem(file: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::syncfs(file)?)
}

/// Takes an exclusive advisory lock without waiting. Closing the file releases the lock. flock(2).
///
/// # Errors
/// `WouldBlock` if another open file has it.
pub fn lock_exclusive(file: BorrowedFd<'_>) -> io::Result<()> {
    let operation = FlockOperation::NonBlockingLockExclusive;
    Ok(rustix::fs::flock(file, operation)?)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::fs::{self, File, FileTimes};
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;
    use std::time::{Duration, SystemTime};

    /// A new directory, removed when it is dropped.
    pub(crate) struct TempDir(pub(crate) std::path::PathBuf);

    impl TempDir {
        pub(crate) fn new(name: &str) -> TempDir {
            let path = std::env::temp_dir().join(format!("pst-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            TempDir(path)
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_with_times_beyond_32_bits_has_a_status() {
        let dir = TempDir::new("2100");
        let open = File::open(&dir.0).unwrap();
        let year_2100 = SystemTime::UNIX_EPOCH + Duration::from_secs(4_102_444_800);
        let times = FileTimes::new()
            .set_modified(year_2100)
            .set_accessed(year_2100);
        open.set_times(times).unwrap();
        let expected = fs::metadata(&dir.0).unwrap();
        assert_eq!(expected.mtime(), 4_102_444_800);
        let found = rustix::fs::fstat(&open).unwrap();
        assert_eq!(
            (found.st_dev, found.st_ino),
            (expected.dev(), expected.ino())
        );
    }

    #[test]
    fn a_file_with_a_size_beyond_32_bits_has_a_status() {
        let dir = TempDir::new("large");
        let large = File::create(dir.0.join("large")).unwrap();
        large.set_len(5 << 30).unwrap();
        let expected = large.metadata().unwrap();
        assert_eq!(expected.len(), 5 << 30);
        let found = rustix::fs::fstat(&large).unwrap();
        assert_eq!(found.st_ino, expected.ino());
        assert_eq!(
            (found.st_uid, found.st_gid),
            (expected.uid(), expected.gid())
        );
        assert_eq!(found.st_mode, expected.mode());
        assert_eq!(peek(&dir.0.join("large")).unwrap(), (expected.dev(), 1));
    }

    #[test]
    fn sizes_are_bytes_in_64_bits() {
        let root = open_directory(Path::new("/")).unwrap();
        let shown = Command::new("stat")
            .args(["-f", "-c", "%S %b", "/"])
            .output()
            .unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let (block, count) = shown.trim().split_once(' ').unwrap();
        let size = block.parse::<u64>().unwrap() * count.parse::<u64>().unwrap();
        let found = space(root.as_fd()).unwrap();
        assert_eq!(found.size, size);
        assert!(found.free <= size);
    }

    #[test]
    fn a_device_has_the_number_that_stat_shows() {
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
    fn only_ext4_knows_the_journal_ioctl() {
        // _IOW('f', 43, __u32) of asm-generic/ioctl.h.
        assert_eq!(
            EXT4_IOC_CHECKPOINT,
            1 << 30 | 4 << 16 | u32::from(b'f') << 8 | 43
        );
        let proc = open_directory(Path::new("/proc")).unwrap();
        let error = checkpoint_journal(proc.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
