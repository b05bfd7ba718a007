//! The storage's mount: its filesystem, its options, and whether sessions can use it.

use std::os::fd::AsFd;

use super::finding::{Finding, Id};
use super::host::{Host, is_forbidden};
use crate::config::StorageLocation;
use crate::escape::{escape, escape_path};
use crate::storage::directories::{self, Owner};
use crate::storage::inspect::{self, Flag, MountedStorage};

/// Returns the mounted storage, if there is one.
pub(super) fn check(
    location: &StorageLocation,
    host: &Host,
    findings: &mut Vec<Finding>,
) -> Option<MountedStorage> {
    let found = match inspect::find(location) {
        Ok(found) => found,
        Err(problem) => {
            findings.push(match !host.is_root() && is_forbidden(&location.mount) {
                true => Id::Mount.skipped(problem.what),
                false => Id::Mount.problem(problem),
            });
            return None;
        }
    };
    findings.push(Id::Mount.ok(describe(&found)));
    findings.push(check_options(&found, host));
    findings.push(check_filesystem(&found, location));
    findings.push(check_prepared(&found, host));
    findings.extend(check_directories(&found, location, host));
    Some(found)
}

fn describe(found: &MountedStorage) -> String {
    let mount = &found.mount;
    let mode = match mount.read_only || mount.superblock_read_only() {
        true => "read-only",
        false => "writable now",
    };
    format!(
        "{} ({}) on {}, {mode}",
        escape_path(&mount.source),
        escape(&mount.fstype),
        escape_path(&mount.point)
    )
}

/// Checks the mount's current options. They may differ from fstab's if it was mounted by hand.
fn check_options(found: &MountedStorage, host: &Host) -> Finding {
    let flags = &found.mount.flags;
    let mut missing = vec!["nodev", "nosuid", "noexec"];
    missing.retain(|option| !flags.split(',').any(|flag| flag == *option));
    if missing.is_empty() {
        return Id::MountOptions.ok(flags);
    }
    let mount = escape_path(&found.mount.point);
    let prepare = match host.has_systemd() {
        true => "systemctl restart pst",
        false => "pst prepare",
    };
    Id::MountOptions.warning(
        format!("mounted without {}", missing.join(", ")),
        format!("correct fstab, then `umount {mount} && mount {mount} && {prepare}`"),
    )
}

/// Checks that the mount is a whole filesystem, not shared with another mount, on a device.
fn check_filesystem(found: &MountedStorage, location: &StorageLocation) -> Finding {
    let kind = escape(&found.mount.fstype).to_string();
    match found.check_switchable(location) {
        Ok(()) if found.block_device().is_some() => {
            Id::MountFilesystem.ok(format!("{kind} of its own, on a device"))
        }
        Ok(()) => Id::MountFilesystem.warning(
            format!("{kind} without a device: a power cut loses everything"),
            "remove volatile = true from the config file, unless this is a test or a demo",
        ),
        Err(problem) if kind == "overlay" => Id::MountFilesystem.error(
            problem.what,
            "exclude the storage from the overlay (raspi-config: recurse=0), or turn it off",
        ),
        Err(problem) => Id::MountFilesystem.problem(problem),
    }
}

fn check_prepared(found: &MountedStorage, host: &Host) -> Finding {
    match found.flag {
        Flag::Clear => Id::MountPrepared.ok("only the superblock's flag decides"),
        Flag::SetHere | Flag::SetInHost => Id::MountPrepared.error(
            "the mount itself is read-only: no session can write",
            format!(
                "run {}`pst prepare` as root; services that started before keep the flag until they restart",
                if host.has_systemd() { "`systemctl restart pst`, or " } else { "" }
            ),
        ),
    }
}

/// Checks the storage root and the data directory. `None` if the owner does not exist.
fn check_directories(
    found: &MountedStorage,
    location: &StorageLocation,
    host: &Host,
) -> Option<Finding> {
    let owner = Owner::of(location).ok()?; // the finding owner is an error
    let path = location.root.join(&location.data);
    let data = escape_path(&path);
    let whose = format!("{}:{}", escape(&location.user), escape(&location.group));
    Some(
        match directories::check(found.root.as_fd(), location, owner) {
            Ok(Some(_)) => Id::Directories.ok(format!("{data} is {whose}, mode 1775")),
            Ok(None) => Id::Directories.warning(
                format!(
                    "{data} or a directory above it is missing, or is not {whose} with mode 1775"
                ),
                "the next session repairs it if the daemon may; else stop the daemon and run \
                 `pst prepare` as root",
            ),
            Err(_) if !host.is_root() && is_forbidden(&path) => {
                Id::Directories.skipped(format!("{data}: permission denied"))
            }
            Err(problem) => Id::Directories.problem(problem),
        },
    )
}
