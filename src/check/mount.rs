//! What is mounted at the storage's place: how, of what, and whether sessions can use it.

use std::os::fd::AsFd;

use super::finding::{Finding, Id};
use super::sight::Sight;
use crate::config::StorageLocation;
use crate::escape::escape;
use crate::escape::escape_path;
use crate::problem::Problem;
use crate::storage::directories::{self, DirectoryProblem, Owner};
use crate::storage::inspect::{self, MountedStorage};
use crate::storage::mounts::Flag;

/// What is mounted there, if anything is.
pub(super) fn look(
    place: &StorageLocation,
    sight: &Sight,
    findings: &mut Vec<Finding>,
) -> Option<MountedStorage> {
    let found = match inspect::find(place) {
        Ok(found) => found,
        Err(problem) => {
            findings.push(absent(problem, sight));
            return None;
        }
    };
    findings.push(Finding::ok(Id::Mount, how(&found)));
    findings.push(options(&found));
    findings.push(overlay(&found, place));
    findings.push(shared(&found, place));
    findings.push(prepared(&found));
    findings.extend(own_roots(&found, place, sight));
    Some(found)
}

fn absent(problem: Problem, sight: &Sight) -> Finding {
    if !sight.is_root() && problem.what.contains("Permission denied") {
        return Finding::unseen(Id::Mount, problem.to_string());
    }
    let hint = problem.hint.unwrap_or_default();
    match hint.starts_with("run ") {
        true => Finding::error(
            Id::Mount,
            problem.what,
            format!("{hint} as root; if that fails, `dmesg` and `e2fsck` know why"),
        ),
        false => Finding::error(Id::Mount, problem.what, hint),
    }
}

fn how(found: &MountedStorage) -> String {
    let mount = &found.mount;
    let mode = match (mount.read_only, mount.superblock_read_only()) {
        (true, _) => "the mount itself read-only",
        (false, true) => "read-only",
        (false, false) => "writable now",
    };
    format!(
        "{} ({}) on {}, {mode}",
        escape_path(&mount.source),
        escape(&mount.fstype),
        escape_path(&mount.point)
    )
}

/// What fstab should say, as the kernel has it: somebody may have mounted it by hand.
fn options(found: &MountedStorage) -> Finding {
    let missing: Vec<&str> = ["nodev", "nosuid", "noexec"]
        .into_iter()
        .filter(|option| !found.mount.flags.split(',').any(|flag| flag == *option))
        .collect();
    match missing.is_empty() {
        true => Finding::ok(Id::MountOptions, &*found.mount.flags),
        false => Finding::warning(
            Id::MountOptions,
            format!("mounted without {}", missing.join(", ")),
            format!(
                "see to its options in fstab, then `umount {0} && mount {0} && systemctl restart pst`",
                escape_path(&found.mount.point)
            ),
        ),
    }
}

fn overlay(found: &MountedStorage, place: &StorageLocation) -> Finding {
    let kind = escape(&found.mount.fstype).to_string();
    let lost = format!("{kind}: nothing that is written there outlives the power");
    match found.has_block_device() {
        true => Finding::ok(Id::MountOverlay, format!("{kind} on a device")),
        false if kind == "overlay" => Finding::error(
            Id::MountOverlay,
            lost,
            "leave the storage out of the overlay (raspi-config's has recurse=0 for that), or turn it off",
        ),
        false if place.volatile => Finding::warning(
            Id::MountOverlay,
            lost,
            "take volatile = true out of the config file, unless this is a test or a demo",
        ),
        false => Finding::error(
            Id::MountOverlay,
            lost,
            "mount a partition there; volatile = true in the config file allows it for a test or a demo",
        ),
    }
}

/// As the daemon judges it; that it has no device is another finding.
fn shared(found: &MountedStorage, place: &StorageLocation) -> Finding {
    let anyhow = StorageLocation {
        volatile: true,
        ..place.clone()
    };
    match found.check_switchable(&anyhow) {
        Ok(()) => Finding::ok(Id::MountShared, "the whole of a filesystem of its own"),
        Err(problem) => Finding::error(
            Id::MountShared,
            problem.what,
            "give it a partition of its own",
        ),
    }
}

fn prepared(found: &MountedStorage) -> Finding {
    let anew = "run `systemctl restart pst`, or `pst prepare` as root; services that were started before keep the flag until they are restarted";
    match found.flag {
        Flag::Clear => Finding::ok(Id::MountPrepared, "writable as soon as its superblock is"),
        Flag::SetHere => Finding::error(
            Id::MountPrepared,
            "the mount's own flag is read-only: no session can write",
            anew,
        ),
        Flag::SetInHost => Finding::error(
            Id::MountPrepared,
            "the mount's own flag is read-only in the host's mount namespace: no session can write",
            anew,
        ),
    }
}

/// The storage root and the data root.
fn own_roots(found: &MountedStorage, place: &StorageLocation, sight: &Sight) -> Option<Finding> {
    let owner = Owner::of(place).ok()?; // else it was said
    let data = escape_path(&place.root.join(&place.data));
    let whose = format!("{}:{}", escape(&place.user), escape(&place.group));
    Some(match directories::check(found.root.as_fd(), place, owner) {
        Ok(_) => Finding::ok(Id::Roots, format!("{data} is {whose}, mode 1775")),
        Err(DirectoryProblem::NeedsWrite) => Finding::warning(
            Id::Roots,
            format!("{data}, or a directory above it, is missing, or not {whose} with mode 1775"),
            "the next session mends it if the daemon may; else stop the daemon and run `pst prepare` as root",
        ),
        Err(DirectoryProblem::Error(problem))
            if !sight.is_root() && problem.what.contains("Permission denied") =>
        {
            Finding::unseen(Id::Roots, format!("{data} is not for this user to look at"))
        }
        Err(DirectoryProblem::Error(problem)) => {
            Finding::error(Id::Roots, problem.what, problem.hint.unwrap_or_default())
        }
    })
}
