//! Tests of the storage location.

use std::os::unix::ffi::OsStrExt;

use super::*;

/// Returns the configuration with these keys of `[storage]`, and the file that is its fstab.
fn with_fstab(fstab: &[u8], keys: &str) -> (Config, File) {
    let file = File::new(fstab);
    let mut config = parse(&format!("[storage]\n{keys}")).unwrap();
    config.storage.fstab = file.0.clone();
    (config, file)
}

#[test]
fn a_marked_entry_is_lacking_only_if_no_mount_point_is_configured() {
    for (fstab, keys, lacks) in [
        (PIKVM, "", false),
        (b"x /m ext4 ro", "", true),
        (b"x /m ext4 ro", "mount = \"/m\"", false),
    ] {
        let (config, _file) = with_fstab(fstab, keys);
        assert_eq!(config.lacks_marked_entry(), lacks, "{keys}");
    }
}

/// Returns the location for this fstab and these keys of `[storage]`.
fn location(fstab: &[u8], keys: &str) -> Result<StorageLocation, Problem> {
    let (config, file) = with_fstab(fstab, keys);
    config.storage_location().map_err(|problem| Problem {
        what: problem.what.replace(file.0.to_str().unwrap(), "FSTAB"),
        ..problem
    })
}

const PIKVM: &[u8] = b"# pikvm\n\
    /dev/root / ext4 ro 0 1\n\
    LABEL=PIPST /var/lib/kvmd/pst ext4 nodev,ro,errors=remount-ro,X-kvmd.pst-user=kvmd-pst 0 2\n\
    LABEL=PIMSD /var/lib/kvmd/msd ext4 ro,X-kvmd.otgmsd-user=kvmd 0 2\n";

fn pikvm() -> StorageLocation {
    StorageLocation {
        mount: "/var/lib/kvmd/pst".into(),
        root: "/var/lib/kvmd/pst".into(),
        data: "data".into(),
        user: "kvmd-pst".into(),
        group: "kvmd-pst".into(),
        atime_named: false,
        volatile: false,
    }
}

#[test]
fn the_marked_entry_is_the_storages() {
    assert_eq!(location(PIKVM, "").unwrap(), pikvm());
    let all = location(
        b"x /a\\040b/ ext4 ro,noatime,X-kvmd.pst-root=/a\\040b/./c/,X-kvmd.pst-user=7,X-kvmd.pst-group=g",
        "volatile = true",
    );
    let all = all.unwrap();
    assert_eq!(all.mount.as_os_str(), "/a b");
    assert_eq!(all.root.as_os_str(), "/a b/c");
    assert_eq!((all.user.as_str(), all.group.as_str()), ("7", "g"));
    assert!(all.atime_named && all.volatile);
}

#[test]
fn any_option_of_ours_marks_an_entry_and_an_empty_one_has_no_value() {
    for option in ["root", "user=", "group", "root=,X-kvmd.pst-user", "new"] {
        let fstab = format!("x /m ext4 ro,X-kvmd.pst-{option}");
        let location = location(fstab.as_bytes(), "").unwrap();
        assert_eq!(location.root, Path::new("/m"), "{option}");
        assert_eq!(
            (location.user.as_str(), location.group.as_str()),
            ("kvmd-pst", "kvmd-pst")
        );
    }
}

#[test]
fn the_first_of_several_marked_entries_counts_with_a_warning() {
    let fstab = b"x /m ext4 X-kvmd.pst-user\n\ny /n ext4 X-kvmd.pst-root";
    assert_eq!(location(fstab, "").unwrap().mount, Path::new("/m"));
    let file = File::new(fstab);
    let mut config = Config::default();
    config.storage.fstab = file.0.clone();
    let warning = config.extra_entries().unwrap();
    let lines = "lines 1, 3 have X-kvmd.pst-* options: only line 1 counts";
    assert!(warning.what.ends_with(lines), "{warning}");
    assert!(warning.hint.unwrap().contains("set storage.mount"));
    config.storage.mount = Some("/n".into());
    assert_eq!(config.extra_entries(), None);
}

#[test]
fn the_config_has_precedence_over_fstab() {
    let keys = "root = \"/var/lib/kvmd/pst/r\"\nuser = \"u\"\ngroup = \"g\"\ndata = \"\"";
    let location = location(PIKVM, keys).unwrap();
    assert_eq!(location.root, Path::new("/var/lib/kvmd/pst/r"));
    assert_eq!(
        (location.user.as_str(), location.group.as_str()),
        ("u", "g")
    );
    assert_eq!(location.data, Path::new(""));
}

#[test]
fn the_options_in_fstab_apply_even_if_the_config_sets_the_mount() {
    let fstab = b"a /a ext4 X-kvmd.pst-user=a\n\
        b /b ext4 relatime\n\
        b /b ext4 ro,noatime,X-kvmd.pst-user=b,X-kvmd.pst-root=/b/r";
    let location_of = |keys| location(fstab, keys).unwrap();
    let b = location_of("mount = \"/b/\"");
    assert_eq!(
        (b.root.as_path(), b.user.as_str()),
        (Path::new("/b/r"), "b")
    );
    assert!(b.atime_named);
    let elsewhere = location_of("mount = \"/c\"");
    assert_eq!(
        (elsewhere.root.as_path(), elsewhere.user.as_str()),
        (Path::new("/c"), "kvmd-pst")
    );
    assert!(!elsewhere.atime_named);
}

#[test]
fn fstab_is_optional_if_the_config_sets_the_mount() {
    let mut config = parse("[storage]\nmount = \"/m\"\nfstab = \"/nonexistent/fstab\"").unwrap();
    assert_eq!(config.storage_location().unwrap().mount, Path::new("/m"));
    config.storage.mount = None;
    let error = config.storage_location().unwrap_err();
    let line = error.to_string();
    assert!(
        line.starts_with("cannot read /nonexistent/fstab: no such file"),
        "{line}"
    );
    config.storage.mount = Some("/m".into());
    config.storage.fstab = "/".into();
    assert!(config.storage_location().is_err(), "there, but unreadable");
}

#[test]
fn a_problem_with_the_location_names_the_next_step() {
    for (fstab, keys, says, advice) in [
        (
            "",
            "",
            "FSTAB: no entry has an X-kvmd.pst-* option",
            "set storage.mount",
        ),
        (
            "x /m ext4 ro,X-kvmd.otgmsd-user=kvmd",
            "",
            "FSTAB: no entry has",
            "add X-kvmd.pst-user=kvmd-pst",
        ),
        ("x /m", "", "FSTAB:1: 2 of at least 4 fields", "fix it"),
        (
            "x none swap X-kvmd.pst-user",
            "",
            "FSTAB:1: the storage's mount point 'none' is not an absolute path",
            "set storage.mount",
        ),
        (
            "x /a/../b ext4 X-kvmd.pst-user",
            "",
            "FSTAB:1: the storage's mount point '/a/../b'",
            "fix this entry",
        ),
        (
            "x / ext4 X-kvmd.pst-user",
            "",
            "FSTAB:1: the storage must be a filesystem of its own, not `/`",
            "fix this entry",
        ),
        (
            "",
            "mount = \"/\"",
            "the storage must be a filesystem of its own",
            "fix storage.mount",
        ),
        (
            "x /m ext4 X-kvmd.pst-root=r",
            "",
            "FSTAB:1: X-kvmd.pst-root=r must be",
            "fix this entry",
        ),
        (
            "x /m ext4 X-kvmd.pst-root=/m/../n",
            "mount = \"/m\"",
            "FSTAB:1: X-kvmd.pst-root=/m/../n must be",
            "fix this entry",
        ),
        (
            "x /m ext4 X-kvmd.pst-root=/mm",
            "",
            "FSTAB:1: the storage root /mm is not below the mount point /m",
            "fix this entry",
        ),
        (
            "",
            "mount = \"/m\"\nroot = \"/n\"",
            "the storage root /n is not below the mount point /m",
            "fix storage.mount or storage.root",
        ),
        (
            "x /m ext4 X-kvmd.pst-user",
            "mount = \"/m\"\nroot = \"/n\"",
            "the storage root /n is not below the mount point /m",
            "fix storage.mount or storage.root",
        ),
    ] {
        let line = location(fstab.as_bytes(), keys).unwrap_err().to_string();
        assert!(line.starts_with(says) && line.contains(advice), "{line}");
        assert!(!line.contains('\n'));
    }
}

#[test]
fn names_in_fstab_are_text_and_paths_are_bytes() {
    let line = location(b"x /m ext4 X-kvmd.pst-user=\xff", "")
        .unwrap_err()
        .to_string();
    assert!(
        line.contains("X-kvmd.pst-user=\\xff must be UTF-8"),
        "{line}"
    );
    let location = location(b"x /m\\377 ext4 X-kvmd.pst-root=/m\xff/r", "").unwrap();
    assert_eq!(location.root.as_os_str().as_bytes(), b"/m\xff/r");
}
