//! This process: its user, its limits, its memory.

use std::io;
use std::mem::MaybeUninit;

use super::check;

/// The effective user. geteuid(2).
pub fn effective_uid() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::geteuid() }
}

/// Raises the limit of open descriptors as far as it may be; returns it. getrlimit(2).
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = MaybeUninit::<libc::rlimit64>::uninit();
    // SAFETY: `limit` is large enough for what the call writes.
    check(unsafe { libc::getrlimit64(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it has written the whole struct.
    let mut limit = unsafe { limit.assume_init() };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a live struct that the call only reads.
    check(unsafe { libc::setrlimit64(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

/// Gives memory that the allocator keeps for later back to the kernel. malloc_trim(3).
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
