//! `pst put` and `pst run --atomic` slowly, while something else is synced again and again: the journal is committed
//! after every step.

use std::process::Command;

use crate::record::Record;
use crate::rig::{Rig, wait_until};
use crate::sequences;
use crate::stage::Stage;

/// Syncs another file again and again, with a pause, until there is a file `stop`, which it removes.
const COMMIT: &str = "cd $KVMD_PST_DATA && \
    { while [ ! -e stop ]; do echo >>unrelated; sync unrelated; sleep PAUSE; done; rm stop; } &";

/// Each of these calls is followed by a pause.
const SLOWED: &str = "mkdirat,write,pwrite64,fchmodat,fsync,syncfs,renameat2,unlinkat";
const PAUSE: &str = "delay_exit=10000";
/// Shorter than that pause, so that a commit falls into each.
const AFTER_EACH_CALL: &str = ".005";

/// A way to change the directory `box`: its name, and a shell script.
type Change = (&'static str, &'static str);

const PUTS: [Change; 4] = [
    ("put over an existing file", "$PST put box/f"),
    ("put a new file", "$PST put -m 640 -o 12:34 box/new"),
    ("put over a file with a hard link", "$PST put box/linked"),
    ("put over the target of a symlink", "$PST put box/symlink"),
];

/// As it is done wrong.
pub const RENAME_BEFORE_CONTENT: Change = (
    "rename before the content",
    "$PST run -- sh -c 'cd $KVMD_PST_DATA/box && >new && mv new f && sleep .05 && cat >f'",
);

/// Runs changes of `box`, each from the same beginning.
fn record(changes: &[Change], strace: &[String]) -> (Rig, Record) {
    let mut stage = sequences::stage();
    for (name, script) in changes {
        stage.script(
            "cd $KVMD_PST_DATA; rm -rf box; mkdir box; cd box; cp -a ../fixture/f f; cp f linked; ln linked hard; \
             ln -s f symlink; sync -f .",
        );
        let pst = format!(
            "strace -f -qq -o /dev/null {} {}",
            strace.join(" "),
            stage.rig.bin("pst").display()
        );
        let script = format!("seq 900 | {}", script.replace("$PST", &pst));
        let mut command = stage.rig.command("sh");
        command.args(["-c", &script]);
        committed(&mut stage, AFTER_EACH_CALL, name, "data/box", &mut command);
    }
    stage.finish()
}

/// One transaction, during which the journal is committed every `pause` seconds.
pub fn committed(
    stage: &mut Stage,
    pause: &str,
    name: &str,
    directory: &str,
    command: &mut Command,
) {
    let commits = stage.hold_script(&COMMIT.replace("PAUSE", pause));
    stage.swap(name, directory, command);
    let stop = stage.rig.data().join("stop");
    std::fs::write(&stop, "").expect("stop");
    wait_until("the last commit", || !stop.exists());
    stage.release(commits);
}

fn slowed() -> Vec<String> {
    vec![
        format!("-etrace={SLOWED}"),
        format!("-einject={SLOWED}:{PAUSE}"),
    ]
}

pub fn record_puts() -> (Rig, Record) {
    record(&PUTS, &slowed())
}

/// Stores files that are not synced before the rename.
pub fn record_puts_without_fsync() -> (Rig, Record) {
    let mut strace = vec![
        "-etrace=fsync,renameat2".to_owned(),
        format!("-einject=renameat2:{PAUSE}"),
    ];
    strace.push("-einject=fsync:retval=0:when=1".to_owned());
    record(&PUTS, &strace)
}

pub fn record_wrong_order() -> (Rig, Record) {
    record(&[RENAME_BEFORE_CONTENT], &["-etrace=none".to_owned()])
}

/// `pst run --atomic`, of which each step is committed.
pub fn record_atomic() -> (Rig, Record) {
    let mut stage = sequences::stage();
    stage.script("cd $KVMD_PST_DATA; cp -a fixture tree; sync -f tree");
    for script in ["seq 2000 >f", "mv f d/moved; ln d/moved f", "rm -r *"] {
        let mut command = stage.rig.command("strace");
        command
            .args(["-f", "-qq", "-o", "/dev/null"])
            .args(slowed());
        command
            .arg(stage.rig.bin("pst"))
            .args(["run", "--atomic", "tree", "--", "sh", "-euc"]);
        command.arg(format!("cd $KVMD_PST_DATA/tree; {script}"));
        committed(
            &mut stage,
            AFTER_EACH_CALL,
            script,
            "data/tree",
            &mut command,
        );
    }
    stage.finish()
}
