//! Counts an idle daemon's system calls for a minute, in namespaces of its own, while the other
//! figures are measured.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::rig::{Job, Rig, Setup, start};
use crate::table::Row;

const TIME: Duration = Duration::from_secs(60);
/// Attaching interrupts waiting calls, so the tracer causes the calls of this time.
const ATTACHING: Duration = Duration::from_secs(2);

pub struct Silence {
    rig: Rig,
    tracer: Job,
    log: PathBuf,
    begun: Instant,
}

impl Silence {
    pub fn begin() -> Silence {
        let rig = Setup::any().own_world().start();
        rig.sh("echo x > $KVMD_PST_DATA/file").must(0);
        rig.await_state("ro");
        let log = rig.dir().join("calls");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-ttt", "-o"]).arg(&log);
        let tracer = start(strace.args(["-p", &rig.daemon_pid().to_string()]));
        tracer.await_stderr("attached");
        Silence {
            rig,
            tracer,
            log,
            begun: Instant::now(),
        }
    }

    /// Waits until the minute is over.
    pub fn end(self) -> Row {
        let left = (ATTACHING + TIME).saturating_sub(self.begun.elapsed());
        std::thread::sleep(left);
        let calls = calls(&fs::read_to_string(&self.log).expect("the log"));
        self.tracer.signal("INT");
        self.tracer.end();
        drop(self.rig);
        Row::new("system calls of the idle daemon in 60 s")
            .measured(calls.to_string())
            .target("0", calls == 0)
    }
}

/// The calls in the output of `strace -f -ttt`, from the end of attaching until a minute later.
fn calls(log: &str) -> usize {
    let time = |line: &str| line.split_whitespace().nth(1)?.parse::<f64>().ok();
    let first = log.lines().find_map(time).unwrap_or_default();
    let from = first + ATTACHING.as_secs_f64();
    let times = log.lines().filter_map(time);
    times
        .filter(|at| *at > from && *at <= from + TIME.as_secs_f64())
        .count()
}
