//! Who may open sessions: the access group, the caller, the socket.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::finding::{Finding, Id};
use super::sight::Sight;
use crate::config::{Config, StorageLocation};
use crate::escape::escape;
use crate::escape::escape_path;
use crate::sys::user;

pub(super) fn look(
    config: &Config,
    place: Option<&StorageLocation>,
    sight: &Sight,
) -> Vec<Finding> {
    let gid = user::gid_by_name(&config.group);
    let known = gid.as_ref().ok().copied().flatten();
    let mut findings = match gid {
        Ok(Some(gid)) => group(config, sight, gid),
        Ok(None) => vec![no_group(&config.group)],
        Err(error) => {
            let name = escape(&config.group);
            let text = format!("the access group '{name}' cannot be looked up: {error}");
            vec![Finding::error(Id::Group, text, "see to nsswitch.conf(5)")]
        }
    };
    let owner = place.and_then(|place| user::uid_by_name(&place.user).ok().flatten());
    findings.extend(socket(config, known, owner));
    findings
}

fn group(config: &Config, sight: &Sight, gid: u32) -> Vec<Finding> {
    let name = escape(&config.group).to_string();
    let members = members(sight, gid);
    let shown: Vec<String> = members
        .iter()
        .map(|name| escape(name).to_string())
        .collect();
    let shown = match shown.is_empty() {
        true => "nobody is in it, so only root opens sessions".to_owned(),
        false => shown.join(" "),
    };
    vec![
        Finding::ok(Id::Group, format!("{name}: {shown}")),
        caller(sight, gid, &name, &members),
    ]
}

fn no_group(name: &str) -> Finding {
    let name = escape(name);
    Finding::error(
        Id::Group,
        format!("there is no access group '{name}'"),
        format!("`groupadd --system {name}`, or name another as `group` in the config file"),
    )
}

/// Who has the group as a supplementary one, or as the primary one in /etc/passwd.
fn members(sight: &Sight, gid: u32) -> Vec<String> {
    let passwd = fs::read(sight.at("/etc/passwd")).unwrap_or_default();
    let passwd = String::from_utf8_lossy(&passwd).into_owned();
    let primary = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let found: u32 = fields.nth(2)?.parse().ok()?;
        (found == gid).then(|| name.to_owned())
    });
    let mut members = user::group_members(gid);
    for name in primary {
        if !members.contains(&name) {
            members.push(name);
        }
    }
    members
}

/// The groups that the daemon would see: those of this process, not of the database.
fn caller(sight: &Sight, gid: u32, group: &str, members: &[String]) -> Finding {
    if sight.is_root() {
        return Finding::ok(Id::Access, "root may open sessions");
    }
    let name = user::user_name(sight.user);
    let shown = escape(&name.clone().unwrap_or_else(|| sight.user.to_string())).to_string();
    let status = fs::read_to_string(sight.at("/proc/self/status")).unwrap_or_default();
    if process_groups(&status).contains(&gid) {
        return Finding::ok(Id::Access, format!("{shown} may open sessions"));
    }
    if name.is_some_and(|name| members.contains(&name)) {
        return Finding::warning(
            Id::Access,
            format!("{shown} is in {group}, but was not when this login began"),
            "log in anew",
        );
    }
    Finding::warning(
        Id::Access,
        format!("{shown} may not open sessions"),
        format!("as root `usermod -aG {group} {shown}`, and log in anew"),
    )
}

/// The effective group and the supplementary ones, from /proc/PID/status.
fn process_groups(status: &str) -> Vec<u32> {
    let words = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default().split_whitespace()
    };
    let effective = words("Gid:").nth(1);
    effective
        .into_iter()
        .chain(words("Groups:"))
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// `owner`: as whom the daemon runs, if it is not root.
fn socket(config: &Config, gid: Option<u32>, owner: Option<u32>) -> Vec<Finding> {
    let shown = escape_path(&config.socket);
    let metadata = match fs::metadata(&config.socket) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return vec![Finding::unseen(Id::Socket, format!("{shown}: {error}"))];
        }
        Err(error) => {
            return vec![Finding::error(
                Id::Socket,
                format!("{shown}: {error}"),
                "`systemctl start pst.socket pst.service`; or is the daemon's config another one?",
            )];
        }
    };
    if !metadata.file_type().is_socket() {
        return vec![Finding::error(
            Id::Socket,
            format!("{shown} is no socket"),
            "remove it, and start the daemon",
        )];
    }
    let mut findings = vec![Finding::ok(Id::Socket, shown)];
    if ![Some(0), owner].contains(&Some(metadata.uid())) {
        findings.push(stranger(&metadata, &escape_path(&config.socket)));
    } else if let Some(gid) = gid {
        findings.push(permissions(&metadata, gid, config.socket_mode));
    }
    findings
}

fn stranger(socket: &Metadata, shown: &str) -> Finding {
    let user = user::user_name(socket.uid()).unwrap_or_else(|| socket.uid().to_string());
    Finding::error(
        Id::SocketMode,
        format!(
            "it belongs to {}, who is neither root nor the storage's owner",
            escape(&user)
        ),
        format!("find out who listens there (`ss -xlp src {shown}`), and restart the daemon"),
    )
}

fn permissions(socket: &Metadata, gid: u32, wanted: u32) -> Finding {
    let mode = socket.mode() & 0o777;
    let group = |gid| user::group_name(gid).unwrap_or_else(|| gid.to_string());
    let user = user::user_name(socket.uid()).unwrap_or_else(|| socket.uid().to_string());
    let whose = format!(
        "{}:{} {mode:04o}",
        escape(&user),
        escape(&group(socket.gid()))
    );
    if (socket.gid(), mode) == (gid, wanted) {
        return Finding::ok(Id::SocketMode, whose);
    }
    Finding::warning(
        Id::SocketMode,
        format!(
            "{whose}, but the config file wants the group {} and {wanted:04o}",
            escape(&group(gid))
        ),
        "restart the daemon; a socket of systemd's has what SocketGroup= and SocketMode= in pst.socket say (`systemctl edit pst.socket`)",
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::sight::tests::Tree;
    use super::*;

    const STATUS: &str = "Name:\tpst\nGid:\t7\t8\t7\t7\nGroups:\t20 64100 \nNStgid:\t1\n";

    #[test]
    fn the_callers_own_groups_count() {
        assert_eq!(process_groups(STATUS), [8, 20, 64100]);
        assert!(process_groups("").is_empty());
        let tree = Tree::new();
        tree.file("/proc/self/status", STATUS);
        let mut sight = tree.0.clone();
        let level = |sight: &Sight, gid| caller(sight, gid, "g", &[]).level;
        assert_eq!(level(&sight, 99), Level::Ok, "root");
        sight.user = 64_001;
        assert_eq!(level(&sight, 8), Level::Ok);
        assert_eq!(level(&sight, 64100), Level::Ok);
        assert_eq!(level(&sight, 7), Level::Warning, "the real group only");
    }

    #[test]
    fn who_was_not_a_member_at_login_is_told_to_log_in_anew() {
        let tree = Tree::new();
        let mut sight = tree.0.clone();
        sight.user = user::uid_by_name("daemon").unwrap().unwrap();
        let found = caller(&sight, 64100, "g", &["daemon".to_owned()]);
        assert_eq!(found.advice.as_deref(), Some("log in anew"));
    }

    #[test]
    fn members_by_their_primary_group_count() {
        let tree = Tree::new();
        let passwd = "root:x:0:0::/:/bin/sh\nann:x:5001:4000000001::/:/bin/sh\nbroken\n";
        tree.file("/etc/passwd", passwd);
        let found = members(&tree.0, 4_000_000_001);
        assert_eq!(found, ["ann"]);
    }
}
