//! Runs what README.md and contrib/doc show: each fenced block, from top to bottom, on one
//! rig, whose paths replace PiKVM's. A block's first line says how:
//!
//! - `sh`: by bash; a command that fails is a failure.
//! - `console`: the commands after `$ `; the rest must be what they say.
//! - `sh terminal`: typed into a terminal; it is an editor, which is left again.
//! - `cron`, `ini`: what cron and systemd would start.
//! - `sh machine`, `sh pikvm`, `fstab`: take a machine of their own; see [`ELSEWHERE`].
//! - `text`: no command.
//!
//! And what it quotes of our messages, we say. The examples of pst(1) and
//! pst-wire(7) are run as well.

use std::path::Path;
use std::process::Stdio;

use crate::rig::{Outcome, Rig, RunToEnd, Terminal, start, wait_until};
use crate::{needs_storage, needs_tool};

const README: &str = include_str!("../../README.md");
const PAGES: &[(&str, &str)] = &[
    ("README.md", README),
    ("kvmd.md", include_str!("../../contrib/doc/kvmd.md")),
    (
        "other-mount-points.md",
        include_str!("../../contrib/doc/other-mount-points.md"),
    ),
    (
        "performance.md",
        include_str!("../../contrib/doc/performance.md"),
    ),
    (
        "contributing.md",
        include_str!("../../contrib/doc/contributing.md"),
    ),
];

/// Where that is tried which is not run here, or why it is not.
const ELSEWHERE: &[(&str, &str)] = &[
    ("make demo", "the_demo_works does it"),
    ("mkfs.ext4 -L PIPST", "make vm-test does it"),
    ("LABEL=PIPST", "the fstab of make vm-test's machine"),
    (
        "apt install ./target/deb/",
        "make packaging-test and make vm-test build the package and install it, without apt",
    ),
    (
        "make install",
        "packaging/deb/build calls it; make packaging-test and make vm-test run what it installs",
    ),
    (
        "make uninstall",
        "make packaging-test does it, and make vm-test what it says to systemd",
    ),
    ("restart var-lib-kvmd-pst.mount", "make vm-test does it"),
    ("e2fsck -fy", "make vm-test does it"),
    ("srv-notes.mount", "make vm-test does it"),
    (
        "pacman -U",
        "there is no pacman here; make packaging-test plays what the package does",
    ),
    ("pacman -R", "the same"),
];

struct Block {
    /// What stands behind the opening fence.
    kind: String,
    /// Where it begins, for messages.
    line: usize,
    text: String,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (number, line) in markdown.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(kind) if !open => blocks.push(Block {
                kind: kind.to_owned(),
                line: number + 1,
                text: String::new(),
            }),
            Some(_) => {}
            None if open => {
                let block = blocks.last_mut().expect("it is open");
                block.text.extend([line, "\n"]);
            }
            None => continue,
        }
        open ^= line.starts_with("```");
    }
    blocks
}

/// PiKVM's paths, and the rig's.
fn paths(rig: &Rig) -> [(&'static str, String); 3] {
    [
        ("/var/lib/kvmd/pst", rig.mount().display().to_string()),
        ("/run/kvmd/pst.sock", rig.socket().display().to_string()),
        ("/usr/bin/pst", rig.bin("pst").display().to_string()),
    ]
}

fn to_rig(rig: &Rig, text: &str) -> String {
    paths(rig)
        .iter()
        .fold(text.to_owned(), |text, (theirs, ours)| {
            text.replace(theirs, ours)
        })
}

fn from_rig(rig: &Rig, text: &str) -> String {
    paths(rig)
        .iter()
        .fold(text.to_owned(), |text, (theirs, ours)| {
            text.replace(ours, theirs)
        })
}

/// Runs a script as somebody at a prompt would, in `place`.
fn shell(rig: &Rig, place: &Path, script: &str) -> Outcome {
    rig.command("bash")
        .args(["-euo", "pipefail", "-c", &to_rig(rig, script)])
        .current_dir(place)
        .stdin(Stdio::null())
        .to_end()
}

#[test]
fn what_the_readme_shows_works() {
    needs_storage!();
    needs_tool!("nano", "openssl", "tmux");
    let rig = Rig::any();
    let place = rig.dir().join("place");
    std::fs::create_dir(&place).expect("place");
    let all = PAGES
        .iter()
        .flat_map(|(page, text)| blocks(text).into_iter().map(move |block| (page, block)));
    for (page, block) in all {
        println!("{page}:{}: {}", block.line, block.kind);
        match block.kind.as_str() {
            "sh" => drop(shell(&rig, &place, &block.text).must(0)),
            "console" => console(&rig, &place, &block.text),
            "sh terminal" => editor(&rig, &block.text),
            "cron" => cron(&rig, &place, &block.text),
            "ini" => service(&rig, &place, &block.text),
            "sh machine" | "sh pikvm" | "fstab" => {
                let known = ELSEWHERE.iter().find(|(part, _)| block.text.contains(part));
                let (_, tried) = known.expect("where is this tried?");
                println!("  not here: {tried}");
            }
            "text" => {} // no command
            other => panic!("{page}:{}: what is '{other}'?", block.line),
        }
        rig.await_superblock("ro");
    }
    // The examples left what they say.
    for path in [
        "foo",
        "system/tls/key.pem",
        "system/api.key",
        "system/etc.tar.gz",
        "system/uptime.log",
    ] {
        let file = std::fs::metadata(rig.data().join(path));
        assert!(file.is_ok_and(|file| file.len() > 0), "no {path}");
    }
}

#[test]
fn the_demo_works() {
    needs_storage!();
    let rig = Rig::any();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/demo.sh");
    let outcome = rig.command(script).arg(rig.bin("pst")).to_end().must(0);
    let said = outcome.stderr.clone() + &outcome.text();
    assert!(said.contains("Process finished: returncode=0"), "{said}");
}

#[test]
fn the_certificate_survives_a_renewal_that_is_killed_in_the_middle() {
    needs_storage!();
    let rig = Rig::any();
    let place = rig.dir().join("place");
    std::fs::create_dir(&place).expect("place");
    let all = blocks(README);
    let found = all.iter().find(|block| block.text.contains("--atomic"));
    let renew = &found.expect("the example").text;
    let middle = "-keyout key.pem -out cert.pem";
    assert!(renew.contains(middle));
    rig.sh("mkdir $KVMD_PST_DATA/system").must(0);
    let current = || {
        let read = |name: &str| std::fs::read(rig.data().join("system/tls").join(name));
        (
            read("key.pem").expect("key"),
            read("cert.pem").expect("certificate"),
        )
    };
    shell(&rig, &place, renew).must(0);
    let old = current();
    let killed = "-keyout key.pem -out new.pem; kill -KILL $$; mv new.pem cert.pem";
    shell(&rig, &place, &renew.replace(middle, killed)).must(137);
    assert_eq!(current(), old);
    shell(&rig, &place, renew).must(0);
    let new = current();
    assert!(new.0 != old.0 && new.1 != old.1);
    let rest = std::fs::read_dir(rig.data().join("system/tls")).expect("the data");
    assert_eq!(rest.count(), 2);
}

/// `$ COMMAND`, and what it writes.
fn console(rig: &Rig, place: &Path, text: &str) {
    for part in text.split("$ ").skip(1) {
        let (command, expected) = part.split_once('\n').expect("a line");
        let outcome = shell(rig, place, command).must(0);
        let said = outcome.stderr.clone() + &String::from_utf8_lossy(&outcome.stdout);
        assert_eq!(from_rig(rig, &said), expected, "{command}");
    }
}

fn editor(rig: &Rig, text: &str) {
    let terminal = Terminal::new(rig);
    terminal.line(to_rig(rig, text).trim_end());
    terminal.await_screen("GNU nano");
    let on_a_copy = text.contains("pst edit ");
    assert_eq!(rig.superblock(), if on_a_copy { "ro" } else { "rw" });
    terminal.press(&["C-x"]);
    terminal.await_screen(if on_a_copy {
        "is unchanged"
    } else {
        "returncode=0"
    });
    rig.await_superblock("ro");
}

/// Five fields, the user, the command; with the PATH that cron has.
fn cron(rig: &Rig, place: &Path, line: &str) {
    let command = line.splitn(7, ' ').nth(6).expect("seven fields");
    assert!(!command.contains('%'), "to cron that is a new line");
    let outcome = rig
        .command("env")
        .args(["PATH=/usr/bin:/bin", "sh", "-c", &to_rig(rig, command)])
        .current_dir(place)
        .stdin(Stdio::null())
        .to_end()
        .must(0);
    assert_eq!(outcome.text() + &outcome.stderr, "", "cron would mail this");
}

/// What systemd would start; `$$` and `%%` are its way to write `$` and `%`.
fn service(rig: &Rig, place: &Path, unit: &str) {
    let mut lines = unit
        .lines()
        .filter_map(|line| line.strip_prefix("ExecStart="));
    let command = lines.next().expect("ExecStart=");
    let command = command.replace("$$", "$").replace("%%", "%");
    shell(rig, place, &command).must(0);
}

#[test]
fn the_examples_of_the_manual_work() {
    needs_storage!();
    needs_tool!("nano", "openssl", "python3", "tmux");
    let rig = Rig::any();
    let pages = [
        include_str!("../../contrib/man/pst.1"),
        include_str!("../../contrib/man/pst-status.1"),
        include_str!("../../contrib/man/pst-put.1"),
        include_str!("../../contrib/man/pst-edit.1"),
    ];
    for example in pages.into_iter().flat_map(examples) {
        let commands: Vec<&str> = example
            .lines()
            .filter_map(|l| l.strip_prefix("$ ").or(l.strip_prefix("# ")))
            .collect();
        assert!(!commands.is_empty(), "no command: {example}");
        for command in commands {
            match command {
                _ if command.contains(" nano ") || command.contains("pst edit ") => {
                    editor(&rig, command)
                }
                _ if command.contains(" --watch ") => follow(&rig, command),
                _ => drop(shell(&rig, rig.dir(), command).must(0)),
            }
        }
    }
    let wire = examples(include_str!("../../contrib/man/pst-wire.7"));
    let [python, curl] = &wire[..] else {
        panic!("two examples are expected: {wire:?}");
    };
    let client = rig
        .command("python3")
        .args(["-c", &to_rig(&rig, python)])
        .to_end();
    client.must(0);
    assert_eq!(
        std::fs::read_to_string(rig.data().join("example"))
            .ok()
            .as_deref(),
        Some("hello\n")
    );
    if cfg!(feature = "kvmd-api") {
        let said = shell(&rig, rig.dir(), curl.trim_start_matches("$ "))
            .must(0)
            .text();
        assert!(said.contains("\"write_allowed\":false"), "{said}");
    }
}

/// A command without end: it writes down what happens.
fn follow(rig: &Rig, command: &str) {
    let mut bash = rig.command("bash");
    bash.args(["-c", &format!("exec {command}")]);
    let job = start(bash.current_dir(rig.dir()));
    let events = || std::fs::read_to_string(rig.dir().join("pst-events")).unwrap_or_default();
    wait_until("it begins", || events().contains(r#""state":"ro""#));
    rig.sh("true").must(0);
    wait_until("it is told", || events().contains(r#""ended":"durable""#));
    drop(job);
}

/// What stands literally in a page's examples.
fn examples(page: &str) -> Vec<String> {
    let (_, section) = page.split_once(".Sh EXAMPLES\n").expect("EXAMPLES");
    let (section, _) = section.split_once("\n.Sh ").expect("a section after it");
    let blocks = section.split(".Bd -literal -offset indent\n").skip(1);
    blocks
        .map(|block| {
            block
                .split("\n.Ed")
                .next()
                .unwrap_or_default()
                .replace("\\e", "\\")
        })
        .collect()
}

#[test]
fn what_the_readme_quotes_is_said() {
    let said = messages(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")));
    let table = README.split("\n## When something goes wrong").nth(1);
    let table = table.and_then(|rest| rest.split("\n## ").next());
    let rows = table
        .expect("the section")
        .lines()
        .skip_while(|line| !line.starts_with("| ---"));
    let mut count = 0;
    for row in rows.skip(1).filter(|row| row.starts_with('|')) {
        let symptom = row.split('|').nth(1).expect("a cell");
        for quoted in symptom.split('`').skip(1).step_by(2) {
            count += 1;
            // A state's name is a word of its own.
            let known = said.contains(&format!("\"{quoted}\""))
                || said.contains(quoted) && quoted.contains(' ');
            assert!(known, "nothing says '{quoted}' any more:\n{row}");
        }
    }
    assert!(count > 10, "the table is not found");
}

/// All of the program's text, with its long strings in one line.
fn messages(directory: &Path) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir(directory).expect("src") {
        let path = entry.expect("src").path();
        if path.is_dir() {
            all += &messages(&path);
        } else {
            let text = std::fs::read_to_string(&path).expect("source");
            let mut parts = text.split("\\\n");
            all += parts.next().unwrap_or_default();
            for part in parts {
                all += part.trim_start();
            }
        }
    }
    all
}
