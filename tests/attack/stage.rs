//! A storage with a daemon, on which one trial after another takes place, and the judge of each: it looks from outside
//! at processes, superblock, image and status.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::attack::{Attack, has_begun};
use crate::plan::{Fault, Plan, Program};
use crate::process::{self, describe, send};
use crate::rig::wait::holds_within;
use crate::rig::{
    Fs, Job, Outcome, Rig, RunToEnd, Setup, alive, children, start, tool, wait_until,
};
use crate::session::Session;
use crate::tracer::{Seen, Tracer};

/// What anything here may take on a busy machine. The grace, the supervisor and `pst run` itself need four seconds.
const BOUND: Duration = Duration::from_secs(12);
/// A daemon that does not say READY because of its fault may serve all the same.
const SILENCE: Duration = Duration::from_millis(300);

/// Starts a process that waits until it may go on, so that it can be traced from its exec on. It is a grandchild of this
/// process: waitpid(2) on a child would also return its ptrace stops. Usage: sh -c GATE FIFO WORDS…
const GATE: &str = r#"(read -r _ <"$0"; exec "$@"); exit"#;

pub struct Stage {
    rig: Rig,
    /// The daemon that is not traced runs.
    serving: bool,
}

/// What a trial came to.
pub enum Verdict {
    Held,
    /// The calls that were seen; the planned one, if any, was not among them.
    NotReached(Vec<Seen>),
    Violated(String),
}

type Judged = Result<(), String>;

impl Stage {
    pub fn new() -> Stage {
        let rig = Setup::new(Fs::Ext4)
            .session("kill_grace = 0.3")
            .stopped()
            .start();
        tool(Command::new("mkfifo").arg(rig.dir().join("gate")));
        Stage {
            rig,
            serving: false,
        }
    }

    /// Ends it, without a last look if it is broken.
    pub fn end(mut self, broken: bool) {
        if broken {
            self.rig.ends_anyhow();
            self.forget_daemon();
            for pid in process::all().filter(|pid| self.rig.is_mine(*pid)) {
                send(pid, Signal::SIGKILL);
            }
        }
    }

    /// Without a plan nothing happens to the program, and its calls are returned.
    pub fn attack(&mut self, program: Program, plan: Option<Plan>) -> Verdict {
        match program {
            Program::Run => self.attack_run(plan),
            Program::Daemon => self.attack_daemon(plan),
        }
        .unwrap_or_else(Verdict::Violated)
    }

    fn attack_run(&mut self, plan: Option<Plan>) -> Result<Verdict, String> {
        self.serve();
        let mut session = Session::start(
            &self.rig,
            self.gated(self.rig.bin("kvmd-pstrun")),
            "attacked",
        );
        let run = gated_pid(&session.job);
        let mut attack = self.open_gate(run, Program::Run, plan);
        let partner = |victim| match victim == run {
            true => self.rig.daemon_pid(),
            false => run,
        };
        let ended = holds_within(BOUND, || {
            attack.tend(&partner);
            // A tree whose `pst run` or supervisor was killed has to end without that.
            if !attack.has_killed() {
                session.release();
            }
            let alone = attack.left_alone().is_some();
            alone || !session.job.is_running()
        });
        if let Some(victim) = attack.left_alone() {
            self.judge_alone(victim, run, &session, &attack)?;
            attack.go_on();
        }
        let over = ended
            && holds_within(BOUND, || {
                session.release(); // it may have opened a session after all
                !session.job.is_running()
            });
        self.judge_session(session, over, &attack)?;
        if !alive(self.rig.daemon_pid()) {
            self.forget_daemon();
            self.serve();
        }
        self.judge_rest()?;
        Ok(verdict(attack))
    }

    fn attack_daemon(&mut self, plan: Option<Plan>) -> Result<Verdict, String> {
        if self.serving {
            self.rig.stop_daemon();
            self.serving = false;
        }
        let notify = self.rig.dir().join("ready.sock");
        let _ = fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).expect("notify socket");
        ready.set_nonblocking(true).expect("notify socket");
        let words = self.rig.daemon_words();
        let mut daemon = self.gated(&words[0]);
        daemon
            .args(&words[1..])
            .env_remove("RUST_BACKTRACE")
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null());
        let mut daemon = start(&mut daemon);
        let pid = gated_pid(&daemon);
        let mut attack = self.open_gate(pid, Program::Daemon, plan);
        let nobody = |_| 0;
        let mut struck = None;
        let up = holds_within(BOUND, || {
            attack.tend(&nobody);
            if attack.tracer.victim().is_some() {
                struck.get_or_insert_with(Instant::now);
            }
            let late = struck.is_some_and(|struck| struck.elapsed() > SILENCE);
            says_ready(&ready)
                || !daemon.is_running()
                || (late && UnixStream::connect(self.rig.socket()).is_ok())
        });
        if !up {
            return Err(format!(
                "the daemon is neither ready nor over: {}",
                daemon.stderr()
            ));
        }
        if alive(pid) {
            self.use_daemon(&daemon, pid, &mut attack)?;
        }
        let ended = end_daemon(daemon, pid, &mut attack)?;
        if ended.status.code() == Some(0) {
            self.judge_rest_of_storage()
                .map_err(|text| format!("{text}; the daemon: {ended:?}"))?;
        }
        // Another one finds nothing in its way.
        self.serve();
        self.judge_rest()
            .map_err(|text| format!("{text}; the daemon before: {ended:?}"))?;
        Ok(verdict(attack))
    }

    /// A session with the traced daemon; and another one, if it has met its fault and lives.
    fn use_daemon(&self, daemon: &Job, pid: u32, attack: &mut Attack) -> Judged {
        let mut session = self.session("attacked");
        let run = session.job.pid();
        let ended = holds_within(BOUND, || {
            attack.tend(&|_| run);
            if alive(pid) {
                session.release();
            }
            !session.job.is_running()
        });
        if let Some(victim) = attack.left_alone() {
            let dead = holds_within(BOUND, || session.processes().is_empty());
            attack.go_on();
            if !dead {
                return Err(format!(
                    "the daemon {victim} was stopped and `pst run` killed, and its tree lives"
                ));
            }
        }
        self.judge_session(session, ended, attack)
            .map_err(|text| format!("{text}; the daemon: {}", daemon.stderr()))?;
        let lives_on = !matches!(attack.fault(), None | Some(Fault::Kill | Fault::Term));
        if lives_on && alive(pid) {
            wait_until("a stopped daemon goes on", || {
                attack.tend(&|_| 0);
                attack.has_gone_on()
            });
            if attack.may_fail_the_storage() && self.rig.state() == "failed" {
                // Its reason tells the user to.
                self.rig.umount(&[]);
                self.rig.do_mount();
                self.rig.prepare().must(0);
                self.rig.await_state("ro");
            }
            match self.judge_rest() {
                Err(text) if alive(pid) => {
                    return Err(format!("{text}; the daemon: {}", daemon.stderr()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// P5 and P6 for what nobody continues.
    fn judge_alone(&mut self, victim: u32, run: u32, session: &Session, attack: &Attack) -> Judged {
        let dead = holds_within(BOUND, || {
            let left = session.processes();
            // A supervisor without a session may stay, because the storage rests all the same.
            let waits = |pid: u32| !session.has_started() && children(run).contains(&pid);
            let stays = |pid: u32| match victim == run {
                true => pid == session.job.pid() || pid == victim || waits(pid),
                false => pid == victim && attack.begins(),
            };
            left.iter().all(|pid| stays(*pid))
        });
        if !dead {
            return Err(format!(
                "P5/P6: {} was stopped and its partner killed, and these live: {}",
                describe(&[victim]),
                describe(&session.processes())
            ));
        }
        if victim == run {
            self.forget_daemon();
            self.serve();
        }
        self.judge_rest_of_storage().map_err(|text| {
            format!(
                "{} was stopped and its partner killed: {text}",
                describe(&[victim])
            )
        })
    }

    /// What `pst run` said, and what became of its tree and of its files.
    fn judge_session(&self, session: Session, over: bool, attack: &Attack) -> Judged {
        let ended = self.judge_end(session, over)?;
        attack.judge_end(&ended)
    }

    /// P4 to P6 for a session that is to be over.
    fn judge_end(&self, session: Session, over: bool) -> Result<Outcome, String> {
        let left = || describe(&session.processes());
        if !over {
            let said = session.job.stderr();
            return Err(format!("`pst run` does not end: {said}; {}", left()));
        }
        let dead = holds_within(BOUND, || session.processes().is_empty());
        let (left, text) = (left(), session.text());
        let ended = session.job.end();
        if !dead {
            return Err(format!("P5/P6: these live: {left}; {ended:?}"));
        }
        let file = session.file;
        if ended.status.code() == Some(0) && self.on_image(file) != text {
            return Err(format!("P4: {file} is not whole in the image: {ended:?}"));
        }
        Ok(ended)
    }

    /// The storage is at rest, and a session that nobody disturbs does its work.
    fn judge_rest(&self) -> Judged {
        self.judge_rest_of_storage()?;
        let mut session = self.session("after");
        let over = holds_within(BOUND, || {
            session.release();
            !session.job.is_running()
        });
        match self.judge_end(session, over) {
            Ok(ended) if ended.status.code() == Some(0) => self.judge_rest_of_storage(),
            Ok(ended) => Err(format!("the next session fails: {ended:?}")),
            Err(text) => Err(format!("the next session: {text}")),
        }
    }

    /// P1.
    fn judge_rest_of_storage(&self) -> Judged {
        let rests = || self.rig.superblock() == "ro" && !self.needs_recovery();
        match holds_within(BOUND, rests) {
            true => Ok(()),
            false => Err(format!(
                "P1: the superblock is {}, needs_recovery is {}; status: {}; log: {}",
                self.rig.superblock(),
                self.needs_recovery(),
                self.rig.pst(["status"]).to_end().text(),
                if self.serving {
                    self.rig.log()
                } else {
                    String::new()
                },
            )),
        }
    }

    /// A daemon that is not traced.
    fn serve(&mut self) {
        if !self.serving {
            self.rig.start_daemon();
            self.serving = true;
        }
    }

    fn forget_daemon(&mut self) {
        if self.serving {
            self.serving = false;
            self.rig.kill_daemon();
        }
    }

    fn session(&self, file: &'static str) -> Session {
        let run = self.rig.command(self.rig.bin("kvmd-pstrun"));
        Session::start(&self.rig, run, file)
    }

    /// A program that starts when the gate is opened.
    fn gated(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.rig.command("sh");
        command.args(["-c", GATE]).arg(self.rig.dir().join("gate"));
        command.arg(program);
        command
    }

    fn open_gate(&self, pid: u32, program: Program, plan: Option<Plan>) -> Attack {
        let tracer = Tracer::start(pid, program, plan);
        fs::write(self.rig.dir().join("gate"), "\n").expect("gate");
        Attack::new(tracer, plan)
    }

    fn image(&self) -> PathBuf {
        self.rig.dir().join("image")
    }

    fn needs_recovery(&self) -> bool {
        let mut dumpe2fs = Command::new("dumpe2fs");
        tool(dumpe2fs.arg("-h").arg(self.image())).contains("needs_recovery")
    }

    /// What a file of the data directory has on the medium.
    fn on_image(&self, file: &str) -> String {
        let mut debugfs = Command::new("debugfs");
        debugfs.args(["-R", &format!("cat /data/{file}")]);
        let output = debugfs.arg(self.image()).output().expect("debugfs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Stops the daemon, if it is there, as systemd would.
fn end_daemon(mut daemon: Job, pid: u32, attack: &mut Attack) -> Result<Outcome, String> {
    let mut asked = false;
    let ended = holds_within(BOUND, || {
        attack.tend(&|_| 0);
        let running = daemon.is_running();
        if running && !asked && alive(pid) {
            send(pid, Signal::SIGTERM);
            asked = true;
        }
        !running
    });
    if !ended {
        return Err(format!("the daemon does not end: {}", daemon.stderr()));
    }
    let ended = daemon.end();
    attack.judge_end(&ended)?;
    let code = ended.status.code();
    if attack.fault() == Some(Fault::Term) && has_begun(&ended.stderr) && code != Some(0) {
        return Err(format!("the daemon ends badly: {ended:?}"));
    }
    Ok(ended)
}

fn says_ready(notify: &UnixDatagram) -> bool {
    let mut buffer = [0; 4096];
    let mut ready = false;
    while let Ok(len) = notify.recv(&mut buffer) {
        ready |= String::from_utf8_lossy(&buffer[..len])
            .lines()
            .any(|line| line == "READY=1");
    }
    ready
}

fn verdict(attack: Attack) -> Verdict {
    match attack.tracer.victim() {
        Some(_) => Verdict::Held,
        None => Verdict::NotReached(attack.tracer.calls()),
    }
}

/// The process that waits at the gate.
fn gated_pid(job: &Job) -> u32 {
    let mut found = None;
    wait_until("a process is at the gate", || {
        found = children(job.pid()).first().copied();
        found.is_some()
    });
    found.expect("found")
}
