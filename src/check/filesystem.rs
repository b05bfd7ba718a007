//! The filesystem: its health, ext4's error count, its journal and its free space.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::finding::{Finding, Id, Level};
use super::host::{Host, read_line};
use crate::escape::{escape, escape_path};
use crate::storage::inspect::MountedStorage;
use crate::storage::{remains, stats};
use crate::sys::file;
use crate::units::{HumanBytes, HumanDuration};

/// Less free space than this gets a warning.
const LOW_PERCENT: u64 = 10;

/// `node` is the filesystem's device, if it has one.
pub(super) fn check(host: &Host, found: &MountedStorage, node: Option<&Path>) -> Vec<Finding> {
    let mut findings = vec![check_health(host, found)];
    if found.mount.fstype.starts_with("ext") {
        findings.extend(check_errors(found));
        findings.extend(node.and_then(|node| check_journal(found, &host.at(node))));
    }
    findings.extend(check_space(found));
    findings.extend(check_remains(found));
    findings
}

fn check_health(host: &Host, found: &MountedStorage) -> Finding {
    if let Some(problem) = found.fault() {
        return Id::FsHealth.problem(problem);
    }
    let kind = escape(&found.mount.fstype);
    match found.mount.superblock_read_only() {
        // Checking the journal would write it back.
        false => Id::FsHealth.ok(format!(
            "{kind}, writable now, so its journal is not checked"
        )),
        true if host.is_root() => Id::FsHealth.ok(format!("{kind}, its journal works")),
        true => Id::FsHealth.skipped("only root can check whether its journal works"),
    }
}

/// Checks the errors that ext4 counted since the last e2fsck. `None` if /sys does not show them.
fn check_errors(found: &MountedStorage) -> Option<Finding> {
    let folder = stats::ext4_directory(found.mount.device)?;
    let count: u64 = read_line(&folder.join("errors_count"))?.parse().ok()?;
    let [first, last] = ["first", "last"].map(|which| describe_error(&folder, which));
    let text = match count {
        0 => return Some(Id::FsErrors.ok("no error since the last e2fsck")),
        1 => format!("1 error since the last e2fsck: {last}"),
        _ => format!("{count} errors since the last e2fsck: the first {first}, the last {last}"),
    };
    let advice = format!(
        "`dmesg` may say more; unmount it, run `e2fsck -fy {}`, mount it again; if errors come \
         back, replace the card",
        escape_path(&found.mount.source)
    );
    Some(Id::FsErrors.warning(text, advice))
}

/// Returns when and where ext4 had its `first` or `last` error.
fn describe_error(folder: &Path, which: &str) -> String {
    let read = |name| read_line(&folder.join(format!("{which}_error_{name}")));
    let [function, line] = ["func", "line"].map(|name| read(name).unwrap_or_default());
    let since_epoch = read("time").and_then(|seconds| seconds.parse().ok());
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(since_epoch.unwrap_or(0));
    let age = SystemTime::now().duration_since(time).unwrap_or_default();
    format!("{} ago in {}:{line}", HumanDuration(age), escape(&function))
}

/// Checks whether a power cut now would cost a replay of the journal.
fn check_journal(found: &MountedStorage, node: &Path) -> Option<Finding> {
    if found.mount.shut_down().is_some() {
        return None; // the finding fs-health has the advice
    }
    let needs_recovery = match read_needs_recovery(node) {
        Ok(needs_recovery) => needs_recovery?,
        Err(error) => {
            let text = format!("cannot read {}: {error}", escape_path(node));
            return Some(Id::FsJournal.skipped(text));
        }
    };
    // A session may have begun before the superblock was read.
    let still_read_only = file::space(found.root.as_fd()).is_ok_and(|now| now.read_only);
    let read_only = found.mount.superblock_read_only() && still_read_only;
    Some(match (read_only, needs_recovery) {
        (false, _) => Id::FsJournal.ok("in use, because the storage is writable"),
        (true, false) => Id::FsJournal.ok("empty: a power cut costs nothing"),
        (true, true) => Id::FsJournal.warning(
            "not empty although the storage is read-only: a power cut costs a replay",
            "`pst run -- true` empties it; if not, unmount it, run `e2fsck -fy` and mount it again",
        ),
    })
}

/// Reads the flag from the superblock on the device; `None` unless it is ext2, ext3 or ext4.
/// See Documentation/filesystems/ext4/super.rst of Linux.
fn read_needs_recovery(device: &Path) -> io::Result<Option<bool>> {
    const INCOMPAT_RECOVER: u8 = 0x4;
    let mut superblock = [0; 1024];
    File::open(device)?.read_exact_at(&mut superblock, 1024)?;
    let is_ext = superblock[0x38..0x3a] == [0x53, 0xef];
    Ok(is_ext.then_some(superblock[0x60] & INCOMPAT_RECOVER != 0))
}

fn check_space(found: &MountedStorage) -> Option<Finding> {
    let space = file::space(found.root.as_fd()).ok()?;
    let (free, size) = (HumanBytes(space.free), HumanBytes(space.size));
    let text = match (space.free_inodes, space.inodes) {
        (_, 0) => format!("{free} of {size} free"),
        (free_inodes, inodes) => {
            format!("{free} of {size} and {free_inodes} of {inodes} inodes free")
        }
    };
    let advice =
        "remove what is not needed: `pst run -- bash`, then `du -a $KVMD_PST_DATA | sort -n`";
    let level =
        judge_space(space.free, space.size).max(judge_space(space.free_inodes, space.inodes));
    Some(match level {
        Level::Error => Id::FsSpace.error(format!("{text}: nothing can be written"), advice),
        Level::Warning => Id::FsSpace.warning(format!("{text}: nearly full"), advice),
        _ => Id::FsSpace.ok(text),
    })
}

/// Names what commands that were killed have left. `None` if there is nothing.
fn check_remains(found: &MountedStorage) -> Option<Finding> {
    let left = remains::find(found.root.as_fd(), &found.mount.point);
    let (first, size) = left.first()?;
    let first = format!("{} ({})", escape_path(first), HumanBytes(*size));
    let text = match left.len() {
        1 => format!("an interrupted command left {first}"),
        count => format!("interrupted commands left {first} and {} more", count - 1),
    };
    let advice = "the next `pst run --atomic` or `pst put` in that directory removes it if its user may; \
        or remove it as root with `pst run -- rm -r`";
    Some(Id::Remains.warning(text, advice))
}

fn judge_space(free: u64, all: u64) -> Level {
    match free {
        _ if all == 0 => Level::Ok,
        0 => Level::Error,
        _ if free.saturating_mul(100) < all.saturating_mul(LOW_PERCENT) => Level::Warning,
        _ => Level::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::HostTree;
    use super::*;

    #[test]
    fn the_time_and_place_of_an_error_are_shown() {
        let tree = HostTree::new();
        let ago = SystemTime::now() - Duration::from_secs(7_205);
        let since_epoch = ago
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        tree.file("/d/last_error_time", &format!("{since_epoch}\n"))
            .file("/d/last_error_func", "ext4_find_entry\n")
            .file("/d/last_error_line", "1612\n");
        let shown = describe_error(&tree.0.at("/d"), "last");
        assert_eq!(shown, "2 h 0 min ago in ext4_find_entry:1612");
    }

    #[test]
    fn less_than_ten_percent_is_a_warning() {
        assert_eq!(judge_space(100, 1000), Level::Ok);
        assert_eq!(judge_space(99, 1000), Level::Warning);
        assert_eq!(judge_space(0, 1000), Level::Error);
        assert_eq!(judge_space(u64::MAX, u64::MAX), Level::Ok);
        assert_eq!(
            judge_space(0, 0),
            Level::Ok,
            "btrfs has no number of inodes"
        );
    }
}
