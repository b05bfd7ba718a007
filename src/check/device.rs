//! The device: whether it is the one that fstab names, whether it allows writes, and whether it is a
//! card that does not flush its write cache.

use std::ffi::OsStr;
use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::finding::{Finding, Id};
use super::host::{Host, read_line};
use crate::escape::{escape, escape_path};
use crate::fstab::{self, Entry};
use crate::repair;
use crate::storage::inspect::MountedStorage;
use crate::storage::torn::{self, Search};

/// Cards that ignore the kernel's request to flush their write cache: the beginning of their
/// identity, and their months of manufacture (YYYYMM).
///
/// From drivers/mmc/core/quirks.h of the Raspberry Pi's kernel (rpi-6.12.y), which does not enable
/// their cache (MMC_QUIRK_BROKEN_SD_CACHE). Mainline Linux lists only some of them.
const BROKEN_CACHE_CARDS: [(&str, RangeInclusive<u32>); 4] = [
    ("0x00009f 0x5449 ", 201901..=202212), // Kingston Canvas Go! Plus
    ("0x000012 0x3456 ASTC", 202202..=202202), // Gigastone Gaming Plus
    ("0x00001b 0x534d ", 202301..=202312), // Samsung Pro Plus and Evo Plus
    ("0x000003 0x5344 ", 201901..=202012), // SanDisk Extreme (A2)
];

/// Checks the mounted device, or the one that fstab names if none is mounted. Returns its node.
pub(super) fn check(
    host: &Host,
    entry: Option<&Entry>,
    found: Option<&MountedStorage>,
    findings: &mut Vec<Finding>,
) -> Option<PathBuf> {
    if found.is_some_and(|found| found.block_device().is_none()) {
        return None; // there is a finding mount-filesystem
    }
    let source = found.map(|found| found.mount.source.as_path());
    if let (Some(entry), None) = (entry, source) {
        if let Some(torn) = find_torn(&entry.spec, host) {
            findings.push(torn);
            return None;
        }
    }
    let named = entry.and_then(|entry| {
        let node = fs::canonicalize(find_named_path(host, &entry.spec)?);
        findings.push(compare_devices(&entry.spec, node.as_deref().ok(), source));
        node.ok()
    });
    let node = source.or(named.as_deref())?;
    let sys = find_sysfs_directory(host, node)?;
    let disk = match sys.join("partition").exists() {
        true => sys.parent()?,
        false => &sys,
    };
    findings.extend(check_write_protection(node, &sys, disk));
    findings.push(check_card(node, disk));
    Some(node.to_owned())
}

/// Returns the path of the device that fstab's first field names; `None` if it cannot be found out.
fn find_named_path(host: &Host, spec: &OsStr) -> Option<PathBuf> {
    let path = host.at(fstab::device_path(spec)?);
    // udev removes by-label with its last link, but never /dev/disk.
    let is_udev = || host.at("/dev/disk").is_dir();
    (fstab::tag(spec).is_none() || is_udev()).then_some(path)
}

/// Searches for a storage whose superblock is torn. Only root can read devices.
fn find_torn(spec: &OsStr, host: &Host) -> Option<Finding> {
    if !host.is_root() {
        return None;
    }
    match torn::find(spec) {
        Ok(Search::Torn(torn)) => {
            let device = escape_path(&torn.device);
            let text = format!(
                "{device} is {} with a torn superblock",
                escape(spec.as_bytes())
            );
            let advice = format!(
                "run `pst repair --yes`, or by hand `{}`",
                repair::command_line(&torn)
            );
            Some(Id::Device.error(text, advice))
        }
        Ok(Search::Sound(_) | Search::Nothing) => None,
        Err(problem) => Some(Id::Device.problem(problem)),
    }
}

/// Compares the device that fstab names, if it exists, with the mounted one.
fn compare_devices(spec: &OsStr, named: Option<&Path>, mounted: Option<&Path>) -> Finding {
    let spec = escape(spec.as_bytes());
    let Some(named) = named else {
        return Id::Device.error(
            format!("there is no device {spec}"),
            "is the card inserted? `lsblk -f` lists devices and labels; correct the entry in fstab, \
             or the label with `e2label`",
        );
    };
    let node = escape_path(named);
    match mounted {
        Some(source) if fs::canonicalize(source).ok().as_deref() != Some(named) => Id::Device
            .warning(
                format!(
                    "{} is mounted, but fstab names {node} ({spec})",
                    escape_path(source)
                ),
                "mount it again, or correct the entry: the next boot mounts the other device",
            ),
        _ => Id::Device.ok(format!("{node} ({spec})")),
    }
}

/// Returns the directory of a block device in sysfs.
fn find_sysfs_directory(host: &Host, node: &Path) -> Option<PathBuf> {
    let metadata = fs::metadata(host.at(node)).ok()?;
    if !metadata.file_type().is_block_device() {
        return None;
    }
    let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
    fs::canonicalize(host.at(format!("/sys/dev/block/{major}:{minor}"))).ok()
}

/// Returns an error if the device, or its whole disk, does not allow writes.
fn check_write_protection(node: &Path, sys: &Path, disk: &Path) -> Option<Finding> {
    let is_set = |sys: &Path| read_line(&sys.join("ro")).is_some_and(|ro| ro != "0");
    (is_set(sys) || is_set(disk)).then(|| {
        Id::Device.error(
            format!(
                "{} itself is read-only: no remount can make it writable",
                escape_path(node)
            ),
            "check the card's lock switch; replace a worn-out card, which locks itself; undo a \
             manual setting with `blockdev --setrw`; set loop devices up without -r",
        )
    })
}

/// Checks whether the disk is a card with a broken write cache.
fn check_card(node: &Path, disk: &Path) -> Finding {
    let cached = read_line(&disk.join("queue/write_cache")).map(|word| word == "write back");
    let cache = match cached {
        Some(true) => "with a write cache, flushed before `pst run` returns",
        Some(false) => "without a write cache in use",
        None => "/sys does not show whether it has a write cache",
    };
    let Some((identity, date)) = read_identity(&disk.join("device")) else {
        return Id::Card.ok(format!("{} is not an SD card; {cache}", escape_path(node)));
    };
    let shown = format!("{} of {:02}/{}", escape(&identity), date % 100, date / 100);
    let is_broken = BROKEN_CACHE_CARDS
        .iter()
        .any(|(known, dates)| identity.starts_with(known) && dates.contains(&date));
    if !is_broken || cached == Some(false) {
        return Id::Card.ok(format!("{shown}, {cache}"));
    }
    Id::Card.warning(
        format!(
            "{shown}: such cards are known not to flush their write cache, so a power cut can lose \
             data that `pst run` reported as safe"
        ),
        "replace the card, or run a kernel that leaves its cache off",
    )
}

/// Returns the maker, OEM and name of an SD or MMC card, and its month of manufacture as YYYYMM. `None`
/// for other disks.
fn read_identity(device: &Path) -> Option<(String, u32)> {
    let read = |name| read_line(&device.join(name));
    let identity = [read("manfid")?, read("oemid")?, read("name")?].join(" ");
    let date = read("date")?;
    let (month, year) = date.split_once('/')?;
    Some((identity, format!("{year}{month}").parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::host::tests::HostTree;
    use super::*;

    #[test]
    fn a_label_is_found_where_udev_links_it() {
        let tree = HostTree::new();
        let path = |spec: &str| find_named_path(&tree.0, OsStr::new(spec));
        assert_eq!(path("LABEL=PIPST"), None);
        tree.file("/dev/mmcblk0p4", "");
        tree.link("/dev/disk/by-label/my\\x20card", "../../mmcblk0p4");
        for spec in ["LABEL=my card", "LABEL=\"my card\"", "/dev/mmcblk0p4"] {
            let node = path(spec).unwrap().canonicalize().unwrap();
            assert!(node.ends_with("dev/mmcblk0p4"), "{spec}");
        }
        for spec in ["LABEL=PIPST", "UUID=1", "/dev/sda1"] {
            assert!(!path(spec).unwrap().exists(), "{spec}");
        }
        assert_eq!(path("tmpfs"), None);
        let missing = compare_devices(OsStr::new("LABEL=PIPST"), None, None);
        assert_eq!(missing.level, Level::Error);
    }

    #[test]
    fn a_locked_card_locks_its_partitions() {
        let tree = HostTree::new();
        let device = |own: &str, disk: &str| {
            tree.file("/sys/d/ro", disk).file("/sys/d/p/ro", own);
            let (sys, disk) = (tree.0.at("/sys/d/p"), tree.0.at("/sys/d"));
            check_write_protection(Path::new("/dev/p"), &sys, &disk).map(|found| found.level)
        };
        assert_eq!(device("0\n", "0\n"), None);
        assert_eq!(device("0\n", "1\n"), Some(Level::Error));
        assert_eq!(device("1\n", "0\n"), Some(Level::Error));
    }

    /// Returns the level of the finding for a card with this identification.
    fn level(cid: [&str; 4], cache: &str) -> Level {
        let tree = HostTree::new();
        let [name, manfid, oemid, date] = cid;
        for (file, content) in [
            ("device/name", name),
            ("device/manfid", manfid),
            ("device/oemid", oemid),
            ("device/date", date),
            ("queue/write_cache", cache),
        ] {
            tree.file(
                &format!("/sys/block/mmcblk0/{file}"),
                &format!("{content}\n"),
            );
        }
        let node = Path::new("/dev/mmcblk0p4");
        let found = check_card(node, &tree.0.at("/sys/block/mmcblk0"));
        assert!(found.text.contains(name), "{found:?}");
        found.level
    }

    #[test]
    fn cards_with_a_broken_cache_get_a_warning() {
        for cid in [
            ["SD64G", "0x00009f", "0x5449", "11/2019"],
            ["ASTC", "0x000012", "0x3456", "02/2022"],
            ["SD128", "0x00009f", "0x5449", "07/2021"],
            ["EE8QT", "0x00001b", "0x534d", "03/2023"],
            ["SN64G", "0x000003", "0x5344", "10/2020"],
        ] {
            assert_eq!(level(cid, "write back"), Level::Warning, "{cid:?}");
            assert_eq!(level(cid, "write through"), Level::Ok, "{cid:?}");
        }
    }

    #[test]
    fn other_cards_of_the_same_makers_get_no_warning() {
        for cid in [
            ["SD64G", "0x00009f", "0x5449", "05/2023"],
            ["SD64G", "0x00009f", "0x5448", "11/2019"],
            ["ASTC", "0x000012", "0x3456", "03/2022"],
            ["OTHER", "0x000012", "0x3456", "02/2022"],
            ["SN64G", "0x000003", "0x5344", "01/2021"],
        ] {
            assert_eq!(level(cid, "write back"), Level::Ok, "{cid:?}");
        }
    }

    #[test]
    fn other_disks_have_no_identity() {
        let tree = HostTree::new();
        assert_eq!(read_identity(&tree.0.at("/sys/block/loop0/device")), None);
        tree.file("/sys/block/sda/device/name", "a disk");
        assert_eq!(read_identity(&tree.0.at("/sys/block/sda/device")), None);
    }
}
