//! systemd's units: whether pst's start at boot and kvmd's own daemon does not.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use super::finding::{Finding, Id};
use super::host::Host;
use crate::escape::escape_path;

/// Checks our units, kvmd's, and the unit of the storage's mount point.
pub(super) fn check(host: &Host, mount: Option<&Path>) -> Vec<Finding> {
    if !host.has_systemd() {
        let text = "systemd does not run here: something else must start the daemon";
        return vec![Id::Units.ok(text)];
    }
    let names = ["pst.service", "pst.socket", "kvmd-pst.service"].map(OsStr::new);
    match show(names.into_iter().chain(mount.map(Path::as_os_str))) {
        Ok(shown) => judge(&shown, mount),
        Err(error) => vec![Id::Units.skipped(format!("cannot ask systemctl: {error}"))],
    }
}

/// Whether a unit file mounts something at `mount`.
pub(super) fn has_mount_unit(mount: &Path) -> bool {
    show([mount.as_os_str()]).is_ok_and(|unit| !property(&unit, "FragmentPath").is_empty())
}

/// Returns the output of systemctl about these units, in this order. A mount point means its mount unit.
fn show<'a>(units: impl IntoIterator<Item = &'a OsStr>) -> io::Result<String> {
    let output = Command::new("systemctl")
        .arg("show")
        .arg("--property=Id,LoadState,UnitFileState,ActiveState,Wants,FragmentPath")
        .arg("--")
        .args(units)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(reason.trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns a property of a unit, as `systemctl show` prints it; empty if there is none.
fn property<'a>(unit: &'a str, name: &str) -> &'a str {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix('=');
    unit.lines().find_map(value).unwrap_or_default()
}

/// `shown` has a paragraph for each unit.
fn judge(shown: &str, mount: Option<&Path>) -> Vec<Finding> {
    let units: Vec<&str> = shown.trim().split("\n\n").collect();
    let [service, socket, kvmd, mount_unit @ ..] = &units[..] else {
        return vec![Id::Units.skipped("systemctl shows no units")];
    };
    let mut findings = Vec::new();
    findings.extend(check_enabled(service, "nothing starts the daemon at boot"));
    findings.extend(check_enabled(
        socket,
        "clients are refused while the daemon restarts",
    ));
    if let (Some(mount), Some(unit)) = (mount, mount_unit.first()) {
        findings.extend(check_prepared_on_mount(unit, mount));
    }
    if findings.is_empty() {
        let text = "pst.service and pst.socket are enabled, and a new mount is prepared";
        findings.push(Id::Units.ok(text));
    }
    findings.push(check_kvmd_pst(kvmd));
    findings
}

fn check_enabled(unit: &str, otherwise: &str) -> Option<Finding> {
    let name = property(unit, "Id");
    let enable = format!("`systemctl enable --now {name}`");
    match (property(unit, "LoadState"), property(unit, "UnitFileState")) {
        ("masked", _) => Some(Id::Units.error(
            format!("{name} is masked: {otherwise}"),
            format!("`systemctl unmask {name}`, then {enable}"),
        )),
        ("not-found", _) => Some(Id::Units.warning(
            format!("{name} is not installed: {otherwise}"),
            "install the package, or run `make install`",
        )),
        (_, state) if state.starts_with("enabled") => None,
        _ => Some(Id::Units.warning(format!("{name} is not enabled: {otherwise}"), enable)),
    }
}

/// Checks that the mount unit wants the service that prepares a new mount while the daemon runs.
fn check_prepared_on_mount(unit: &str, mount: &Path) -> Option<Finding> {
    let unit_name = property(unit, "Id");
    let instance = unit_name.strip_suffix(".mount").unwrap_or(unit_name);
    let wanted = format!("pst-mounted@{instance}.service");
    let mut wants = property(unit, "Wants").split_whitespace();
    if wants.any(|other| other == wanted) {
        return None;
    }
    Some(Id::Units.warning(
        format!(
            "{} is not prepared if it is mounted again while the daemon runs",
            escape_path(mount)
        ),
        format!(
            "put `[Unit]` and `Wants=pst.service {wanted}` into \
             /etc/systemd/system/{unit_name}.d/pst.conf, then `systemctl daemon-reload`; \
             see pst-check(8) for more"
        ),
    ))
}

fn check_kvmd_pst(unit: &str) -> Finding {
    let disable = "`systemctl disable --now kvmd-pst`, `systemctl reenable pst`, then `systemctl restart pst`";
    if property(unit, "Id") == "pst.service" {
        return Id::KvmdPst.ok("kvmd-pst.service is another name of pst.service");
    }
    let active = property(unit, "ActiveState");
    if !["", "inactive", "failed"].contains(&active) {
        return Id::KvmdPst.error(
            format!("kvmd-pst.service is {active}: it and pst undo each other's work"),
            disable,
        );
    }
    match (property(unit, "LoadState"), property(unit, "UnitFileState")) {
        (_, state) if state.starts_with("enabled") => Id::KvmdPst.error(
            "kvmd-pst.service is enabled: at boot it and pst.service manage the same storage",
            disable,
        ),
        ("loaded", _) => Id::KvmdPst.warning(
            "kvmd-pst.service is kvmd's own: what asks for it starts a second daemon",
            "`systemctl reenable pst.service`: the name then means pst.service",
        ),
        _ => Id::KvmdPst.ok("kvmd-pst.service is neither enabled nor active"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    const WELL: &str = r"
Id=pst.service
LoadState=loaded
UnitFileState=enabled
ActiveState=active

Id=pst.socket
LoadState=loaded
UnitFileState=enabled
ActiveState=active

Id=pst.service
LoadState=loaded
UnitFileState=alias
ActiveState=active

Id=srv-my\x2dnotes.mount
Wants=pst.service pst-mounted@srv-my\x2dnotes.service
LoadState=loaded
";

    /// Returns the levels and texts of the faults after a change in systemctl's output.
    fn after(old: &str, new: &str) -> Vec<(Level, String)> {
        assert!(WELL.contains(old), "{old}");
        let shown = WELL.replacen(old, new, 1);
        let findings = judge(&shown, Some(Path::new("/srv/my-notes")));
        let bad = findings
            .into_iter()
            .filter(|found| found.level != Level::Ok);
        bad.map(|found| (found.level, found.text)).collect()
    }

    #[test]
    fn units_that_do_not_start_at_boot_are_found() {
        assert_eq!(after("", ""), []);
        assert_eq!(
            after("UnitFileState=enabled", "UnitFileState=enabled-runtime"),
            []
        );
        let alias = "Id=pst.service\nLoadState=loaded\nUnitFileState=alias\nActiveState=active";
        let masked =
            "Id=kvmd-pst.service\nLoadState=masked\nUnitFileState=masked\nActiveState=inactive";
        assert_eq!(after(alias, masked), []);
        let socket = "Id=pst.socket\nLoadState=loaded\nUnitFileState=enabled";
        for (old, new, level, text) in [
            (
                "UnitFileState=enabled",
                "UnitFileState=disabled",
                Level::Warning,
                "pst.service is not enabled",
            ),
            (
                socket,
                "Id=pst.socket\nLoadState=masked\nUnitFileState=masked",
                Level::Error,
                "pst.socket is masked",
            ),
            (
                socket,
                "Id=pst.socket\nLoadState=not-found",
                Level::Warning,
                "pst.socket is not installed",
            ),
            (
                alias,
                "Id=kvmd-pst.service\nLoadState=loaded\nUnitFileState=disabled\nActiveState=inactive",
                Level::Warning,
                "kvmd-pst.service is kvmd's own",
            ),
            (
                alias,
                "Id=kvmd-pst.service\nLoadState=loaded\nUnitFileState=enabled\nActiveState=inactive",
                Level::Error,
                "kvmd-pst.service is enabled",
            ),
            (
                alias,
                "Id=kvmd-pst.service\nLoadState=loaded\nUnitFileState=disabled\nActiveState=active",
                Level::Error,
                "kvmd-pst.service is active",
            ),
            (
                " pst-mounted@",
                " other@",
                Level::Warning,
                "/srv/my-notes is not prepared",
            ),
        ] {
            let found = after(old, new);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].0, level, "{found:?}");
            assert!(found[0].1.starts_with(text), "{found:?}");
        }
    }

    #[test]
    fn without_systemd_something_else_starts_the_daemon() {
        let tree = super::super::host::tests::HostTree::new();
        let findings = check(&tree.0, None);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].level, Level::Ok);
    }
}
