//! Processor time of the daemon and of a `pst status --watch`, with sessions at an even pace, compared
//! to the kernel's time for the same remounts.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use pst::sys::mount::{Mode, switch_superblock};

use crate::clients::Server;
use crate::rig::{Rig, signal, start, wait_until};
use crate::table::{Row, Samples};

const EVERY: Duration = Duration::from_millis(10);
const SESSIONS: usize = 200;
const ROUNDS: usize = 5;

/// Measures 100 sessions a second, both within another session and each on its own.
pub fn rows(rig: &mut Rig, by_hand: &Rig) -> Vec<Row> {
    rig.stop_daemon();
    scheduled_normally(|| {
        rig.start_daemon();
        measure(rig, by_hand)
    })
}

fn measure(rig: &Rig, by_hand: &Rig) -> Vec<Row> {
    let server = Server::of(rig);
    let daemon = rig.daemon_pid();
    let listening = sockets_of(daemon);
    let [mut added, mut overlapping, mut alone, mut bare] = [(); 4].map(|()| Samples::default());
    for _ in 0..ROUNDS {
        let unwatched = share(&[daemon], || server.open().close());
        // The rig would keep the output in a file on a disk.
        let watch = start(
            rig.command("sh")
                .args(["-c", "exec pst status --watch --json >/dev/null"]),
        );
        wait_until("it is connected", || sockets_of(daemon) > listening);
        let both = [daemon, watch.pid()];
        let watched = share(&both, || server.open().close());
        added.push(watched - unwatched);
        alone.push(watched);
        let holder = server.open();
        overlapping.push(share(&both, || server.open().close()));
        holder.close();
        signal(watch.pid(), "TERM");
        watch.end();
        let own = std::process::id();
        bare.push(share(&[own], || switch(&by_hand.mount())));
    }
    let row = |name, what: &Samples| {
        Row::new(name)
            .rounds(ROUNDS)
            .measured(format!("{:.1} % of a core", what.median()))
    };
    vec![
        row(
            "status --watch and daemon, 100 overlapping sessions a second",
            &overlapping,
        ),
        row("  the same, not overlapping", &alone)
            .reference(format!(
                "remounts alone {:.1} %, the watch {:.1} %",
                bare.median(),
                added.median()
            ))
            .ratio(alone.median() / bare.median()),
    ]
}

fn sockets_of(pid: u32) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("/proc");
    let targets = descriptors.filter_map(|one| fs::read_link(one.ok()?.path()).ok());
    targets
        .filter(|target| target.as_os_str().as_bytes().starts_with(b"socket:"))
        .count()
}

/// Calls `what` with this thread and its children scheduled normally: in real time a wake-up takes
/// twice as much of the processor. sched(7)
fn scheduled_normally<T>(what: impl FnOnce() -> T) -> T {
    let mut parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the calling thread's own policy; `parameter` is live and of the type that is read and
    // written.
    let (policy, code) = unsafe {
        let code = libc::sched_getparam(0, &raw mut parameter);
        (libc::sched_getscheduler(0), code)
    };
    assert!(policy >= 0 && code == 0, "sched_getscheduler");
    let be = |policy, parameter: libc::sched_param| {
        // SAFETY: as above.
        let code = unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) };
        assert_eq!(code, 0, "sched_setscheduler");
    };
    be(libc::SCHED_OTHER, libc::sched_param { sched_priority: 0 });
    let out = what();
    be(policy, parameter);
    out
}

fn switch(mount: &Path) {
    let root = File::open(mount).expect("the storage");
    for mode in [Mode::ReadWrite, Mode::ReadOnly] {
        switch_superblock(root.as_fd(), mode).expect("a remount");
    }
}

/// The part of a core that these processes take while `each` is called at an even pace, in percent.
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

/// The processor time of all threads of these processes: the first field of schedstat, nanoseconds.
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
