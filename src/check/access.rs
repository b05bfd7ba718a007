//! The access group, the caller's right to open sessions, and the daemon's socket.

use std::fs;
use std::io::ErrorKind;
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
    let mut findings = Vec::new();
    let name = escape(&config.group);
    let gid = user::gid_by_name(&config.group);
    match &gid {
        Ok(Some(gid)) => findings.extend(group(&name.to_string(), *gid, host)),
        Ok(None) => findings.push(Id::Group.error(
            format!("there is no access group '{name}'"),
            format!("`groupadd --system {name}`, or name another as `group` in the config file"),
        )),
        Err(error) => findings.push(Id::Group.error(
            format!("cannot look up the access group '{name}': {error}"),
            "check nsswitch.conf(5)",
        )),
    }
    // The daemon runs as root or as the storage's owner.
    let owner = location.and_then(|location| user::uid_by_name(&location.user).ok().flatten());
    findings.push(socket(config, gid.ok().flatten(), owner));
    findings
}

fn group(name: &str, gid: u32, host: &Host) -> [Finding; 2] {
    let members = user::group_members(gid);
    let shown = match members.is_empty() {
        true => "no members, except users with this primary group".to_owned(),
        false => escape(&members.join(" ")).to_string(),
    };
    [
        Id::Group.ok(format!("{name}: {shown}")),
        caller(host, gid, name, &members),
    ]
}

/// The groups of this process count, because the daemon checks those of its client.
fn caller(host: &Host, gid: u32, group: &str, members: &[String]) -> Finding {
    if host.is_root() {
        return Id::Access.ok("root may open sessions");
    }
    let name = user::user_name(host.user).unwrap_or_else(|| host.user.to_string());
    let shown = escape(&name);
    if host.groups.contains(&gid) {
        return Id::Access.ok(format!("{shown} may open sessions"));
    }
    if members.contains(&name) {
        return Id::Access.warning(
            format!("{shown} joined {group} after this login"),
            "log in again",
        );
    }
    Id::Access.warning(
        format!("{shown} may not open sessions"),
        format!("run `usermod -aG {group} {shown}` as root, and log in again"),
    )
}

/// `gid` is the access group, `owner` the storage's owner.
fn socket(config: &Config, gid: Option<u32>, owner: Option<u32>) -> Finding {
    let path = escape_path(&config.socket);
    let metadata = match fs::metadata(&config.socket) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Id::Socket.skipped(format!("{path}: {error}"));
        }
        Err(error) => {
            return Id::Socket.error(
                format!("{path}: {error}"),
                "`systemctl start pst.socket pst.service`; or does the daemon use another config?",
            );
        }
    };
    if !metadata.file_type().is_socket() {
        return Id::Socket.error(
            format!("{path} is not a socket"),
            "remove it, and start the daemon",
        );
    }
    let mode = metadata.mode() & 0o777;
    let user = user::user_name(metadata.uid()).unwrap_or_else(|| metadata.uid().to_string());
    let group = user::group_name(metadata.gid()).unwrap_or_else(|| metadata.gid().to_string());
    let shown = format!("{path} is {}:{} {mode:04o}", escape(&user), escape(&group));
    if ![Some(0), owner].contains(&Some(metadata.uid())) {
        return Id::Socket.error(
            format!("{shown}, but should belong to root or the storage's owner"),
            format!("find out who listens there (`ss -xlp src {path}`), and restart the daemon"),
        );
    }
    if gid.is_some_and(|gid| (metadata.gid(), mode) != (gid, config.socket_mode)) {
        return Id::Socket.warning(
            format!(
                "{shown}, but the config file wants the group {} and {:04o}",
                escape(&config.group),
                config.socket_mode
            ),
            "restart the daemon; if systemd made the socket: SocketGroup= and SocketMode= in \
             `systemctl edit pst.socket`",
        );
    }
    Id::Socket.ok(shown)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::host::tests::Tree;
    use super::*;

    #[test]
    fn the_callers_own_groups_count() {
        let tree = Tree::new();
        let mut host = tree.0.clone();
        host.groups = vec![8, 64100];
        let level = |host: &Host, gid| caller(host, gid, "g", &[]).level;
        assert_eq!(level(&host, 99), Level::Ok, "root");
        host.user = 64_001;
        assert_eq!(level(&host, 8), Level::Ok);
        assert_eq!(level(&host, 64100), Level::Ok);
        assert_eq!(level(&host, 7), Level::Warning);
    }

    #[test]
    fn a_new_member_must_log_in_again() {
        let tree = Tree::new();
        let mut host = tree.0.clone();
        host.user = user::uid_by_name("daemon").unwrap().unwrap();
        let found = caller(&host, 64100, "g", &["daemon".to_owned()]);
        assert_eq!(found.advice.as_deref(), Some("log in again"));
    }
}
