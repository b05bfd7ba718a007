//! `pst repair`: repairs a storage whose superblock was torn by a power cut, so that its label is gone
//! and it cannot be mounted. Runs before the mount, or by hand.

use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::Config;
use crate::escape::{escape, escape_path};
use crate::problem::Problem;
use crate::storage::inspect;
use crate::storage::torn::{self, Search, TornStorage};
use crate::sys::signal;
use crate::table::print;

/// e2fsck(8) returns less than this if the filesystem is now without errors.
const NOT_CORRECTED: i32 = 4;

/// Returns exit code 0 if the storage is sound, now or after the repair. Without `yes`, changes nothing.
pub(crate) fn main(config: &Config, yes: bool) -> Result<ExitCode, Problem> {
    signal::restore_mask(); // e2fsck inherits it
    let location = config.storage_location()?;
    let point = escape_path(&location.mount);
    let Some(entry) = config.fstab_entry()? else {
        let what = format!(
            "no entry in {} names the device of {point}",
            escape_path(&config.storage.fstab)
        );
        return Err(Problem::new(what).hint("add one"));
    };
    if inspect::find(&location).is_ok() {
        return say(format_args!("{point} is mounted: nothing to repair"));
    }
    let spec = escape(entry.spec.as_bytes());
    let torn = match torn::find(&entry.spec)? {
        Search::Torn(torn) => torn,
        Search::Sound(device) => {
            let device = escape_path(&device);
            return say(format_args!(
                "the superblock of {device} is not torn; if `mount {point}` fails, run `e2fsck -f {device}`"
            ));
        }
        Search::Nothing => {
            let what = format!(
                "there is no device {spec}, and no partition with a torn superblock of this name"
            );
            return Err(Problem::new(what)
                .hint("is the card inserted? `lsblk -f` lists devices and labels"));
        }
    };
    refuse_other_content(&torn.device)?;
    let device = escape_path(&torn.device);
    if !yes {
        return say(format_args!(
            "{device} is {spec} with a torn superblock: `pst repair --yes` runs\n  {}",
            command_line(&torn)
        ));
    }
    let undo = repair(&torn)?;
    // udev makes the links in /dev/disk again. Systems without udev have none.
    let _ = Command::new("udevadm")
        .args(["trigger", "--settle", "--action=change"])
        .arg(&torn.device)
        .status();
    say(format_args!(
        "{device} is repaired; run `mount {point}`. To undo the repair before that: `e2undo {undo} {device}`"
    ))
}

/// Refuses a device that blkid(8) takes for something other than ext2, ext3 or ext4.
fn refuse_other_content(device: &Path) -> Result<(), Problem> {
    let blkid = Command::new("blkid")
        .args(["-p", "-s", "TYPE", "-o", "value"])
        .arg(device)
        .output();
    let output = blkid.map_err(|error| Problem::io("cannot run blkid", &error))?;
    let kind = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    // 2 means that it recognised nothing, 8 that it recognised several things.
    match (output.status.code(), kind.as_str()) {
        (Some(0 | 2), "" | "ext2" | "ext3" | "ext4") => Ok(()),
        _ => {
            let what = format!(
                "blkid finds something else than a torn ext4 on {}",
                escape_path(device)
            );
            Err(Problem::new(what).hint(format!("see `blkid -p {}`", escape_path(device))))
        }
    }
}

/// Returns the command to type, without saving what it changes.
pub(crate) fn command_line(torn: &TornStorage) -> String {
    format!("e2fsck -fy {}", torn.e2fsck_arguments().join(" "))
}

/// Runs e2fsck: first what it repairs without asking, then everything. Returns the undo file.
fn repair(torn: &TornStorage) -> Result<String, Problem> {
    let device = escape_path(&torn.device);
    let name = torn
        .device
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut undo = format!("/run/pst-repair-{name}-{}.e2undo", now.as_secs());
    if !run_e2fsck("-p", &undo, torn)? {
        undo = undo.replace(".e2undo", "-2.e2undo");
        if !run_e2fsck("-fy", &undo, torn)? {
            let what = format!("e2fsck cannot repair {device}");
            return Err(Problem::new(what).hint("its output above says why; `dmesg` may say more"));
        }
    }
    Ok(undo)
}

/// Returns whether the filesystem is now without errors.
fn run_e2fsck(mode: &str, undo: &str, torn: &TornStorage) -> Result<bool, Problem> {
    let mut e2fsck = Command::new("e2fsck");
    e2fsck
        .args([mode, "-z", undo])
        .args(torn.e2fsck_arguments());
    let status = e2fsck
        .status()
        .map_err(|error| Problem::io("cannot run e2fsck", &error))?;
    Ok(status.code().is_some_and(|code| code < NOT_CORRECTED))
}

fn say(text: impl Display) -> Result<ExitCode, Problem> {
    print(&format!("{text}\n"))?;
    Ok(ExitCode::SUCCESS)
}
