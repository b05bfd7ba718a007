//! The device: the one that fstab means, the one that is mounted, its label, and whether it takes
//! writes at all.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::filesystem::Superblock;
use super::finding::{Finding, Id};
use super::sight::Sight;
use crate::escape::escape;
use crate::escape::escape_path;
use crate::fstab::Entry;
use crate::storage::inspect::MountedStorage;

#[derive(Debug)]
pub(super) struct Device {
    pub node: PathBuf,
    pub sys: PathBuf,
    /// That of the disk that it is a part of, or its own.
    pub disk: PathBuf,
}

/// The storage's device, if it can be found: what is mounted, else what fstab means.
pub(super) fn look(
    sight: &Sight,
    entry: Option<&Entry>,
    found: Option<&MountedStorage>,
    findings: &mut Vec<Finding>,
) -> Option<Device> {
    let mounted = found.filter(|found| found.has_block_device());
    let spec = entry.map(|entry| entry.spec.as_os_str());
    let meant = spec.map(|spec| meant(sight, spec));
    let node = match (mounted, &meant) {
        (Some(found), _) => found.mount.source.clone(),
        (None, Some(Meant::Node(node))) if found.is_none() => node.clone(),
        _ => PathBuf::new(),
    };
    // What has no device is `mount`'s business.
    if let (Some(spec), Some(meant), true) = (spec, meant, mounted.is_some() == found.is_some()) {
        findings.push(is_meant(spec, meant, mounted));
    }
    let number = number(sight, &node)?;
    let sys = fs::canonicalize(sight.at(format!("/sys/dev/block/{}:{}", number.0, number.1)));
    let sys = sys.ok()?;
    let disk = match sys.join("partition").exists() {
        true => sys.parent()?.to_owned(),
        false => sys.clone(),
    };
    let device = Device { node, sys, disk };
    findings.extend(label(sight, spec, &device));
    findings.extend(read_only(&device));
    Some(device)
}

/// What fstab's first field stands for.
enum Meant {
    Node(PathBuf),
    /// There is no such device.
    Nothing,
    /// Nobody here keeps a list of labels.
    Unknown,
}

fn meant(sight: &Sight, spec: &OsStr) -> Meant {
    let bytes = spec.as_bytes();
    let tags = [
        (&b"LABEL="[..], "by-label"),
        (b"UUID=", "by-uuid"),
        (b"PARTLABEL=", "by-partlabel"),
        (b"PARTUUID=", "by-partuuid"),
    ];
    let tag = tags
        .iter()
        .find_map(|(tag, directory)| Some((bytes.strip_prefix(*tag)?, directory)));
    let path = match tag {
        Some((value, directory)) => {
            let list = Path::new("/dev/disk").join(directory);
            // A directory goes with the last link in it; /dev/disk stays while there is udev.
            if !sight.at("/dev/disk").is_dir() {
                return Meant::Unknown;
            }
            let name = udev_name(unquoted(value));
            list.join(OsStr::from_bytes(&name))
        }
        None if bytes.starts_with(b"/dev/") => PathBuf::from(spec),
        None => return Meant::Unknown,
    };
    match fs::canonicalize(sight.at(path)) {
        Ok(node) => Meant::Node(node),
        Err(_) => Meant::Nothing,
    }
}

fn unquoted(value: &[u8]) -> &[u8] {
    let inner = value.strip_prefix(b"\"");
    inner
        .and_then(|inner| inner.strip_suffix(b"\""))
        .unwrap_or(value)
}

/// How udev names a link: what could be misread becomes `\x20` and the like.
fn udev_name(label: &[u8]) -> Vec<u8> {
    let mut name = Vec::new();
    for byte in label {
        match byte {
            b'0'..=b'9'
            | b'A'..=b'Z'
            | b'a'..=b'z'
            | b'#'
            | b'+'
            | b'-'
            | b'.'
            | b':'
            | b'='
            | b'@'
            | b'_'
            | 0x80.. => name.push(*byte),
            other => name.extend(format!("\\x{other:02x}").bytes()),
        }
    }
    name
}

/// Whether what is mounted is what fstab means.
fn is_meant(spec: &OsStr, meant: Meant, mounted: Option<&MountedStorage>) -> Finding {
    let shown = escape(spec.as_bytes());
    match (meant, mounted) {
        (Meant::Nothing, _) => Finding::error(
            Id::Device,
            format!("there is no device {shown}"),
            "is the card in? `lsblk -f` lists devices and labels; mend the entry in fstab, or the label (`e2label`)",
        ),
        (Meant::Unknown, None) => Finding::unseen(
            Id::Device,
            format!("which device {shown} is: nobody keeps a list of labels here"),
        ),
        (Meant::Unknown, Some(found)) => Finding::ok(Id::Device, escape_path(&found.mount.source)),
        (Meant::Node(node), None) => {
            Finding::ok(Id::Device, format!("{shown} is {}", escape_path(&node)))
        }
        (Meant::Node(node), Some(found)) => {
            let source = &found.mount.source;
            let same = fs::canonicalize(source).is_ok_and(|source| source == node);
            match same {
                true => Finding::ok(Id::Device, escape_path(&node)),
                false => Finding::warning(
                    Id::Device,
                    format!(
                        "{} is mounted, but fstab means {} ({shown})",
                        escape_path(source),
                        escape_path(&node)
                    ),
                    "unmount it and mount it anew, or mend the entry: after the next boot it is the other",
                ),
            }
        }
    }
}

fn number(sight: &Sight, node: &Path) -> Option<(u32, u32)> {
    let metadata = fs::metadata(sight.at(node)).ok()?;
    let number = metadata.rdev();
    let is_block = metadata.file_type().is_block_device();
    is_block.then(|| (libc::major(number), libc::minor(number)))
}

/// The label, if fstab looks for one: as the filesystem has it, else as udev heard.
fn label(sight: &Sight, spec: Option<&OsStr>, device: &Device) -> Option<Finding> {
    let wanted = unquoted(spec?.as_bytes().strip_prefix(b"LABEL=")?);
    let shown = escape(wanted);
    let node = escape_path(&device.node);
    let there = match Superblock::read(&sight.at(&device.node)) {
        Ok(Some(superblock)) => superblock.label,
        Ok(None) => return None, // another filesystem; the device was found by it
        Err(error) => {
            let text = format!("{node}'s label, which should be {shown}: {error}");
            return Some(Finding::unseen(Id::DeviceLabel, text));
        }
    };
    Some(match there == wanted {
        true => Finding::ok(Id::DeviceLabel, shown.to_string()),
        false => Finding::warning(
            Id::DeviceLabel,
            format!(
                "{node} has the label '{}', but fstab looks for {shown}",
                escape(&there)
            ),
            format!(
                "`e2label {node} {shown}`, or mend the entry in fstab: it is not found at the next boot"
            ),
        ),
    })
}

fn read_only(device: &Device) -> Option<Finding> {
    let says = |sys: &Path| fs::read_to_string(sys.join("ro")).ok();
    let (own, disk) = (says(&device.sys)?, says(&device.disk)?);
    let node = escape_path(&device.node);
    Some(match own.trim() == "0" && disk.trim() == "0" {
        true => Finding::ok(Id::DeviceReadOnly, format!("{node} takes writes")),
        false => Finding::error(
            Id::DeviceReadOnly,
            format!("{node} is read-only itself: no remount can make it writable"),
            "look for the card's lock switch; a card at its end of life locks itself, too: replace it; `blockdev --setrw` undoes what somebody set by hand, and a loop device must be made without -r",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::sight::tests::Tree;
    use super::*;

    #[test]
    fn labels_are_found_as_udev_names_them() {
        assert_eq!(udev_name(b"PIPST"), b"PIPST");
        assert_eq!(udev_name(b"my card/1"), b"my\\x20card\\x2f1");
        let tree = Tree::new();
        assert!(matches!(
            meant(&tree.0, OsStr::new("LABEL=PIPST")),
            Meant::Unknown
        ));
        tree.file("/dev/mmcblk0p4", "");
        tree.link("/dev/disk/by-label/my\\x20card", "../../mmcblk0p4");
        let is_node = |spec: &str| match meant(&tree.0, OsStr::new(spec)) {
            Meant::Node(node) => node.ends_with("dev/mmcblk0p4"),
            _ => false,
        };
        assert!(is_node("LABEL=my card"));
        assert!(is_node("LABEL=\"my card\""));
        assert!(is_node("/dev/mmcblk0p4"));
        for spec in ["LABEL=PIPST", "UUID=1", "/dev/sda1"] {
            assert!(
                matches!(meant(&tree.0, OsStr::new(spec)), Meant::Nothing),
                "{spec}"
            );
        }
        let missing = is_meant(OsStr::new("LABEL=PIPST"), Meant::Nothing, None);
        assert_eq!(missing.level, Level::Error);
    }

    #[test]
    fn a_locked_card_locks_its_partitions() {
        let tree = Tree::new();
        let device = |own: &str, disk: &str| {
            tree.file("/sys/d/ro", disk).file("/sys/d/p/ro", own);
            read_only(&Device {
                node: "/dev/p".into(),
                sys: tree.0.at("/sys/d/p"),
                disk: tree.0.at("/sys/d"),
            })
            .map(|found| found.level)
        };
        assert_eq!(device("0\n", "0\n"), Some(Level::Ok));
        assert_eq!(device("0\n", "1\n"), Some(Level::Error));
        assert_eq!(device("1\n", "0\n"), Some(Level::Error));
    }
}
