//! This process: its user, its limits, its memory, its arguments as others see them.

use std::ffi::{CStr, c_char, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::check;

/// The effective user. geteuid(2).
pub fn effective_uid() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::geteuid() }
}

/// Writes to stderr, with the call alone: between the fork and the exec of another's memory, std's
/// lock might be left taken. write(2).
pub fn write_to_stderr(bytes: &[u8]) {
    // SAFETY: the pointer and length are the slice's. A message that cannot be written is lost.
    unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
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

/// Unmaps the pages of the program and its libraries that were used so far. What is needed again
/// comes back from the page cache; what only the start needed is not held any longer.
/// dl_iterate_phdr(3), madvise(2).
pub fn forget_code_used() {
    // SAFETY: the callback takes what it is documented to be given, and does not unwind.
    unsafe {
        libc::dl_iterate_phdr(Some(forget_code_of), ptr::null_mut());
    }
}

/// # Safety
/// `object` is as dl_iterate_phdr(3) hands it on.
unsafe extern "C" fn forget_code_of(
    object: *mut libc::dl_phdr_info,
    _: libc::size_t,
    _: *mut libc::c_void,
) -> c_int {
    // SAFETY: says the caller.
    let object = unsafe { &*object };
    // SAFETY: so many headers are there, and stay as long as the object is loaded.
    let segments =
        unsafe { std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) };
    // SAFETY: takes no pointer.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    for segment in segments {
        if segment.p_type != libc::PT_LOAD || segment.p_flags & libc::PF_W != 0 {
            continue;
        }
        // Whole pages only: their neighbours may be another segment's.
        let start = (object.dlpi_addr as usize).wrapping_add(segment.p_vaddr as usize);
        let end = (start + segment.p_memsz as usize) / page * page;
        let start = start.next_multiple_of(page);
        if start < end {
            let memory = ptr::with_exposed_provenance_mut(start);
            // SAFETY: the loader maps it from the file and does not write there (it would for
            // relocations in code, DT_TEXTREL, which none of our objects has): who touches it
            // again gets the same bytes.
            unsafe { libc::madvise(memory, end - start, libc::MADV_DONTNEED) };
        }
    }
    0
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

    /// Run by the next test in a process of its own, where nobody else uses code meanwhile.
    #[test]
    fn child_forgets() {
        if std::env::var_os("PST_TEST_FORGET").is_none() {
            return;
        }
        // What of our own code is mapped, exactly, which the kernel's counters are not.
        let mapped = || {
            let program = std::env::current_exe().unwrap();
            let program = format!(" {}", program.display());
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let mut lines = maps.lines();
            lines.find(|line| line.contains(" r-xp ") && line.ends_with(&program));
            let size = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
            let size = size.trim().strip_suffix(" kB").unwrap();
            size.parse::<u64>().unwrap()
        };
        mapped(); // its own code counts both times
        let before = mapped();
        forget_code_used();
        let after = mapped();
        assert!(after < before, "{before} KiB, {after} KiB");
    }

    #[test]
    fn code_that_was_used_is_forgotten_and_works_again() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sys::own::tests::child_forgets"])
            .env("PST_TEST_FORGET", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("1 passed"), "{output:?}");
    }

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
