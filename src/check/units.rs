//! systemd's units: that the daemon is started at boot, and that the one it takes the place of is
//! not.

use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::finding::{Finding, Id};
use super::sight::Sight;
use crate::escape::escape_path;

/// Where units and their `.wants` directories are, systemd.unit(5).
const DIRECTORIES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const OLD: &str = "kvmd-pst.service";
/// The processes of a service: cgroups version 2, and 1.
const CGROUPS: [&str; 2] = [
    "/sys/fs/cgroup/system.slice",
    "/sys/fs/cgroup/systemd/system.slice",
];

/// Ours, the one for the storage's mount point, and the old one.
pub(super) fn look(sight: &Sight, mount: Option<&Path>) -> Vec<Finding> {
    let has_systemd = sight.at("/run/systemd/system").is_dir();
    let own = [
        (
            Id::UnitService,
            "pst.service",
            "nothing starts the daemon at boot",
        ),
        (
            Id::UnitSocket,
            "pst.socket",
            "clients that come before the daemon, or while it restarts, are refused",
        ),
    ];
    let own = own.map(|(id, unit, without)| match has_systemd {
        true => ours(sight, id, unit, without),
        false => Finding::ok(id, "no systemd here: something else starts the daemon"),
    });
    let mounted = mount.filter(|_| has_systemd);
    let mounted = mounted.map(|mount| mounted_anew(sight, mount));
    own.into_iter().chain(mounted).chain([old(sight)]).collect()
}

fn ours(sight: &Sight, id: Id, unit: &str, without: &str) -> Finding {
    let file = |directory: &&str| sight.at(directory).join(unit);
    let masked = DIRECTORIES
        .iter()
        .map(file)
        .any(|path| fs::read_link(path).is_ok_and(|target| target == Path::new("/dev/null")));
    if masked {
        return Finding::error(
            id,
            format!("{unit} is masked: {without}"),
            format!("`systemctl unmask {unit} && systemctl enable --now {unit}`"),
        );
    }
    if !is_installed(sight, unit) {
        return Finding::warning(
            id,
            format!("{unit} is not installed: {without}"),
            "install the package, or `make install`",
        );
    }
    match is_wanted(sight, unit) {
        true => Finding::ok(id, format!("{unit} is enabled")),
        false => Finding::warning(
            id,
            format!("{unit} is not enabled: {without}"),
            format!("`systemctl enable --now {unit}`"),
        ),
    }
}

/// Whether there is a file for the unit.
pub(super) fn is_installed(sight: &Sight, unit: &str) -> bool {
    DIRECTORIES
        .iter()
        .any(|directory| sight.at(directory).join(unit).exists())
}

/// Whether a unit is enabled: another one pulls it in.
fn is_wanted(sight: &Sight, unit: &str) -> bool {
    DIRECTORIES.iter().any(|directory| {
        let entries = fs::read_dir(sight.at(directory)).into_iter().flatten();
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let pulls = name.ends_with(".wants") || name.ends_with(".requires");
            // A link to what is not there, too.
            pulls && entry.path().join(unit).symlink_metadata().is_ok()
        })
    })
}

/// The unit that prepares a storage which is mounted while the daemon runs. The mount wants it, and
/// gives it its name.
fn mounted_anew(sight: &Sight, mount: &Path) -> Finding {
    let name = unit_name(mount);
    let unit = format!("pst-mounted@{name}.service");
    let wants = DIRECTORIES.iter().any(|directory| {
        let directory = sight.at(directory);
        let link = directory.join(format!("{name}.mount.wants")).join(&unit);
        link.symlink_metadata().is_ok()
            || has_drop_in(&directory.join(format!("{name}.mount.d")), &unit)
    });
    if wants {
        return Finding::ok(Id::UnitMounted, format!("{name}.mount wants {unit}"));
    }
    Finding::warning(
        Id::UnitMounted,
        format!(
            "{} is not prepared when it is mounted anew while the daemon runs",
            escape_path(mount)
        ),
        format!(
            "put `[Unit]` and `Wants=pst.service {unit}` into /etc/systemd/system/{name}.mount.d/pst.conf, then `systemctl daemon-reload`; pst-check(8) has the rest"
        ),
    )
}

/// Whether a unit's drop-in directory has a file by which it wants the other unit.
fn has_drop_in(directory: &Path, other: &str) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path());
    files
        .filter(|path| path.extension().is_some_and(|ending| ending == "conf"))
        .filter_map(|path| fs::read_to_string(path).ok())
        .any(|text| {
            let wants = text.lines().filter_map(|line| line.strip_prefix("Wants="));
            wants
                .flat_map(str::split_whitespace)
                .any(|unit| unit == other)
        })
}

/// A path as the name of a unit: "String Escaping for Inclusion in Unit Names" of systemd.unit(5).
pub(super) fn unit_name(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let mut name = String::new();
    for (at, byte) in bytes.iter().skip(1).enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if at > 0 => name.push('.'),
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b':' | b'_' => name.push(char::from(*byte)),
            // Writing to a string cannot fail.
            other => drop(write!(name, "\\x{other:02x}")),
        }
    }
    name
}

fn old(sight: &Sight) -> Finding {
    let runs = CGROUPS.iter().any(|slice| {
        let procs = sight.line(Path::new(slice).join(OLD).join("cgroup.procs"));
        procs.is_some_and(|pids| !pids.is_empty())
    });
    let away = "`systemctl disable --now kvmd-pst`, then `systemctl restart pst`";
    if runs {
        return Finding::error(
            Id::UnitKvmdPst,
            format!("{OLD} is running: two managers of one storage undo each other's work"),
            away,
        );
    }
    match is_wanted(sight, OLD) {
        true => Finding::warning(
            Id::UnitKvmdPst,
            format!("{OLD} is enabled: at boot it and pst.service stop one another"),
            away,
        ),
        false => Finding::ok(Id::UnitKvmdPst, "kvmd's own is neither enabled nor running"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::sight::tests::Tree;
    use super::*;

    const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";
    const SOCKETS: &str = "/etc/systemd/system/sockets.target.wants";

    fn booted() -> Tree {
        let tree = Tree::new();
        std::fs::create_dir_all(tree.0.at("/run/systemd/system")).unwrap();
        for unit in ["pst.service", "pst.socket"] {
            tree.file(&format!("/usr/lib/systemd/system/{unit}"), "");
        }
        tree
    }

    fn levels(tree: &Tree) -> [Level; 3] {
        let levels: Vec<Level> = look(&tree.0, None)
            .iter()
            .map(|found| found.level)
            .collect();
        levels.try_into().unwrap()
    }

    #[test]
    fn units_that_are_enabled_are_known_by_their_links() {
        let tree = booted();
        assert_eq!(levels(&tree), [Level::Warning, Level::Warning, Level::Ok]);
        let unit = "/usr/lib/systemd/system/pst.service";
        tree.link(&format!("{WANTS}/pst.service"), unit);
        assert_eq!(levels(&tree), [Level::Ok, Level::Warning, Level::Ok]);
        let unit = "/usr/lib/systemd/system/pst.socket";
        tree.link(&format!("{SOCKETS}/pst.socket"), unit);
        assert_eq!(levels(&tree), [Level::Ok; 3]);
        tree.link("/etc/systemd/system/pst.socket", "/dev/null");
        assert_eq!(levels(&tree), [Level::Ok, Level::Error, Level::Ok]);
    }

    #[test]
    fn units_that_are_not_installed_and_no_systemd_at_all() {
        let tree = Tree::new();
        assert_eq!(levels(&tree), [Level::Ok; 3]);
        std::fs::create_dir_all(tree.0.at("/run/systemd/system")).unwrap();
        let findings = look(&tree.0, None);
        assert!(findings[0].text.contains("not installed"), "{findings:?}");
    }

    #[test]
    fn the_old_daemon_is_found_enabled_and_running() {
        let tree = booted();
        let unit = "/usr/lib/systemd/system/kvmd-pst.service";
        tree.link(&format!("{WANTS}/{OLD}"), unit);
        assert_eq!(levels(&tree)[2], Level::Warning);
        let procs = "/sys/fs/cgroup/system.slice/kvmd-pst.service/cgroup.procs";
        tree.file(procs, "");
        assert_eq!(levels(&tree)[2], Level::Warning, "it ended");
        tree.file(procs, "812\n813\n");
        assert_eq!(levels(&tree)[2], Level::Error);
    }

    #[test]
    fn another_mount_point_needs_its_own_link() {
        let tree = booted();
        let level = || look(&tree.0, Some(Path::new("/srv/my-notes")))[2].level;
        assert_eq!(level(), Level::Warning);
        let drop_in = "/etc/systemd/system/srv-my\\x2dnotes.mount.d/pst.conf";
        tree.file(drop_in, "[Unit]\nWants=pst.service\n");
        assert_eq!(level(), Level::Warning);
        let wants = "[Unit]\nWants=pst.service pst-mounted@srv-my\\x2dnotes.service\n";
        tree.file(drop_in, wants);
        assert_eq!(level(), Level::Ok);
        tree.file(drop_in, "");
        assert_eq!(level(), Level::Warning);
        let link = r"srv-my\x2dnotes.mount.wants/pst-mounted@srv-my\x2dnotes.service";
        let unit = "/usr/lib/systemd/system/pst-mounted@.service";
        tree.link(&format!("/etc/systemd/system/{link}"), unit);
        assert_eq!(level(), Level::Ok);
    }

    #[test]
    fn units_are_named_as_systemd_escapes_paths() {
        for (path, name) in [
            ("/var/lib/kvmd/pst", "var-lib-kvmd-pst"),
            ("/srv/a b", r"srv-a\x20b"),
            ("/.hidden/x.y", r"\x2ehidden-x.y"),
            ("/mnt/\u{e4}", r"mnt-\xc3\xa4"),
        ] {
            assert_eq!(unit_name(Path::new(path)), name);
        }
    }
}
