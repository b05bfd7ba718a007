//! `pst status`: asks the daemon for its status and shows it, once or after each change.

mod text;
mod watch;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use self::text::Times;
use self::watch::Screen;
use crate::client::{self, Connection, PATIENCE};
use crate::escape::escape;
use crate::problem::{Problem, ProblemKind};
use crate::sys::{signal, user};
use crate::table::{self, Table};
use crate::wire::{State, Status};

#[derive(Debug)]
pub(crate) struct Options {
    pub socket: PathBuf,
    pub json: bool,
    pub watch: bool,
}

/// Returns 0 when all is well; 1 when the storage is stuck, failed, unprepared or absent; 2 for bad
/// usage or when the output cannot be written; 3 when no daemon answers.
pub(crate) fn main(options: Options) -> ExitCode {
    signal::restore_mask(); // ^C ends this as it ends any program
    match show(&options) {
        Ok(State::Stuck | State::Failed | State::Unprepared | State::Absent) => ExitCode::from(1),
        Ok(_) => ExitCode::SUCCESS,
        Err(problem) => {
            let _ = writeln!(io::stderr(), "pst: {problem}");
            match problem.kind {
                ProblemKind::NoDaemon => ExitCode::from(3),
                ProblemKind::Usage | ProblemKind::Other => ExitCode::from(2),
            }
        }
    }
}

/// Returns the last state that was shown.
fn show(options: &Options) -> Result<State, Problem> {
    let screen = (options.watch && !options.json).then(Screen::new);
    let screen = screen.transpose()?;
    let deadline = Instant::now() + PATIENCE;
    let no_answer = || client::no_answer(&options.socket);
    let connected = client::ask_status(&options.socket, options.watch, deadline);
    let mut source = Source {
        connection: connected
            .ok_or_else(no_answer)?
            .map_err(|error| no_daemon(client::cannot_connect(&options.socket, &error)))?,
        user_names: BTreeMap::new(),
    };
    let status = source.next(deadline)?.ok_or_else(no_answer)?;
    if options.watch {
        return watch::follow(source, status, screen);
    }
    let text = match options.json {
        true => json(&status),
        false => {
            let mut table = Table::for_stdout();
            text::fill(&mut table, &status, Times::with_ages());
            table.to_string()
        }
    };
    table::print(&text)?;
    Ok(status.storage.state)
}

/// Where the status comes from.
#[derive(Debug)]
struct Source {
    connection: Connection,
    /// Each user's name is looked up once.
    user_names: BTreeMap<u32, String>,
}

impl Source {
    /// Returns the next status, or `None` if it does not arrive before `deadline`.
    fn next(&mut self, deadline: Instant) -> Result<Option<Status>, Problem> {
        let status = self.connection.next_status(deadline).map_err(no_daemon)?;
        Ok(status.map(|status| self.add_user_names(status)))
    }

    fn add_user_names(&mut self, mut status: Status) -> Status {
        let mut name = |uid: u32| {
            let name = self.user_names.entry(uid).or_insert_with(|| {
                let name = user::user_name(uid);
                escape(&name).to_string()
            });
            name.clone()
        };
        for session in &mut status.sessions {
            session.user = name(session.uid);
        }
        for ended in &mut status.past {
            ended.user = name(ended.uid);
        }
        for holder in &mut status.holders {
            holder.user = holder.uid.map(&mut name);
        }
        status
    }
}

/// One line.
fn json(status: &Status) -> String {
    // Serializing fails only for maps whose keys are not strings.
    serde_json::to_string(status).unwrap_or_default() + "\n"
}

/// To the caller, a daemon whose connection fails is no daemon.
fn no_daemon(error: impl Into<Problem>) -> Problem {
    error.into().kind(ProblemKind::NoDaemon)
}
