//! Processor time of the daemon and of a `pst status --watch` that looks on, with sessions at an even
//! pace; against what the kernel alone takes for their remounts.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use pst::sys::mount::{Mode, switch_superblock};

use crate::clients::Session;
use crate::rig::{Job, Rig, signal, start, tool, wait_until};
use crate::table::{Row, Samples};

const EVERY: Duration = Duration::from_millis(10);
const SESSIONS: usize = 200;
const ROUNDS: usize = 5;

/// 100 sessions a second, within another session and each for itself.
pub fn rows(rig: &mut Rig, by_hand: &Rig) -> Vec<Row> {
    rig.stop_daemon();
    be_scheduled(&["-o", "-p", "0"]); // and what is started now
    rig.start_daemon();
    let socket = rig.socket();
    let [mut own, mut overlapping, mut alone, mut bare] = [(); 4].map(|()| Samples::default());
    for _ in 0..ROUNDS {
        let daemon = [rig.daemon_pid()];
        let unwatched = share(&daemon, || Session::open(&socket).close());
        let watch = watch(rig);
        let both = [daemon[0], watch.pid()];
        let watched = share(&both, || Session::open(&socket).close());
        own.push(watched - unwatched);
        alone.push(watched);
        let holder = Session::open(&socket);
        overlapping.push(share(&both, || Session::open(&socket).close()));
        holder.close();
        signal(watch.pid(), "TERM");
        watch.end();
        bare.push(share(&[std::process::id()], || switch(&by_hand.mount())));
    }
    be_scheduled(&["-f", "-p", "1"]);
    let row = |name, what: &Samples| {
        Row::new(name)
            .rounds(ROUNDS)
            .measured(format!("{:.1} %", what.median()))
            .target("< 5 % of a core", what.median() < 5.0)
    };
    vec![
        row("at 100 sessions a second: what status --watch adds", &own),
        row(
            "  daemon and status --watch, sessions overlap",
            &overlapping,
        ),
        row("  the same, each session has its two remounts", &alone)
            .reference(format!("remounts alone {:.1} %", bare.median()))
            .ratio(alone.median() / bare.median()),
    ]
}

/// One that the daemon has heard.
fn watch(rig: &Rig) -> Job {
    let connections = || {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", rig.daemon_pid()));
        let targets = descriptors
            .expect("/proc")
            .filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok());
        targets
            .filter(|target| target.as_os_str().as_bytes().starts_with(b"socket:"))
            .count()
    };
    let before = connections();
    // Of itself the rig keeps what is written, in a file on a disk.
    let watch = start(
        rig.command("sh")
            .args(["-c", "exec pst status --watch >/dev/null"]),
    );
    wait_until("it watches", || connections() > before);
    watch
}

/// As a service is, and not in real time, where a wake-up takes twice the processor's time.
fn be_scheduled(how: &[&str]) {
    let own = std::process::id().to_string();
    tool(Command::new("chrt").args(how).arg(own));
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
