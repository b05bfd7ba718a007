//! The kernel's version.

use super::finding::{Finding, Id};
use super::host::{Host, read_line};
use crate::escape::escape;

pub(super) fn check(host: &Host) -> Finding {
    let release = read_line(&host.at("/proc/sys/kernel/osrelease"));
    check_version(&release.unwrap_or_default())
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
    use super::*;

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
