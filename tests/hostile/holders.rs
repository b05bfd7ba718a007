//! P9 and P10: processes that keep the storage from going read-only and do what
//! they can not to be found, or to make the search for them a burden.

use std::fs;
use std::process::Stdio;

use crate::clients::attack;
use crate::needs_root;
use crate::rig::{Fs, Rig, Setup, start, wait_until};

/// The holders that `pst status --json` names, as one text.
fn holders(rig: &Rig) -> String {
    rig.status()["holders"].to_string()
}

#[test]
fn p10_a_holder_is_named_whatever_others_have_open() {
    needs_root!("processes of others");
    let rig = Setup::new(Fs::Ext4).start();
    let hiding = attack(&rig, None, "hiding");
    hiding.await_stdout("begun");
    let session = rig.session();
    let mut holder = rig.command("sh");
    let script = format!(
        "exec 7>{}; echo holds; exec cat",
        rig.data().join("leftover").display()
    );
    let holder = start(holder.args(["-c", &script]).stdin(Stdio::piped()));
    holder.await_stdout("holds");
    session.end().must(0);
    rig.await_state("stuck");
    wait_until("it is named", || holders(&rig).contains("leftover"));
    let status = fs::read_to_string(format!("/proc/{}/status", rig.daemon_pid())).expect("status");
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    println!("{peak:?}");
    let peak = peak.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    assert!(peak.expect("VmHWM") < 16 * 1024, "{peak:?}");
    holder.end().must(0);
    rig.await_superblock("ro");
    hiding.end().must(0);
}
