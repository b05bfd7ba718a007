//! The kernel's version, and its protection of links.

use super::finding::{Finding, Id};
use super::host::{Host, read_line};
use crate::escape::escape;

pub(super) fn check(host: &Host) -> Vec<Finding> {
    let release = read_line(&host.at("/proc/sys/kernel/osrelease"));
    vec![
        check_version(&release.unwrap_or_default()),
        check_links(host),
    ]
}

/// Checks the settings of proc_sys_fs(5) that keep users from linking to other users' files.
fn check_links(host: &Host) -> Finding {
    let names = ["protected_hardlinks", "protected_symlinks"];
    let is_off = |name: &&str| {
        let value = read_line(&host.at(format!("/proc/sys/fs/{name}")));
        value.is_some_and(|value| value == "0")
    };
    match names.iter().find(|name| is_off(name)) {
        None => Id::Links.ok("links to other users' files are restricted"),
        Some(name) => Id::Links.warning(
            format!("fs.{name} is 0: members of the group can link to other users' files"),
            format!("run `sysctl -w fs.{name}=1`, and set it in /etc/sysctl.d"),
        ),
    }
}

fn check_version(release: &str) -> Finding {
    let shown = escape(release);
    match parse(release) {
        // mount_setattr(2) is the newest call that pst cannot do without.
        Some(version) if version >= (5, 12) => Id::Kernel.ok(format!("Linux {shown}")),
        Some(_) => Id::Kernel.error(
            format!("Linux {shown} is too old: pst needs 5.12 or later"),
            "upgrade the kernel",
        ),
        None => Id::Kernel.skipped(format!(
            "/proc/sys/kernel/osrelease contains no version ('{shown}')"
        )),
    }
}

fn parse(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::host::tests::HostTree;
    use super::*;

    #[test]
    fn unrestricted_links_are_a_warning() {
        let tree = HostTree::new();
        for (value, level) in [("1", Level::Ok), ("0", Level::Warning)] {
            tree.file("/proc/sys/fs/protected_symlinks", value);
            assert_eq!(check_links(&tree.0).level, level);
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        for (release, level) in [
            ("6.18.5", Level::Ok),
            ("5.12.0-rc1+", Level::Ok),
            ("10.0", Level::Ok),
            ("5.11.22-generic", Level::Error),
            ("4.19.0", Level::Error),
            ("", Level::Skipped),
            ("mainline", Level::Skipped),
        ] {
            assert_eq!(check_version(release).level, level, "{release}");
        }
    }
}
