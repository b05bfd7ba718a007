//! The user and group databases: names to numbers and back, without a cache.

use std::ffi::{CStr, CString};
use std::io;
use std::ptr;

use libc::{c_char, c_int, size_t};

/// Larger than any entry: a group of 100,000 members fits.
const BUFFER_LIMIT: usize = 16 << 20;

/// Returns the user's number, or `None` if there is no such user. Digits that are not a user's name
/// are taken as the number. getpwnam_r(3).
pub(crate) fn uid_by_name(name: &str) -> io::Result<Option<u32>> {
    by_name(name, libc::getpwnam_r, |entry| entry.pw_uid)
}

/// Returns the group's number, or `None` if there is no such group. Digits that are not a group's
/// name are taken as the number. getgrnam_r(3).
pub(crate) fn gid_by_name(name: &str) -> io::Result<Option<u32>> {
    by_name(name, libc::getgrnam_r, |entry| entry.gr_gid)
}

/// Returns the user's name, or the number as digits if there is no name or the database fails.
/// getpwuid_r(3).
pub(crate) fn user_name(uid: u32) -> String {
    // SAFETY: the name in a found entry is a C string.
    let name = by_id(uid, libc::getpwuid_r, |entry| unsafe {
        name_of(entry.pw_name)
    });
    name.unwrap_or_else(|| uid.to_string())
}

/// Like [`user_name`]. getgrgid_r(3).
pub(crate) fn group_name(gid: u32) -> String {
    // SAFETY: the name in a found entry is a C string.
    let name = by_id(gid, libc::getgrgid_r, |entry| unsafe {
        name_of(entry.gr_name)
    });
    name.unwrap_or_else(|| gid.to_string())
}

/// Returns the users that the group's entry lists: those that have it as a supplementary group. Empty
/// if the database fails. getgrgid_r(3).
pub(crate) fn group_members(gid: u32) -> Vec<String> {
    let members = by_id(gid, libc::getgrgid_r, |entry| {
        let mut names = Vec::new();
        let mut next = entry.gr_mem;
        // SAFETY: `gr_mem` in a found entry is an array of pointers to C strings that ends with a
        // null pointer.
        unsafe {
            while !next.is_null() && !(*next).is_null() {
                names.push(name_of(*next));
                next = next.add(1);
            }
        }
        names
    });
    members.unwrap_or_default()
}

/// One of the four `get…_r` functions. Takes the key and pointers to the entry, a buffer and the
/// result.
type Function<K, E> = unsafe extern "C" fn(K, *mut E, *mut c_char, size_t, *mut *mut E) -> c_int;

fn by_name<E>(
    name: &str,
    function: Function<*const c_char, E>,
    id: impl Fn(&E) -> u32,
) -> io::Result<Option<u32>> {
    let Ok(c_name) = CString::new(name) else {
        return Ok(None);
    };
    let found = lookup(
        // SAFETY: the name is a C string; `lookup` gives valid pointers.
        |entry, buffer, size, result| unsafe {
            function(c_name.as_ptr(), entry, buffer, size, result)
        },
        id,
    )?;
    Ok(found.or_else(|| number(name)))
}

fn by_id<E, T>(id: u32, function: Function<u32, E>, take: impl Fn(&E) -> T) -> Option<T> {
    // SAFETY: `lookup` gives valid pointers.
    let found = lookup(
        |entry, buffer, size, result| unsafe { function(id, entry, buffer, size, result) },
        take,
    );
    found.ok().flatten()
}

/// Calls one of the `get…_r` functions, again with a larger buffer if it returns ERANGE. Applies
/// `take` to the entry while the buffer lives.
fn lookup<E, T>(
    mut call: impl FnMut(*mut E, *mut c_char, size_t, *mut *mut E) -> c_int,
    take: impl Fn(&E) -> T,
) -> io::Result<Option<T>> {
    let mut buffer: Vec<c_char> = vec![0; 1024];
    loop {
        let mut entry = std::mem::MaybeUninit::<E>::uninit();
        let mut result = ptr::null_mut();
        let code = call(
            entry.as_mut_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
            &mut result,
        );
        match code {
            // Some databases return ENOENT or ESRCH for "not found", see getpwnam_r(3).
            0 | libc::ENOENT | libc::ESRCH => {
                // SAFETY: unless it is null, `result` points to `entry`, which the call has filled;
                // its strings are in `buffer`.
                return Ok(unsafe { result.as_ref() }.map(take));
            }
            libc::EINTR => {}
            libc::ERANGE if buffer.len() < BUFFER_LIMIT => buffer.resize(buffer.len() * 4, 0),
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// # Safety
/// `name` points to a C string.
unsafe fn name_of(name: *const c_char) -> String {
    // SAFETY: the caller guarantees it.
    let name = unsafe { CStr::from_ptr(name) };
    name.to_string_lossy().into_owned()
}

/// Parses digits. Rejects `u32::MAX`, which means "unchanged" to chown(2).
fn number(name: &str) -> Option<u32> {
    if !name.bytes().all(|byte| byte.is_ascii_digit()) {
        return None; // `parse` would take "+5"
    }
    name.parse().ok().filter(|&id| id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_both_ways() {
        assert_eq!(uid_by_name("root").unwrap(), Some(0));
        assert_eq!(gid_by_name("root").unwrap(), Some(0));
        assert_eq!(user_name(0), "root");
        assert_eq!(group_name(0), "root");
    }

    #[test]
    fn an_unknown_name_is_not_an_error() {
        for name in ["no-such-name-here", "", "a\0b", "-1", "+5", " 5", "5 "] {
            assert_eq!(uid_by_name(name).unwrap(), None, "{name:?}");
            assert_eq!(gid_by_name(name).unwrap(), None, "{name:?}");
        }
        assert_eq!(user_name(4_000_000_001), "4000000001");
        assert_eq!(group_name(4_000_000_001), "4000000001");
    }

    #[test]
    fn digits_are_taken_as_the_number() {
        assert_eq!(uid_by_name("4000000001").unwrap(), Some(4_000_000_001));
        assert_eq!(gid_by_name("0").unwrap(), Some(0));
        for too_large in ["4294967295", "4294967296", "99999999999999999999"] {
            assert_eq!(uid_by_name(too_large).unwrap(), None);
        }
    }

    #[test]
    fn the_buffer_grows_until_the_entry_fits_or_is_absurd() {
        let mut sizes = Vec::new();
        let found = lookup(
            |entry: *mut u32, _, size, result| {
                sizes.push(size);
                if size < 50_000 {
                    return libc::ERANGE;
                }
                // SAFETY: `lookup`'s pointers are valid.
                unsafe {
                    *entry = 7;
                    *result = entry;
                }
                0
            },
            |&entry| entry,
        );
        assert_eq!(found.unwrap(), Some(7));
        assert_eq!(sizes, [1024, 4096, 16384, 65536]);

        let endless = lookup(|_: *mut u32, _, _, _| libc::ERANGE, |&entry| entry);
        assert_eq!(endless.unwrap_err().raw_os_error(), Some(libc::ERANGE));
    }

    #[test]
    fn a_failed_lookup_is_an_error() {
        let failed = lookup(|_: *mut u32, _, _, _| libc::EIO, |&entry| entry);
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(libc::EIO));
        let absent = lookup(|_: *mut u32, _, _, _| libc::ENOENT, |&entry| entry);
        assert_eq!(absent.unwrap(), None);
    }
}
