//! Chaos: clients of three users, some killed, some stopped, some slow; the
//! daemon killed, stopped, frozen and started again at random; and from outside
//! a look at P1 to P6 the whole time, and at every acknowledged write. `make
//! soak` runs it, for SOAK_SECONDS, from the printed SOAK_SEED.

#![allow(clippy::expect_used)] // all of it is tests, not only what bears the attribute

mod chance;
mod client;
mod ledger;
mod observer;
#[path = "../e2e/rig/mod.rs"]
#[allow(dead_code, unused_imports)] // the end-to-end tests use all of it
mod rig;
mod world;

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chance::Chance;
use client::{Client, TREE_BOUND};
use rig::{BOUND, Fs, MEMBER, PRIMARY, Person, Rig, RunToEnd, Setup};
use world::{Process, World};

const PEOPLE: [Option<Person>; 3] = [None, Some(MEMBER), Some(PRIMARY)];
const CLIENTS: usize = 6;

#[test]
#[ignore = "takes a minute: `make soak` runs it"]
fn p1_to_p6_hold_in_chaos() {
    needs_root!("a loop device");
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse().expect(name))
    };
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock")
            .as_secs()
    };
    let seed = number("SOAK_SEED").unwrap_or_else(now);
    let seconds = number("SOAK_SECONDS").unwrap_or(60);
    println!("soak: SOAK_SEED={seed} SOAK_SECONDS={seconds}");
    let rig = Setup::new(Fs::Ext4).session("kill_grace = 0.3").start();
    let world = World::new(&rig);
    let mut soak = Soak {
        chance: Chance::new(seed),
        world: &world,
        rig,
        daemons: Daemons::default(),
        files_checked: 0,
        rests: 0,
    };
    std::thread::scope(|scope| {
        let over = Over(&world);
        for number in 0..CLIENTS {
            let client = Client {
                world: &world,
                name: format!("client{number}"),
                who: PEOPLE[number % PEOPLE.len()],
                chance: soak.chance.branch(),
            };
            scope.spawn(|| client.live());
        }
        scope.spawn(|| observer::observe(&world));
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            soak.chaos();
            soak.rest();
        }
        drop(over);
    });
    soak.last_look();
    soak.summarise(seed, seconds);
    assert_eq!(world.violations(), 0, "SOAK_SEED={seed}");
}

/// Ends the threads, also when this one panics.
struct Over<'a>(&'a World);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
        self.0.paused.store(false, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct Daemons {
    killed: u64,
    stopped: u64,
    frozen: u64,
    slowest_stop: Duration,
}

struct Soak<'a> {
    chance: Chance,
    world: &'a World,
    rig: Rig,
    daemons: Daemons,
    files_checked: usize,
    rests: u64,
}

impl Soak<'_> {
    /// A few seconds in which the daemon is not left in peace.
    fn chaos(&mut self) {
        let until = Instant::now() + Duration::from_secs(1) + self.chance.milliseconds(3000);
        while Instant::now() < until {
            let peace = self.chance.milliseconds(900);
            sleep(peace);
            match self.chance.below(4) {
                0 => self.kill_daemon(),
                1 => self.stop_daemon(),
                2 => self.freeze_daemon(),
                _ => {}
            }
        }
    }

    fn kill_daemon(&mut self) {
        self.world.next_epoch();
        self.rig.kill_daemon();
        self.daemons.killed += 1;
        self.replace_daemon();
    }

    fn stop_daemon(&mut self) {
        self.world.next_epoch();
        let asked = Instant::now();
        self.rig.signal_daemon("TERM");
        let ended = self.rig.end_daemon();
        self.daemons.slowest_stop = self.daemons.slowest_stop.max(asked.elapsed());
        self.daemons.stopped += 1;
        if ended.status.code() != Some(0) || self.world.is_writable() != Some(false) {
            self.world
                .violation(format!("P1: the daemon left it writable: {ended:?}"));
        }
        self.replace_daemon();
    }

    /// What the old daemon granted is to end; the new one comes at once or later.
    fn replace_daemon(&mut self) {
        for live in self.world.sessions.lock().expect("lock").values_mut() {
            if live.command.is_some_and(Process::is_alive) {
                live.doomed.get_or_insert(Instant::now());
            }
        }
        if !self.chance.once_in(3) {
            sleep(self.chance.milliseconds(500));
        }
        self.rig.start_daemon();
        self.world.next_epoch();
    }

    fn freeze_daemon(&mut self) {
        self.rig.signal_daemon("STOP");
        sleep(self.chance.milliseconds(700));
        self.rig.signal_daemon("CONT");
        self.daemons.frozen += 1;
    }

    /// All clients at rest: P1, and P4 for all that was ever acknowledged.
    fn rest(&mut self) {
        self.world.paused.store(true, Ordering::SeqCst);
        let rested = rig::wait::holds_within(6 * BOUND, || {
            self.world.resting.load(Ordering::SeqCst) == CLIENTS as u64
        });
        assert!(rested, "a client does not come to rest");
        // The kernel shows the flag a moment before the journal's end is written.
        let quiet = rig::wait::holds_within(TREE_BOUND, || {
            self.world.is_writable() == Some(false) && !self.rig.needs_recovery()
        });
        if !quiet {
            let status = self.rig.status();
            self.world
                .violation(format!("P1: nobody has a session, and {status}"));
        }
        self.check(self.rig.data().as_path(), "in the storage");
        self.check_copy();
        if self.world.is_writable() != Some(false) {
            self.world
                .violation("P1: it became writable for nobody".into());
        }
        self.rests += 1;
        self.world.paused.store(false, Ordering::SeqCst);
        rig::wait_until("the clients go on", || {
            self.world.resting.load(Ordering::SeqCst) == 0
        });
    }

    /// As if the power were cut now: the device's bytes, without the kernel's help.
    fn check_copy(&mut self) {
        let (copy, dump) = (self.rig.dir().join("copy"), self.rig.dir().join("dump"));
        let mut cp = Command::new("cp");
        cp.arg("--sparse=always")
            .arg(self.rig.dir().join("image"))
            .arg(&copy);
        cp.to_end().must(0);
        let checked = Command::new("e2fsck").arg("-fn").arg(&copy).to_end();
        if checked.status.code() != Some(0) {
            self.world
                .violation(format!("P1: a power cut costs: {checked:?}"));
        }
        std::fs::create_dir(&dump).expect("dump");
        let request = format!("rdump /data {}", dump.display());
        Command::new("debugfs")
            .args(["-R", &request])
            .arg(&copy)
            .to_end()
            .must(0);
        self.check(&dump.join("data"), "on the medium");
        std::fs::remove_dir_all(&dump).expect("dump");
    }

    fn check(&mut self, data: &std::path::Path, place: &str) {
        let ledger = self.world.ledger.lock().expect("lock");
        for fault in ledger.faults_in(data) {
            self.world.violation(format!("P4: {place}: {fault}"));
        }
        self.files_checked += ledger.acknowledged();
    }

    /// The daemon ends, and everything is there after a mount from the device.
    fn last_look(&mut self) {
        self.rig.stop_daemon();
        self.rig.umount(&[]);
        self.rig.do_mount();
        self.check(self.rig.data().as_path(), "mounted anew");
    }

    fn summarise(&self, seed: u64, seconds: u64) {
        let counts = &self.world.counts;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        println!(
            "soak: seed {seed}, {seconds} s: {} sessions, {} acknowledged; clients: {} killed, {} supervisors killed, \
             {} terminated, {} stopped; daemons: {} killed, {} stopped (slowest {:?}), {} frozen; \
             {} times seen in use, {} times at rest, {} trees ended, {} files compared; violations: {}",
            get(&counts.sessions),
            get(&counts.acknowledged),
            get(&counts.clients_killed),
            get(&counts.supervisors_killed),
            get(&counts.terminated),
            get(&counts.stopped),
            self.daemons.killed,
            self.daemons.stopped,
            self.daemons.slowest_stop,
            self.daemons.frozen,
            get(&counts.seen_in_use),
            self.rests,
            get(&counts.trees_ended),
            self.files_checked,
            self.world.violations()
        );
    }
}
