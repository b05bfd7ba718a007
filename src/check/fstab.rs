//! The storage's entry in fstab, and each of its options.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::finding::{Finding, Id};
use super::host::Host;
use super::units;
use crate::config::{Config, StorageLocation};
use crate::escape::{escape, escape_path};
use crate::fstab::Entry;
use crate::storage::directories::Owner;
use crate::sys::user;

const KNOWN: [&str; 3] = ["X-kvmd.pst-root", "X-kvmd.pst-user", "X-kvmd.pst-group"];

/// Returns the storage's entry and location, as far as config and fstab name them.
pub(super) fn check(
    config: &Config,
    host: &Host,
    findings: &mut Vec<Finding>,
) -> (Option<Entry>, Option<StorageLocation>) {
    let fstab = escape_path(&config.storage.fstab);
    let entry = config.fstab_entry().unwrap_or_default(); // storage_location fails, too
    if let Some(entry) = &entry {
        let mount = escape_path(&entry.mount);
        findings.push(Id::Fstab.ok(format!("{fstab}, line {}: {mount}", entry.line)));
        findings.extend(options(entry));
    }
    match config.storage_location() {
        Ok(location) => {
            if entry.is_none() {
                findings.push(no_entry(config, host));
            }
            findings.push(owner(config, &location));
            (entry, Some(location))
        }
        Err(problem) => {
            findings.push(Id::Fstab.problem(&problem, "correct the entry"));
            (entry, None)
        }
    }
}

/// fstab may lack the entry if the config file names the mount point and a mount unit mounts it.
fn no_entry(config: &Config, host: &Host) -> Finding {
    let mount = config.storage.mount.as_deref().unwrap_or(Path::new("/"));
    let shown = escape_path(mount);
    match units::has_mount_unit(host, mount) {
        true => Id::Fstab.ok(format!("no entry for {shown}, but a mount unit mounts it")),
        false => Id::Fstab.warning(
            format!(
                "{} has no entry for {shown}",
                escape_path(&config.storage.fstab)
            ),
            "add one, or nothing mounts it at the next boot",
        ),
    }
}

/// Checks that user and group exist, and that the members of the access group can write.
fn owner(config: &Config, location: &StorageLocation) -> Finding {
    let (user, group) = (escape(&location.user), escape(&location.group));
    let owner = match Owner::of(location) {
        Ok(owner) => owner,
        Err(problem) => {
            return Id::Owner.problem(&problem, "check nsswitch.conf(5)");
        }
    };
    match user::gid_by_name(&config.group) {
        Ok(Some(gid)) if gid != owner.gid => Id::Owner.warning(
            format!(
                "members of {} may open sessions, but cannot write: the storage's group is {group}",
                escape(&config.group)
            ),
            "name the same group in X-kvmd.pst-group and as `group` in the config file",
        ),
        _ => Id::Owner.ok(format!("{user}:{group}")),
    }
}

/// Options that the entry should have, and the opposite of each; mount(8).
const WANTED: [(&str, &str); 6] = [
    ("nodev", "dev"),
    ("nosuid", "suid"),
    ("noexec", "exec"),
    ("ro", "rw"),
    ("errors=remount-ro", "errors="),
    ("nofail", "fail"),
];
/// The opposites that `defaults` stands for.
const DEFAULTS: [&str; 4] = ["dev", "suid", "exec", "rw"];

/// Checks the options for mount(8) and for pst.
fn options(entry: &Entry) -> Vec<Finding> {
    let is_ext = entry.fstype.as_bytes().starts_with(b"ext") || entry.fstype == "auto";
    let mut findings: Vec<Finding> = WANTED
        .iter()
        .filter(|(_, opposite)| is_ext || *opposite != "errors=")
        .filter_map(|(option, opposite)| missing(entry, option, opposite))
        .collect();
    findings.extend(entry.options.iter().filter_map(|option| misspelt(option)));
    if findings.is_empty() {
        let options = entry.options.join(OsStr::new(","));
        findings.push(Id::FstabOptions.ok(escape(options.as_bytes()).to_string()));
    }
    findings
}

/// The last of an option and its opposites counts.
fn missing(entry: &Entry, option: &str, opposite: &str) -> Option<Finding> {
    let opposes = |word: &OsStr| match word.as_bytes() {
        b"defaults" => DEFAULTS.contains(&opposite),
        word if opposite.ends_with('=') => word.starts_with(opposite.as_bytes()),
        word => word == opposite.as_bytes(),
    };
    let mut options = entry.options.iter().rev();
    let (shown, advice) = match options.find(|word| *word == option || opposes(word)) {
        Some(word) if word == option => return None,
        Some(word) => (
            escape(word.as_bytes()).to_string(),
            format!("replace it with {option} in the entry's options"),
        ),
        None => (
            format!("no {option}"),
            format!("add {option} to the entry's options"),
        ),
    };
    let risk = match option {
        "nodev" => "device files on a foreign card give access to every device",
        "nosuid" => "set-user-ID programs on a foreign card make its user root",
        "noexec" => "programs on it can be executed, although it is for data",
        "ro" => "a power cut before the daemon starts costs a journal replay",
        "nofail" => "if it cannot be mounted, for example after a power cut, nothing boots",
        _ => "after an error ext4 may do more damage, or stop the machine",
    };
    Some(Id::FstabOptions.warning(format!("{shown}: {risk}"), advice))
}

/// Checks that an option of ours is known and has a value.
fn misspelt(option: &OsStr) -> Option<Finding> {
    let option = option.to_string_lossy();
    if !option.starts_with("X-kvmd.pst-") {
        return None;
    }
    let (name, value) = option.split_once('=').unwrap_or((&option, ""));
    let (fault, advice) = match KNOWN.contains(&name) {
        false => ("is unknown", format!("known are {}", KNOWN.join(", "))),
        true if value.is_empty() => ("has no value", "give it one, or remove it".to_owned()),
        true => return None,
    };
    Some(Id::FstabOptions.warning(format!("{} {fault}", escape(&*option)), advice))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::fstab::parse;

    const WELL: &str = "nodev,nosuid,noexec,ro,errors=remount-ro,nofail,X-kvmd.pst-user=kvmd-pst";

    /// The advice for an entry with these options.
    fn advice(fstype: &str, words: &str) -> Vec<String> {
        let text = format!("LABEL=PIPST /mnt {fstype} {words} 0 2\n");
        let entry = parse(text.as_bytes()).unwrap().remove(0);
        let findings = options(&entry);
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
        assert_eq!(advice("ext4", &format!("{WELL},defaults")).len(), 4);
    }

    #[test]
    fn only_ext_has_an_errors_option() {
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
        for (option, expected) in [
            ("X-kvmd.pst-usr=kvmd-pst", "known are X-kvmd.pst-root, "),
            ("X-kvmd.pst-user", "give it one"),
            ("X-kvmd.pst-group=", "give it one"),
        ] {
            let advice = advice("ext4", &format!("{WELL},{option}"));
            assert_eq!(advice.len(), 1, "{option}");
            assert!(advice[0].starts_with(expected), "{advice:?}");
        }
    }
}
