//! The log of the daemon and of `prepare`: one line per record on stderr.
//! A line that cannot be written is dropped. The daemon counts these lines, and never waits for the log's reader.

mod queue;

use std::env;
use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::panic;

use env_logger::{Builder, Target};
use log::{Level, LevelFilter};
use rustix::fs::fstat;

pub(crate) use self::queue::LogQueue;
use crate::escape::escape;
use crate::problem::{Problem, ProblemKind};

/// Starts logging; later calls change nothing.
///
/// The level is `chosen`, else RUST_LOG's, else `info`. Other crates log at most warnings. If stderr
/// is the journal, lines have priorities; sd-daemon(3).
pub(crate) fn init(chosen: Option<LevelFilter>) {
    start(chosen, stderr_is_journal(), Target::Stderr);
}

/// Like [`init`], but a thread writes the lines, so that logging never blocks. A panic is a line, too.
pub(crate) fn init_with_thread(chosen: Option<LevelFilter>) -> io::Result<LogQueue> {
    let to_journal = stderr_is_journal();
    let queue = LogQueue::start(move |missing| {
        line(
            to_journal,
            Level::Warn,
            &format_args!("{missing} log lines were dropped: stderr could not be written to"),
        )
    })?;
    let target = Target::Pipe(Box::new(queue.clone()));
    start(chosen, to_journal, target);
    let lines = queue.clone();
    panic::set_hook(Box::new(move |panic| {
        lines.add(line(to_journal, Level::Error, panic).as_bytes());
        lines.wait_until_written();
    }));
    Ok(queue)
}

fn start(chosen: Option<LevelFilter>, to_journal: bool, target: Target) {
    let wanted = env::var_os("RUST_LOG").filter(|level| chosen.is_none() && !level.is_empty());
    let level = wanted.map(|level| parse_level(&level)).transpose();
    let filter = match &level {
        Ok(level) => level.or(chosen).unwrap_or(LevelFilter::Info),
        Err(_) => LevelFilter::Info,
    };
    let started = Builder::new()
        .filter_level(filter.min(LevelFilter::Warn))
        .filter_module(env!("CARGO_CRATE_NAME"), filter)
        .format(move |out, record| {
            let line = line(to_journal, record.level(), record.args());
            out.write_all(line.as_bytes())
        })
        .target(target)
        .try_init();
    if let (Ok(()), Err(problem)) = (started, level) {
        log::warn!("RUST_LOG: {problem}; using info");
    }
}

pub(crate) fn parse_level(text: &OsStr) -> Result<LevelFilter, Problem> {
    let level = text.to_str().and_then(|level| level.parse().ok());
    level.ok_or_else(|| {
        let text = escape(text.as_bytes());
        Problem::new(format!(
            "invalid log level '{text}' (use off, error, warn, info, debug or trace)"
        ))
        .kind(ProblemKind::Usage)
    })
}

/// Returns the line for the log, with its end.
fn line(to_journal: bool, level: Level, text: &impl fmt::Display) -> String {
    let text = OneLine(text);
    match to_journal {
        true => format!("{}{text}\n", journal_prefix(level)),
        false => format!("pst: {level} {text}\n"),
    }
}

/// Displays its content with control characters escaped (`\n`, `\u{1b}`).
pub(crate) struct OneLine<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for OneLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.to_string().chars().try_for_each(|c| match c {
            c if c.is_control() => write!(f, "{}", c.escape_default()),
            c => f.write_char(c),
        })
    }
}

/// Returns a priority of syslog(3).
fn journal_prefix(level: Level) -> &'static str {
    match level {
        Level::Error => "<3>",
        Level::Warn => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    }
}

/// Compares stderr with JOURNAL_STREAM, the `DEVICE:INODE` of the journal's socket; systemd.exec(5).
/// A process of a service may have another stderr.
fn stderr_is_journal() -> bool {
    let named = env::var("JOURNAL_STREAM").unwrap_or_default();
    let stderr = fstat(io::stderr());
    stderr.is_ok_and(|stderr| format!("{}:{}", stderr.st_dev, stderr.st_ino) == named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Output, Stdio};

    /// The other tests run this one in a child process, because a process has only one logger.
    #[test]
    fn child_logs() {
        if env::var_os("PST_TEST_LOGGING").is_none() {
            return;
        }
        let chosen = env::var("PST_TEST_LEVEL").ok();
        let chosen = chosen.map(|level| level.parse().unwrap());
        init(chosen);
        log::error!("an error");
        log::info!("two\nlines \x1b[1m and a \\ é");
        log::debug!("a detail");
        log::info!(target: "polling", "another crate's");
        init(None);
    }

    #[test]
    fn child_panics() {
        if env::var_os("PST_TEST_LOGGING").is_none() {
            return;
        }
        init_with_thread(None).unwrap();
        log::info!("a line");
        panic::catch_unwind(|| panic!("a bug")).unwrap_err();
    }

    /// Runs `child_logs` in `script`, with a pipe as stderr. PST_TEST_EMULATOR runs programs of another
    /// architecture.
    fn child(level: Option<&str>, script: &str) -> Output {
        run("child_logs", level, script)
    }

    fn run(test: &str, level: Option<&str>, script: &str) -> Output {
        let mut command = Command::new("bash");
        command
            .args(["-c", script])
            .arg(env::current_exe().unwrap())
            .args(["--exact", &format!("logging::tests::{test}")])
            .arg("--nocapture")
            .env("PST_TEST_LOGGING", "1")
            .env_remove("JOURNAL_STREAM")
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped());
        if let Some(level) = level {
            command.env("RUST_LOG", level);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output
    }

    fn lines(level: Option<&str>, script: &str) -> Vec<String> {
        let output = child(level, script);
        let text = String::from_utf8(output.stderr).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    const PLAIN: &str = r#"exec $PST_TEST_EMULATOR "$0" "$@""#;
    const JOURNAL: &str =
        r#"JOURNAL_STREAM=$(stat -L -c %d:%i /proc/$$/fd/2) exec $PST_TEST_EMULATOR "$0" "$@""#;

    #[test]
    fn a_record_is_one_line() {
        let expected = [
            "pst: ERROR an error",
            r"pst: INFO two\nlines \u{1b}[1m and a \ é",
        ];
        assert_eq!(lines(None, PLAIN), expected);
        assert_eq!(lines(Some(""), PLAIN), expected);
    }

    #[test]
    fn the_journal_gets_priorities() {
        let expected = [
            "<3>an error",
            r"<6>two\nlines \u{1b}[1m and a \ é",
            "<7>a detail",
        ];
        assert_eq!(lines(Some("debug"), JOURNAL), expected);
        let elsewhere = r#"JOURNAL_STREAM=1:1 exec $PST_TEST_EMULATOR "$0" "$@""#;
        assert_eq!(lines(Some("error"), elsewhere), ["pst: ERROR an error"]);
    }

    #[test]
    fn a_panic_is_the_last_line_of_the_thread() {
        let output = run("child_panics", None, PLAIN);
        let text = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0], "pst: INFO a line");
        assert!(lines[1].starts_with("pst: ERROR panicked at "), "{text}");
        assert!(lines[1].ends_with(r"\na bug"), "{text}");
    }

    #[test]
    fn rust_log_sets_the_level() {
        assert_eq!(lines(Some("off"), PLAIN), [""; 0]);
        assert_eq!(lines(Some("WARN"), PLAIN).len(), 1);
        let odd = lines(Some("pst=loud"), PLAIN);
        assert_eq!(odd.len(), 3);
        assert!(
            odd[0].starts_with("pst: WARN RUST_LOG: invalid log level 'pst=loud' (use off,"),
            "{odd:?}"
        );
    }

    #[test]
    fn a_chosen_level_wins_over_rust_log() {
        let chosen = r#"PST_TEST_LEVEL=error exec $PST_TEST_EMULATOR "$0" "$@""#;
        for rust_log in [None, Some("debug"), Some("loud")] {
            assert_eq!(lines(rust_log, chosen), ["pst: ERROR an error"]);
        }
    }

    #[test]
    fn an_unwritable_stderr_is_not_an_error() {
        for script in [
            r#"exec $PST_TEST_EMULATOR "$0" "$@" 2>&-"#,
            r#"exec $PST_TEST_EMULATOR "$0" "$@" 2>/dev/full"#,
            r#"exec $PST_TEST_EMULATOR "$0" "$@" 2> >(exec true)"#,
        ] {
            child(Some("trace"), script);
        }
    }
}
