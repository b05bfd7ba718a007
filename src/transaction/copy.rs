//! Copies a directory tree with everything that it has: owners, modes, times, extended attributes and ACLs, inode
//! flags, hard links, holes, symlinks and special files. An attribute that cannot be kept is an error.
//!
//! Other users may be able to change the source during the copy, so it is read only through descriptors and without
//! following symlinks. The copy is in a directory that nobody else may enter.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, IFlags, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
    XattrFlags, chmodat, chownat, fchmod, fchown, fstat, getxattr, ioctl_getflags, ioctl_setflags,
    lgetxattr, linkat, listxattr, lremovexattr, lsetxattr, mkdirat, mknodat, openat, readlinkat,
    removexattr, seek, setxattr, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::tree::{failed, is_directory, names, open};
use crate::escape::{escape, escape_path};
use crate::problem::Problem;
use crate::sys::user;

/// The largest list and the largest value of extended attributes; xattr(7).
const XATTR_MAX: usize = 64 << 10;

/// The bytes of a file that are copied at once.
const BLOCK: usize = 128 << 10;

const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// One copy. Paths are relative to `root`, the working area.
pub(super) struct Copier<'a> {
    root: BorrowedFd<'a>,
    /// Called before each entry of a directory and after each block of a file. Its error ends the copy.
    check: &'a dyn Fn() -> Result<(), Problem>,
    /// The first name of each inode with hard links.
    links: HashMap<u64, PathBuf>,
}

impl Copier<'_> {
    pub(super) fn new<'a>(
        root: BorrowedFd<'a>,
        check: &'a dyn Fn() -> Result<(), Problem>,
    ) -> Copier<'a> {
        let links = HashMap::new();
        Copier { root, check, links }
    }

    /// Copies the entry `name` of `from`, with all below it, into `to`.
    pub(super) fn copy(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), Problem> {
        let cannot = |error| failed("copy", path, error);
        // Everything is copied from this inode, even if another one gets its name meanwhile.
        let source = open(from, name, OFlags::PATH).map_err(cannot)?;
        let stat = fstat(&source).map_err(cannot)?;
        if !is_directory(&stat) && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&stat.st_ino) {
                return linkat(self.root, first, to, name, AtFlags::empty()).map_err(cannot);
            }
            self.links.insert(stat.st_ino, path.to_owned());
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.copy_directory(&source, to, name, path)?,
            FileType::RegularFile => copy_file(&source, to, name, path, self.check)?,
            FileType::Symlink => readlinkat(&source, c"", Vec::new())
                .and_then(|target| symlinkat(target, to, name))
                .map_err(cannot)?,
            kind => mknodat(to, name, kind, Mode::RUSR, stat.st_rdev).map_err(cannot)?,
        }
        keep_attributes(&source, to, name, path, &stat)
    }

    fn copy_directory(
        &mut self,
        source: &OwnedFd,
        to: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), Problem> {
        let cannot = |error| failed("copy", path, error);
        let from = open(source.as_fd(), OsStr::new("."), OFlags::DIRECTORY).map_err(cannot)?;
        mkdirat(to, name, Mode::RWXU).map_err(cannot)?;
        let to = open(to, name, OFlags::DIRECTORY).map_err(cannot)?;
        for name in names(&from).map_err(cannot)? {
            (self.check)()?;
            self.copy(from.as_fd(), to.as_fd(), &name, &path.join(&name))?;
        }
        keep_flags(from.as_fd(), to.as_fd()).map_err(cannot)
    }
}

fn copy_file(
    source: &OwnedFd,
    to: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
    check: &dyn Fn() -> Result<(), Problem>,
) -> Result<(), Problem> {
    let cannot = |error| Problem::io(format!("cannot copy {}", escape_path(path)), &error);
    let from = File::open(descriptor_path(source)).map_err(cannot)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let to = openat(to, name, flags, Mode::RUSR | Mode::WUSR);
    let to = File::from(to.map_err(|error| cannot(error.into()))?);
    let size = from.metadata().map_err(cannot)?.len();
    let mut buffer = vec![0; BLOCK];
    let mut at = 0;
    while at < size {
        at = copy_block(&from, &to, at..size, &mut buffer).map_err(cannot)?;
        check()?;
    }
    to.set_len(size).map_err(cannot)?;
    keep_flags(from.as_fd(), to.as_fd()).map_err(|error| cannot(error.into()))
}

/// Copies the first data in a range of a file, but not the hole before that data; lseek(2). Returns where the rest of
/// the range begins.
fn copy_block(from: &File, to: &File, range: Range<u64>, buffer: &mut [u8]) -> io::Result<u64> {
    let start = match seek(from, SeekFrom::Data(range.start)) {
        Err(Errno::NXIO) => return Ok(range.end), // a hole up to the end
        found => found?,
    };
    let end = seek(from, SeekFrom::Hole(start))?;
    let most = usize::try_from(end - start).map_or(buffer.len(), |left| left.min(buffer.len()));
    let got = from.read_at(&mut buffer[..most], start)?;
    if got == 0 {
        return Ok(range.end); // cut off meanwhile
    }
    to.write_all_at(&buffer[..got], start)?;
    Ok(start + got as u64)
}

/// Copies the flags that chattr(1) sets.
fn keep_flags(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let wanted = match ioctl_getflags(from) {
        Err(Errno::NOTTY | Errno::OPNOTSUPP) => return Ok(()), // a filesystem without them
        wanted => wanted?,
    };
    let found = ioctl_getflags(to)?;
    if wanted.intersects(IFlags::IMMUTABLE | IFlags::APPEND) {
        return Err(Errno::PERM); // the swap could not replace it
    }
    match wanted == found {
        true => Ok(()),
        // The kernel's own flags, such as "has extents", follow the file's data.
        false => ioctl_setflags(to, (found - IFlags::all()) | (wanted & IFlags::all())),
    }
}

/// Copies owner, extended attributes, mode and times, and checks that they are kept.
fn keep_attributes(
    source: &OwnedFd,
    to: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
    wanted: &Stat,
) -> Result<(), Problem> {
    let cannot = |error| failed("keep the attributes of", path, error);
    let inspect = || statat(to, name, AtFlags::SYMLINK_NOFOLLOW).map_err(cannot);
    let new = inspect()?;
    if (new.st_uid, new.st_gid) != (wanted.st_uid, wanted.st_gid) {
        let (uid, gid) = (Uid::from_raw(wanted.st_uid), Gid::from_raw(wanted.st_gid));
        chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| cannot_own(path, wanted, error))?;
    }
    let anchored = descriptor_path(&to).join(name); // nobody else can replace it
    keep_xattrs(&descriptor_path(source), &anchored, path)?;
    if FileType::from_raw_mode(wanted.st_mode) != FileType::Symlink {
        let mode = Mode::from_raw_mode(wanted.st_mode);
        chmodat(to, name, mode, AtFlags::empty()).map_err(cannot)?;
    }
    let times = Timestamps {
        last_access: timespec(wanted.st_atime as _, wanted.st_atime_nsec as _),
        last_modification: timespec(wanted.st_mtime as _, wanted.st_mtime_nsec as _),
    };
    utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(cannot)?;
    let new = inspect()?;
    let kept = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtime);
    match kept(&new) == kept(wanted) {
        true => Ok(()),
        // The kernel clears set-user-ID and set-group-ID bits without an error.
        false => Err(cannot(Errno::PERM)),
    }
}

/// Gives `to`, a directory above the copy, the owner, ACLs and permissions of `from`, but lets only the owner write.
/// If the caller may not set that owner, only the caller may enter the directory.
pub(super) fn keep_access(from: &OwnedFd, to: &OwnedFd, path: &Path) -> Result<(), Problem> {
    let cannot = |error| failed("keep the permissions of", path, error);
    let wanted = fstat(from).map_err(cannot)?;
    let (uid, gid) = (Uid::from_raw(wanted.st_uid), Gid::from_raw(wanted.st_gid));
    let mode = match fchown(to, Some(uid), Some(gid)) {
        Ok(()) => {
            let (from, to) = (descriptor_path(from), descriptor_path(to));
            for acl in ACLS {
                keep_acl(&from, &to, acl).map_err(cannot)?;
            }
            wanted.st_mode & 0o7755 | 0o700
        }
        Err(Errno::PERM) => fstat(to).map_err(cannot)?.st_mode & 0o2000 | 0o700,
        Err(error) => return Err(cannot(error)),
    };
    fchmod(to, Mode::from_raw_mode(mode)).map_err(cannot) // also limits the ACL
}

fn keep_acl(from: &Path, to: &Path, acl: &str) -> Result<(), Errno> {
    let mut value = vec![0; XATTR_MAX];
    match getxattr(from, acl, &mut value[..]) {
        Ok(length) => setxattr(to, acl, &value[..length], XattrFlags::empty()),
        Err(Errno::NODATA) => match removexattr(to, acl) {
            Err(Errno::NODATA) => Ok(()),
            removed => removed,
        },
        Err(Errno::OPNOTSUPP) => Ok(()), // a filesystem without ACLs
        Err(error) => Err(error),
    }
}

fn timespec(seconds: i64, nanoseconds: i64) -> Timespec {
    Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as _,
    }
}

fn cannot_own(path: &Path, wanted: &Stat, error: Errno) -> Problem {
    let (owner, group) = (
        user::user_name(wanted.st_uid),
        user::group_name(wanted.st_gid),
    );
    let (owner, group) = (escape(&owner), escape(&group));
    let what = format!(
        "cannot copy {}, which belongs to {owner}:{group}",
        escape_path(path)
    );
    Problem::io(what, &error.into()).hint("only root may keep that owner: run it as root")
}

/// Returns a path that leads to an open file.
fn descriptor_path(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Copies extended attributes, among them ACLs. The caller's right to read one is the right to keep it.
fn keep_xattrs(from: &Path, to: &Path, path: &Path) -> Result<(), Problem> {
    let mut list = vec![0; XATTR_MAX];
    let length = match listxattr(from, &mut list[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        length => length.map_err(|error| failed("read the attributes of", path, error))?,
    };
    let mut value = vec![0; XATTR_MAX];
    let mut other = vec![0; XATTR_MAX];
    let names = list[..length].split(|&byte| byte == 0);
    let names: Vec<&[u8]> = names.filter(|name| !name.is_empty()).collect();
    for acl in ACLS.iter().filter(|acl| !names.contains(&acl.as_bytes())) {
        // It comes from the working area, which has the data directory's default ACL.
        match lremovexattr(to, *acl) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            removed => removed.map_err(|error| failed("keep the attributes of", path, error))?,
        }
    }
    for name in names {
        let cannot = |error| {
            failed(
                &format!("keep the attribute {} of", escape(name)),
                path,
                error,
            )
        };
        let name = OsStr::from_bytes(name);
        let length = getxattr(from, name, &mut value[..]).map_err(cannot)?;
        let present = lgetxattr(to, name, &mut other[..])
            .is_ok_and(|found| other[..found] == value[..length]);
        if !present {
            lsetxattr(to, name, &value[..length], XattrFlags::empty()).map_err(cannot)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::tests::TempDir;
    use std::cell::Cell;
    use std::fs;

    #[test]
    fn a_copy_ends_within_a_file_and_keeps_its_holes_and_size() {
        let dir = TempDir::new("copy");
        let (source, target) = (dir.0.join("source"), dir.0.join("target"));
        fs::create_dir_all(source.join("tree")).unwrap();
        fs::create_dir(&target).unwrap();
        let file = File::create(source.join("tree/large")).unwrap();
        let content = vec![b'x'; 3 * BLOCK + 5];
        file.write_all_at(&content, 1 << 20).unwrap();
        file.set_len(5 << 20).unwrap();
        let (from, to) = (File::open(&source).unwrap(), File::open(&target).unwrap());
        let copy = |checks| {
            let left = Cell::new(checks);
            let check = || {
                left.set(left.get() - 1);
                match left.get() {
                    0 => Err(Problem::new("interrupted")),
                    _ => Ok(()),
                }
            };
            let mut copier = Copier::new(to.as_fd(), &check);
            copier.copy(from.as_fd(), to.as_fd(), "tree".as_ref(), Path::new("tree"))
        };
        assert_eq!(copy(3).unwrap_err().what, "interrupted");
        let part = fs::read(target.join("tree/large")).unwrap();
        assert_eq!(part.len(), (1 << 20) + 2 * BLOCK);
        fs::remove_dir_all(target.join("tree")).unwrap();
        copy(1000).unwrap();
        let (old, new) = (
            fs::read(source.join("tree/large")).unwrap(),
            fs::read(target.join("tree/large")).unwrap(),
        );
        assert!(old == new);
    }
}
