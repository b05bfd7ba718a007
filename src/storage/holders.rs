//! Who keeps a filesystem from going read-only: processes, loop devices, swap files.
//! It only reads /proc and /sys; all names in there are somebody else's bytes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use crate::wire::HolderKind;

use super::search::Search;
use crate::sys::file;

/// At most so many are named; who needs the rest has other problems.
pub(crate) const LIMIT: usize = 64;
/// For one process: it must not keep others from being found.
const PATIENCE: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub kind: HolderKind,
    /// Its process, 0 if it is none.
    pub pid: u32,
    pub uid: u32,
    /// The process's command line; the loop device; empty for others.
    pub command: Vec<u8>,
    pub path: Vec<u8>,
}

impl Holder {
    /// Something that cannot be named; `text` says why.
    pub(crate) fn unknown(text: &str) -> Holder {
        Holder {
            kind: HolderKind::Unknown,
            pid: 0,
            uid: 0,
            command: Vec::new(),
            path: text.into(),
        }
    }
}

/// Looks at every process, loop device and swap file for what keeps the filesystem `device`
/// (`st_dev`). Others decide how long that takes, so `search` may end it.
pub(crate) fn find(device: u64, search: &Search) {
    processes(search, &|pid, base, until| {
        let path = held(base, device, until, true);
        if Instant::now() >= until {
            let text = format!("pid {pid} has more open than could be looked at");
            search.found(Some(Holder::unknown(&text)));
        }
        path
    });
    if !search.skips(0) && search.goes_on_with(0) {
        search.found(loops(device));
        search.found(swaps(device));
    }
    if search.found_nothing() {
        // Seldom. Who has many threads must not keep it from saying so: it is a second look.
        let end = Instant::now() + 2 * PATIENCE;
        processes(search, &|pid, base, until| {
            threads(pid, base, device, until.min(end))
        });
    }
}

/// Gives what the process of this number and folder holds, and has until then.
type Look<'a> = dyn Fn(u32, &str, Instant) -> Option<Vec<u8>> + 'a;

/// Looks at every process with `held`.
fn processes(search: &Search, held: &Look<'_>) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name();
        let pid = pid.to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid.filter(|pid| *pid != std::process::id()) {
            if !search.goes_on_with(pid) {
                return;
            }
            if search.skips(pid) {
                continue;
            }
            let base = format!("/proc/{pid}");
            let path = held(pid, &base, Instant::now() + PATIENCE);
            search.found(path.map(|path| process(pid, &base, path)));
        }
    }
}

fn process(pid: u32, base: &str, path: Vec<u8>) -> Holder {
    Holder {
        kind: HolderKind::Process,
        pid,
        uid: fs::metadata(base).map_or(0, |metadata| metadata.uid()),
        command: command(base),
        path,
    }
}

/// What a process's other threads hold that its first one does not: descriptors and directories of
/// their own, and where the first has ended, the memory of all.
fn threads(pid: u32, base: &str, device: u64, until: Instant) -> Option<Vec<u8>> {
    let mut first_ended = fs::read_link(format!("{base}/exe")).is_err();
    for task in fs::read_dir(format!("{base}/task")).ok()?.flatten() {
        if task.file_name().to_str() == Some(&pid.to_string()) {
            continue;
        }
        let path = held(
            &task.path().display().to_string(),
            device,
            until,
            first_ended,
        );
        if path.is_some() || Instant::now() >= until {
            return path;
        }
        first_ended = false; // one will do: they share it
    }
    None
}

/// The first thing that a process or thread holds, if it holds any; also in its memory.
fn held(base: &str, device: u64, until: Instant, memory: bool) -> Option<Vec<u8>> {
    let mapped = || memory.then(|| mappings(base, device, until)).flatten();
    descriptors(base, device, until)
        .or_else(|| directories(base, device))
        .or_else(mapped)
}

fn descriptors(base: &str, device: u64, until: Instant) -> Option<Vec<u8>> {
    for entry in fs::read_dir(format!("{base}/fd")).ok()?.flatten() {
        if Instant::now() >= until {
            return None;
        }
        let link = entry.path();
        let Some(target) = on_device(&link, device) else {
            continue;
        };
        if target.deleted || opened_for_writing(base, &entry.file_name()) {
            return name(&link);
        }
    }
    None
}

/// A working or root directory, or a program, that is deleted.
fn directories(base: &str, device: u64) -> Option<Vec<u8>> {
    ["cwd", "root", "exe"].iter().find_map(|link| {
        let link = format!("{base}/{link}");
        let link = Path::new(&link);
        on_device(link, device)
            .filter(|target| target.deleted)
            .and_then(|_| name(link))
    })
}

/// A shared writable mapping, or one of a deleted file: they outlive their descriptor.
fn mappings(base: &str, device: u64, until: Instant) -> Option<Vec<u8>> {
    // Line by line: there can be 65,530 of 4 KiB.
    let mut maps = BufReader::with_capacity(32 * 1024, File::open(format!("{base}/maps")).ok()?);
    let mut line = Vec::new();
    while Instant::now() < until {
        line.clear();
        maps.read_until(b'\n', &mut line).ok().filter(|n| *n > 0)?;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        if let Some(path) = mapping(base, line, device) {
            return Some(path);
        }
    }
    None
}

/// What a line of maps shows, if that keeps the device.
fn mapping(base: &str, line: &[u8], device: u64) -> Option<Vec<u8>> {
    let mut fields = line
        .split(|byte| *byte == b' ')
        .filter(|field| !field.is_empty());
    let range = fields.next()?;
    let rights = fields.next()?;
    let target_device = fields.nth(1)?;
    if parse_device(target_device)? != device {
        return None;
    }
    let link = Path::new(base)
        .join("map_files")
        .join(OsStr::from_bytes(range));
    let shared_writable = rights.get(1) == Some(&b'w') && rights.get(3) == Some(&b's');
    let start = line.iter().position(|byte| *byte == b'/')?;
    let path = line.get(start..)?.to_vec();
    // A thread has no map_files.
    let is_deleted = || on_device(&link, device).is_some_and(|target| target.deleted);
    let deleted = path.ends_with(b" (deleted)") || is_deleted();
    (shared_writable || deleted).then_some(path)
}

struct Target {
    deleted: bool,
}

/// What a /proc link leads to, if that lies on the device. Asks no server of a network or FUSE
/// filesystem, which might not answer.
fn on_device(link: &Path, device: u64) -> Option<Target> {
    let (found, links) = file::peek(link).ok()?;
    (found == device).then_some(Target {
        deleted: links == 0,
    })
}

fn opened_for_writing(base: &str, descriptor: &OsStr) -> bool {
    let path = Path::new(base).join("fdinfo").join(descriptor);
    // The flags stand at the beginning; the locks that follow can be many.
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

fn name(link: &Path) -> Option<Vec<u8>> {
    fs::read_link(link)
        .ok()
        .map(|path| path.into_os_string().into_vec())
}

/// The command line with spaces, or the kernel's short name where there is none.
fn command(base: &str) -> Vec<u8> {
    // A process can make its own as long as its memory.
    let mut line = Vec::new();
    let _ = File::open(format!("{base}/cmdline")).and_then(|file| {
        file.take(crate::wire::COMMAND_MAX as u64)
            .read_to_end(&mut line)
    });
    while line.last() == Some(&0) {
        line.pop();
    }
    if line.is_empty() {
        line = fs::read(format!("{base}/comm")).unwrap_or_default();
        line.pop();
    }
    for byte in &mut line {
        if *byte == 0 {
            *byte = b' ';
        }
    }
    line
}

/// `fd:01` as maps has it, as `st_dev` is.
fn parse_device(field: &[u8]) -> Option<u64> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    let major = u32::from_str_radix(major, 16).ok()?;
    let minor = u32::from_str_radix(minor, 16).ok()?;
    Some(file::device_number(major, minor))
}

/// Loop devices that write to a file there.
fn loops(device: u64) -> Vec<Holder> {
    let Ok(blocks) = fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    let loops = blocks.flatten().filter_map(|block| {
        let directory = block.path();
        let mut path = fs::read(directory.join("loop/backing_file")).ok()?;
        path.pop();
        let read_only =
            fs::read(directory.join("ro")).is_ok_and(|text| text.first() == Some(&b'1'));
        let there = file::peek(Path::new(OsStr::from_bytes(
            path.strip_suffix(b" (deleted)").unwrap_or(&path),
        )));
        // The path is as of the host's namespace; a file that is gone there cannot be asked.
        let there = there.is_ok_and(|(found, _)| found == device);
        (there && !read_only).then(|| Holder {
            kind: HolderKind::Loop,
            pid: 0,
            uid: 0,
            command: [b"/dev/", block.file_name().as_bytes()].concat(),
            path,
        })
    });
    loops.collect()
}

fn swaps(device: u64) -> Vec<Holder> {
    let text = fs::read("/proc/swaps").unwrap_or_default();
    let files = text.split(|byte| *byte == b'\n').skip(1);
    let files = files.filter_map(|line| {
        let path = line.split(|byte| matches!(byte, b' ' | b'\t')).next()?;
        let there = file::peek(Path::new(OsStr::from_bytes(path)));
        there
            .is_ok_and(|(found, _)| found == device)
            .then(|| Holder {
                kind: HolderKind::Swap,
                pid: 0,
                uid: 0,
                command: Vec::new(),
                path: path.to_vec(),
            })
    });
    files.collect()
}
