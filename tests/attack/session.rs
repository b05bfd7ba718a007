//! A session, whose command writes, waits until it is released, and writes again.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::process;
use crate::rig::{Job, Rig, start};

pub struct Session {
    pub job: Job,
    /// The name of its file in the data directory.
    pub file: &'static str,
    /// Marks its processes, in their environment, and its lines.
    mark: String,
    /// The command creates this file once it has written.
    started: PathBuf,
    released: bool,
}

impl Session {
    /// Starts `run`, which is a `pst run` without a command.
    pub fn start(rig: &Rig, mut run: Command, file: &'static str) -> Session {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}-{number}", std::process::id());
        let started = rig.dir().join("started");
        let _ = fs::remove_file(&started); // of the session before
        let script = rig.dir().join("command.sh");
        fs::write(&script, include_str!("command.sh")).expect("command.sh");
        run.args(["--", "sh"])
            .arg(script)
            .arg(file)
            .env_remove("RUST_BACKTRACE")
            .env("ATTACK", &mark)
            .env("ATTACK_STARTED", &started)
            .stdin(Stdio::piped());
        Session {
            job: start(&mut run),
            file,
            mark,
            started,
            released: false,
        }
    }

    pub fn has_started(&self) -> bool {
        self.started.exists()
    }

    /// Lets the command go on to its end, if it has started.
    pub fn release(&mut self) {
        if !self.released && self.has_started() {
            self.job.release();
            self.released = true;
        }
    }

    /// Returns its living processes, `pst run` included.
    pub fn processes(&self) -> Vec<u32> {
        process::marked(&format!("ATTACK={}", self.mark))
    }

    /// Returns what its file must contain if `pst run` returns 0.
    pub fn text(&self) -> String {
        let line = |part| format!("{} {part} {:020000}\n", self.mark, 0);
        ["first", "second"].map(line).concat()
    }
}
