//! ACLs and other extended attributes of a file that is replaced; xattr(7), acl(5).

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{
    Mode, OFlags, XattrFlags, fgetxattr, fremovexattr, fsetxattr, getxattr, listxattr, openat,
};
use rustix::io::Errno;

use super::path::{Place, cannot};
use crate::problem::Problem;

/// The kernel's limit for a value, and for the list of names.
const SIZE_LIMIT: usize = 1 << 16;

const ACL: &CStr = c"system.posix_acl_access";

/// They vouch for the old content; the kernel drops the first one with each write.
const OF_THE_CONTENT: [&CStr; 3] = [c"security.capability", c"security.ima", c"security.evm"];

/// Gives `new` the attributes of the file that it replaces. `path` is for messages.
pub(super) fn copy(place: &Place, new: &File, path: &Path) -> Result<(), Problem> {
    try_copy(place, new)
        .map_err(|error| cannot("keep the ACLs and extended attributes of", path, error))
}

fn try_copy(place: &Place, new: &File) -> Result<(), Errno> {
    // O_PATH, because the caller may be unable to read the file. An O_PATH descriptor's attributes are read by path.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&place.directory, &place.name, flags, Mode::empty())?;
    let old = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut names = vec![0; SIZE_LIMIT];
    let length = match listxattr(&old, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()), // the filesystem has none
        length => length?,
    };
    let names = names[..length].split_inclusive(|byte| *byte == 0);
    let names: Vec<&CStr> = names.flat_map(CStr::from_bytes_with_nul).collect();
    if !names.contains(&ACL) {
        // A default ACL of the directory gives the new file one.
        match fremovexattr(new, ACL) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            removed => removed?,
        }
    }
    let (mut value, mut present) = (vec![0; SIZE_LIMIT], vec![0; SIZE_LIMIT]);
    for name in names
        .into_iter()
        .filter(|name| !OF_THE_CONTENT.contains(name))
    {
        let length = getxattr(&old, name, &mut value[..])?;
        let value = &value[..length];
        let has_it =
            fgetxattr(new, name, &mut present[..]).is_ok_and(|length| present[..length] == *value);
        if !has_it {
            fsetxattr(new, name, value, XattrFlags::empty())?;
        }
    }
    Ok(())
}
