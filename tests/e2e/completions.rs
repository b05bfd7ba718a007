//! The completions, each in its own shell, as somebody at a terminal has it:
//! some text, the Tab key, and what is on the screen then.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::needs_tool;
use crate::rig::{BOUND, Fs, Rig, RunToEnd, Setup, Terminal, leave_out, wait::holds_within};

const NAMES: [&str; 3] = ["pst", "kvmd-pst", "kvmd-pstrun"];
const BASH_COMPLETION: &str = "/usr/share/bash-completion/bash_completion";

/// A shell with the completions, set up below the rig's directory.
struct Shell {
    words: Vec<String>,
}

impl Shell {
    /// Loads what is `sourced`, and a command's completion if that is bash-completion.
    fn bash(rig: &Rig, sourced: &str) -> Shell {
        let at = installed(rig, "pst.bash", "bash-completion/completions", &NAMES);
        let rc = format!(
            ". {sourced}\n\
             bind 'set show-all-if-ambiguous on'\nbind 'set completion-query-items 0'\n\
             bind 'set page-completions off'\nPS1='$ '\nHISTFILE=\n"
        );
        let rc = written(rig, "bashrc", &rc);
        let home = format!("XDG_DATA_HOME={at}");
        Shell::new(["env", &home, "bash", "--rcfile", &rc])
    }

    fn zsh(rig: &Rig) -> Shell {
        let at = installed(rig, "_pst", "zsh", &["_pst"]);
        let rc = format!(
            "fpath=({at}/zsh $fpath)\nautoload -Uz compinit\ncompinit -u -d {at}/dump\n\
             setopt no_beep no_list_ambiguous\nLISTMAX=0\nPS1='$ '\n"
        );
        written(rig, ".zshrc", &rc);
        let home = format!("ZDOTDIR={}", rig.dir().display());
        Shell::new(["env", &home, "zsh", "-d", "-i"])
    }

    fn fish(rig: &Rig) -> Shell {
        let names = NAMES.map(|name| format!("{name}.fish"));
        let names = names.each_ref().map(String::as_str);
        let at = installed(rig, "pst.fish", "fish/vendor_completions.d", &names);
        let home = format!("HOME={}", rig.dir().display());
        let data = format!("XDG_DATA_DIRS={at}:/usr/share");
        let prompt = "function fish_prompt; printf '$ '; end; set fish_greeting; \
                      function fish_right_prompt; end; set fish_autosuggestion_enabled 0";
        Shell::new([
            "env",
            "-u",
            "XDG_CONFIG_HOME",
            &home,
            &data,
            "fish",
            "-C",
            prompt,
        ])
    }

    fn new<const N: usize>(words: [&str; N]) -> Shell {
        let words = words.map(str::to_owned).to_vec();
        Shell { words }
    }

    fn start<'a>(&self, rig: &'a Rig) -> Prompt<'a> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        Prompt(Terminal::with_shell(rig, &words))
    }
}

/// Puts a completion where its shell looks for it, under these names; gives the data directory.
fn installed(rig: &Rig, file: &str, directory: &str, names: &[&str]) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/completions");
    let at = rig.dir().join("share");
    let directory = at.join(directory);
    fs::create_dir_all(&directory).expect("directory");
    for name in names {
        symlink(source.join(file), directory.join(name)).expect("link");
    }
    at.display().to_string()
}

fn written(rig: &Rig, name: &str, text: &str) -> String {
    let path = rig.dir().join(name);
    fs::write(&path, text).expect("file");
    path.display().to_string()
}

/// A shell that waits for a line.
struct Prompt<'a>(Terminal<'a>);

impl Prompt<'_> {
    /// After this text and a Tab, all of these are on the screen, as words of their own.
    #[track_caller]
    fn offers(&self, text: &str, expected: &[&str]) {
        self.clear();
        self.0.text(text);
        self.0.press(&["Tab"]);
        let seen = holds_within(BOUND, || {
            let screen = self.0.screen();
            let words: Vec<&str> = screen
                .split(|c: char| c.is_whitespace() || ",()=".contains(c))
                .collect();
            expected.iter().all(|word| words.contains(word))
        });
        assert!(
            seen,
            "'{text}' is not completed by {expected:?}:\n{}",
            self.0.screen()
        );
    }

    /// After this text and a Tab the line is this.
    #[track_caller]
    fn completes(&self, text: &str, line: &str) {
        self.clear();
        self.0.text(text);
        self.0.press(&["Tab"]);
        let line = format!("$ {line}");
        let seen = holds_within(BOUND, || {
            self.0.screen().lines().any(|l| l.trim_end() == line)
        });
        assert!(
            seen,
            "'{text}' does not become '{line}':\n{}",
            self.0.screen()
        );
    }

    /// An empty line on an empty screen.
    #[track_caller]
    fn clear(&self) {
        // Not C-c: a signal takes the keys along that were typed after it.
        self.0.press(&["C-u", "C-l"]);
        let clear = holds_within(BOUND, || self.0.screen().trim() == "$");
        assert!(clear, "the screen is not cleared:\n{}", self.0.screen());
    }
}

/// A rig with nothing but the programs, and a file and a command to complete.
fn ground() -> Rig {
    let rig = Setup::new(Fs::Tmpfs).unmounted().stopped().start();
    let command = rig.bin("example-command");
    fs::write(&command, "#!/bin/sh\n").expect("command");
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).expect("chmod");
    written(&rig, "example-file", "");
    rig
}

/// Everything that every shell must offer.
fn check(rig: &Rig, shell: Shell) {
    let prompt = shell.start(rig);
    check_own_words(rig, &prompt);
    // The command of a session is completed as if it stood alone.
    for run in RUNS {
        prompt.completes(&format!("{run} pst sta"), &format!("{run} pst status"));
    }
    prompt.offers("pst run -- chmod --re", &["--reference", "--recursive"]);
}

/// The command lines to which a session's command is added.
const RUNS: [&str; 5] = [
    "pst run",
    "pst run -q --",
    "kvmd-pstrun",
    "kvmd-pstrun --need 5M --socket=/x --",
    "pst run --atomic a --",
];

/// The commands, options and values of pst, and the names of programs and files.
fn check_own_words(rig: &Rig, prompt: &Prompt<'_>) {
    prompt.completes("pst sta", "pst status");
    prompt.completes("pst help prep", "pst help prepare");
    prompt.offers(
        "pst daemon --log-level ",
        &["off", "error", "warn", "info", "debug", "trace"],
    );
    prompt.completes("kvmd-pst --log-level=w", "kvmd-pst --log-level=warn");
    prompt.offers("pst run --need ", &["5M", "100M"]);
    let file = rig.dir().join("example-file").display().to_string();
    let start = file.trim_end_matches("-file");
    for option in [
        "run --socket ",
        "run --socket=",
        "run --atomic ",
        "status --socket ",
        "run -c ",
        "status --config=",
        "prepare -c ",
        "check --config ",
        "repair --config=",
    ] {
        prompt.completes(
            &format!("pst {option}{start}"),
            &format!("pst {option}{file}"),
        );
    }
    for run in RUNS {
        prompt.completes(
            &format!("{run} example-c"),
            &format!("{run} example-command"),
        );
        prompt.completes(&format!("{run} cat {start}"), &format!("{run} cat {file}"));
    }

    let help = help(rig, &[]);
    let commands: Vec<&str> = section(&help, "Commands:").collect();
    assert!(commands.len() > 4, "the commands are not found in: {help}");
    prompt.offers("pst ", &commands);
    prompt.offers("pst -", &options(&help));
    for command in commands.iter().filter(|command| **command != "help") {
        let help = self::help(rig, &[command]);
        prompt.offers(&format!("pst {command} -"), &options(&help));
    }
    prompt.offers("kvmd-pstrun -", &options(&self::help(rig, &["run"])));
    prompt.offers("kvmd-pst -", &options(&self::help(rig, &["daemon"])));
}

fn help(rig: &Rig, command: &[&str]) -> String {
    rig.pst(command.iter().copied().chain(["--help"]))
        .to_end()
        .must(0)
        .text()
}

/// The first word of each line of a section.
fn section<'a>(help: &'a str, title: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = help.lines().skip_while(move |line| *line != title).skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let lines = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    lines.filter_map(|line| line.split_whitespace().next())
}

/// `-c`, `--config`, … of a help's options.
fn options(help: &str) -> Vec<&str> {
    let lines = help.lines().skip_while(|line| *line != "Options:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let options: Vec<&str> = lines
        .filter(|line| line.starts_with("  -"))
        .flat_map(|line| {
            line.split_whitespace()
                .take_while(|word| word.starts_with('-'))
        })
        .map(|word| word.trim_end_matches(','))
        .collect();
    assert!(options.contains(&"--help"), "no options in: {help}");
    options
}

/// Leaves the test out where a shell, or what it needs, is not installed.
fn lacks(program: &str, file: Option<&str>) -> bool {
    let there = Command::new("which").arg(program).output();
    let there = there.is_ok_and(|output| output.status.success());
    let lacks = !there || file.is_some_and(|file| !PathBuf::from(file).exists());
    if lacks {
        leave_out(&format!("{program} with its completion"));
    }
    lacks
}

#[test]
fn bash_completes_commands_options_values_and_words() {
    needs_tool!("tmux");
    if !lacks("bash", Some(BASH_COMPLETION)) {
        let rig = ground();
        check(&rig, Shell::bash(&rig, BASH_COMPLETION));
    }
}

#[test]
fn bash_completes_without_bash_completion() {
    needs_tool!("tmux");
    if !lacks("bash", None) {
        let rig = ground();
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/completions/pst.bash");
        let prompt = Shell::bash(&rig, file).start(&rig);
        check_own_words(&rig, &prompt);
    }
}

#[test]
fn zsh_completes_commands_options_values_and_words() {
    needs_tool!("tmux");
    if !lacks("zsh", None) {
        let rig = ground();
        check(&rig, Shell::zsh(&rig));
    }
}

#[test]
fn fish_completes_commands_options_values_and_words() {
    needs_tool!("tmux");
    if !lacks("fish", None) {
        let rig = ground();
        check(&rig, Shell::fish(&rig));
    }
}
