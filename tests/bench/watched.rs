//! Processor time of the daemon and of a `pst status --watch` that looks on, with sessions at an even
//! pace; against what the kernel alone takes for their remounts.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use pst::sys::mount::{Mode, switch_superblock};

use crate::clients::Session;
use crate::rig::{Rig, signal, start};
use crate::table::{Row, Samples};

const EVERY: Duration = Duration::from_millis(10);
const SESSIONS: usize = 200;
const ROUNDS: usize = 5;

/// 100 sessions a second, within another session and each for itself.
pub fn rows(rig: &Rig, by_hand: &Rig) -> Vec<Row> {
    // Of itself the rig keeps what is written, in a file on a disk.
    let watch = start(
        rig.command("sh")
            .args(["-c", "exec pst status --watch >/dev/null"]),
    );
    let socket = rig.socket();
    let pids = [rig.daemon_pid(), watch.pid()];
    let [mut overlapping, mut alone, mut bare] = [(); 3].map(|()| Samples::default());
    let own = std::process::id();
    for _ in 0..ROUNDS {
        let holder = Session::open(&socket);
        overlapping.push(share(&pids, || Session::open(&socket).close()));
        holder.close();
        alone.push(share(&pids, || Session::open(&socket).close()));
        bare.push(share(&[own], || switch(&by_hand.mount())));
    }
    signal(watch.pid(), "TERM");
    watch.end();
    let row = |name, what: &Samples| {
        Row::new(name)
            .rounds(ROUNDS)
            .measured(format!("{:.1} %", what.median()))
            .target("< 5 % of a core", what.median() < 5.0)
    };
    vec![
        row(
            "status --watch and daemon, at 100 sessions a second that overlap",
            &overlapping,
        ),
        row("  the same, each with its two remounts", &alone)
            .reference(format!("remounts alone {:.1} %", bare.median()))
            .ratio(alone.median() / bare.median()),
    ]
}

fn switch(mount: &Path) {
    let root = File::open(mount).expect("the storage");
    for mode in [Mode::ReadWrite, Mode::ReadOnly] {
        switch_superblock(root.as_fd(), mode).expect("a remount");
    }
}

/// What these processes take of a core, in percent, while something is done over and over.
fn share(pids: &[u32], each: impl Fn()) -> f64 {
    let before = processor_time(pids);
    let start = Instant::now();
    for number in 1..=SESSIONS {
        each();
        let next = EVERY * u32::try_from(number).expect("few");
        std::thread::sleep(next.saturating_sub(start.elapsed()));
    }
    let took = start.elapsed();
    let spent = processor_time(pids) - before;
    100.0 * spent.as_secs_f64() / took.as_secs_f64()
}

/// Of all of their threads so far. sched-stats, schedstat's first field: nanoseconds.
fn processor_time(pids: &[u32]) -> Duration {
    let threads = pids.iter().flat_map(|pid| {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("/proc");
        threads.map(|thread| thread.expect("/proc").path().join("schedstat"))
    });
    let times = threads.map(|path| {
        let text = fs::read_to_string(path).expect("schedstat");
        let first = text.split_whitespace().next().expect("a field");
        Duration::from_nanos(first.parse().expect("a number"))
    });
    times.sum()
}
