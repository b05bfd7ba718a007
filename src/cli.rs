//! The applets and their options: from the arguments to one applet's `main`.
//! Does nothing of an applet's own work.

mod options;

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};
use log::LevelFilter;

use crate::config::{self, Config};
use crate::escape::escape;
use crate::logging::OneLine;
use crate::problem::Problem;
use crate::{check, daemon, run, size, status, storage};

const USAGE_ERROR: u8 = 2;

const HELP: &str = "\
Usage: pst APPLET [OPTIONS]

Keeps a small storage partition read-only, and writable only while somebody
works with it.

Applets:
  daemon            manage the storage, in the foreground
  run               run a command while the storage is writable
  status            show the storage, and who works with it
  prepare           make the mount ready, once after each mount, as root
  check             find out what would keep it from working
  help              show this text, or an applet's: pst help run

Options:
  -h, --help        show this text; 'pst APPLET --help' shows the applet's
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
    #[argh(option, short = 'c', arg_name = "FILE", from_str_fn(options::path))]
    config: Option<PathBuf>,
    /// how much is logged (default: $RUST_LOG, else info)
    #[argh(option, arg_name = "LEVEL", from_str_fn(options::level))]
    log_level: Option<LevelFilter>,
    /// ignored: the daemon that this one replaces wanted it
    #[argh(switch, hidden_help, long = "run")]
    _run: bool,
}

/// Run COMMAND while the storage is writable, and return its code.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    usage = "[-q] [--need SIZE] [--socket PATH] [--] COMMAND [ARGUMENT...]",
    help_triggers("-h", "--help"),
    example = "{command_name} -- sh -c 'date > $KVMD_PST_DATA/stamp'",
    note = "COMMAND finds the storage's directory in KVMD_PST_DATA. Options of pst end at\n-- or at the first word that is none.",
    error_code(1, "the storage was denied, lost, or not brought to the medium"),
    error_code(2, "bad usage, or an error in the config file"),
    error_code(126, "COMMAND cannot be executed"),
    error_code(127, "COMMAND was not found"),
    error_code(128, "and N more: signal N ended COMMAND")
)]
struct RunArgs {
    /// say nothing but errors
    #[argh(switch, short = 'q')]
    quiet: bool,
    /// so much must be free: bytes, or with K, M or G
    #[argh(option, arg_name = "SIZE", default = "0", from_str_fn(size::parse))]
    need: u64,
    /// the daemon's socket (default: $PST_SOCKET, else the config file's)
    #[argh(option, arg_name = "PATH", from_str_fn(options::path))]
    socket: Option<PathBuf>,
}

/// Show the storage, and who works with it.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    usage = "[--json] [--watch] [--socket PATH]",
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
    /// the daemon's socket (default: $PST_SOCKET, else the config file's)
    #[argh(option, arg_name = "PATH", from_str_fn(options::path))]
    socket: Option<PathBuf>,
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
    #[argh(option, short = 'c', arg_name = "FILE", from_str_fn(options::path))]
    config: Option<PathBuf>,
}

/// Find out what would keep it from working, and what to do about it.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    usage = "[-c FILE] [--json]",
    help_triggers("-h", "--help"),
    example = "{command_name} --json",
    note = "It changes nothing, and opens no session. Root sees more.",
    error_code(0, "all is well"),
    error_code(1, "there are warnings"),
    error_code(2, "there are errors; bad usage; the output cannot be written")
)]
struct CheckArgs {
    /// config file (default: $PST_CONFIG, else /etc/kvmd/pst.toml)
    #[argh(option, short = 'c', arg_name = "FILE", from_str_fn(options::path))]
    config: Option<PathBuf>,
    /// JSON, for programs
    #[argh(switch)]
    json: bool,
}

#[derive(Clone, Copy)]
enum Applet {
    Daemon,
    Run,
    Status,
    Prepare,
    Check,
}

/// Why no applet is started.
enum Stop {
    /// A text was asked for.
    Show(String),
    /// What is wrong, without the program's name before it.
    Fail(String),
}

impl From<Problem> for Stop {
    fn from(error: Problem) -> Self {
        Self::Fail(error.to_string())
    }
}

/// Runs the applet that the arguments (the program's name first) ask for.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match dispatch(args) {
        Ok(code) => code,
        Err(Stop::Show(text)) => show(&text),
        Err(Stop::Fail(fault)) => {
            complain(&fault);
            ExitCode::from(USAGE_ERROR)
        }
    }
}

fn dispatch(mut args: impl Iterator<Item = OsString>) -> Result<ExitCode, Stop> {
    let program = args.next().unwrap_or_default();
    match Path::new(&program).file_name().map(OsStr::as_bytes) {
        Some(b"kvmd-pstrun") => return Applet::Run.start("kvmd-pstrun", args),
        Some(b"kvmd-pst") => return Applet::Daemon.start("kvmd-pst", args),
        _ => {}
    }
    let Some(word) = args.next() else {
        return fail("no applet is named; see 'pst --help'");
    };
    match word.as_bytes() {
        b"help" => help(args),
        b"-h" | b"--help" => Err(Stop::Show(HELP.into())),
        b"-V" | b"--version" => Err(Stop::Show(version())),
        [b'-', ..] => fail(format!(
            "unknown option {}; see 'pst --help'",
            escape(word.as_bytes())
        )),
        _ => {
            let (applet, name) = by_name(&word)?;
            applet.start(name, args)
        }
    }
}

/// An applet, and what it is called as.
fn by_name(word: &OsStr) -> Result<(Applet, &'static str), Stop> {
    match word.as_bytes() {
        b"daemon" => Ok((Applet::Daemon, "pst daemon")),
        b"run" => Ok((Applet::Run, "pst run")),
        b"status" => Ok((Applet::Status, "pst status")),
        b"prepare" => Ok((Applet::Prepare, "pst prepare")),
        b"check" => Ok((Applet::Check, "pst check")),
        word => fail(format!(
            "'{}' is no applet of pst; see 'pst --help'",
            escape(word)
        )),
    }
}

/// `pst help [APPLET]`.
fn help(mut args: impl Iterator<Item = OsString>) -> Result<ExitCode, Stop> {
    let (word, more) = (args.next(), args.next());
    match (word, more) {
        (_, Some(_)) => fail("'help' takes one applet; see 'pst --help'"),
        (None, _) => Err(Stop::Show(HELP.into())),
        (Some(word), _) if ["help", "-h", "--help"].iter().any(|own| word == *own) => {
            Err(Stop::Show(HELP.into()))
        }
        (Some(word), _) => {
            let (applet, name) = by_name(&word)?;
            applet.start(name, [OsString::from("--help")].into_iter())
        }
    }
}

impl Applet {
    /// Runs the applet; `name` is what the user called it.
    fn start(
        self,
        name: &'static str,
        args: impl Iterator<Item = OsString>,
    ) -> Result<ExitCode, Stop> {
        match self {
            Self::Daemon => {
                let args: DaemonArgs = options::only(name, args)?;
                let (config, path) = service_config(args.config)?;
                Ok(daemon::main(config, path, args.log_level))
            }
            Self::Prepare => {
                let args: PrepareArgs = options::only(name, args)?;
                let (config, _) = service_config(args.config)?;
                Ok(storage::prepare::main(config))
            }
            Self::Check => {
                let args: CheckArgs = options::only(name, args)?;
                let (config, required) = config_path(args.config);
                Ok(check::main(check::Options {
                    config,
                    required,
                    socket: variable("PST_SOCKET"),
                    json: args.json,
                }))
            }
            Self::Run => {
                let (args, command): (RunArgs, _) = options::before_words(name, args)?;
                if command.is_empty() {
                    return fail(format!("no command to run; see '{name} --help'"));
                }
                Ok(run::main(run::Options {
                    socket: socket(args.socket)?,
                    quiet: args.quiet,
                    need: args.need,
                    command,
                }))
            }
            Self::Status => {
                let args: StatusArgs = options::only(name, args)?;
                Ok(status::main(status::Options {
                    socket: socket(args.socket)?,
                    json: args.json,
                    watch: args.watch,
                }))
            }
        }
    }
}

/// The config for those that own the socket, and the file that it is from. PST_SOCKET goes before
/// the file's socket here too, so that both sides meet.
fn service_config(option: Option<PathBuf>) -> Result<(Config, PathBuf), Stop> {
    let (mut config, path) = load_config(option)?;
    if let Some(socket) = variable("PST_SOCKET") {
        config.socket = std::path::absolute(&socket).unwrap_or(socket);
    }
    Ok((config, path))
}

/// The daemon's socket for its clients: the config file is looked at only if nothing else says it.
fn socket(option: Option<PathBuf>) -> Result<PathBuf, Stop> {
    match option.or_else(|| variable("PST_SOCKET")) {
        Some(socket) => Ok(socket),
        None => Ok(load_config(None)?.0.socket),
    }
}

fn load_config(option: Option<PathBuf>) -> Result<(Config, PathBuf), Stop> {
    let (path, required) = config_path(option);
    Ok((Config::load(&path, required)?, path))
}

/// The config file, and whether somebody named it, so that it must be there.
fn config_path(option: Option<PathBuf>) -> (PathBuf, bool) {
    match option.or_else(|| variable("PST_CONFIG")) {
        Some(named) => (named, true),
        None => (config::DEFAULT_PATH.into(), false),
    }
}

/// A path from the environment; an empty one counts as unset.
fn variable(name: &str) -> Option<PathBuf> {
    let value = env::var_os(name).filter(|value| !value.is_empty());
    value.map(PathBuf::from)
}

fn version() -> String {
    format!("pst {}\n", env!("CARGO_PKG_VERSION"))
}

fn fail<T>(fault: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Fail(fault.into()))
}

/// Prints what was asked for. `println!` would panic at a closed pipe.
fn show(text: &str) -> ExitCode {
    let mut stdout = io::stdout();
    let written = stdout.write_all(text.as_bytes());
    match written.and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            complain(&format!("cannot write to stdout: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// One line on stderr; a stderr that takes none is no fault of ours.
fn complain(fault: &str) {
    let line = format!("pst: {}\n", OneLine(fault));
    let _ = io::stderr().write_all(line.as_bytes());
}
