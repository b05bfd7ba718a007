//! Reads and parses /proc/PID/mountinfo; proc_pid_mountinfo(5).

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::fstab::unescape;

/// The mounts of this process's namespace.
pub(crate) const OWN: &str = "/proc/self/mountinfo";
/// The mounts of the host's namespace.
pub(crate) const HOST: &str = "/proc/1/mountinfo";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount's number, as in statx(2). The kernel reuses it after an unmount.
    pub id: u64,
    /// The filesystem's device number, `major:minor`.
    pub device: (u32, u32),
    /// The directory of the filesystem that is the root of this mount.
    pub root: PathBuf,
    pub point: PathBuf,
    /// The mount's own flag; the superblock's is [`Mount::superblock_read_only`].
    pub read_only: bool,
    /// All of the mount's own options.
    pub flags: String,
    pub fstype: String,
    /// Usually a device's path, but any text.
    pub source: PathBuf,
    /// The superblock's options, not the mount's.
    pub options: String,
}

impl Mount {
    /// Whether the superblock refuses writes.
    pub fn superblock_read_only(&self) -> bool {
        self.has_option("ro")
    }

    /// Returns the option that shows that the kernel shut the filesystem down, if there is one.
    ///
    /// ext4 shows it since Linux 6.15. Before 6.12, an error made the superblock plainly `ro`. From
    /// 6.12 to 6.14, and in updates of older series such as 6.1, the superblock still shows `rw`.
    pub fn shut_down(&self) -> Option<&'static str> {
        ["emergency_ro", "shutdown"]
            .into_iter()
            .find(|option| self.has_option(option))
    }

    fn has_option(&self, option: &str) -> bool {
        self.options.split(',').any(|word| word == option)
    }
}

pub fn read(path: &str) -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read(path)?))
}

/// Returns the mounts in order. Skips malformed lines.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = text(fields.next()?).parse().ok()?;
    fields.next()?; // the parent's number
    let device = text(fields.next()?);
    let (major, minor) = device.split_once(':')?;
    let root = unescape(fields.next()?).into();
    let point = unescape(fields.next()?).into();
    let flags = text(fields.next()?);
    let read_only = flags.split(',').any(|word| word == "ro");
    fields.find(|field| *field == b"-")?; // follows any number of propagation fields
    Some(Mount {
        id,
        device: (major.parse().ok()?, minor.parse().ok()?),
        root,
        point,
        read_only,
        flags,
        fstype: text(fields.next()?),
        source: unescape(fields.next()?).into(),
        options: text(fields.next()?),
    })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
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
        assert_eq!(mount.shut_down(), None);
    }

    #[test]
    fn a_filesystem_that_was_shut_down_is_recognized() {
        let line = String::from_utf8_lossy(LINE).replace("ro,errors", "rw,emergency_ro,errors");
        assert_eq!(parse(line.as_bytes())[0].shut_down(), Some("emergency_ro"));
    }

    #[test]
    fn propagation_fields_are_optional_and_escapes_are_resolved() {
        let mounts = parse(b"1 2 0:5 / /a\\040b\\134 ro - tmpfs none rw\nnonsense\n\n");
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].point, Path::new("/a b\\"));
        assert!(mounts[0].read_only && !mounts[0].superblock_read_only());
    }

    #[test]
    fn a_truncated_line_does_not_panic() {
        for cut in 0..LINE.len() {
            parse(&LINE[..cut]);
        }
    }

    #[test]
    fn every_line_of_this_machine_is_parsed() {
        let path = "/proc/self/mountinfo";
        let lines = std::fs::read(path).unwrap();
        let lines = lines.split(|b| *b == b'\n').filter(|l| !l.is_empty());
        let mounts = read(path).unwrap();
        assert_eq!(mounts.len(), lines.count());
    }
}
