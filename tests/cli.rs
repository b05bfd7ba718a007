//! The command line: help, version, choice of the command, bad usage, and precedence of options.
//! No daemon is started here, and none answers.
#![allow(clippy::unwrap_used)] // its helpers are tests too

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const PST: &str = env!("CARGO_BIN_EXE_pst");

/// A temporary directory, removed at the end, even if the test fails.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pst-cli-{}-{number}", process::id()));
        fs::create_dir(&path).unwrap();
        Dir(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program, without the tester's own PST_SOCKET and PST_CONFIG.
fn program(path: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(path);
    command
        .env_remove("PST_SOCKET")
        .env_remove("PST_CONFIG")
        .stdin(Stdio::null());
    command
}

/// Returns exit code, stdout and stderr.
fn outcome(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn pst<A: AsRef<OsStr>>(args: &[A]) -> (Option<i32>, String, String) {
    outcome(program(PST).args(args))
}

/// Asserts one line on stderr, nothing on stdout, and exit code 2.
#[track_caller]
fn assert_refused(command: &mut Command, line: &str) {
    let expected = (Some(2), String::new(), format!("pst: {line}\n"));
    assert_eq!(outcome(command), expected);
}

#[test]
fn help_is_shown_everywhere() {
    let (code, general, errors) = pst(&["--help"]);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    assert!(general.starts_with("Usage: pst COMMAND"));
    for args in [
        &["help"][..],
        &["-h"],
        &["help", "help"],
        &["help", "--help"],
    ] {
        assert_eq!(
            pst(args),
            (Some(0), general.clone(), String::new()),
            "{args:?}"
        );
    }
    for subcommand in [
        "daemon", "run", "put", "edit", "status", "prepare", "check", "repair",
    ] {
        assert!(
            general.contains(&format!("\n  {subcommand} ")),
            "{subcommand} is not listed"
        );
        let (code, text, errors) = pst(&[subcommand, "--help"]);
        assert_eq!((code, errors.as_str()), (Some(0), ""));
        assert!(
            text.starts_with(&format!("Usage: pst {subcommand} [")),
            "{text}"
        );
        assert!(
            text.contains(&format!("Examples:\n  pst {subcommand} ")),
            "{text}"
        );
        assert_eq!(pst(&[subcommand, "-h"]).1, text);
        assert_eq!(pst(&["help", subcommand]).1, text);
    }
}

#[test]
fn the_version_is_shown_everywhere() {
    let version = (Some(0), "pst 0.1.0\n".to_owned(), String::new());
    for args in [
        &["--version"][..],
        &["-V"],
        &["run", "--version"],
        &["daemon", "-V"],
    ] {
        assert_eq!(pst(args), version, "{args:?}");
    }
}

#[test]
fn bad_usage_is_one_line_and_2() {
    for (args, line) in [
        (&[][..], "no command given; see 'pst --help'"),
        (
            &["frobnicate"],
            "unknown command 'frobnicate'; see 'pst --help'",
        ),
        (
            &["two\nlines"],
            r"unknown command 'two\nlines'; see 'pst --help'",
        ),
        (
            &["stauts"],
            "unknown command 'stauts'; did you mean 'status'?",
        ),
        (
            &["run", "--soket=x", "true"],
            "unknown option '--soket'; did you mean '--socket'?",
        ),
        (
            &["daemon", "--log-level", "loud"],
            "invalid log level 'loud' (use off, error, warn, info, debug or trace)",
        ),
        (&[""], "unknown command ''; see 'pst --help'"),
        (
            &["help", "frobnicate"],
            "unknown command 'frobnicate'; see 'pst --help'",
        ),
        (
            &["help", "run", "x"],
            "'help' takes one command; see 'pst --help'",
        ),
        (&["--frob"], "unknown option '--frob'; see 'pst --help'"),
        (
            &["run", "--foo", "true"],
            "unknown option '--foo'; see 'pst run --help'",
        ),
        (
            &["run", "-x", "true"],
            "unknown option '-x'; see 'pst run --help'",
        ),
        (&["run"], "no command to run; see 'pst run --help'"),
        (
            &["run", "--atomic", "--", "true"],
            "no directory after --atomic; see 'pst run --help'",
        ),
        (
            &["run", "-q", "--"],
            "no command to run; see 'pst run --help'",
        ),
        (
            &["run", "--quiet=yes", "true"],
            "option '--quiet' takes no value; see 'pst run --help'",
        ),
        (
            &["run", "--socket"],
            "no value provided for option '--socket'; see 'pst run --help'",
        ),
        (
            &["run", "--need", "5MB", "true"],
            "invalid size '5MB' (use a number of bytes, or one with K, M or G)",
        ),
        (
            &["run", "--need=", "true"],
            "error parsing option '--need' with value '': must not be empty; see 'pst run --help'",
        ),
        (
            &["status", "--follow"],
            "unknown option '--follow'; see 'pst status --help'",
        ),
        (
            &["status", "x"],
            "unexpected argument 'x'; see 'pst status --help'",
        ),
        (
            &["status", "--run"],
            "unknown option '--run'; see 'pst status --help'",
        ),
        (
            &["daemon", "--", "x"],
            "unexpected argument 'x'; see 'pst daemon --help'",
        ),
        (
            &["prepare", "-c"],
            "no value provided for option '-c'; see 'pst prepare --help'",
        ),
    ] {
        assert_refused(program(PST).args(args), line);
    }
}

#[test]
fn the_programs_name_chooses_the_command() {
    let dir = Dir::new();
    for name in ["kvmd-pstrun", "kvmd-pst", "other"] {
        symlink(PST, dir.path(name)).unwrap();
    }
    let help = |name: &str| outcome(program(dir.path(name)).arg("--help")).1;
    assert!(help("kvmd-pstrun").starts_with("Usage: kvmd-pstrun [-q]"));
    assert!(help("kvmd-pst").starts_with("Usage: kvmd-pst [-c FILE]"));
    assert!(help("other").starts_with("Usage: pst COMMAND"));

    assert_refused(
        &mut program(dir.path("kvmd-pstrun")),
        "no command to run; see 'kvmd-pstrun --help'",
    );
    assert_refused(
        program(dir.path("kvmd-pstrun")).args(["--foo", "--", "true"]),
        "unknown option '--foo'; see 'kvmd-pstrun --help'",
    );
    assert_refused(
        program(dir.path("kvmd-pst")).args(["--run", "--config=/nonexistent/pst.toml"]),
        "cannot read /nonexistent/pst.toml: no such file or directory",
    );
    let (code, _, _) = outcome(program(dir.path("other")).args(["help", "run"]));
    assert_eq!(code, Some(0));
}

#[test]
fn arguments_need_not_be_utf8() {
    let odd = OsStr::from_bytes(b"/nonexistent/\xff");
    let mut spelled = OsString::from("--socket=");
    spelled.push(odd);
    let socket = OsStr::new("--socket");
    assert_eq!(pst(&[OsStr::new("status"), &spelled]).0, Some(3));
    assert_eq!(pst(&[OsStr::new("status"), socket, odd]).0, Some(3));
    assert_eq!(pst(&[OsStr::new("run"), &spelled, odd]).0, Some(1));

    assert_refused(
        program(PST).arg(odd),
        r"unknown command '/nonexistent/\xff'; see 'pst --help'",
    );
    assert_refused(
        program(PST).arg("status").arg(OsStr::from_bytes(b"--\xff")),
        r"unknown option '--\xff'; see 'pst status --help'",
    );
    let (code, _, errors) = outcome(program(PST).args(["daemon", "-c"]).arg(odd));
    assert_eq!(code, Some(2));
    assert!(
        errors.contains(r"cannot read /nonexistent/\xff: no such file"),
        "{errors}"
    );
}

#[test]
fn an_error_in_the_config_file_is_one_line_and_2() {
    let dir = Dir::new();
    let config = dir.file("pst.toml", "[storage]\nmuont = \"/m\"\n");
    let line = format!(
        "{}:2:1: unknown key `muont`, expected one of `mount`, `root`, `user`, `group`, `data`, `fstab`, `volatile`",
        config.display()
    );
    for subcommand in ["daemon", "prepare"] {
        assert_refused(program(PST).arg(subcommand).arg("-c").arg(&config), &line);
        assert_refused(
            program(PST).arg(subcommand).env("PST_CONFIG", &config),
            &line,
        );
    }
    assert_refused(program(PST).arg("status").env("PST_CONFIG", &config), &line);
    for subcommand in ["status", "run"] {
        let mut command = program(PST);
        command.args([subcommand, "-c"]).arg(&config);
        if subcommand == "run" {
            command.arg("true");
        }
        assert_refused(&mut command, &line);
    }
    assert_refused(
        program(PST)
            .args(["run", "true"])
            .env("PST_CONFIG", &config),
        &line,
    );
}

#[test]
fn the_option_wins_over_the_environment() {
    let missing = "/nonexistent/pst.toml";
    for (option, variable) in [(missing, "/nonexistent/other"), (missing, "")] {
        assert_refused(
            program(PST)
                .args(["daemon", "-c", option])
                .env("PST_CONFIG", variable),
            "cannot read /nonexistent/pst.toml: no such file or directory",
        );
    }
}

/// Returns the first socket of the directory that the command connects to. Each hangs up at once.
fn first_connected(dir: &Dir, names: &[&'static str], command: &mut Command) -> &'static str {
    let (sender, receiver) = mpsc::channel();
    for &name in names {
        let listener = UnixListener::bind(dir.path(name)).unwrap();
        let sender = sender.clone();
        thread::spawn(move || {
            if listener.accept().is_ok() {
                let _ = sender.send(name);
            }
        });
    }
    let output = command.output().unwrap();
    let connected = receiver.recv_timeout(Duration::from_secs(30));
    connected.unwrap_or_else(|_| panic!("no connection: {output:?}"))
}

#[test]
fn the_socket_comes_from_the_option_else_the_environment_else_the_config_file() {
    for subcommand in [&["status"][..], &["run", "-q"]] {
        for (option, variable, expected) in [
            (true, true, "option"),
            (true, false, "option"),
            (false, true, "variable"),
            (false, false, "config"),
        ] {
            let dir = Dir::new();
            let socket = dir.path("config");
            let config = dir.file("pst.toml", &format!("socket = {socket:?}\n"));
            let mut command = program(PST);
            command.args(subcommand).env("PST_CONFIG", config);
            // An empty variable counts as unset.
            command.env(
                "PST_SOCKET",
                if variable {
                    dir.path("variable")
                } else {
                    "".into()
                },
            );
            if option {
                command.arg("--socket").arg(dir.path("option"));
            }
            if subcommand[0] == "run" {
                command.args(["--", "true"]);
            }
            let connected = first_connected(&dir, &["option", "variable", "config"], &mut command);
            assert_eq!(connected, expected, "{subcommand:?}");
        }
    }
}

#[test]
fn a_broken_config_file_is_not_read_if_the_socket_is_known() {
    let dir = Dir::new();
    let config = dir.file("pst.toml", "nonsense");
    let nowhere = Path::new("/nonexistent/pst.sock");
    let mut status = program(PST);
    status
        .arg("status")
        .env("PST_CONFIG", &config)
        .env("PST_SOCKET", nowhere);
    assert_eq!(outcome(&mut status).0, Some(3));
    let mut run = program(PST);
    run.args(["run", "--socket=/nonexistent/pst.sock", "true"])
        .env("PST_CONFIG", &config);
    assert_eq!(outcome(&mut run).0, Some(1));
}

#[test]
fn kvmds_daemon_at_the_socket_is_named() {
    let line = "kvmd's own daemon answers at the socket, not pst's; to switch, run \
                `systemctl disable --now kvmd-pst` and `systemctl restart pst.socket pst.service` as root\n";
    for (args, prefix, expected) in [
        (&["status"][..], "pst: ", 3),
        (&["run", "-q", "true"], "--   ERROR -- ", 1),
    ] {
        let dir = Dir::new();
        let listener = UnixListener::bind(dir.path("socket")).unwrap();
        let server = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            client
                .write_all(b"HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\n")
                .unwrap();
        });
        let mut command = program(PST);
        command.args(args).env("PST_SOCKET", dir.path("socket"));
        let (code, _, errors) = outcome(&mut command);
        assert_eq!((code, errors), (Some(expected), format!("{prefix}{line}")));
        server.join().unwrap();
    }
}

#[test]
fn a_stdout_that_cannot_be_written_causes_no_panic() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(ours);
    let output = program(PST)
        .arg("--help")
        .stdout(OwnedFd::from(theirs))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stderr, b"");

    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = program(PST).arg("--version").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let line = b"pst: cannot write to stdout: no space left on device\n";
    assert_eq!(output.stderr, line);

    let full = File::options().write(true).open("/dev/full").unwrap();
    let status = program(PST)
        .arg("frobnicate")
        .stderr(full)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(2));
}
