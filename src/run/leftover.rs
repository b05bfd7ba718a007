//! Names what keeps the storage writable after the last session.

use std::path::Path;
use std::time::Duration;

use super::output;
use crate::client;
use crate::escape::escape;
use crate::logging::OneLine;
use crate::sys::{signal, user};
use crate::wire::{HolderKind, HolderStatus, State, Status};

/// The limit for the daemon's search.
const SEARCH_LIMIT: Duration = Duration::from_millis(200);

/// Prints a warning if the storage stays writable although no session is open.
pub(super) fn warn(socket: &Path) {
    let text = match client::ask_status_within(SEARCH_LIMIT, socket, false) {
        Ok((_, status)) => match describe(&status) {
            Some(text) => text,
            None => return, // it is read-only now, or a session is open
        },
        Err(_) => "still looking for what holds it, see `pst status`".to_owned(),
    };
    output::warning(format_args!(
        "The storage stays writable: {}",
        OneLine(text)
    ));
}

fn describe(status: &Status) -> Option<String> {
    let Some(first) = status.holders.first() else {
        let searching = "still looking for what holds it, see `pst status`";
        return (status.storage.state == State::Stuck).then(|| searching.to_owned());
    };
    // Looking up the name may take long, so let signals end it.
    signal::restore_mask();
    signal::block([libc::SIGTTOU]); // writing from the background must not stop this process
    let name = first
        .uid
        .map(|uid| escape(&user::user_name(uid)).to_string());
    let others = match status.holders.len() - 1 {
        0 => String::new(),
        count => format!(" and {count} more, see `pst status`"),
    };
    Some(name_holder(first, name) + &others)
}

fn name_holder(holder: &HolderStatus, user: Option<String>) -> String {
    let command = holder.command.as_deref().unwrap_or(holder.kind.as_str());
    let program = command.split(' ').next().unwrap_or(command);
    let path = &holder.path;
    match (holder.kind, holder.pid, user) {
        (HolderKind::Unknown, ..) => path.clone(),
        (_, Some(pid), Some(user)) => {
            format!("{program} (pid {pid}, user {user}) still has {path} open")
        }
        _ => format!("{command} still uses {path}"),
    }
}
