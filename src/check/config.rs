//! The config file, the storage's entry in fstab with its options, and the storage's owner.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::CheckOptions;
use super::finding::{Finding, Id};
use super::host::{Host, is_forbidden};
use super::units;
use crate::config::{Config, StorageLocation};
use crate::escape::{escape, escape_path};
use crate::fstab::Entry;
use crate::problem::Problem;
use crate::storage::directories::Owner;
use crate::storage::mountinfo::{self, Mount};

/// Our own options in fstab.
const OWN: [&str; 3] = ["X-kvmd.pst-root", "X-kvmd.pst-user", "X-kvmd.pst-group"];

/// The mount point on a PiKVM.
const DEFAULT_MOUNT: &str = "/var/lib/kvmd/pst";

/// Options that the entry should have, each with its opposite; mount(8).
const WANTED: [(&str, &str); 6] = [
    ("nodev", "dev"),
    ("nosuid", "suid"),
    ("noexec", "exec"),
    ("ro", "rw"),
    ("errors=remount-ro", "errors"),
    ("nofail", "fail"),
];

/// Returns the config, unless it is invalid.
pub(super) fn check(options: &CheckOptions, findings: &mut Vec<Finding>) -> Option<Config> {
    let shown = escape_path(&options.config);
    match Config::load(&options.config, options.required) {
        Ok(mut config) => {
            findings.push(Id::Config.ok(match options.config.exists() {
                true => shown,
                false => format!("{shown} does not exist: the defaults apply"),
            }));
            if let Some(socket) = &options.socket {
                config.socket.clone_from(socket);
            }
            Some(config)
        }
        Err(problem) => {
            let advice = match is_forbidden(&options.config) {
                true => "make it readable for all: it holds no secret, and `pst run` needs it too",
                false => "fix it, see pst.toml(5); whatever depends on it was not checked",
            };
            findings.push(Id::Config.problem(problem.hint(advice)));
            None
        }
    }
}

/// Returns the storage's entry and location, if config and fstab name them.
pub(super) fn check_fstab(
    config: &Config,
    host: &Host,
    findings: &mut Vec<Finding>,
) -> (Option<Entry>, Option<StorageLocation>) {
    let fstab = escape_path(&config.storage.fstab);
    let entry = config.fstab_entry().unwrap_or_default(); // `storage_location` returns the error
    if let Some(entry) = &entry {
        let mount = escape_path(&entry.mount);
        findings.push(Id::Fstab.ok(format!("{fstab}, line {}: {mount}", entry.line)));
        findings.extend(check_options(entry));
    }
    if let Some(Problem { what, hint, .. }) = config.extra_entries() {
        findings.push(Id::Fstab.warning(what, hint.unwrap_or_default()));
    }
    match config.storage_location() {
        Ok(location) => {
            if entry.is_none() {
                findings.push(explain_missing_entry(&fstab, &location, host));
            }
            findings.push(check_owner(config, &location));
            (entry, Some(location))
        }
        Err(mut problem) => {
            if config.lacks_marked_entry() {
                let line = entry_to_add(Path::new(DEFAULT_MOUNT), "kvmd-pst", "kvmd-pst", host);
                let hint = problem.hint.unwrap_or_default();
                problem.hint = Some(format!("{hint}; if there is no entry yet, {line}"));
            }
            findings.push(Id::Fstab.problem(problem));
            (entry, None)
        }
    }
}

/// fstab needs no entry if the config file names the mount point and a mount unit mounts it.
fn explain_missing_entry(fstab: &str, location: &StorageLocation, host: &Host) -> Finding {
    let mount = &location.mount;
    let text = format!("{fstab} has no entry for {}", escape_path(mount));
    match units::has_mount_unit(mount) {
        true => Id::Fstab.ok(format!("{text}, but a mount unit mounts it")),
        false => {
            let line = entry_to_add(mount, &location.user, &location.group, host);
            let advice = format!("{line}, or nothing mounts it at the next boot");
            Id::Fstab.warning(text, advice)
        }
    }
}

/// Returns the advice to add an entry for the device that is mounted, else for the one with the usual label.
fn entry_to_add(mount: &Path, user: &str, group: &str, host: &Host) -> String {
    let mounts = mountinfo::read(mountinfo::OWN).unwrap_or_default();
    let is_device = |mounted: &&Mount| mounted.point == mount && mounted.source.starts_with("/dev");
    let (device, fstype) = match mounts.iter().rev().find(is_device) {
        Some(mounted) => (escape_path(&mounted.source), mounted.fstype.clone()),
        None if host.at("/dev/disk/by-label/PIPST").exists() => {
            ("LABEL=PIPST".into(), "ext4".into())
        }
        None => ("DEVICE".into(), "ext4".into()),
    };
    let find = match device == "DEVICE" {
        true => " (`lsblk -f` lists the devices)",
        false => "",
    };
    let mount = escape_path(mount).replace(' ', "\\040");
    let (user, group) = (escape(user), escape(group));
    format!(
        "add this line{find}: `{device} {mount} {fstype} nodev,nosuid,noexec,nofail,ro,errors=remount-ro,\
         X-kvmd.pst-user={user},X-kvmd.pst-group={group} 0 2`"
    )
}

/// Checks that user and group exist, and that the members of the access group can write.
fn check_owner(config: &Config, location: &StorageLocation) -> Finding {
    let (user, group) = (escape(&location.user), escape(&location.group));
    match (Owner::of(location), config.access_gid()) {
        (Err(problem), _) => Id::Owner.problem(problem),
        (Ok(owner), Ok(gid)) if gid != owner.gid => Id::Owner.warning(
            format!(
                "members of {} may open sessions, but cannot write: the storage's group is {group}",
                escape(&config.group)
            ),
            "name the same group in X-kvmd.pst-group and as `group` in the config file",
        ),
        _ => Id::Owner.ok(format!("{user}:{group}")),
    }
}

/// Checks the entry's options, those of mount(8) and ours.
fn check_options(entry: &Entry) -> Vec<Finding> {
    let options = entry.options.iter();
    let options: Vec<String> = options
        .map(|option| escape(option.as_bytes()).to_string())
        .collect();
    let is_ext = entry.fstype.as_bytes().starts_with(b"ext") || entry.fstype == "auto";
    let wanted = WANTED
        .iter()
        .filter(|(_, opposite)| is_ext || *opposite != "errors");
    let missing = wanted.filter_map(|(option, opposite)| check_option(&options, option, opposite));
    let ineffective = options.iter().filter(|option| is_ineffective(option));
    let ineffective = ineffective.map(|option| {
        let advice = format!("use {}, each with a value", OWN.join(", "));
        Id::FstabOptions.warning(format!("{option} has no effect"), advice)
    });
    let mut findings: Vec<Finding> = missing.chain(ineffective).collect();
    if findings.is_empty() {
        findings.push(Id::FstabOptions.ok(options.join(",")));
    }
    findings
}

/// Returns a warning unless `option` is set. The last of an option and its opposites counts.
fn check_option(options: &[String], option: &str, opposite: &str) -> Option<Finding> {
    let is_about = |word: &&String| *word == option || word.split('=').next() == Some(opposite);
    let (shown, advice) = match options.iter().rfind(is_about) {
        Some(word) if word == option => return None,
        Some(word) => (
            word.clone(),
            format!("replace it with {option} in the entry's options"),
        ),
        None => (
            format!("no {option}"),
            format!("add {option} to the entry's options"),
        ),
    };
    let risk = match option {
        "nodev" => "device files on an untrusted card give access to every device",
        "nosuid" => "set-user-ID programs on an untrusted card make its user root",
        "noexec" => "programs on it can be executed, although it is for data",
        "ro" => "a power cut before the daemon starts costs a journal replay",
        "nofail" => "if it cannot be mounted, for example after a power cut, nothing boots",
        _ => "after an error ext4 may do more damage, or stop the machine",
    };
    Some(Id::FstabOptions.warning(format!("{shown}: {risk}"), advice))
}

/// Whether an option has our prefix, but is misspelt or has no value.
fn is_ineffective(option: &str) -> bool {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    name.starts_with("X-kvmd.pst-") && (value.is_empty() || !OWN.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::fstab::parse;

    const WELL: &str = "nodev,nosuid,noexec,ro,errors=remount-ro,nofail,X-kvmd.pst-user=kvmd-pst";

    /// Returns the advice for an entry with these options.
    fn advice(fstype: &str, words: &str) -> Vec<String> {
        let text = format!("LABEL=PIPST /mnt {fstype} {words} 0 2\n");
        let entry = parse(text.as_bytes()).unwrap().remove(0);
        let findings = check_options(&entry);
        assert!(
            findings
                .iter()
                .all(|found| (found.level == Level::Ok) == found.advice.is_none())
        );
        let warnings = findings
            .into_iter()
            .filter(|found| found.level == Level::Warning);
        warnings.filter_map(|found| found.advice).collect()
    }

    #[test]
    fn a_good_entry_has_no_warnings() {
        assert!(advice("ext4", WELL).is_empty());
    }

    #[test]
    fn each_missing_option_is_found() {
        for option in [
            "nodev",
            "nosuid",
            "noexec",
            "ro",
            "errors=remount-ro",
            "nofail",
        ] {
            let words: Vec<&str> = WELL.split(',').filter(|word| *word != option).collect();
            let expected = format!("add {option} to the entry's options");
            assert_eq!(advice("ext4", &words.join(",")), [expected]);
        }
    }

    #[test]
    fn the_last_of_an_option_and_its_opposite_counts() {
        let expected = "replace it with ro in the entry's options";
        assert_eq!(advice("ext4", &format!("{WELL},rw")), [expected]);
        assert!(advice("ext4", &format!("rw,exec,defaults,{WELL}")).is_empty());
        // `defaults` has no effect on other options.
        assert!(advice("ext4", &format!("{WELL},defaults")).is_empty());
    }

    #[test]
    fn only_ext_needs_an_errors_option() {
        let words = WELL.replace("errors=remount-ro,", "");
        assert!(advice("xfs", &words).is_empty());
        let expected = "replace it with errors=remount-ro in the entry's options";
        for errors in ["continue", "panic", ""] {
            let words = WELL.replace("=remount-ro", &format!("={errors}"));
            assert_eq!(advice("ext4", &words), [expected], "{errors}");
        }
    }

    #[test]
    fn a_misspelt_or_empty_option_of_ours_is_found() {
        for option in [
            "X-kvmd.pst-usr=kvmd-pst",
            "X-kvmd.pst-user",
            "X-kvmd.pst-group=",
        ] {
            let expected =
                "use X-kvmd.pst-root, X-kvmd.pst-user, X-kvmd.pst-group, each with a value";
            assert_eq!(advice("ext4", &format!("{WELL},{option}")), [expected]);
        }
    }
}
