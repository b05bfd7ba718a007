//! Finds the processes, loop devices and swap files that keep a filesystem from going read-only.
//! Reads only /proc and /sys, where all names are bytes from outside.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::search::{Search, Searcher, describe, unknown};
use crate::sys::file;
use crate::wire::{COMMAND_MAX, HolderKind, HolderStatus};

/// A search returns its results after this time at the latest.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The limit for one process, so that the search also reaches the others.
const PROCESS_TIMEOUT: Duration = Duration::from_millis(200);

/// Searches for what keeps the filesystem of `root` writable. If it finds nothing, it returns one
/// [`HolderKind::Unknown`].
pub(super) fn find(searcher: &mut Searcher, root: BorrowedFd<'_>) -> Vec<HolderStatus> {
    match rustix::fs::fstat(root) {
        Ok(root) => searcher.run(TIMEOUT, move |search| search_all(root.st_dev, search)),
        Err(_) => Vec::new(),
    }
}

/// Searches for holders of the filesystem `device` (`st_dev`) and adds them to `search`.
/// Any process can make this slow, so `search` may end it early.
fn search_all(device: u64, search: &Search) {
    for_each_process(search, |pid, base, until| {
        let path = find_path(base, device, until, true);
        if Instant::now() >= until {
            let text = format!("pid {pid} has too much open to inspect it all");
            search.add([unknown(&text)]);
        }
        path
    });
    if !search.skips(0) && search.proceed_to(0) {
        search.add(find_loop_devices(device));
        search.add(find_swap_files(device));
    }
    if search.is_empty() {
        // Rare. This second pass has its own limit, because a process with many threads may be slow.
        let end = Instant::now() + 2 * PROCESS_TIMEOUT;
        for_each_process(search, |pid, base, until| {
            find_in_threads(pid, base, device, until.min(end))
        });
    }
}

/// Calls `find_path(pid, base, until)` for every other process, where `base` is its directory in /proc.
/// Adds each process for which `find_path` returns a path.
fn for_each_process(search: &Search, find_path: impl Fn(u32, &str, Instant) -> Option<Vec<u8>>) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name();
        let pid = pid.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.filter(|pid| *pid != std::process::id()) else {
            continue;
        };
        if !search.proceed_to(pid) {
            return;
        }
        if search.skips(pid) {
            continue;
        }
        let base = format!("/proc/{pid}");
        let path = find_path(pid, &base, Instant::now() + PROCESS_TIMEOUT);
        search.add(path.map(|path| HolderStatus {
            pid: Some(pid),
            uid: Some(fs::metadata(&base).map_or(0, |metadata| metadata.uid())),
            ..describe(HolderKind::Process, &read_command(&base), &path)
        }));
    }
}

/// Finds a path that only another thread holds: threads can have their own descriptors and
/// directories. If the first thread has ended, only the others show the memory.
fn find_in_threads(pid: u32, base: &str, device: u64, until: Instant) -> Option<Vec<u8>> {
    let mut memory = fs::read_link(format!("{base}/exe")).is_err();
    for task in fs::read_dir(format!("{base}/task")).ok()?.flatten() {
        if task.file_name().to_str() == Some(&pid.to_string()) {
            continue;
        }
        let task = task.path().display().to_string();
        let path = find_path(&task, device, until, memory);
        if path.is_some() || Instant::now() >= until {
            return path;
        }
        memory = false; // all threads share it
    }
    None
}

/// Returns the first path that a process or thread holds.
fn find_path(base: &str, device: u64, until: Instant, memory: bool) -> Option<Vec<u8>> {
    let mapped = || memory.then(|| find_mapping(base, device, until)).flatten();
    find_descriptor(base, device, until)
        .or_else(|| find_directory(base, device))
        .or_else(mapped)
}

/// Finds a descriptor that is open for writing, or any descriptor of a deleted file.
fn find_descriptor(base: &str, device: u64, until: Instant) -> Option<Vec<u8>> {
    for entry in fs::read_dir(format!("{base}/fd")).ok()?.flatten() {
        if Instant::now() >= until {
            return None;
        }
        let link = entry.path();
        let Some(deleted) = is_deleted(&link, device) else {
            continue;
        };
        if deleted || is_open_for_writing(base, &entry.file_name()) {
            return read_path(&link);
        }
    }
    None
}

/// Finds a deleted working directory, root directory or program.
fn find_directory(base: &str, device: u64) -> Option<Vec<u8>> {
    ["cwd", "root", "exe"].iter().find_map(|link| {
        let link = Path::new(base).join(link);
        match is_deleted(&link, device) {
            Some(true) => read_path(&link),
            _ => None,
        }
    })
}

/// Finds a shared writable mapping, or one of a deleted file. Mappings outlive their descriptor.
fn find_mapping(base: &str, device: u64, until: Instant) -> Option<Vec<u8>> {
    // Line by line, because there can be 65,530 lines of 4 KiB.
    let mut maps = BufReader::with_capacity(32 * 1024, File::open(format!("{base}/maps")).ok()?);
    let mut line = Vec::new();
    while Instant::now() < until {
        line.clear();
        maps.read_until(b'\n', &mut line).ok().filter(|n| *n > 0)?;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        if let Some(path) = parse_mapping(base, line, device) {
            return Some(path);
        }
    }
    None
}

/// Returns the path of a mapping that keeps the device writable. proc_pid_maps(5).
fn parse_mapping(base: &str, line: &[u8], device: u64) -> Option<Vec<u8>> {
    let mut fields = line
        .split(|byte| *byte == b' ')
        .filter(|field| !field.is_empty());
    let range = fields.next()?;
    let permissions = fields.next()?;
    if parse_device(fields.nth(1)?)? != device {
        return None;
    }
    let shared_writable = permissions.get(1) == Some(&b'w') && permissions.get(3) == Some(&b's');
    let start = line.iter().position(|byte| *byte == b'/')?;
    let path = line.get(start..)?;
    let link = Path::new(base)
        .join("map_files")
        .join(OsStr::from_bytes(range));
    // Threads have no map_files, so the suffix counts, too.
    let deleted = || path.ends_with(b" (deleted)") || is_deleted(&link, device) == Some(true);
    (shared_writable || deleted()).then(|| path.to_vec())
}

/// Parses a device number of maps, such as `fd:01`, into `st_dev`.
fn parse_device(field: &[u8]) -> Option<u64> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    let major = u32::from_str_radix(major, 16).ok()?;
    let minor = u32::from_str_radix(minor, 16).ok()?;
    Some(rustix::fs::makedev(major, minor))
}

/// Whether the file behind a link of /proc is deleted; `None` if it is not on the device. Never asks
/// the server of a network or FUSE filesystem, which may not answer.
fn is_deleted(link: &Path, device: u64) -> Option<bool> {
    let (found, links) = file::peek(link).ok()?;
    (found == device).then_some(links == 0)
}

fn is_on_device(path: &[u8], device: u64) -> bool {
    file::peek(Path::new(OsStr::from_bytes(path))).is_ok_and(|(found, _)| found == device)
}

fn is_open_for_writing(base: &str, descriptor: &OsStr) -> bool {
    let path = Path::new(base).join("fdinfo").join(descriptor);
    // The flags come first. The list of locks after them can be long.
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(256).read_to_string(&mut text));
    if read.is_err() {
        return false;
    }
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags
        .is_some_and(|flags| flags & libc::O_PATH == 0 && flags & libc::O_ACCMODE != libc::O_RDONLY)
}

fn read_path(link: &Path) -> Option<Vec<u8>> {
    let path = fs::read_link(link).ok()?;
    Some(path.into_os_string().into_vec())
}

/// Returns the command line, or the kernel's short name if it is empty.
fn read_command(base: &str) -> Vec<u8> {
    // Limited, because a process can make its command line as long as its memory.
    let mut line = Vec::new();
    let _ = File::open(format!("{base}/cmdline"))
        .and_then(|file| file.take(COMMAND_MAX as u64).read_to_end(&mut line));
    if line.iter().all(|byte| *byte == 0) {
        line = fs::read(format!("{base}/comm")).unwrap_or_default();
    }
    for byte in &mut line {
        if *byte == 0 {
            *byte = b' ';
        }
    }
    line.trim_ascii_end().to_vec()
}

/// Finds writable loop devices whose backing file is on the device.
fn find_loop_devices(device: u64) -> Vec<HolderStatus> {
    let blocks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let holders = blocks.filter_map(|block| {
        let directory = block.path();
        let mut path = fs::read(directory.join("loop/backing_file")).ok()?;
        path.pop();
        let read_only = fs::read(directory.join("ro")).is_ok_and(|text| text.starts_with(b"1"));
        // The path belongs to the host's namespace. A deleted file is not found.
        let file = path.strip_suffix(b" (deleted)").unwrap_or(&path);
        let name = [b"/dev/", block.file_name().as_bytes()].concat();
        (is_on_device(file, device) && !read_only).then(|| describe(HolderKind::Loop, &name, &path))
    });
    holders.collect()
}

/// Finds swap files on the device. proc_swaps(5).
fn find_swap_files(device: u64) -> Vec<HolderStatus> {
    let text = fs::read("/proc/swaps").unwrap_or_default();
    let paths = text
        .split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| line.split(|byte| matches!(byte, b' ' | b'\t')).next());
    paths
        .filter(|path| is_on_device(path, device))
        .map(|path| describe(HolderKind::Swap, b"", path))
        .collect()
}
