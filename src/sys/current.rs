//! This process: its user, its limits, its memory, its arguments as others see them.

use std::ffi::{CStr, c_char, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::check;

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

/// Where exec(2) has put the arguments, each with its 0, and how long they are in all.
static ARGUMENTS: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Tells where the arguments are, for [`rename_arguments`].
///
/// # Safety
/// They are what `main` was given, and nobody has changed them.
pub unsafe fn arguments_are(count: c_int, words: *mut *mut c_char) {
    let Some(last) = usize::try_from(count).ok().and_then(|n| n.checked_sub(1)) else {
        return;
    };
    // SAFETY: `main` is given `count` pointers to strings that end in 0 and live as long as the
    // process; the kernel puts one after the other.
    unsafe {
        let (first, last) = (*words, *words.add(last));
        let end = last.add(CStr::from_ptr(last).count_bytes() + 1);
        LENGTH.store(
            (end as usize).saturating_sub(first as usize),
            Ordering::Relaxed,
        );
        ARGUMENTS.store(first.cast(), Ordering::Relaxed);
    }
}

/// Has ps(1) and `pkill -f` see this instead of the arguments, if there is room; see
/// /proc/pid/cmdline in proc_pid_cmdline(5). Only for a process with one thread, and after
/// `std::env::args` is not needed any more.
pub fn rename_arguments(name: &[u8]) {
    let (start, length) = (
        ARGUMENTS.load(Ordering::Relaxed),
        LENGTH.load(Ordering::Relaxed),
    );
    if start.is_null() || length < name.len() + 2 {
        return;
    }
    // SAFETY: the memory from `start` is the process's own, writable, and `length` long; nobody
    // else reads or writes it. Its last byte is not 0: then the kernel shows one string of it.
    unsafe {
        ptr::write_bytes(start, 0, length - 1);
        ptr::copy_nonoverlapping(name.as_ptr(), start, name.len());
        start.add(length - 1).write(b'.');
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
