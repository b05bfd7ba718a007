//! The clients: each has one session after another, and does to it what chance
//! has it do; then it looks whether the promises were kept.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::rig::{Person, alive, children};
use crate::world::{Live, World, count};

/// What a tree may take from its end's beginning: the kill grace, what the supervisor
/// and then `pst run` have for it, and as much again for a busy machine.
pub const TREE_BOUND: Duration = Duration::from_secs(10);
/// What a session may take in all, with a daemon that comes and goes.
const SESSION_BOUND: Duration = Duration::from_secs(40);
const TICK: Duration = Duration::from_millis(4);
const SLOTS: u64 = 20;

/// Somebody who has sessions.
pub struct Client<'a> {
    pub world: &'a World,
    /// Its slots' prefix.
    pub name: String,
    /// `None`: root.
    pub who: Option<Person>,
    pub chance: Chance,
}

/// What is done to a session.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    Nothing,
    KillRun,
    KillSupervisor,
    Terminate,
    /// Killed when its time comes to rest, if its daemon's end does not end it.
    Linger,
    /// `pst run`, its supervisor, its command: those that are chosen stop for a while.
    Stop([bool; 3], Duration),
}

struct Plan {
    deed: Deed,
    when: Duration,
    lines: u64,
    width: u64,
    pause: u64,
    kind: String,
}

impl Plan {
    fn choose(chance: &mut Chance) -> Plan {
        let deed = match chance.below(16) {
            0 | 1 => Deed::KillRun,
            2 => Deed::KillSupervisor,
            3 => Deed::Terminate,
            4 => Deed::Linger,
            5..=7 => {
                let which = chance.below(7) + 1;
                let which = [which & 1 != 0, which & 2 != 0, which & 4 != 0];
                Deed::Stop(which, chance.milliseconds(400))
            }
            _ => Deed::Nothing,
        };
        let slow = chance.once_in(12);
        let mut kind = String::from("plain");
        for word in ["stubborn", "holding", "tree"] {
            // What it leaves when it ends by itself, of a TERM too, is left alone.
            let left = word == "tree" && deed == Deed::Terminate;
            if chance.once_in(3) && !left {
                kind += word;
            }
        }
        // Only what does not end by itself shows that it is ended.
        let fatal = matches!(deed, Deed::KillRun | Deed::KillSupervisor);
        if deed == Deed::Linger || fatal && chance.once_in(2) {
            kind += "endless";
        }
        Plan {
            deed,
            when: chance.milliseconds(150),
            lines: 1 + chance.below(5),
            width: 1 + chance.below(3000),
            pause: match slow {
                true => 400,
                false => chance.below(4) * 20,
            },
            kind,
        }
    }

    fn content(&self, session: u64) -> String {
        let width = usize::try_from(self.width).expect("small");
        let line = |line: u64| format!("{session} {line} {line:0width$}\n");
        (1..=self.lines).map(line).collect()
    }
}

impl Client<'_> {
    /// Sessions, until all is over.
    pub fn live(mut self) {
        while !self.world.over.load(Ordering::SeqCst) {
            if self.world.paused.load(Ordering::SeqCst) {
                count(&self.world.resting);
                while self.world.paused.load(Ordering::SeqCst) {
                    sleep(TICK);
                }
                self.world.resting.fetch_sub(1, Ordering::SeqCst);
            }
            self.session();
        }
    }

    fn session(&mut self) {
        let world = self.world;
        let plan = Plan::choose(&mut self.chance);
        let id = world.next_session();
        let slot = format!("{}.{}", self.name, self.chance.below(SLOTS));
        let content = plan.content(id);
        world
            .ledger
            .lock()
            .expect("lock")
            .try_version(&slot, &content);
        let mut canary = self.canary();
        let epoch = world.epoch();
        let live = Live {
            epoch,
            command: None,
            doomed: None,
        };
        world.sessions.lock().expect("lock").insert(id, live);
        let run = self.start(id, &slot, &plan, canary.id());
        let (status, hit) = self.see_to_its_end(id, run, &plan);
        let undisturbed = epoch.is_served() && world.epoch() == epoch;
        self.await_trees_end(id);
        // The command may have outlived its `run`, and seen the daemon's end then.
        let calm = undisturbed && world.epoch() == epoch;
        world.sessions.lock().expect("lock").remove(&id);
        if canary.try_wait().expect("wait").is_some() {
            world.violation(format!(
                "P5: session {id}: somebody in its caller's group was killed"
            ));
        }
        let _ = canary.kill();
        let _ = canary.wait();
        let harmless = !hit || matches!(plan.deed, Deed::Nothing | Deed::Stop(..));
        let must_succeed = undisturbed && harmless;
        self.judge(id, &plan, status, must_succeed, calm);
        if status.code() == Some(0) {
            count(&world.counts.acknowledged);
            let mut ledger = world.ledger.lock().expect("lock");
            ledger.acknowledge(&slot, &content);
            drop(ledger);
            if fs::read_to_string(world.data.join(&slot)).ok().as_ref() != Some(&content) {
                world.violation(format!(
                    "P4: session {id} returned 0 without its file {slot}"
                ));
            }
        }
        for end in ["pid", "failed", "stderr"] {
            let _ = fs::remove_file(world.reports.join(format!("{id}.{end}")));
        }
        if !undisturbed {
            sleep(self.chance.milliseconds(150)); // there may be no daemon
        }
    }

    /// Somebody in the process group that `pst run` will be in.
    fn canary(&self) -> Child {
        let mut sleep = self.world.command(self.who, "sleep".as_ref());
        sleep.arg("1000").stdin(Stdio::null()).process_group(0);
        sleep.spawn().expect("sleep")
    }

    fn start(&self, id: u64, slot: &str, plan: &Plan, group: u32) -> Child {
        let stderr = self.world.reports.join(format!("{id}.stderr"));
        let mut run = self.world.run(self.who);
        run.args(["sh", "-c", include_str!("command.sh"), "command", slot])
            .args([plan.lines, plan.width].map(|number| number.to_string()))
            .arg(format!("0.{:03}", plan.pause))
            .arg(&plan.kind)
            .env("PST_SOAK", id.to_string())
            .env("SOAK_REPORTS", &self.world.reports)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(stderr).expect("stderr"))
            .process_group(i32::try_from(group).expect("a pid"));
        run.spawn().expect("pst run")
    }

    /// Does the plan's deed, if its time comes while the session is there; gives
    /// `pst run`'s status, and whether the deed was done.
    fn see_to_its_end(&self, id: u64, mut run: Child, plan: &Plan) -> (ExitStatus, bool) {
        let start = Instant::now();
        let mut hit = false;
        loop {
            if let Some(status) = run.try_wait().expect("wait") {
                return (status, hit);
            }
            let resting = [&self.world.paused, &self.world.over];
            let time_has_come = match plan.deed {
                Deed::Linger => resting.iter().any(|rest| rest.load(Ordering::SeqCst)),
                _ => start.elapsed() >= plan.when,
            };
            if !hit && time_has_come {
                hit = self.act(id, run.id(), plan.deed);
            }
            let doomed = self
                .world
                .sessions
                .lock()
                .expect("lock")
                .get(&id)
                .and_then(|live| live.doomed);
            let late = doomed.is_some_and(|since| since.elapsed() > TREE_BOUND);
            if late || start.elapsed() > SESSION_BOUND {
                let why = if late { "after its daemon" } else { "in all" };
                self.world
                    .violation(format!("P5: session {id} lives too long {why}"));
                let _ = run.kill();
            }
            sleep(TICK);
        }
    }

    fn act(&self, id: u64, run: u32, deed: Deed) -> bool {
        let supervisor = children(run).into_iter().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "supervisor\n")
        });
        let counts = &self.world.counts;
        match (deed, supervisor) {
            (Deed::Nothing, _) => {}
            (Deed::KillRun | Deed::Linger, _) => {
                send(run, "KILL");
                count(&counts.clients_killed);
            }
            (Deed::KillSupervisor, Some(supervisor)) => {
                send(supervisor, "KILL");
                count(&counts.supervisors_killed);
            }
            (Deed::KillSupervisor, None) => return false, // not there yet
            (Deed::Terminate, _) => {
                send(run, "TERM");
                count(&counts.terminated);
            }
            (Deed::Stop(which, time), _) => {
                let command = self
                    .world
                    .sessions
                    .lock()
                    .expect("lock")
                    .get(&id)
                    .and_then(|live| live.command);
                let all = [Some(run), supervisor, command.map(|command| command.pid)];
                let chosen = all.into_iter().zip(which).filter(|(_, chosen)| *chosen);
                let chosen: Vec<u32> = chosen.filter_map(|(pid, _)| pid).collect();
                chosen.iter().for_each(|pid| send(*pid, "STOP"));
                sleep(time);
                chosen.iter().for_each(|pid| send(*pid, "CONT"));
                count(&counts.stopped);
            }
        }
        true
    }

    /// P5, P6: however `pst run` ended, nothing of its command's tree outlives it
    /// for long (a command that ends by itself leaves nothing either).
    fn await_trees_end(&self, id: u64) {
        let since = Instant::now();
        loop {
            let left = self.world.processes_of(id);
            if left.is_empty() {
                return count(&self.world.counts.trees_ended);
            }
            if since.elapsed() > TREE_BOUND {
                self.world
                    .violation(format!("P6: session {id} left {left:?} behind"));
                left.into_iter().for_each(|pid| send(pid, "KILL"));
                return;
            }
            sleep(TICK);
        }
    }

    /// P2, P3: with nothing in its way, a session succeeds; and no command sees a write fail while
    /// its daemon lives (`calm`).
    fn judge(&self, id: u64, plan: &Plan, status: ExitStatus, must_succeed: bool, calm: bool) {
        let failure = self.report(id, "failed");
        if must_succeed && status.code() != Some(0) || calm && !failure.is_empty() {
            let said = self.report(id, "stderr");
            self.world.violation(format!(
                "session {id} ({:?}) ended with {status}: {failure}{said}",
                plan.deed
            ));
        }
    }

    /// What a session has left of this kind.
    fn report(&self, id: u64, end: &str) -> String {
        fs::read_to_string(self.world.reports.join(format!("{id}.{end}"))).unwrap_or_default()
    }
}

/// Sends a signal; who is gone is no error.
fn send(pid: u32, name: &str) {
    if alive(pid) {
        let _ = std::process::Command::new("kill")
            .args([&format!("-{name}"), &pid.to_string()])
            .stderr(Stdio::null())
            .status();
    }
}
