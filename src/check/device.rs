//! The device: the one that fstab names, the one that is mounted, and whether it takes writes.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::finding::{Finding, Id};
use super::host::{Host, read_line};
use crate::escape::{escape, escape_path};
use crate::fstab::Entry;
use crate::storage::inspect::MountedStorage;

#[derive(Debug)]
pub(super) struct Device {
    pub node: PathBuf,
    /// Its directory in sysfs.
    pub sys: PathBuf,
    /// That of the whole disk; the same as `sys` if the device is not a partition.
    pub disk: PathBuf,
}

/// Returns the storage's device: the one that is mounted, else the one that fstab names.
pub(super) fn check(
    host: &Host,
    entry: Option<&Entry>,
    found: Option<&MountedStorage>,
    findings: &mut Vec<Finding>,
) -> Option<Device> {
    if found.is_some_and(|found| !found.has_block_device()) {
        return None; // the finding mount-filesystem says so
    }
    let source = found.map(|found| found.mount.source.as_path());
    let named = entry.and_then(|entry| {
        let node = fs::canonicalize(named_path(host, &entry.spec)?);
        findings.push(compare(&entry.spec, node.as_deref().ok(), source));
        node.ok()
    });
    let device = device(host, source.or(named.as_deref())?)?;
    findings.extend(write_protected(&device));
    Some(device)
}

/// Returns the path that fstab's first field stands for; `None` if that cannot be known.
fn named_path(host: &Host, spec: &OsStr) -> Option<PathBuf> {
    if spec.as_bytes().starts_with(b"/dev/") {
        return Some(host.at(spec));
    }
    let (tag, value) = spec.to_str()?.split_once('=')?;
    if !["LABEL", "UUID", "PARTLABEL", "PARTUUID"].contains(&tag) {
        return None;
    }
    let links = host
        .at("/dev/disk")
        .join(format!("by-{}", tag.to_lowercase()));
    // udev removes a directory with its last link, but /dev/disk stays.
    let is_udev = host.at("/dev/disk").is_dir();
    is_udev.then(|| links.join(udev_name(value.trim_matches('"'))))
}

/// Encodes a label as udev does in the names of links: a space becomes `\x20`.
fn udev_name(label: &str) -> String {
    let encode = |letter: char| match letter {
        letter if letter.is_ascii_alphanumeric() || !letter.is_ascii() => letter.to_string(),
        '#' | '+' | '-' | '.' | ':' | '=' | '@' | '_' => letter.to_string(),
        other => format!("\\x{:02x}", u32::from(other)),
    };
    label.chars().map(encode).collect()
}

/// Compares the device that fstab names, if it exists, with the mounted one.
fn compare(spec: &OsStr, named: Option<&Path>, mounted: Option<&Path>) -> Finding {
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

fn device(host: &Host, node: &Path) -> Option<Device> {
    let metadata = fs::metadata(host.at(node)).ok()?;
    if !metadata.file_type().is_block_device() {
        return None;
    }
    let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
    let sys = fs::canonicalize(host.at(format!("/sys/dev/block/{major}:{minor}"))).ok()?;
    let disk = match sys.join("partition").exists() {
        true => sys.parent()?.to_owned(),
        false => sys.clone(),
    };
    let node = node.to_owned();
    Some(Device { node, sys, disk })
}

/// An error if the device, or the disk that it is a part of, takes no writes.
fn write_protected(device: &Device) -> Option<Finding> {
    let is_set = |sys: &Path| read_line(&sys.join("ro")).is_some_and(|ro| ro != "0");
    (is_set(&device.sys) || is_set(&device.disk)).then(|| {
        Id::Device.error(
            format!(
                "{} itself is read-only: no remount can make it writable",
                escape_path(&device.node)
            ),
            "check the card's lock switch; replace a worn-out card, which locks itself; undo a \
             manual setting with `blockdev --setrw`; set loop devices up without -r",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::host::tests::Tree;
    use super::*;

    #[test]
    fn labels_are_found_as_udev_names_them() {
        assert_eq!(udev_name("PIPST"), "PIPST");
        assert_eq!(udev_name("my card/1"), "my\\x20card\\x2f1");
        let tree = Tree::new();
        let path = |spec: &str| named_path(&tree.0, OsStr::new(spec));
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
        let missing = compare(OsStr::new("LABEL=PIPST"), None, None);
        assert_eq!(missing.level, Level::Error);
    }

    #[test]
    fn a_locked_card_locks_its_partitions() {
        let tree = Tree::new();
        let device = |own: &str, disk: &str| {
            tree.file("/sys/d/ro", disk).file("/sys/d/p/ro", own);
            write_protected(&Device {
                node: "/dev/p".into(),
                sys: tree.0.at("/sys/d/p"),
                disk: tree.0.at("/sys/d"),
            })
            .map(|found| found.level)
        };
        assert_eq!(device("0\n", "0\n"), None);
        assert_eq!(device("0\n", "1\n"), Some(Level::Error));
        assert_eq!(device("1\n", "0\n"), Some(Level::Error));
    }
}
