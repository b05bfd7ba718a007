//! `pst status`: asks the daemon for its status and shows it, once or after each change.

mod text;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use self::text::Times;
use self::watch::Screen;
use crate::client;
use crate::escape::escape;
use crate::problem::Problem;
use crate::sys::{process, signal, user};
use crate::table::{Table, print};
use crate::wire::{State, Status};

#[derive(Debug)]
pub(crate) struct StatusOptions {
    pub socket: PathBuf,
    pub json: bool,
    pub watch: bool,
}

/// Returns exit code 0 if all is well, 1 if the storage is stuck, failed, unprepared or absent.
pub(crate) fn main(options: StatusOptions) -> Result<ExitCode, Problem> {
    signal::restore_mask(); // so that ^C ends this process
    Ok(match show(&options)? {
        State::Stuck | State::Failed | State::Unprepared | State::Absent => ExitCode::from(1),
        State::ReadOnly | State::GoingRw | State::ReadWrite | State::GoingRo => ExitCode::SUCCESS,
    })
}

/// Returns the last state that was shown.
fn show(options: &StatusOptions) -> Result<State, Problem> {
    let screen = (options.watch && !options.json).then(Screen::new);
    let screen = screen.transpose()?;
    let (connection, status) = client::ask_status(&options.socket, options.watch)?;
    let status = add_processes(status);
    if options.watch {
        return watch::follow(connection, status, screen);
    }
    let text = match options.json {
        true => json(&status),
        false => {
            let mut times = Times::now();
            times.with_ages = true;
            let mut table = Table::for_stdout();
            text::fill(&mut table, &status, times);
            table.to_string()
        }
    };
    print(&text)?;
    Ok(status.storage.state)
}

/// Adds the names of users, and which clients are stopped.
fn add_processes(mut status: Status) -> Status {
    let mut names = BTreeMap::new(); // a lookup can take long
    let mut name = |uid: u32| {
        let name = names.entry(uid);
        let name = name.or_insert_with(|| escape(&user::user_name(uid)).to_string());
        name.clone()
    };
    for session in &mut status.sessions {
        session.user = name(session.uid);
        session.stopped = process::is_stopped(session.pid);
    }
    for ended in &mut status.past {
        ended.user = name(ended.uid);
    }
    for holder in &mut status.holders {
        holder.user = holder.uid.map(&mut name);
    }
    status
}

/// Returns the document on one line.
fn json(status: &Status) -> String {
    // Serializing fails only for maps whose keys are not strings.
    serde_json::to_string(status).unwrap_or_default() + "\n"
}
