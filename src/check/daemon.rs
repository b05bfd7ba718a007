//! The daemon: whether it answers, its version and capabilities, and the state that it reports.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use super::finding::{Finding, Id};
use super::host::Host;
use crate::client::{self, ClientError};
use crate::config::{Config, StorageLocation};
use crate::escape::escape_path;
use crate::problem::Problem;
use crate::storage::inspect::MountedStorage;
use crate::sys::socket;
use crate::wire::{DecodeError, State, Status, VERSION};

/// The capabilities that the daemon needs, with their numbers; capabilities(7).
const CAPABILITIES: [(&str, u32); 3] = [
    ("CAP_SYS_ADMIN", 21),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_DAC_READ_SEARCH", 2),
];

pub(super) fn check(
    config: &Config,
    location: Option<&StorageLocation>,
    found: Option<&MountedStorage>,
    host: &Host,
) -> Vec<Finding> {
    let socket = &config.socket;
    let (connection, status) = match client::ask_status(socket, false) {
        Ok(answer) => answer,
        Err(ClientError::NoDaemon { problem, forbidden }) => {
            if forbidden && !host.is_root() {
                // The finding about access has the advice.
                return vec![Id::Daemon.skipped(problem.what)];
            }
            return no_daemon(problem, found, host);
        }
        Err(error) => return vec![explain_failure(socket, error, host)],
    };
    let pid = status.daemon.pid;
    // The pid of a daemon in another pid namespace may belong to another process here.
    let is_here = socket::peer(connection.as_fd()).is_ok_and(|peer| peer.pid == pid);
    let process = is_here.then(|| host.at(format!("/proc/{pid}")));
    let mut findings = vec![
        Id::Daemon.ok(format!("answers, pid {pid}")),
        check_version(&status, process.as_deref(), host),
        check_capabilities(process.as_deref()),
    ];
    findings.extend(location.map(|location| compare_config(&status, location, host)));
    findings.push(check_state(&status, host));
    findings
}

/// Without a daemon, nothing makes a writable storage read-only again.
fn no_daemon(problem: Problem, found: Option<&MountedStorage>, host: &Host) -> Vec<Finding> {
    let names_systemd = |hint: &String| hint.contains("systemctl");
    let problem = match problem.hint.as_ref().is_some_and(names_systemd) && !host.has_systemd() {
        true => problem.hint("start the daemon as root: `pst daemon`"),
        false => problem,
    };
    let mut findings = vec![Id::Daemon.problem(problem)];
    let is_writable = |found: &&MountedStorage| {
        let mount = &found.mount;
        found.block_device().is_some() && !mount.read_only && !mount.superblock_read_only()
    };
    if let Some(found) = found.filter(is_writable) {
        let shown = escape_path(&found.mount.point);
        findings.push(Id::State.error(
            format!("{shown} is writable, and no daemon says why"),
            "start the daemon: it makes the storage read-only unless a session is open",
        ));
    }
    findings
}

fn explain_failure(socket: &Path, error: ClientError, host: &Host) -> Finding {
    match error {
        ClientError::Decode(DecodeError::Version(version)) => other_version(version, host),
        ClientError::Refused { version, .. } if version != VERSION => other_version(version, host),
        ClientError::Refused { .. } => {
            let log = match host.has_systemd() {
                true => "`journalctl -u pst` may say more",
                false => "the daemon's log may say more",
            };
            Id::Daemon.problem(Problem::from(error).hint(log))
        }
        error => {
            let (shown, why) = (escape_path(socket), Problem::from(error).what);
            let switch = match host.has_systemd() {
                true => "`systemctl disable --now kvmd-pst`, then `systemctl start pst`",
                false => "end it, and start `pst daemon` as root",
            };
            Id::Daemon.error(
                format!("no status from {shown}, maybe it is not pst's daemon: {why}"),
                format!(
                    "`ss -xlp src {shown}` shows which process listens; if it is kvmd's daemon: {switch}"
                ),
            )
        }
    }
}

fn other_version(version: u16, host: &Host) -> Finding {
    Id::DaemonVersion.error(
        format!("it speaks version {version} of the protocol, this program {VERSION}"),
        host.restart_advice(),
    )
}

/// Checks that the daemon has this version, and that its program was not replaced.
fn check_version(status: &Status, process: Option<&Path>, host: &Host) -> Finding {
    let (theirs, ours) = (&status.version, env!("CARGO_PKG_VERSION"));
    if theirs != ours {
        let text = format!("it is pst {theirs}, this program {ours}");
        return Id::DaemonVersion.warning(text, host.restart_advice());
    }
    let program = process.and_then(|process| fs::read_link(process.join("exe")).ok());
    match program {
        Some(path) if path.to_string_lossy().ends_with(" (deleted)") => {
            let text = "its program was replaced or removed since it started";
            Id::DaemonVersion.warning(text, host.restart_advice())
        }
        Some(_) => Id::DaemonVersion.ok(format!("pst {ours}, as this program")),
        None => Id::DaemonVersion.skipped("only root can see whether its program was replaced"),
    }
}

fn check_capabilities(process: Option<&Path>) -> Finding {
    let status = process.and_then(|process| fs::read_to_string(process.join("status")).ok());
    let status = status.unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    match effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()) {
        Some(effective) => judge_capabilities(effective),
        None => Id::DaemonCapabilities.skipped("its process is not visible here"),
    }
}

/// `effective` has a bit for each capability.
fn judge_capabilities(effective: u64) -> Finding {
    let missing = CAPABILITIES
        .iter()
        .filter(|(_, number)| effective & (1 << number) == 0);
    let missing: Vec<&str> = missing.map(|(name, _)| *name).collect();
    let without = format!("without {}", missing.join(" "));
    let advice = "set AmbientCapabilities= as pst.service does, or run it as root";
    match missing[..] {
        [] => Id::DaemonCapabilities.ok(CAPABILITIES.map(|(name, _)| name).join(" ")),
        ["CAP_SYS_ADMIN", ..] => Id::DaemonCapabilities.error(
            format!("{without}: it cannot make the storage writable"),
            advice,
        ),
        _ => Id::DaemonCapabilities.warning(
            format!("{without}: it cannot name what keeps the storage writable"),
            advice,
        ),
    }
}

/// Checks that the daemon started with the current config file and fstab.
fn compare_config(status: &Status, location: &StorageLocation, host: &Host) -> Finding {
    let mount = escape_path(&location.mount);
    let data = escape_path(&location.root.join(&location.data));
    let theirs = &status.storage;
    if (&theirs.mount, &theirs.data) == (&mount, &data) {
        return Id::DaemonConfig.ok(data);
    }
    Id::DaemonConfig.warning(
        format!(
            "it uses {} on {}, but config file and fstab name {data} on {mount}",
            theirs.data, theirs.mount
        ),
        host.restart_advice(),
    )
}

fn check_state(status: &Status, host: &Host) -> Finding {
    let state = status.storage.state;
    let advice = match state {
        State::ReadOnly | State::ReadWrite | State::GoingRo | State::GoingRw => {
            return Id::State.ok(state.as_str());
        }
        State::Stuck => "`pst status` names what keeps it writable: end that",
        State::Absent => "mount it; the daemon notices that by itself",
        State::Unprepared if host.has_systemd() => {
            "`systemctl restart pst`, or `pst prepare` as root"
        }
        State::Unprepared => "run `pst prepare` as root",
        State::Failed => {
            "unmount it, run `e2fsck -fy` on its device, mount it again; if that does not last, \
             replace the card"
        }
    };
    let reason = status
        .storage
        .reason
        .as_deref()
        .unwrap_or("no reason given");
    Id::State.error(format!("{}: {reason}", state.as_str()), advice)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        let all = 1 << 21 | 1 << 19 | 1 << 2;
        assert_eq!(judge_capabilities(all).level, Level::Ok);
        assert_eq!(judge_capabilities(u64::MAX).level, Level::Ok);
        let found = judge_capabilities(all & !(1 << 21));
        assert_eq!(found.level, Level::Error);
        assert!(found.text.contains("without CAP_SYS_ADMIN:"), "{found:?}");
        let found = judge_capabilities(1 << 21);
        assert_eq!(found.level, Level::Warning);
        let text = "without CAP_SYS_PTRACE CAP_DAC_READ_SEARCH:";
        assert!(found.text.starts_with(text), "{found:?}");
    }
}
