//! The daemon: that it answers, its version and rights, and what it reports about the storage.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::finding::{Finding, Id};
use super::host::Host;
use crate::client::{self, PATIENCE, ReceiveError, StatusError};
use crate::config::{Config, StorageLocation};
use crate::escape::{escape, escape_path};
use crate::problem::Problem;
use crate::storage::inspect::MountedStorage;
use crate::sys::socket;
use crate::wire::{DecodeError, State, Status, VERSION};

const START: &str = "`systemctl start pst`; if it does not stay, `journalctl -u pst` says why";
const RESTART: &str = "`systemctl restart pst` (this ends open sessions)";

struct Answer {
    status: Status,
    /// The daemon's directory in /proc; `None` if its pid means another process here.
    process: Option<PathBuf>,
}

enum NoAnswer {
    /// A daemon is there, or may be there, so the storage may be writable for a session.
    Refused(Finding),
    /// No daemon looks after the storage.
    NoDaemon(Finding),
}

pub(super) fn check(
    config: &Config,
    location: Option<&StorageLocation>,
    found: Option<&MountedStorage>,
    host: &Host,
) -> Vec<Finding> {
    let Answer { status, process } = match ask(&config.socket, host) {
        Ok(answer) => answer,
        Err(NoAnswer::Refused(finding)) => return vec![finding],
        Err(NoAnswer::NoDaemon(finding)) => {
            let writable = found.and_then(writable_without_daemon);
            return [finding].into_iter().chain(writable).collect();
        }
    };
    let mut findings = vec![Id::Daemon.ok(format!("answers, pid {}", status.daemon.pid))];
    findings.push(version(&status, process.as_deref()));
    findings.push(capabilities(process.as_deref()));
    findings.extend(location.map(|location| same_config(&status, location)));
    findings.push(state(&status));
    findings
}

fn writable_without_daemon(found: &MountedStorage) -> Option<Finding> {
    let mount = &found.mount;
    let writable = !mount.read_only && !mount.superblock_read_only();
    let shown = escape_path(&mount.point);
    (writable && found.has_block_device()).then(|| {
        Id::State.error(
            format!("{shown} is writable, and no daemon says why"),
            "start the daemon: it makes the storage read-only unless a session is open",
        )
    })
}

fn ask(socket: &Path, host: &Host) -> Result<Answer, NoAnswer> {
    let deadline = Instant::now() + PATIENCE;
    let shown = escape_path(socket);
    let silent = || {
        let text = format!("no answer at {shown} for {} s", PATIENCE.as_secs());
        NoAnswer::NoDaemon(Id::Daemon.error(text, RESTART))
    };
    let connected = client::ask_status(socket, false, deadline).ok_or_else(silent)?;
    let mut connection = connected.map_err(|error| {
        let problem = client::cannot_connect(socket, &error);
        if error.kind() == ErrorKind::PermissionDenied && !host.is_root() {
            // The finding access says what to do.
            return NoAnswer::Refused(Id::Daemon.skipped(problem.what));
        }
        NoAnswer::NoDaemon(Id::Daemon.problem(&problem, START))
    })?;
    let peer = socket::peer(connection.as_fd()).ok();
    match connection.next_status(deadline) {
        Ok(Some(status)) => {
            let pid = status.daemon.pid;
            let is_here = peer.is_some_and(|peer| peer.pid == pid);
            let process = is_here.then(|| host.at(format!("/proc/{pid}")));
            Ok(Answer { status, process })
        }
        Ok(None) => Err(silent()),
        Err(error) => Err(NoAnswer::Refused(no_status(&shown, error))),
    }
}

fn no_status(socket: &str, error: StatusError) -> Finding {
    match error {
        StatusError::Receive(ReceiveError::Decode(DecodeError::Version(version))) => {
            other_version(version)
        }
        StatusError::Refused { version, .. } if version != VERSION => other_version(version),
        StatusError::Refused { text, .. } => Id::Daemon.error(
            format!("it refused to answer: {}", escape(&text)),
            "`journalctl -u pst` may say more",
        ),
        error => Id::Daemon.error(
            format!(
                "no status from {socket}, maybe it is not pst's daemon: {}",
                Problem::from(error).what
            ),
            format!(
                "`ss -xlp src {socket}` shows who listens; if it is kvmd's daemon: \
                 `systemctl disable --now kvmd-pst`, then `systemctl start pst`"
            ),
        ),
    }
}

fn other_version(version: u16) -> Finding {
    Id::DaemonVersion.error(
        format!("it speaks version {version} of the protocol, this program {VERSION}"),
        RESTART,
    )
}

/// Checks that the daemon is of this version, and that its program is still the installed one.
fn version(status: &Status, process: Option<&Path>) -> Finding {
    let (theirs, ours) = (&status.version, env!("CARGO_PKG_VERSION"));
    if theirs != ours {
        let text = format!("it is pst {theirs}, this program {ours}");
        return Id::DaemonVersion.warning(text, RESTART);
    }
    let program = process.and_then(|process| fs::read_link(process.join("exe")).ok());
    match program {
        Some(path) if path.as_os_str().as_bytes().ends_with(b" (deleted)") => {
            let text = "its program was replaced or removed since it started";
            Id::DaemonVersion.warning(text, RESTART)
        }
        Some(_) => Id::DaemonVersion.ok(format!("pst {ours}, as this program")),
        None => Id::DaemonVersion.skipped("only root can see whether its program was replaced"),
    }
}

fn capabilities(process: Option<&Path>) -> Finding {
    let status = process.and_then(|process| fs::read_to_string(process.join("status")).ok());
    let status = status.unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    match effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()) {
        Some(effective) => judge_capabilities(effective),
        None => Id::DaemonCapabilities.skipped("its process is not visible here"),
    }
}

/// `effective` is a set of capabilities by their numbers in capabilities(7).
fn judge_capabilities(effective: u64) -> Finding {
    let advice = "set AmbientCapabilities= as pst.service does, or run it as root";
    let missing = |(_, number): &(&str, u32)| effective & (1 << number) == 0;
    if missing(&("CAP_SYS_ADMIN", 21)) {
        let text = "without CAP_SYS_ADMIN: it cannot make the storage writable";
        return Id::DaemonCapabilities.error(text, advice);
    }
    let search = [("CAP_SYS_PTRACE", 19), ("CAP_DAC_READ_SEARCH", 2)];
    let lacking = search.into_iter().filter(missing).map(|(name, _)| name);
    let lacking = lacking.collect::<Vec<_>>().join(" ");
    if lacking.is_empty() {
        let text = "CAP_SYS_ADMIN CAP_SYS_PTRACE CAP_DAC_READ_SEARCH";
        return Id::DaemonCapabilities.ok(text);
    }
    let text = format!("without {lacking}: it cannot name what keeps the storage writable");
    Id::DaemonCapabilities.warning(text, advice)
}

/// Checks that the daemon started with the current config file and fstab.
fn same_config(status: &Status, location: &StorageLocation) -> Finding {
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
        RESTART,
    )
}

fn state(status: &Status) -> Finding {
    let state = status.storage.state;
    let advice = match state {
        State::ReadOnly | State::ReadWrite | State::GoingRo | State::GoingRw => {
            return Id::State.ok(state.as_str());
        }
        State::Stuck => "`pst status` names what keeps it writable: end that",
        State::Absent => "mount it; the daemon notices that by itself",
        State::Unprepared => "`systemctl restart pst`, or `pst prepare` as root",
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
