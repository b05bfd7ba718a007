//! pst-run(1): its examples are run, and its messages are ours.

use std::fs;
use std::path::Path;

use crate::needs_storage;
use crate::rig::{Rig, RunToEnd};

const PAGE: &str = include_str!("../../contrib/man/pst-run.1");

/// What is shown literally and begins so, as it is read.
fn shown(begins: &str) -> Vec<String> {
    let blocks = PAGE.split(".Bd -literal -offset indent\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split_once(".Ed\n"));
    blocks
        .map(|(block, _)| block.replace("\\-", "-"))
        .filter(|block| block.starts_with(begins))
        .collect()
}

#[test]
fn the_examples_of_pst_run_do_what_they_show() {
    needs_storage!();
    let rig = Rig::any();
    fs::write(rig.dir().join("key"), "secret").expect("key");
    fs::create_dir(rig.dir().join("app")).expect("app");
    fs::write(rig.dir().join("app/state"), "state").expect("state");
    rig.sh("echo echo it runs > $KVMD_PST_DATA/script").must(0);
    rig.sh("mkdir $KVMD_PST_DATA/app; echo old > $KVMD_PST_DATA/app/state")
        .must(0);
    let run = |text: &str| {
        let here = rig.data().display().to_string();
        let text = text
            .replace("/var/lib/kvmd/pst/data", &here)
            .replace("/run/app", "app");
        let lines = text.lines();
        let (said, command): (Vec<&str>, Vec<&str>) =
            lines.partition(|line| line.starts_with("--"));
        let command = command.join("\n");
        let command = command.strip_prefix("$ ").unwrap_or(&command);
        let mut shell = rig.command("sh");
        let ended = shell.args(["-c", command]).current_dir(rig.dir());
        let ended = ended.to_end().must(0);
        if !said.is_empty() {
            assert_eq!(ended.stderr.lines().collect::<Vec<_>>(), said);
        }
        ended.text()
    };
    let examples = shown("$ pst run ");
    assert_eq!(examples.len(), 4, "{examples:?}");
    let said: Vec<String> = examples.iter().map(|text| run(text)).collect();
    assert_eq!(said, ["", "it runs", "", ""]);
    let read = |name: &str| fs::read_to_string(rig.data().join(name)).expect("it is saved");
    assert!(!read("stamp").is_empty());
    assert_eq!(read("key"), "secret");
    assert_eq!(read("app/state.old"), "old\n");
    let [save] = &shown("pst run ")[..] else {
        panic!("the recipe for a daemon is not there");
    };
    run(save);
    assert_eq!(read("app/state"), "state");
}

/// All of the program's text, each message on one line.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("src").flatten();
    let text = |entry: fs::DirEntry| match entry.path() {
        path if path.is_dir() => sources(&path),
        path => {
            let text = fs::read_to_string(path).expect("source");
            let lines = text.lines().map(str::trim_start);
            lines
                .map(|line| line.strip_suffix('\\').unwrap_or(line))
                .collect()
        }
    };
    entries.map(text).collect()
}

#[test]
fn the_messages_that_pst_run_explains_are_the_ones_that_are_said() {
    let source = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let (_, page) = PAGE.split_once(".Sh DIAGNOSTICS\n").expect("diagnostics");
    let mut count = 0;
    for item in page.lines().filter_map(|line| line.strip_prefix(".It ")) {
        // What stands for something else parts a message.
        let mut parts = vec![String::new()];
        let mut words = item.split(' ');
        while let Some(word) = words.next() {
            match word {
                "Ar" => {
                    words.next();
                    parts.push(String::new());
                }
                "," => parts.push(String::new()),
                "Sy" | "No" => {}
                _ => {
                    let part = parts.last_mut().expect("one");
                    if !part.is_empty() {
                        part.push(' ');
                    }
                    part.push_str(word.trim_start_matches("\\&").trim_end_matches(','));
                }
            }
            if word.ends_with(',') && word.len() > 1 {
                parts.push(String::new());
            }
        }
        for part in parts.iter().filter(|part| part.len() > 6) {
            count += 1;
            let part = part.replace("5 s", "{} s");
            assert!(source.contains(&part), "nobody says {part:?}");
        }
    }
    assert!(count > 20, "{count}");
}
