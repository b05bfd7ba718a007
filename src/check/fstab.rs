//! The storage's line in fstab: that it is there, and what each of its options is for.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::finding::{Finding, Id};
use super::sight::Sight;
use super::units;
use crate::config::{Config, StorageLocation};
use crate::escape::escape;
use crate::escape::escape_path;
use crate::fstab::Entry;
use crate::storage::directories::Owner;
use crate::sys::user;

/// The options that are read from it.
const KNOWN: [&str; 3] = ["X-kvmd.pst-root", "X-kvmd.pst-user", "X-kvmd.pst-group"];
const PREFIX: &str = "X-kvmd.pst-";

/// The storage's entry, and its place as config and entry have it; `None` for what there is not.
pub(super) fn look(
    config: &Config,
    sight: &Sight,
    findings: &mut Vec<Finding>,
) -> (Option<Entry>, Option<StorageLocation>) {
    let fstab = &config.storage.fstab;
    let entry = match config.fstab_entry() {
        Ok(entry) => entry,
        Err(error) => {
            findings.push(Finding::told(
                Id::Fstab,
                &error.to_string(),
                "mend the file",
            ));
            return (None, None);
        }
    };
    findings.push(match &entry {
        Some(entry) => Finding::ok(Id::Fstab, line(entry, fstab)),
        None => no_entry(config, sight),
    });
    if let Some(entry) = &entry {
        findings.extend(options(entry));
        findings.push(marks(entry));
    }
    let place = match config.storage_location() {
        Ok(place) => place,
        Err(error) => {
            findings.push(Finding::told(
                Id::Fstab,
                &error.to_string(),
                "mend the entry",
            ));
            return (entry, None);
        }
    };
    findings.push(owner(config, &place));
    (entry, Some(place))
}

/// The config file says where the storage is; something else than fstab may mount it there.
fn no_entry(config: &Config, sight: &Sight) -> Finding {
    let mount = config.storage.mount.as_deref().unwrap_or(Path::new("/"));
    let unit = format!("{}.mount", units::unit_name(mount));
    match units::is_installed(sight, &unit) {
        true => Finding::ok(Id::Fstab, format!("no entry, but {unit} mounts it")),
        false => Finding::warning(
            Id::Fstab,
            format!(
                "{} has no entry for {}",
                escape_path(&config.storage.fstab),
                escape_path(mount)
            ),
            "add one, or nothing mounts it at the next boot",
        ),
    }
}

/// That they exist, and that who may open sessions may then write.
fn owner(config: &Config, place: &StorageLocation) -> Finding {
    let (user, group) = (escape(&place.user), escape(&place.group));
    let owner = match Owner::of(place) {
        Ok(owner) => owner,
        Err(problem) => {
            let advice = problem.hint.unwrap_or("check the user database".into());
            return Finding::error(Id::Owner, problem.what, advice);
        }
    };
    match user::gid_by_name(&config.group) {
        Ok(Some(gid)) if gid != owner.gid => Finding::warning(
            Id::Owner,
            format!(
                "the storage's group is {group}, but members of {} open sessions: they cannot create anything there",
                escape(&config.group)
            ),
            "name the same group in X-kvmd.pst-group (or storage.group) and `group` in the config file",
        ),
        _ => Finding::ok(Id::Owner, format!("{user}:{group}")),
    }
}

fn line(entry: &Entry, fstab: &Path) -> String {
    format!(
        "{}:{}: {} on {} ({})",
        escape_path(fstab),
        entry.line,
        escape(entry.spec.as_bytes()),
        escape_path(&entry.mount),
        escape(entry.fstype.as_bytes())
    )
}

/// What mount(8) does with its options.
fn options(entry: &Entry) -> Vec<Finding> {
    let mut findings = vec![
        wanted(
            entry,
            Id::FstabNodev,
            "nodev",
            &["dev", "defaults"],
            "device files on it work: whoever puts a card of their own in has every device",
        ),
        wanted(
            entry,
            Id::FstabNosuid,
            "nosuid",
            &["suid", "defaults"],
            "set-id programs on it work: whoever puts a card of their own in is root",
        ),
        wanted(
            entry,
            Id::FstabNoexec,
            "noexec",
            &["exec", "defaults"],
            "programs on it can be run, though it is made for data",
        ),
        wanted(
            entry,
            Id::FstabRo,
            "ro",
            &["rw", "defaults"],
            "it is writable from its mounting until the daemon comes: a power cut in between costs a journal replay",
        ),
    ];
    let fstype = entry.fstype.as_bytes();
    if fstype.starts_with(b"ext") || fstype == b"auto" {
        findings.push(errors(entry));
    }
    findings.push(wanted(
        entry,
        Id::FstabNofail,
        "nofail",
        &["fail"],
        "a machine whose storage cannot be mounted (a superblock torn by a power cut) does not boot, but waits for somebody at its console",
    ));
    findings
}

/// An option that should be there; `without` is what happens otherwise. The last of it and its
/// opposites counts.
fn wanted(entry: &Entry, id: Id, option: &str, opposites: &[&str], without: &str) -> Finding {
    let opposes = |word: &OsString| opposites.iter().any(|opposite| word == opposite);
    let last = entry
        .options
        .iter()
        .rfind(|word| *word == option || opposes(word));
    match last {
        Some(word) if word == option => Finding::ok(id, option),
        Some(word) => Finding::warning(
            id,
            format!("{}: {without}", escape(word.as_bytes())),
            format!("put {option} in its place in the entry's options"),
        ),
        None => Finding::warning(
            id,
            format!("no {option}: {without}"),
            format!("add {option} to the entry's options"),
        ),
    }
}

fn errors(entry: &Entry) -> Finding {
    let goes_on = "the filesystem goes on after an error and may damage itself further";
    let (text, advice) = match entry.option("errors") {
        Some(value) if value == "remount-ro" => {
            return Finding::ok(Id::FstabErrors, "errors=remount-ro");
        }
        Some(value) if value == "panic" => (
            "errors=panic: an error on the card stops the machine".to_owned(),
            "put errors=remount-ro in its place in the entry's options",
        ),
        Some(value) => (
            format!("errors={}: {goes_on}", escape(value.as_bytes())),
            "put errors=remount-ro in its place in the entry's options",
        ),
        None => (
            format!("no errors=remount-ro: {goes_on}, unless its superblock says otherwise"),
            "add errors=remount-ro to the entry's options",
        ),
    };
    Finding::warning(Id::FstabErrors, text, advice)
}

/// The options that are ours.
fn marks(entry: &Entry) -> Finding {
    let ours = || {
        let options = entry.options.iter();
        options.filter(|option| option.as_bytes().starts_with(PREFIX.as_bytes()))
    };
    let name = |option: &[u8]| {
        option
            .split(|byte| *byte == b'=')
            .next()
            .map(<[u8]>::to_vec)
    };
    let unknown = ours().find(|option| {
        let name = name(option.as_bytes()).unwrap_or_default();
        !KNOWN.iter().any(|known| known.as_bytes() == name)
    });
    if let Some(option) = unknown {
        return Finding::warning(
            Id::FstabKvmd,
            format!("{} means nothing", escape(option.as_bytes())),
            format!("mend it: {} are known", KNOWN.join(", ")),
        );
    }
    let empty = ours()
        .find(|option| !option.as_bytes().contains(&b'=') || option.as_bytes().ends_with(b"="));
    if let Some(option) = empty {
        return Finding::warning(
            Id::FstabKvmd,
            format!("{} has no value", escape(option.as_bytes())),
            "give it one, or remove it",
        );
    }
    let shown: Vec<String> = ours()
        .map(|option| escape(option.as_bytes()).to_string())
        .collect();
    match shown.is_empty() {
        true => Finding::ok(
            Id::FstabKvmd,
            "no X-kvmd.pst-* option, which is well as long as the config file names the mount",
        ),
        false => Finding::ok(Id::FstabKvmd, shown.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::fstab::parse;

    const WELL: &str = "nodev,nosuid,noexec,ro,errors=remount-ro,nofail,X-kvmd.pst-user=kvmd-pst";

    fn bad(fstype: &str, words: &str) -> Vec<(&'static str, Level)> {
        let text = format!("LABEL=PIPST /mnt {fstype} {words} 0 2\n");
        let entry = parse(text.as_bytes()).unwrap().remove(0);
        let mut findings = options(&entry);
        findings.push(marks(&entry));
        assert!(
            findings
                .iter()
                .all(|found| (found.level == Level::Ok) == found.advice.is_none())
        );
        findings.retain(|found| found.level != Level::Ok);
        findings
            .iter()
            .map(|found| (found.id.as_str(), found.level))
            .collect()
    }

    #[test]
    fn an_entry_as_it_should_be_has_nothing_to_be_said_of() {
        assert_eq!(bad("ext4", WELL), []);
    }

    #[test]
    fn each_option_that_is_missing_is_found_by_its_id() {
        for (option, id) in [
            ("nodev", "fstab-nodev"),
            ("nosuid", "fstab-nosuid"),
            ("noexec", "fstab-noexec"),
            ("ro", "fstab-ro"),
            ("errors=remount-ro", "fstab-errors"),
            ("nofail", "fstab-nofail"),
        ] {
            let words: Vec<&str> = WELL.split(',').filter(|word| *word != option).collect();
            assert_eq!(
                bad("ext4", &words.join(",")),
                [(id, Level::Warning)],
                "without {option}"
            );
        }
    }

    #[test]
    fn the_last_of_an_option_and_its_opposite_counts() {
        assert_eq!(
            bad("ext4", &format!("{WELL},rw")),
            [("fstab-ro", Level::Warning)]
        );
        assert_eq!(bad("ext4", &format!("rw,exec,defaults,{WELL}")), []);
        assert_eq!(bad("ext4", &format!("{WELL},defaults")).len(), 4);
    }

    #[test]
    fn what_ext4_does_with_errors_is_no_matter_elsewhere() {
        let words = WELL.replace("errors=remount-ro,", "");
        assert_eq!(bad("xfs", &words), []);
        for errors in ["continue", "panic", ""] {
            let words = WELL.replace("=remount-ro", &format!("={errors}"));
            assert_eq!(
                bad("ext4", &words),
                [("fstab-errors", Level::Warning)],
                "{errors}"
            );
        }
    }

    #[test]
    fn an_option_of_ours_that_is_misspelt_or_empty_is_found() {
        for option in [
            "X-kvmd.pst-usr=kvmd-pst",
            "X-kvmd.pst-user",
            "X-kvmd.pst-group=",
        ] {
            assert_eq!(
                bad("ext4", &format!("{WELL},{option}")),
                [("fstab-kvmd", Level::Warning)],
                "{option}"
            );
        }
    }
}
