//! The filesystem: whether it lives, what errors it has met, whether its journal is empty, and how
//! full it is.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::finding::{Finding, Id};
use super::sight::Sight;
use crate::escape::escape;
use crate::escape::escape_path;
use crate::storage::inspect::{MountedStorage, journal_error};
use crate::storage::mountinfo;
use crate::sys::file;

/// Less than this of the whole is little.
const LITTLE_PERCENT: u64 = 10;

/// All of it. `node` is its device, where it has one.
pub(super) fn look(sight: &Sight, found: &MountedStorage, node: Option<&Path>) -> Vec<Finding> {
    let mut findings = vec![alive(sight, found)];
    if found.mount.fstype.starts_with("ext") {
        findings.extend(errors(sight, found));
        findings.extend(node.and_then(|node| recovery(sight, found, &sight.at(node))));
    }
    findings.extend(space(found));
    findings.extend(inodes(found));
    findings
}

fn alive(sight: &Sight, found: &MountedStorage) -> Finding {
    let kind = escape(&found.mount.fstype);
    if found.mount.shut_down().is_none() && !is_read_only(sight, found) {
        // Asked, it would be written back now.
        return Finding::ok(
            Id::FsAlive,
            format!("{kind}, writable now, so its journal is not asked"),
        );
    }
    let fault = match found.mount.shut_down() {
        Some(_) => found.fault(),
        // Read-only now, whatever it was when it was found: the journal may be asked.
        None => journal_error(found.root.as_fd()).map(|error| found.damaged(&error)),
    };
    match fault {
        Some(fault) => Finding::error(Id::FsAlive, fault.what, fault.hint.unwrap_or_default()),
        None if !sight.is_root() => {
            Finding::unseen(Id::FsAlive, "whether its journal lives: this takes root")
        }
        None => Finding::ok(Id::FsAlive, format!("{kind}, and nothing is wrong with it")),
    }
}

/// Whether its superblock is read-only now. A session may have come since it was found.
fn is_read_only(sight: &Sight, found: &MountedStorage) -> bool {
    let file = File::open(sight.at("/proc/self/mountinfo"));
    let now = file.and_then(|file| mountinfo::read(&file));
    let now = now.unwrap_or_default();
    let now = now
        .iter()
        .find(|mount| mount.point == found.mount.point && mount.id == found.mount.id);
    now.unwrap_or(&found.mount).superblock_read_only()
}

/// What ext4 has counted since it was last checked.
fn errors(sight: &Sight, found: &MountedStorage) -> Option<Finding> {
    let (major, minor) = found.mount.device;
    let link = fs::read_link(sight.at(format!("/sys/dev/block/{major}:{minor}"))).ok()?;
    let own = Path::new("/sys/fs/ext4").join(link.file_name()?);
    let says = |name: &str| sight.line(own.join(name));
    let count: u64 = says("errors_count")?.parse().ok()?;
    if count == 0 {
        return Some(Finding::ok(Id::FsErrors, "none since it was last checked"));
    }
    let when = says("last_error_time").and_then(|seconds| seconds.parse().ok());
    let whence = says("last_error_func").filter(|name| !name.is_empty());
    let code = says("last_error_errcode").and_then(|code| code.parse().ok());
    Some(Finding::warning(
        Id::FsErrors,
        format!(
            "{count} error{} since it was last checked, the last {}{}in {}",
            if count == 1 { "" } else { "s" },
            code.and_then(error_name)
                .map(|name| format!("({name}) "))
                .unwrap_or_default(),
            when.map(|seconds| format!("at {} ", utc(seconds)))
                .unwrap_or_default(),
            escape(&whence.unwrap_or_else(|| "an unnamed function".into()))
        ),
        format!(
            "`dmesg` may say more; unmount it, run `e2fsck -fy {}`, and mount it again; if they come back, replace the card",
            escape_path(&found.mount.source)
        ),
    ))
}

/// What a superblock's error code stands for; fs/ext4/ext4.h of the kernel, EXT4_ERR_*. The first is
/// "unknown".
fn error_name(code: usize) -> Option<&'static str> {
    const NAMES: [&str; 16] = [
        "EIO",
        "ENOMEM",
        "EFSBADCRC",
        "EFSCORRUPTED",
        "ENOSPC",
        "ENOKEY",
        "EROFS",
        "EFBIG",
        "EEXIST",
        "ERANGE",
        "EOVERFLOW",
        "EBUSY",
        "ENOTDIR",
        "ENOTEMPTY",
        "ESHUTDOWN",
        "EFAULT",
    ];
    NAMES.get(code.checked_sub(2)?).copied()
}

/// Whether a power cut now would cost a replay of the journal.
fn recovery(sight: &Sight, found: &MountedStorage, node: &Path) -> Option<Finding> {
    if found.mount.shut_down().is_some() {
        return None; // what to do about that was said
    }
    let superblock = match Superblock::read(node) {
        Ok(superblock) => superblock?,
        Err(error) => {
            let text = format!(
                "whether its journal is empty: {}: {error}",
                escape_path(node)
            );
            return Some(Finding::unseen(Id::FsRecovery, text));
        }
    };
    // Looked up before and after that was read: a session may have come in between.
    let writable = !found.mount.superblock_read_only() || !is_read_only(sight, found);
    Some(match (superblock.needs_recovery, writable) {
        (false, false) => Finding::ok(
            Id::FsRecovery,
            "its journal is empty: a power cut costs nothing",
        ),
        (_, true) => Finding::ok(
            Id::FsRecovery,
            "its journal is in use, as it is while writable",
        ),
        (true, false) => Finding::warning(
            Id::FsRecovery,
            "its journal is not empty though it is read-only: it must be replayed after a power cut",
            "`pst run -- true` empties it; if it does not, unmount it and run `e2fsck -fy`",
        ),
    })
}

fn space(found: &MountedStorage) -> Option<Finding> {
    let space = file::space(found.root.as_fd()).ok()?;
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let text = format!(
        "{:.1} of {:.1} MiB free",
        mebibytes(space.free),
        mebibytes(space.size)
    );
    Some(left(Id::FsSpace, text, space.size, space.free))
}

fn inodes(found: &MountedStorage) -> Option<Finding> {
    let (all, free) = file::inodes(found.root.as_fd()).ok()?;
    let text = format!("{free} of {all} inodes free");
    (all > 0).then(|| left(Id::FsInodes, text, all, free))
}

fn left(id: Id, text: String, all: u64, free: u64) -> Finding {
    let advice =
        "remove what is not needed: `pst run -- bash` and there `du -a $KVMD_PST_DATA | sort -n`";
    match free {
        0 => Finding::error(id, format!("{text}: nothing can be written"), advice),
        _ if free.saturating_mul(100) < all.saturating_mul(LITTLE_PERCENT) => {
            Finding::warning(id, format!("{text}, less than {LITTLE_PERCENT} %"), advice)
        }
        _ => Finding::ok(id, text),
    }
}

/// What is of interest in an ext2, 3 or 4 superblock as it is on the device.
#[derive(Debug, PartialEq)]
pub(super) struct Superblock {
    /// The journal has something in it.
    pub needs_recovery: bool,
    pub label: Vec<u8>,
}

impl Superblock {
    /// Reads it; `None` if there is another filesystem, or none.
    pub(super) fn read(device: &Path) -> io::Result<Option<Superblock>> {
        let mut bytes = [0; 1024];
        File::open(device)?.read_exact_at(&mut bytes, 1024)?;
        Ok(Superblock::parse(&bytes))
    }

    /// Documentation/filesystems/ext4/super.rst of the kernel has the offsets.
    fn parse(bytes: &[u8; 1024]) -> Option<Superblock> {
        const MAGIC: [u8; 2] = [0x53, 0xef];
        const INCOMPAT_RECOVER: u8 = 0x4;
        let label = &bytes[0x78..0x88];
        let end = label.iter().position(|byte| *byte == 0);
        (bytes[0x38..0x3a] == MAGIC).then(|| Superblock {
            needs_recovery: bytes[0x60] & INCOMPAT_RECOVER != 0,
            label: label[..end.unwrap_or(label.len())].to_vec(),
        })
    }
}

/// Seconds since 1970 as a date and time. Days are counted in eras of 400 years, from March on, so
/// that the leap day is a year's last.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let days = days + 719_468; // since 0000-03-01
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (year, month + 3),
        _ => (year + 1, month - 9),
    };
    format!(
        "{:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        era * 400 + year,
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn dates_are_what_date_says_they_are() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_709_164_800, "2024-02-29 00:00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn a_superblock_is_understood_and_nothing_else() {
        let mut bytes = [0; 1024];
        assert_eq!(Superblock::parse(&bytes), None);
        bytes[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        bytes[0x78..0x7d].copy_from_slice(b"PIPST");
        let superblock = |needs_recovery, label: &[u8]| {
            Some(Superblock {
                needs_recovery,
                label: label.to_vec(),
            })
        };
        assert_eq!(Superblock::parse(&bytes), superblock(false, b"PIPST"));
        bytes[0x60] = 0x42 | 0x4;
        bytes[0x78..0x88].copy_from_slice(b"sixteen-letters!");
        bytes[0x88] = b'/'; // the next field
        assert_eq!(
            Superblock::parse(&bytes),
            superblock(true, b"sixteen-letters!")
        );
    }

    #[test]
    fn errors_have_the_names_that_ext4_gives_them() {
        let named = [0, 1, 2, 5, 17, 18].map(error_name);
        let expected = [
            None,
            None,
            Some("EIO"),
            Some("EFSCORRUPTED"),
            Some("EFAULT"),
            None,
        ];
        assert_eq!(named, expected);
    }

    #[test]
    fn under_ten_percent_is_little() {
        let level = |all, free| left(Id::FsSpace, String::new(), all, free).level;
        assert_eq!(level(1000, 100), Level::Ok);
        assert_eq!(level(1000, 99), Level::Warning);
        assert_eq!(level(1000, 0), Level::Error);
        assert_eq!(level(u64::MAX, u64::MAX), Level::Ok);
    }
}
