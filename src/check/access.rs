//! The access group, the caller's right to open sessions, and the daemon's socket.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::finding::{Finding, Id};
use super::host::Host;
use crate::config::{Config, StorageLocation};
use crate::escape::{escape, escape_path};
use crate::sys::user;

pub(super) fn check(
    config: &Config,
    location: Option<&StorageLocation>,
    host: &Host,
) -> Vec<Finding> {
    let gid = match config.access_gid() {
        Ok(gid) => gid,
        Err(problem) => return vec![Id::Group.problem(problem)],
    };
    let group = escape(&config.group).to_string();
    let mut findings = vec![Id::Group.ok(&group), check_caller(host, gid, &group)];
    // The daemon runs as root or as the storage's owner.
    let owner = location.and_then(|location| user::uid_by_name(&location.user).ok()?);
    findings.extend(check_socket(config, gid, owner, host));
    findings
}

/// Checks the groups of this process, because the daemon checks those of its client.
fn check_caller(host: &Host, gid: u32, group: &str) -> Finding {
    if host.is_root() {
        return Id::Access.ok("root may open sessions");
    }
    let name = user::user_name(host.user);
    let name = escape(&name);
    if host.groups.contains(&gid) {
        return Id::Access.ok(format!("{name} may open sessions"));
    }
    Id::Access.warning(
        format!("{name} may not open sessions: this login is not in the group {group}"),
        format!(
            "run `usermod -aG {group} {name}` as root, unless that was done; then log in again"
        ),
    )
}

/// Checks the socket's owner, group and mode. Without a socket, there is a finding about the daemon.
fn check_socket(config: &Config, gid: u32, owner: Option<u32>, host: &Host) -> Option<Finding> {
    let metadata = fs::metadata(&config.socket).ok()?;
    if !metadata.file_type().is_socket() {
        return None;
    }
    let (path, mode) = (escape_path(&config.socket), metadata.mode() & 0o777);
    let user = user::user_name(metadata.uid());
    let group = user::group_name(metadata.gid());
    let shown = format!("{path} is {}:{} {mode:04o}", escape(&user), escape(&group));
    if ![Some(0), owner].contains(&Some(metadata.uid())) {
        return Some(Id::Socket.error(
            format!("{shown}, but should belong to root or the storage's owner"),
            format!(
                "see which process listens there (`ss -xlp src {path}`), and restart the daemon"
            ),
        ));
    }
    if (metadata.gid(), mode) == (gid, config.socket_mode) {
        return Some(Id::Socket.ok(shown));
    }
    Some(Id::Socket.warning(
        format!(
            "{shown}, but the config file wants the group {} and {:04o}",
            escape(&config.group),
            config.socket_mode
        ),
        match host.has_systemd() {
            true => {
                "restart the daemon; if systemd made the socket: SocketGroup= and SocketMode= in \
                 `systemctl edit pst.socket`"
            }
            false => "restart the daemon",
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::host::tests::HostTree;
    use super::*;

    #[test]
    fn the_groups_of_the_process_count() {
        let tree = HostTree::new();
        let mut host = tree.0.clone();
        host.groups = vec![8, 64100];
        let level = |host: &Host, gid| check_caller(host, gid, "g").level;
        assert_eq!(level(&host, 99), Level::Ok, "root");
        host.user = 64_001;
        assert_eq!(level(&host, 8), Level::Ok);
        assert_eq!(level(&host, 64100), Level::Ok);
        assert_eq!(level(&host, 7), Level::Warning);
    }
}
