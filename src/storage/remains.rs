//! Names of temporary files and working areas, and the removal of those that a killed transaction left. Each is locked
//! with flock(2) by its owner while it is in use.

use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, chmod, flock, fstat, openat, statat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::sys::file::open_directory_beneath;

const PREFIX: &str = ".pst-";

/// Hexadecimal digits after the prefix.
const DIGITS: usize = 16;

/// Returns a new random name for a temporary file or a working area.
pub(crate) fn new_name() -> OsString {
    // Each RandomState has random keys of its own.
    let random = RandomState::new().build_hasher().finish();
    format!("{PREFIX}{random:016x}").into()
}

/// Whether [`new_name`] could have returned this name.
pub(crate) fn is_temporary(name: &OsStr) -> bool {
    let digits = name.as_bytes().strip_prefix(PREFIX.as_bytes());
    digits.is_some_and(|digits| {
        let is_digit = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        digits.len() == DIGITS && digits.iter().all(is_digit)
    })
}

/// Creates a working area with mode 0700, and locks it.
pub(crate) fn create_directory(directory: BorrowedFd<'_>) -> Result<(OwnedFd, OsString), Errno> {
    loop {
        let name = new_name();
        match rustix::fs::mkdirat(directory, &name, Mode::RWXU) {
            Err(Errno::EXIST) => continue,
            created => created?,
        }
        match open_unfollowed(directory, &name) {
            Ok(area) => match lock_new(area.as_fd()) {
                Ok(true) => return Ok((area, name)),
                Ok(false) => {} // another transaction took it for remains
                Err(error) => {
                    let _ = unlinkat(directory, &name, AtFlags::REMOVEDIR);
                    return Err(error);
                }
            },
            Err(Errno::NOENT) => {} // the same
            Err(error) => return Err(error),
        }
    }
}

/// Locks a new file or directory. Returns false if another transaction, which saw it before, removes it.
fn lock_new(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(fstat(file)?.st_nlink > 0),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the unlocked remains in the data directory: temporary files, and this user's working areas.
pub(crate) fn remove_all(data: BorrowedFd<'_>) {
    remove_files(data);
    for name in list(data) {
        // Fails if it is in use, or another user's, whose next transaction removes it.
        let _ = remove_directory(data, &name);
    }
}

/// Removes the unlocked temporary files in a directory. Skips those that this user may not remove.
pub(crate) fn remove_files(directory: BorrowedFd<'_>) {
    for name in list(directory) {
        let _ = remove_file(directory, &name);
    }
}

/// Returns the names of temporary files and working areas in a directory, in use or not.
pub(crate) fn list(directory: BorrowedFd<'_>) -> Vec<OsString> {
    let mut names = names(directory);
    names.retain(|name| is_temporary(name));
    names
}

fn names(directory: BorrowedFd<'_>) -> Vec<OsString> {
    let entries = Dir::read_from(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned())
        .filter(|name| name != "." && name != "..")
        .collect()
}

/// Finds the unlocked remains below a directory: their paths, and the bytes that they occupy.
pub(crate) fn find(directory: BorrowedFd<'_>, path: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for name in names(directory) {
        let path = path.join(&name);
        let inner = open_directory_beneath(directory, name.as_ref());
        if !is_temporary(&name) {
            found.extend(
                inner
                    .into_iter()
                    .flat_map(|inner| find(inner.as_fd(), &path)),
            );
        } else if lock(directory, &name).is_ok() {
            found.push((path, occupied(directory, &name)));
        }
    }
    found
}

/// Returns the bytes that a file occupies, or a directory with everything in it.
fn occupied(directory: BorrowedFd<'_>, name: &OsStr) -> u64 {
    let status = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
    let blocks = status.map_or(0, |status| status.st_blocks as u64);
    let inner = open_directory_beneath(directory, name.as_ref()).into_iter();
    let inner = inner.flat_map(|inner| {
        names(inner.as_fd())
            .into_iter()
            .map(move |name| occupied(inner.as_fd(), &name))
    });
    blocks * 512 + inner.sum::<u64>()
}

/// Removes a temporary file, unless it is locked. Fails for a directory. Another user may have given the file that
/// name, but only one who may remove it, too.
fn remove_file(directory: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let _lock = lock(directory, name)?;
    unlinkat(directory, name, AtFlags::empty())
}

/// Removes a working area, unless it is locked. Another user must not be able to give a directory of this user that
/// name, or a directory that contains one of this user: it would be removed.
fn remove_directory(data: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let status = statat(data, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let above = fstat(data)?;
    let is_shared = above.st_mode & 0o022 != 0 && above.st_mode & libc::S_ISVTX == 0;
    if is_shared || status.st_uid != geteuid().as_raw() {
        return Err(Errno::PERM);
    }
    let _lock = lock(data, name)?;
    remove_tree(data, name)
}

/// Locks one, unless a transaction has it locked.
fn lock(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<OwnedFd>, Errno> {
    let status = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile | FileType::Directory => {
            let file = open_unfollowed(directory, name)?;
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            Ok(Some(file))
        }
        _ => Ok(None), // no transaction creates such a file here
    }
}

fn open_unfollowed(directory: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

/// Removes a file, or a directory with everything in it. Follows no symlink and enters no other mount.
pub(crate) fn remove_tree(directory: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        removed => return removed,
    }
    if unlinkat(directory, name, AtFlags::REMOVEDIR).is_ok() {
        return Ok(());
    }
    match empty(directory, name) {
        Err(Errno::ACCESS) => {
            make_accessible(directory, name)?;
            empty(directory, name)?;
        }
        emptied => emptied?,
    }
    unlinkat(directory, name, AtFlags::REMOVEDIR)
}

/// Removes everything in a directory.
fn empty(directory: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let inner = open_directory_beneath(directory, name.as_ref())
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    for entry in Dir::read_from(&inner)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            remove_tree(inner.as_fd(), name)?;
        }
    }
    Ok(())
}

/// Gives the owner of a directory all rights to it. Only users other than root need that to remove what is in it.
///
/// # Errors
/// `EACCES` if the owner already has them.
fn make_accessible(directory: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = openat(directory, name, flags, Mode::empty())?;
    let mode = Mode::from_raw_mode(fstat(&inner)?.st_mode);
    if mode.contains(Mode::RWXU) {
        return Err(Errno::ACCESS);
    }
    // fchmod(2) refuses such a descriptor.
    let path = format!("/proc/self/fd/{}", inner.as_raw_fd());
    chmod(path, mode | Mode::RWXU)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privilege::leave_out;
    use crate::sys::file::tests::TempDir;
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A named file that is complete and not yet renamed.
    fn create_file(directory: &Path) -> (File, OsString) {
        let name = new_name();
        let file = File::create(directory.join(&name)).unwrap();
        (file, name)
    }

    #[test]
    fn only_random_names_are_temporary() {
        assert!(is_temporary(&new_name()));
        assert_ne!(new_name(), new_name());
        for name in [
            ".pst-",
            ".pst-notes",
            ".pst-0123456789ABCDEF",
            "x.pst-0123456789abcdef",
        ] {
            assert!(!is_temporary(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_directory_that_others_can_have_renamed_is_no_remains() {
        let dir = TempDir::new("remains-shared");
        let area = dir.0.join(new_name());
        fs::create_dir(&area).unwrap();
        let open = File::open(&dir.0).unwrap();
        let set_mode = |mode| fs::set_permissions(&dir.0, PermissionsExt::from_mode(mode)).unwrap();
        set_mode(0o770);
        remove_all(open.as_fd());
        assert!(area.exists());
        set_mode(0o1770);
        remove_all(open.as_fd());
        assert!(!area.exists());
    }

    #[test]
    fn a_directory_of_another_user_or_outside_the_data_directory_is_no_remains() {
        let dir = TempDir::new("remains-others");
        let (others, own, file) = (new_name(), new_name(), new_name());
        for area in [&others, &own] {
            fs::create_dir_all(dir.0.join(area).join("tree")).unwrap();
        }
        fs::write(dir.0.join(&file), "x").unwrap();
        // Takes root, and in a user namespace another user.
        if std::os::unix::fs::chown(dir.0.join(&others), Some(1), None).is_err() {
            return leave_out("another user");
        }
        let open = File::open(&dir.0).unwrap();
        remove_files(open.as_fd());
        assert!(dir.0.join(&own).join("tree").exists() && !dir.0.join(file).exists());
        remove_all(open.as_fd());
        assert!(dir.0.join(&others).join("tree").exists() && !dir.0.join(own).exists());
    }

    #[test]
    fn remains_are_removed_unless_they_are_in_use() {
        let dir = TempDir::new("remains");
        let outside = TempDir::new("remains-outside");
        fs::write(outside.0.join("kept"), "x").unwrap();
        let open = File::open(&dir.0).unwrap();
        let (file, in_use) = create_file(&dir.0);
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        let (area, area_in_use) = create_directory(open.as_fd()).unwrap();
        let (_, left) = create_file(&dir.0);
        let (_, area_left) = create_directory(open.as_fd()).unwrap();
        fs::create_dir_all(dir.0.join(&area_left).join("a/b")).unwrap();
        symlink(&outside.0, dir.0.join(&area_left).join("a/link")).unwrap();
        symlink(&outside.0, dir.0.join(new_name())).unwrap();
        fs::write(dir.0.join(".pst-notes"), "x").unwrap();
        let found = find(open.as_fd(), Path::new("/x"));
        let paths: Vec<PathBuf> = found.into_iter().map(|(path, _)| path).collect();
        assert!(
            paths.contains(&Path::new("/x").join(&left))
                && paths.contains(&Path::new("/x").join(&area_left))
        );
        remove_all(open.as_fd());
        assert!(!dir.0.join(left).exists() && !dir.0.join(area_left).exists());
        assert!(find(open.as_fd(), Path::new("")).is_empty());
        let mut names = list(open.as_fd());
        names.sort();
        let mut expected = vec![in_use, area_in_use];
        expected.sort();
        assert_eq!(names, expected);
        assert!(dir.0.join(".pst-notes").exists() && outside.0.join("kept").exists());
        drop((file, area));
        remove_all(open.as_fd());
        assert!(list(open.as_fd()).is_empty());
    }
}
