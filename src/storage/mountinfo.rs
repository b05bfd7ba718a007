//! /proc/PID/mountinfo, read and understood: proc_pid_mountinfo(5). It never changes a mount.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount's number, as statx(2) shows it; used again after an unmount.
    pub id: u64,
    /// Device number of the filesystem, `major:minor`.
    pub device: (u32, u32),
    /// Which directory of the filesystem is the root of this mount.
    pub root: PathBuf,
    pub point: PathBuf,
    /// The mount's own flag; the superblock's is [`Mount::superblock_read_only`].
    pub read_only: bool,
    /// All of the mount's own options.
    pub flags: String,
    pub fstype: String,
    /// What was mounted: a device's path for most.
    pub source: PathBuf,
    pub options: String,
}

impl Mount {
    /// Whether the superblock refuses writes.
    pub fn superblock_read_only(&self) -> bool {
        self.has("ro")
    }

    /// The word with which the kernel says that it has given the filesystem up, if it has.
    /// ext4 shows these since Linux 6.15. Before, an error made it plainly `ro`, and from 6.12 on
    /// (as in what earlier series got later, 6.1 for one) it shows nothing and still reads `rw`.
    pub fn given_up(&self) -> Option<&'static str> {
        ["emergency_ro", "shutdown"]
            .into_iter()
            .find(|word| self.has(word))
    }

    fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|word| word == option)
    }
}

/// Reads and understands a mountinfo file from where it stands.
pub fn read(file: &File) -> io::Result<Vec<Mount>> {
    // The kernel gives about a page a read; 16 KiB are enough for most machines, and need not grow.
    let mut text = Vec::with_capacity(16 * 1024);
    // Taken whole, it is not asked for its size first, which is 0.
    file.take(u64::MAX).read_to_end(&mut text)?;
    Ok(parse(&text))
}

/// Understands a whole mountinfo; lines that are none are passed over.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    fields.next()?; // the parent's number
    let device = fields.next()?;
    let colon = device.iter().position(|byte| *byte == b':')?;
    let major = number(device.get(..colon)?)?;
    let minor = number(device.get(colon + 1..)?)?;
    let root = path(fields.next()?);
    let point = path(fields.next()?);
    let flags = String::from_utf8_lossy(fields.next()?).into_owned();
    let read_only = flags.split(',').any(|word| word == "ro");
    fields.find(|field| *field == b"-")?; // after any number of propagation fields
    Some(Mount {
        id,
        device: (u32::try_from(major).ok()?, u32::try_from(minor).ok()?),
        root,
        point,
        read_only,
        flags,
        fstype: String::from_utf8_lossy(fields.next()?).into_owned(),
        source: path(fields.next()?),
        options: String::from_utf8_lossy(fields.next()?).into_owned(),
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'\\').then(|| tail.get(..3).and_then(octal));
        if let Some(Some(value)) = escaped {
            out.push(value);
            rest = tail.get(3..).unwrap_or(&[]);
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const LINE: &[u8] = b"42 27 7:0 / /var/lib/kvmd/pst rw,nosuid,noatime shared:1 master:2 - ext4 /dev/loop0 ro,errors=remount-ro";

    #[test]
    fn the_mounts_flag_and_the_superblocks_are_told_apart() {
        let mount = &parse(LINE)[0];
        assert_eq!((mount.id, mount.device), (42, (7, 0)));
        assert!(!mount.read_only && mount.superblock_read_only());
        assert_eq!(mount.fstype, "ext4");
        assert_eq!(mount.source, Path::new("/dev/loop0"));
        assert_eq!(mount.given_up(), None);
    }

    #[test]
    fn a_filesystem_that_was_given_up_is_known() {
        let line = String::from_utf8_lossy(LINE).replace("ro,errors", "rw,emergency_ro,errors");
        assert_eq!(parse(line.as_bytes())[0].given_up(), Some("emergency_ro"));
    }

    #[test]
    fn a_line_without_propagation_and_one_with_an_octal_escape() {
        let mounts = parse(b"1 2 0:5 / /a\\040b\\134 ro - tmpfs none rw\nnonsense\n\n");
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].point, Path::new("/a b\\"));
        assert!(mounts[0].read_only && !mounts[0].superblock_read_only());
    }

    #[test]
    fn every_cut_of_a_line_is_survived() {
        for cut in 0..LINE.len() {
            parse(&LINE[..cut]);
        }
    }

    #[test]
    fn this_machines_own_file_is_understood() {
        let path = "/proc/self/mountinfo";
        let lines = std::fs::read(path).unwrap();
        let lines = lines.split(|b| *b == b'\n').filter(|l| !l.is_empty());
        let mounts = read(&File::open(path).unwrap()).unwrap();
        assert_eq!(mounts.len(), lines.count());
    }
}
