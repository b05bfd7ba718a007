//! The command line: parses the arguments and calls one command's `main`.

mod options;

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};

use self::options::OptionValue;
use crate::config::{self, Config};
use crate::escape::escape;
use crate::logging::{self, OneLine};
use crate::problem::{Problem, ProblemKind};
use crate::table::print;
use crate::transaction::{atomic, edit, put, store};
use crate::units::parse_size;
use crate::{check, daemon, repair, run, status, storage};

const VERSION: &str = concat!("pst ", env!("CARGO_PKG_VERSION"), "\n");

const COMMANDS: [&str; 8] = [
    "daemon", "run", "put", "status", "prepare", "check", "repair", "help",
];

const HELP: &str = "\
Usage: pst COMMAND [OPTIONS]

Keeps a small storage partition read-only, and makes it writable only while a
command needs it.

Commands:
  daemon            manage the storage, in the foreground
  run               run a command while the storage is writable
  put               store a file, all or nothing
  edit              edit a file, and store it all or nothing
  status            show the storage and the open sessions
  prepare           make the mount ready, once after each mount, as root
  check             find problems in the installation
  repair            repair a storage that a power cut has torn, as root
  help              show this text, or a command's: pst help run

Options:
  -h, --help        show this text; 'pst COMMAND --help' shows the command's
  -V, --version     show the version

Examples:
  pst run -- sh -c 'date > $KVMD_PST_DATA/stamp'
  pst status

Notes:
  PST_SOCKET and PST_CONFIG in the environment name the daemon's socket and
  the config file (default: /etc/kvmd/pst.toml). Called as kvmd-pstrun, pst is
  'pst run'; called as kvmd-pst, it is 'pst daemon'.
";

/// Manage the storage, in the foreground, until SIGTERM, SIGINT or SIGHUP.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    usage = "[-c FILE] [--log-level LEVEL]",
    help_triggers("-h", "--help"),
    example = "{command_name} -c ./pst.toml",
    note = "LEVEL is off, error, warn, info (the default), debug or trace."
)]
struct DaemonArgs {
    /// config file (default: $PST_CONFIG, else /etc/kvmd/pst.toml)
    #[argh(option, short = 'c', arg_name = "FILE")]
    config: Option<OptionValue>,
    /// how much is logged (default: $RUST_LOG, else info)
    #[argh(option, arg_name = "LEVEL")]
    log_level: Option<OptionValue>,
    /// ignored: kvmd's own kvmd-pst needs it
    #[argh(switch, hidden_help, long = "run")]
    _run: bool,
    /// ignored: an option of kvmd's own kvmd-pst, like the next two
    #[argh(option, hidden_help)]
    main_config: Vec<OptionValue>,
    /// ignored
    #[argh(option, hidden_help)]
    override_config: Vec<OptionValue>,
    /// ignored
    #[argh(option, hidden_help)]
    override_dir: Vec<OptionValue>,
}

/// Run COMMAND while the storage is writable, and return its exit code.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    usage = "[-q] [--need SIZE] [--atomic DIR] [-c FILE] [--socket PATH] [--] COMMAND [ARGUMENT...]",
    help_triggers("-h", "--help"),
    example = "{command_name} -- sh -c 'date > $KVMD_PST_DATA/stamp'",
    note = "COMMAND finds the storage's directory in KVMD_PST_DATA. Options of pst end at\n-- or at the first word that is not an option.",
    error_code(1, "the storage was denied, or the data may not be on the card"),
    error_code(2, "bad usage, or an error in the config file"),
    error_code(126, "COMMAND cannot be executed"),
    error_code(127, "COMMAND was not found"),
    error_code(128, "and N more: signal N ended COMMAND")
)]
struct RunArgs {
    /// print only warnings and errors
    #[argh(switch, short = 'q')]
    quiet: bool,
    /// refuse unless this much is free: bytes, or with K, M or G
    #[argh(option, arg_name = "SIZE")]
    need: Option<OptionValue>,
    /// COMMAND changes a copy of this directory, which replaces it if COMMAND returns 0
    #[argh(option, arg_name = "DIR")]
    atomic: Option<OptionValue>,
    /// config file (default: $PST_CONFIG, else /etc/kvmd/pst.toml)
    #[argh(option, short = 'c', arg_name = "FILE")]
    config: Option<OptionValue>,
    /// the daemon's socket (default: $PST_SOCKET, else the config file's)
    #[argh(option, arg_name = "PATH")]
    socket: Option<OptionValue>,
}

/// Store SOURCE, or standard input, as FILE on the storage: all or nothing.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    usage = "[-m MODE] [-o OWNER[:GROUP]] [-p] [--allow-empty] [-c FILE] [--socket PATH]\n    [--] FILE [SOURCE]",
    help_triggers("-h", "--help"),
    example = "{command_name} tls/cert.pem cert.pem",
    example = "openssl rand -hex 32 | {command_name} -m 600 api.key",
    note = "FILE is relative to the storage's data directory, or an absolute path below it.\nAn existing file keeps its mode, owner, ACLs and extended attributes.",
    error_code(0, "the new file is on the card"),
    error_code(1, "the old file is unchanged, or a message says more"),
    error_code(2, "bad usage, or an error in the config file")
)]
struct PutArgs {
    /// permissions of FILE, in octal
    #[argh(option, short = 'm', arg_name = "MODE")]
    mode: Option<OptionValue>,
    /// owner of FILE, its group, or both
    #[argh(option, short = 'o', arg_name = "OWNER[:GROUP]")]
    owner: Option<OptionValue>,
    /// make missing directories
    #[argh(switch, short = 'p')]
    parents: bool,
    /// store an empty file, too
    #[argh(switch)]
    allow_empty: bool,
    /// config file (default: $PST_CONFIG, else /etc/kvmd/pst.toml)
    #[argh(option, short = 'c', arg_name = "FILE")]
    config: Option<OptionValue>,
    /// the daemon's socket (default: $PST_SOCKET, else the config file's)
    #[argh(option, arg_name = "PATH")]
    socket: Option<OptionValue>,
}

/// Edit a copy of FILE, and store it all or nothing. The storage stays read-only meanwhile.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    usage = "[-c FILE] [--socket PATH] [--] FILE",
    help_triggers("-h", "--help"),
    example = "{command_name} notes.txt",
    note = "The editor is $VISUAL, else $EDITOR, else the first of nano, vim and vi.\nFILE is relative to the storage's data directory, or an absolute path below it.",
    error_code(0, "the edited file is on the card, or nothing was changed"),
    error_code(1, "FILE is unchanged, or a message says more"),
    error_code(2, "bad usage, or an error in the config file")
)]
struct EditArgs {
    /// config file (default: $PST_CONFIG, else /etc/kvmd/pst.toml)
    #[argh(option, short = 'c', arg_name = "FILE")]
    config: Option<OptionValue>,
    /// the daemon's socket (default: $PST_SOCKET, else the config file's)
    #[argh(option, arg_name = "PATH")]
    socket: Option<OptionValue>,
}

/// Show the storage and the open sessions.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    usage = "[--json] [--watch] [-c FILE] [--socket PATH]",
    help_triggers("-h", "--help"),
    example = "{command_name} --json",
    error_code(0, "all is well"),
    error_code(1, "the storage is stuck, failed, unprepared or absent"),
    error_code(
        2,
        "bad usage; an error in the config file; the output cannot be written"
    ),
    error_code(3, "no daemon answers, or it refuses, or ends during --watch")
)]
struct StatusArgs {
    /// JSON, for programs
    #[argh(switch)]
    json: bool,
    /// show each change: on a terminal, or with --json
    #[argh(switch)]
    watch: bool,
    /// config file (default: $PST_CONFIG, else /etc/kvmd/pst.toml)
    #[argh(option, short = 'c', arg_name = "FILE")]
    config: Option<OptionValue>,
    /// the daemon's socket (default: $PST_SOCKET, else the config file's)
    #[argh(option, arg_name = "PATH")]
    socket: Option<OptionValue>,
}

/// Make the mount ready, once after each mount, as root; then exit.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    usage = "[-c FILE]",
    help_triggers("-h", "--help"),
    example = "{command_name} -c ./pst.toml"
)]
struct PrepareArgs {
    /// config file (default: $PST_CONFIG, else /etc/kvmd/pst.toml)
    #[argh(option, short = 'c', arg_name = "FILE")]
    config: Option<OptionValue>,
}

/// Find problems in the installation, and show how to solve them.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    usage = "[-c FILE] [--json]",
    help_triggers("-h", "--help"),
    example = "{command_name} --json",
    note = "It changes nothing and opens no session. Root sees more.",
    error_code(0, "all is well"),
    error_code(1, "there are warnings"),
    error_code(2, "there are errors; bad usage; the output cannot be written")
)]
struct CheckArgs {
    /// config file (default: $PST_CONFIG, else /etc/kvmd/pst.toml)
    #[argh(option, short = 'c', arg_name = "FILE")]
    config: Option<OptionValue>,
    /// JSON, for programs
    #[argh(switch)]
    json: bool,
}

/// Repair the storage if a power cut has torn its superblock, as root.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    usage = "[-c FILE] [--yes]",
    help_triggers("-h", "--help"),
    example = "{command_name} --yes",
    note = "Without --yes it changes nothing and says what it would do.",
    error_code(0, "the storage is sound, or would be repaired"),
    error_code(1, "nothing could be repaired"),
    error_code(2, "bad usage, or an error in the config file")
)]
struct RepairArgs {
    /// config file (default: $PST_CONFIG, else /etc/kvmd/pst.toml)
    #[argh(option, short = 'c', arg_name = "FILE")]
    config: Option<OptionValue>,
    /// repair
    #[argh(switch)]
    yes: bool,
}

/// Why the arguments start no command.
#[derive(Debug)]
enum Stop {
    /// Print this text, such as the help.
    Show(String),
    Fail(Problem),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Stop {
        Stop::Fail(problem)
    }
}

/// Runs the command that the arguments name; the first is the program's name. The exit code is 2 for
/// bad usage and for an error in the config file.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let result = match dispatch(args) {
        Ok(code) => Ok(code),
        Err(Stop::Show(text)) => match print(&text) {
            Ok(true) => Ok(ExitCode::SUCCESS),
            Ok(false) => Ok(ExitCode::FAILURE),
            Err(problem) => Err(problem.kind(ProblemKind::Other)),
        },
        Err(Stop::Fail(problem)) => Err(problem),
    };
    result.unwrap_or_else(|problem| {
        let line = format!("pst: {}\n", OneLine(&problem));
        let _ = io::stderr().write_all(line.as_bytes());
        match problem.kind {
            ProblemKind::Other | ProblemKind::Temporary => ExitCode::from(1),
            ProblemKind::Usage => ExitCode::from(2),
            ProblemKind::NoDaemon => ExitCode::from(3),
        }
    })
}

fn dispatch(mut args: impl Iterator<Item = OsString>) -> Result<ExitCode, Stop> {
    let program = args.next().unwrap_or_default();
    match Path::new(&program).file_name().map(OsStr::as_bytes) {
        Some(b"kvmd-pstrun") => return start_run("kvmd-pstrun", args),
        Some(b"kvmd-pst") => return start_daemon("kvmd-pst", args),
        _ => {}
    }
    let Some(word) = args.next() else {
        return fail("pst", "no command given");
    };
    match word.as_bytes() {
        b"-h" | b"--help" => Err(Stop::Show(HELP.into())),
        b"-V" | b"--version" => Err(Stop::Show(VERSION.into())),
        b"help" => help(args),
        option @ [b'-', ..] => Err(unknown("pst", "option", option, &["--help", "--version"])),
        _ => start(&word, args),
    }
}

/// Returns the general help, or that of one command: `pst help [COMMAND]`.
fn help(mut args: impl Iterator<Item = OsString>) -> Result<ExitCode, Stop> {
    match (args.next(), args.next()) {
        (_, Some(_)) => fail("pst", "'help' takes one command"),
        (Some(word), None) if !["help", "-h", "--help"].iter().any(|own| word == *own) => {
            start(&word, ["--help".into()].into_iter())
        }
        _ => Err(Stop::Show(HELP.into())),
    }
}

fn start(word: &OsStr, args: impl Iterator<Item = OsString>) -> Result<ExitCode, Stop> {
    match word.as_bytes() {
        b"daemon" => start_daemon("pst daemon", args),
        b"run" => start_run("pst run", args),
        b"put" => start_put(args),
        b"edit" => start_edit(args),
        word if word == store::WORD.as_bytes() => Ok(store::main(args)?),
        word if word == atomic::WORD.as_bytes() => Ok(atomic::run_in_session(args)?),
        b"status" => {
            let args: StatusArgs = options::parse("pst status", args)?;
            Ok(status::main(status::StatusOptions {
                socket: socket(args.socket, &config_path(args.config))?,
                json: args.json,
                watch: args.watch,
            })?)
        }
        b"prepare" => {
            let args: PrepareArgs = options::parse("pst prepare", args)?;
            Ok(storage::prepare::main(service_config(args.config)?))
        }
        b"check" => {
            let args: CheckArgs = options::parse("pst check", args)?;
            let (config, required) = config_path(args.config);
            Ok(check::main(check::CheckOptions {
                config,
                required,
                socket: named(None, "PST_SOCKET"),
                json: args.json,
            })?)
        }
        b"repair" => {
            let args: RepairArgs = options::parse("pst repair", args)?;
            Ok(repair::main(&service_config(args.config)?, args.yes)?)
        }
        word => Err(unknown("pst", "command", word, &COMMANDS)),
    }
}

fn start_daemon(name: &str, args: impl Iterator<Item = OsString>) -> Result<ExitCode, Stop> {
    let args: DaemonArgs = options::parse(name, args)?;
    let level = args.log_level.map(|level| logging::parse_level(&level.0));
    let level = level.transpose()?;
    let ignored = [
        ("--main-config", args.main_config),
        ("--override-config", args.override_config),
        ("--override-dir", args.override_dir),
    ];
    let given = ignored.iter().filter(|(_, values)| !values.is_empty());
    let given: Vec<&str> = given.map(|(option, _)| *option).collect();
    if !given.is_empty() {
        let line = format!(
            "{name}: ignoring {}: kvmd's settings have no effect here; see pst.toml(5)\n",
            given.join(", ")
        );
        let _ = io::stderr().write_all(line.as_bytes());
    }
    Ok(daemon::main(service_config(args.config)?, level)?)
}

fn start_run(name: &str, args: impl Iterator<Item = OsString>) -> Result<ExitCode, Stop> {
    let (args, command): (RunArgs, _) = options::parse_before_words(name, args)?;
    if command.is_empty() {
        return fail(name, "no command to run");
    }
    if args.atomic.as_ref().is_some_and(|value| value.0 == "--") {
        return fail(name, "no directory after --atomic");
    }
    let need = args.need.map(|size| parse_size(&size.0)).transpose()?;
    let config = config_path(args.config);
    let options = run::RunOptions {
        socket: socket(args.socket, &config)?,
        config: config.0,
        quiet: args.quiet,
        need: need.unwrap_or(0),
        command,
        shown_command: None,
    };
    Ok(match args.atomic {
        Some(directory) => atomic::main(options, directory.0),
        None => run::main(options),
    })
}

fn start_put(args: impl Iterator<Item = OsString>) -> Result<ExitCode, Stop> {
    let name = "pst put";
    let (args, words): (PutArgs, _) = options::parse_before_words(name, args)?;
    let mut words = words.into_iter();
    let (file, source) = match (words.next(), words.next(), words.next()) {
        (Some(file), source, None) => (file, source),
        (None, ..) => return fail(name, "no file to store"),
        (.., Some(word)) => {
            let word = escape(word.as_bytes());
            return fail(name, format!("unexpected argument '{word}'"));
        }
    };
    let mode = args.mode.map(|mode| put::parse_mode(&mode.0)).transpose()?;
    let owner = args
        .owner
        .map(|owner| put::parse_owner(&owner.0))
        .transpose()?;
    let (uid, gid) = owner.unwrap_or_default();
    let (socket, config) = client_paths(args.socket, args.config)?;
    Ok(put::main(put::PutOptions {
        socket,
        config,
        mode,
        uid,
        gid,
        parents: args.parents,
        allow_empty: args.allow_empty,
        file,
        source: source.map(PathBuf::from),
    })?)
}

fn start_edit(args: impl Iterator<Item = OsString>) -> Result<ExitCode, Stop> {
    let name = "pst edit";
    let (args, words): (EditArgs, _) = options::parse_before_words(name, args)?;
    let mut words = words.into_iter();
    let file = match (words.next(), words.next()) {
        (Some(file), None) => file,
        (None, _) => return fail(name, "no file to edit"),
        (_, Some(word)) => {
            let word = escape(word.as_bytes());
            return fail(name, format!("unexpected argument '{word}'"));
        }
    };
    let (socket, config) = client_paths(args.socket, args.config)?;
    Ok(edit::main(edit::EditOptions {
        socket,
        config,
        file,
    })?)
}

/// Returns the daemon's socket and the config file, for a client that takes both as options.
fn client_paths(
    socket: Option<OptionValue>,
    config: Option<OptionValue>,
) -> Result<(PathBuf, PathBuf), Problem> {
    let (path, required) = config_path(config);
    let socket = match named(socket, "PST_SOCKET") {
        Some(socket) => socket,
        None => Config::load(&path, required)?.socket,
    };
    Ok((socket, path))
}

/// Returns the config for `daemon` and `prepare`. PST_SOCKET overrides the config's socket, as it does
/// for clients.
fn service_config(option: Option<OptionValue>) -> Result<Config, Problem> {
    let (path, required) = config_path(option);
    let mut config = Config::load(&path, required)?;
    if let Some(socket) = named(None, "PST_SOCKET") {
        config.socket = std::path::absolute(&socket).unwrap_or(socket);
    }
    Ok(config)
}

/// Returns the daemon's socket for a client. Reads the config file only if neither option nor variable
/// is set.
fn socket(
    option: Option<OptionValue>,
    (config, required): &(PathBuf, bool),
) -> Result<PathBuf, Problem> {
    match named(option, "PST_SOCKET") {
        Some(socket) => Ok(socket),
        None => Ok(Config::load(config, *required)?.socket),
    }
}

/// Returns the path of the config file, and whether the user named it, so that it must exist.
fn config_path(option: Option<OptionValue>) -> (PathBuf, bool) {
    match named(option, "PST_CONFIG") {
        Some(path) => (path, true),
        None => (config::DEFAULT_PATH.into(), false),
    }
}

/// Returns the value of the option, else of the variable. An empty variable counts as unset.
fn named(option: Option<OptionValue>, variable: &str) -> Option<PathBuf> {
    let option = option.map(|value| value.0);
    let path = option.or_else(|| env::var_os(variable).filter(|path| !path.is_empty()));
    path.map(PathBuf::from)
}

/// Returns a usage error for a word that is none of `known`, with the most similar one as the hint.
fn unknown(program: &str, kind: &str, word: &[u8], known: &[&str]) -> Stop {
    let hint = match most_similar(&String::from_utf8_lossy(word), known) {
        Some(similar) => format!("did you mean '{similar}'?"),
        None => format!("see '{program} --help'"),
    };
    let problem = Problem::new(format!("unknown {kind} '{}'", escape(word))).hint(hint);
    problem.kind(ProblemKind::Usage).into()
}

/// Returns the known word that differs in at most two letters, and in less than half of them.
fn most_similar<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let distances = known.iter().map(|&other| (distance(word, other), other));
    let similar =
        distances.filter(|(distance, other)| *distance <= 2 && 2 * distance < other.len());
    similar
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

/// Returns the number of letters to insert, delete, replace or swap with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // rows[i][j]: the distance of the first i letters of `a` and the first j of `b`
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// Returns a usage error with a hint to the program's help.
fn fail<T>(program: &str, what: impl Into<String>) -> Result<T, Stop> {
    let problem = Problem::new(what).hint(format!("see '{program} --help'"));
    Err(problem.kind(ProblemKind::Usage).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_with_a_typing_error_is_recognized() {
        for (word, expected) in [
            ("stauts", Some("status")),
            ("statu", Some("status")),
            ("chekc", Some("check")),
            ("rnu", Some("run")),
            ("r", None),
            ("ls", None),
            ("", None),
            ("frobnicate", None),
        ] {
            assert_eq!(most_similar(word, &COMMANDS), expected, "{word}");
        }
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abcd", "bacd"), 1);
    }
}
