//! Every short sequence of operations on two files and two directories, each made inside `pst run --atomic`.

use std::process::Command;

use rustix::fs::{XattrFlags, lsetxattr};

use crate::record::Record;
use crate::rig::Rig;
use crate::stage::Stage;

/// So many transactions have a card.
const BATCH: usize = 50;

/// The names: two of files, two of directories. At first, one of each is there.
const NAMES: [&str; 4] = ["f", "g", "d", "e"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nothing,
    File,
    /// A file that may have the other name, too.
    Linked,
    Symlink,
    Directory,
}

use Kind::{Directory, File, Linked, Nothing, Symlink};

/// What is at each name.
type State = [Kind; 4];

const FIXTURE: State = [File, Nothing, Directory, Nothing];

/// An operation on one of the names, or on two.
#[derive(Clone, Copy)]
pub struct Operation {
    verb: &'static str,
    name: usize,
    other: usize,
}

fn operations() -> impl Iterator<Item = Operation> {
    let on_files = [
        "create",
        "append",
        "overwrite",
        "truncate",
        "unlink",
        "symlink",
        "chmod",
    ];
    let on_directories = ["mkdir", "rmdir", "chmod"];
    let to_another = ["rename", "link"];
    let pairs = [(0, 1), (1, 0), (2, 3), (3, 2)];
    let files = on_files
        .into_iter()
        .flat_map(|verb| [(verb, 0, 0), (verb, 1, 1)]);
    let directories = on_directories
        .into_iter()
        .flat_map(|verb| [(verb, 2, 2), (verb, 3, 3)]);
    let others = to_another
        .into_iter()
        .flat_map(move |verb| pairs.map(|(name, other)| (verb, name, other)));
    let all = files.chain(directories).chain(others);
    all.map(|(verb, name, other)| Operation { verb, name, other })
}

impl Operation {
    /// What it makes of a state; `None` if it would fail.
    fn apply(self, mut state: State) -> Option<State> {
        let (old, other) = (state[self.name], state[self.other]);
        let new = match (self.verb, old) {
            ("create", Nothing) => File,
            ("append" | "overwrite" | "truncate", File | Linked) => old,
            ("chmod", File | Linked | Directory) => old,
            ("symlink", Nothing) => Symlink,
            ("unlink", File | Linked | Symlink) | ("rmdir", Directory) => Nothing,
            ("mkdir", Nothing) => Directory,
            ("rename", Linked) if other == Linked => return None, // mv refuses
            ("rename", File | Linked | Symlink | Directory) => Nothing,
            ("link", File | Linked) if other == Nothing => Linked,
            _ => return None,
        };
        match self.verb {
            "rename" => state[self.other] = old,
            "link" => state[self.other] = new,
            _ => {}
        }
        state[self.name] = new;
        Some(state)
    }

    fn script(self) -> String {
        let (name, other) = (NAMES[self.name], NAMES[self.other]);
        match self.verb {
            "create" => format!("(set -C; printf created >{name})"),
            "append" => format!("printf appended >>{name}"),
            "overwrite" => format!("printf over | dd of={name} conv=notrunc status=none"),
            "truncate" => format!("truncate -s 7 {name}"),
            "chmod" => format!("chmod 700 {name}"),
            "symlink" => format!("ln -s to {name}"),
            "rename" => format!("mv -T {name} {other}"),
            "link" => format!("ln {name} {other}"),
            verb => format!("{verb} {name}"),
        }
    }
}

/// All sequences of that length in which no operation fails.
pub fn sequences(length: usize) -> Vec<Vec<Operation>> {
    let mut found: Vec<(Vec<Operation>, State)> = vec![(Vec::new(), FIXTURE)];
    for _ in 0..length {
        let longer = found.iter().flat_map(|(sequence, state)| {
            operations().filter_map(move |operation| {
                let state = operation.apply(*state)?;
                Some(([sequence.as_slice(), &[operation]].concat(), state))
            })
        });
        found = longer.collect();
    }
    found.into_iter().map(|(sequence, _)| sequence).collect()
}

/// Makes the directory `tree` as every transaction finds it, and a file besides it.
const RESET: &str = "rm -rf tree; cp -a fixture tree; sync -f tree";

/// A stage on which a flush of nothing else helps: ext4 does not flush a file because it is renamed.
pub fn stage() -> Stage {
    let mut stage = Stage::without_auto_da_alloc();
    let held = stage.rig.session_with(
        "cd $KVMD_PST_DATA && mkdir -p fixture/d && seq 700 >fixture/f && chown 12:34 fixture/f && \
         chmod 640 fixture/f && chmod 2750 fixture/d",
    );
    let file = stage.rig.data().join("fixture/f");
    lsetxattr(file, "user.name", b"value", XattrFlags::empty()).expect("setxattr");
    held.end().must(0);
    stage.settle();
    stage
}

/// `pst run --atomic tree` with these operations. After each, something else is synced, which commits the journal.
fn transaction(rig: &Rig, sequence: &[Operation], begin: Begin) -> (String, Command) {
    let unrelated = rig.data().join("unrelated");
    let commit = format!("echo >>{0}; sync {0}", unrelated.display());
    let scripts: Vec<String> = sequence
        .iter()
        .map(|operation| operation.script())
        .collect();
    let name = scripts.join("; ");
    let script = format!(
        "cd $KVMD_PST_DATA/tree; {}; {commit}",
        scripts.join(&format!("; {commit}; "))
    );
    let mut command = begin(rig);
    command.args(["sh", "-euc", &script]);
    (name, command)
}

/// Returns a command to which that of the transaction is added.
type Begin = fn(&Rig) -> Command;

/// Makes the transactions on one card.
fn record(sequences: &[Vec<Operation>], begin: Begin) -> (Rig, Record) {
    let mut stage = stage();
    for sequence in sequences {
        stage.script(&format!("cd $KVMD_PST_DATA; {RESET}"));
        let (name, mut command) = transaction(&stage.rig, sequence, begin);
        stage.swap(&name, "data/tree", &mut command);
    }
    stage.finish()
}

/// Makes the transactions on several cards, one card after the other.
pub fn record_all(sequences: &[Vec<Operation>]) -> impl Iterator<Item = (Rig, Record)> {
    let begin = |rig: &Rig| rig.pst(["run", "--atomic", "tree", "--"]);
    sequences
        .chunks(BATCH)
        .map(move |batch| record(batch, begin))
}

/// Makes transactions that do not flush the copy before they exchange it.
pub fn record_without_syncfs(sequences: &[Vec<Operation>]) -> (Rig, Record) {
    record(sequences, |rig| {
        let mut command = rig.pst(["run", "--", "strace", "-qq", "-o", "/dev/null"]);
        command
            .args(["-etrace=syncfs", "-einject=syncfs:retval=0"])
            .arg(rig.bin("pst"));
        command.args([".atomic", "0", "0", "tree"]);
        command
    })
}
