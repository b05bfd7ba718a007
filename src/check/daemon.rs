//! The daemon: that it answers, in our version, with the rights that it needs, and what it thinks
//! of the storage. It is asked for its status, never for a session.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use super::finding::{Finding, Id};
use super::sight::Sight;
use crate::client::{self, PATIENCE, ReceiveError, StatusError};
use crate::config::{Config, StorageLocation};
use crate::escape::escape;
use crate::escape::escape_path;
use crate::problem::ProblemKind;
use crate::storage::inspect::MountedStorage;
use crate::sys::socket::{self, Peer};
use crate::sys::user;
use crate::wire::{DecodeError, State, Status, VERSION};

const START: &str = "`systemctl start pst`; if it does not stay, `journalctl -u pst` says why";
const RESTART: &str = "`systemctl restart pst` (open sessions are ended)";

/// What its daemon cannot do without, with their numbers: capabilities(7).
const CAPABILITIES: [(&str, u32, &str); 3] = [
    ("CAP_SYS_ADMIN", 21, "it cannot make the storage writable"),
    (
        "CAP_SYS_PTRACE",
        19,
        "it cannot name what keeps the storage writable",
    ),
    (
        "CAP_DAC_READ_SEARCH",
        2,
        "it cannot name what keeps the storage writable",
    ),
];

struct Answer {
    status: Status,
    /// The daemon's pid means the same process here: the kernel reports it too.
    here: bool,
}

/// Why it said nothing of that.
enum NoAnswer {
    /// There is a daemon, or it cannot be known whether there is.
    Guarded(Finding),
    /// There is none, or none that does anything.
    Unguarded(Finding),
}

pub(super) fn look(
    config: &Config,
    place: Option<&StorageLocation>,
    found: Option<&MountedStorage>,
    sight: &Sight,
) -> Vec<Finding> {
    let answer = match ask(&config.socket, sight) {
        Ok(answer) => answer,
        Err(NoAnswer::Guarded(finding)) => return vec![finding],
        Err(NoAnswer::Unguarded(finding)) => {
            return [finding].into_iter().chain(unguarded(found)).collect();
        }
    };
    let pid = answer.status.daemon.pid;
    let mut findings = vec![
        Finding::ok(Id::Daemon, format!("answers, pid {pid}")),
        version(&answer, sight),
        capabilities(&answer, sight),
    ];
    findings.extend(place.map(|place| same_config(&answer, place)));
    findings.push(state(&answer));
    findings
}

/// Nobody can be asked, and the storage is writable.
fn unguarded(found: Option<&MountedStorage>) -> Option<Finding> {
    let found = found.filter(|found| found.has_block_device())?;
    let mount = &found.mount;
    let writable = !mount.read_only && !mount.superblock_read_only();
    writable.then(|| {
        Finding::error(
            Id::State,
            format!(
                "{} is writable, and it is not known why",
                escape_path(&mount.point)
            ),
            "a daemon makes it read-only as soon as it is started, unless somebody has a session",
        )
    })
}

fn ask(socket: &Path, sight: &Sight) -> Result<Answer, NoAnswer> {
    let deadline = Instant::now() + PATIENCE;
    let shown = escape_path(socket);
    let unguarded =
        |text: String, advice: &str| NoAnswer::Unguarded(Finding::told(Id::Daemon, &text, advice));
    let silent = || {
        let text = format!("no answer at {shown} for {} s", PATIENCE.as_secs());
        unguarded(text, RESTART)
    };
    let connected = client::ask_status(socket, false, deadline).ok_or_else(silent)?;
    let mut connection = connected.map_err(|error| {
        let problem = client::cannot_connect(socket, &error);
        if problem.kind == ProblemKind::NoDaemon {
            return unguarded(format!("nobody listens at {shown}"), START);
        }
        let text = problem.to_string();
        if sight.is_root() {
            return unguarded(text, START);
        }
        // What to do about it is the finding before's.
        let text = text.split("; ").next().unwrap_or(&text);
        NoAnswer::Guarded(Finding::unseen(Id::Daemon, text))
    })?;
    let peer = socket::peer(connection.as_fd()).ok();
    match connection.next_status(deadline) {
        Ok(Some(status)) => Ok(Answer {
            here: peer.is_some_and(|peer| peer.pid == status.daemon.pid),
            status,
        }),
        Ok(None) => Err(silent()),
        Err(error) => Err(NoAnswer::Guarded(no_status(&shown, error, peer, sight))),
    }
}

fn no_status(shown: &str, error: StatusError, peer: Option<Peer>, sight: &Sight) -> Finding {
    match error {
        StatusError::Receive(ReceiveError::Decode(DecodeError::Version(version))) => {
            other_version(version)
        }
        StatusError::Receive(error) => stranger(shown, &error, peer, sight),
        StatusError::Refused { version, .. } if version != VERSION => other_version(version),
        StatusError::Refused { text, .. } => Finding::error(
            Id::Daemon,
            format!("it refused to answer: {}", escape(&text)),
            RESTART,
        ),
        StatusError::Unexpected => {
            Finding::error(Id::Daemon, "unexpected reply from the daemon", RESTART)
        }
    }
}

fn other_version(version: u16) -> Finding {
    Finding::error(
        Id::DaemonVersion,
        format!("it speaks version {version} of the protocol, this program {VERSION}"),
        RESTART,
    )
}

/// Whoever answers is no daemon of ours.
fn stranger(shown: &str, error: &ReceiveError, peer: Option<Peer>, sight: &Sight) -> Finding {
    let who = peer.map_or(String::new(), |peer| {
        let name = sight.line(format!("/proc/{}/comm", peer.pid));
        let name = name.unwrap_or_else(|| "of unknown name".into());
        format!(" (pid {}, {})", peer.pid, escape(&name))
    });
    let fault = match error {
        // What it said before, as HTTP does, is no whole message.
        ReceiveError::Closed => "it hung up".to_owned(),
        ReceiveError::Io(error) => error.to_string(),
        ReceiveError::Decode(error) => format!("its answer is not understood: {error}"),
    };
    Finding::error(
        Id::Daemon,
        format!("what listens at {shown}{who} is not pst's daemon: {fault}"),
        "if it is kvmd's own kvmd-pst: `systemctl disable --now kvmd-pst`, then `systemctl start pst`",
    )
}

fn version(answer: &Answer, sight: &Sight) -> Finding {
    let (theirs, ours) = (&answer.status.version, env!("CARGO_PKG_VERSION"));
    if answer.status.version != ours {
        let text = format!("it is pst {theirs}, this program {ours}");
        return Finding::warning(Id::DaemonVersion, text, RESTART);
    }
    if !answer.here {
        let text = format!("pst {theirs}; {}", elsewhere(answer));
        return Finding::unseen(Id::DaemonVersion, text);
    }
    match fs::read_link(sight.at(format!("/proc/{}/exe", answer.status.daemon.pid))) {
        Ok(program) if program.as_os_str().as_bytes().ends_with(b" (deleted)") => Finding::warning(
            Id::DaemonVersion,
            "its program was replaced or removed since it started",
            RESTART,
        ),
        Ok(_) => Finding::ok(Id::DaemonVersion, format!("pst {theirs}, as this program")),
        Err(error) => Finding::unseen(
            Id::DaemonVersion,
            format!("pst {theirs}; whether its program was replaced since it started: {error}"),
        ),
    }
}

/// Its number would be another process's here.
fn elsewhere(answer: &Answer) -> String {
    format!(
        "its process, {}, is not to be seen from here",
        answer.status.daemon.pid
    )
}

fn capabilities(answer: &Answer, sight: &Sight) -> Finding {
    if !answer.here {
        return Finding::unseen(Id::DaemonCapabilities, elsewhere(answer));
    }
    let pid = answer.status.daemon.pid;
    let status = match fs::read_to_string(sight.at(format!("/proc/{pid}/status"))) {
        Ok(status) => status,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Finding::unseen(Id::DaemonCapabilities, elsewhere(answer));
        }
        Err(error) => return Finding::unseen(Id::DaemonCapabilities, error.to_string()),
    };
    let field = |key| status.lines().find_map(|line| line.strip_prefix(key));
    let Some(have) = field("CapEff:").and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
    else {
        return Finding::unseen(Id::DaemonCapabilities, "/proc does not say");
    };
    let user = field("Uid:").and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok());
    let user = user.map_or(String::new(), |uid| {
        let name = user::user_name(uid).unwrap_or_else(|| uid.to_string());
        format!("user {}, ", escape(&name))
    });
    lacking(have, &user)
}

fn lacking(have: u64, user: &str) -> Finding {
    let missing: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(_, number, _)| have & (1 << number) == 0)
        .collect();
    let names = |list: &[&(&str, u32, &str)]| {
        let names: Vec<&str> = list.iter().map(|(name, ..)| *name).collect();
        names.join(" ")
    };
    let Some((_, number, without)) = missing.first() else {
        let all: Vec<_> = CAPABILITIES.iter().collect();
        return Finding::ok(Id::DaemonCapabilities, format!("{user}{}", names(&all)));
    };
    let text = format!("{user}without {}: {without}", names(&missing));
    let advice = "give it AmbientCapabilities= as pst.service has them, or run it as root";
    match *number == CAPABILITIES[0].1 {
        true => Finding::error(Id::DaemonCapabilities, text, advice),
        false => Finding::warning(Id::DaemonCapabilities, text, advice),
    }
}

/// Whether it runs with the config that is there now.
fn same_config(answer: &Answer, place: &StorageLocation) -> Finding {
    let data = place.root.join(&place.data);
    let escaped = |path: &Path| escape(path.as_os_str().as_bytes()).to_string();
    let storage = &answer.status.storage;
    let same = storage.mount == escaped(&place.mount) && storage.data == escaped(&data);
    match same {
        true => Finding::ok(Id::DaemonConfig, escape_path(&data)),
        false => Finding::warning(
            Id::DaemonConfig,
            format!(
                "it has {} on {}, but by config file and fstab it is {} on {}",
                answer.status.storage.data,
                answer.status.storage.mount,
                escape_path(&data),
                escape_path(&place.mount)
            ),
            RESTART,
        ),
    }
}

fn state(answer: &Answer) -> Finding {
    let name = answer.status.storage.state.as_str();
    let advice = match answer.status.storage.state {
        State::ReadOnly | State::ReadWrite | State::GoingRo | State::GoingRw => {
            return Finding::ok(Id::State, name);
        }
        State::Stuck => "`pst status` names what keeps it writable: end that",
        State::Absent => "mount it; the daemon sees that by itself",
        State::Unprepared => "`systemctl restart pst`, or `pst prepare` as root",
        State::Failed => {
            "unmount it, run `e2fsck -fy` on its device, and mount it again; if it comes back, replace the card"
        }
    };
    Finding::told(
        Id::State,
        &format!(
            "{name}: {}",
            escape(&answer.status.storage.reason.clone().unwrap_or_default())
        ),
        advice,
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn capabilities_that_it_lacks_are_named() {
        let all = 1 << 21 | 1 << 19 | 1 << 2;
        assert_eq!(lacking(all, "").level, Level::Ok);
        assert_eq!(lacking(u64::MAX, "").level, Level::Ok);
        let found = lacking(all & !(1 << 21), "");
        assert_eq!(found.level, Level::Error);
        assert!(found.text.contains("without CAP_SYS_ADMIN:"), "{found:?}");
        let found = lacking(1 << 21, "user x, ");
        assert_eq!(found.level, Level::Warning);
        assert!(
            found
                .text
                .starts_with("user x, without CAP_SYS_PTRACE CAP_DAC_READ_SEARCH:")
        );
    }
}
