//! This process: its user, its limits, its memory.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;

/// The effective user. geteuid(2).
pub fn effective_uid() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::geteuid() }
}

/// Raises the limit of open descriptors as far as it may be; returns it. setrlimit(2).
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = descriptor_limits()?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a live struct that the call only reads.
    check(unsafe { libc::setrlimit64(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

/// How many more descriptors this process could open when it was given `newest`, at least: the
/// kernel gives the lowest free number. getrlimit(2).
pub fn descriptors_left(newest: BorrowedFd<'_>) -> io::Result<u64> {
    let newest = u64::try_from(newest.as_raw_fd()).unwrap_or(0);
    Ok(descriptor_limits()?.rlim_cur.saturating_sub(newest + 1))
}

fn descriptor_limits() -> io::Result<libc::rlimit64> {
    let mut limits = MaybeUninit::<libc::rlimit64>::uninit();
    // SAFETY: `limits` is large enough for what the call writes.
    check(unsafe { libc::getrlimit64(libc::RLIMIT_NOFILE, limits.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it has written the whole struct.
    Ok(unsafe { limits.assume_init() })
}

/// Makes the allocator return large pieces to the kernel as they are freed, always: by itself it
/// would keep ever larger ones. mallopt(3).
pub fn keep_no_large_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer; may be called at any time, and is called before other threads are.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10); // the value that it starts with
    }
}

/// Gives memory that the allocator keeps for later back to the kernel. malloc_trim(3).
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn limits_are_those_that_proc_shows() {
        let raised = raise_descriptor_limit().unwrap();
        let shown = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = shown
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))
            .unwrap();
        let mut numbers = line.split_whitespace();
        let number = Some(raised.to_string());
        assert_eq!(numbers.next(), number.as_deref());
        assert_eq!(numbers.next(), number.as_deref());
        let open = std::fs::File::open("/").unwrap();
        let left = descriptors_left(open.as_fd()).unwrap();
        assert_eq!(left, raised - open.as_raw_fd() as u64 - 1);
    }
}
