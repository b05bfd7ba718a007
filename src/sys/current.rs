//! This process: its user, limits, memory, and the arguments that others see.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::process::stat_field;

pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Raises the limit of open descriptors as far as possible and returns the new limit. setrlimit(2).
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
    Ok(maximum.unwrap_or(u64::MAX))
}

/// Returns how many more descriptors this process could open, at least, when it got `newest`: the
/// kernel assigns the lowest free number. getrlimit(2).
pub fn descriptors_left(newest: BorrowedFd<'_>) -> u64 {
    let newest = u64::try_from(newest.as_raw_fd()).unwrap_or(0);
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    limit.saturating_sub(newest + 1)
}

/// Makes the allocator take each block of 64 KiB and more from the kernel, and return it when it is freed. The status
/// documents that 1,000 clients never read then leave no fragments in the heap, where up to 2.5 MiB stayed resident.
/// mallopt(3).
pub fn return_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
    }
}

/// Returns the allocator's free memory to the kernel. After 1,000 simultaneous sessions, about 4 MiB
/// stay resident instead of 8. malloc_trim(3).
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer and touches only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Overwrites the arguments that ps(1) and `pkill -f` read with `name`, cut to their length;
/// proc_pid_cmdline(5). Only for a process with one thread that no longer needs `std::env::args`.
pub fn rename_arguments(name: &[u8]) {
    // 48: arg_start, 49: arg_end.
    let address = |field| stat_field("self", field)?.parse::<usize>().ok();
    let (Some(start), Some(end)) = (address(48), address(49)) else {
        return;
    };
    let length = end.saturating_sub(start);
    if start == 0 || length < 3 {
        return;
    }
    let name = &name[..name.len().min(length - 2)];
    let start = ptr::with_exposed_provenance_mut::<u8>(start);
    // SAFETY: this process's arguments are at `start`, writable and `length` long; nothing else
    // reads or writes them now. Since the last byte is not 0, the kernel shows one string only.
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
        let left = descriptors_left(open.as_fd());
        assert_eq!(left, raised - open.as_raw_fd() as u64 - 1);
    }
}
