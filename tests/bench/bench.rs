//! `make bench`: every figure that is promised about speed, size, memory and wear, measured in one
//! run against what the kernel and the shell need, as one table. Nothing is asserted here.
//!
//! The storage is an ext4 of 256 MiB with blocks of 1 KiB on a loop device in memory, mounted as on a PiKVM.
//! What is compared is run in turns; times and rates are medians.

#![allow(clippy::expect_used, unsafe_code)] // no part of the program

mod clients;
mod processes;
#[path = "../e2e/rig/mod.rs"]
#[allow(dead_code, unused_imports)] // shared; each of its users takes a part
mod rig;
mod silence;
mod table;
mod watched;
mod wear;

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use clients::{Session, churn, churn_durably};
use rig::{Fs, Rig, Setup};
use table::{Row, Samples, milliseconds, rate};

const RATE_ROUNDS: usize = 10;
const RATE_TIME: Duration = Duration::from_millis(400);
const KIB: f64 = 1024.0;

fn main() {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == "bare") {
        return processes::be_bare(words);
    }
    if rig::lacks_root() {
        eprintln!("bench: only root can measure: it takes a loop device");
        std::process::exit(1);
    }
    pst::sys::current::raise_descriptor_limit().expect("setrlimit");
    let rows = measure();
    let text = format!(
        "Medians; an ext4 of 256 MiB on a loop device in memory, blocks of 1 KiB; {}, {} processors.\n\n{}",
        kernel(),
        std::thread::available_parallelism().map_or(0, usize::from),
        table::render(&rows)
    );
    print!("{text}");
    if let Some(path) = std::env::var_os("PST_BENCH_TABLE") {
        fs::write(&path, text).expect("the table's file");
    }
}

fn measure() -> Vec<Row> {
    let silence = silence::Silence::begin();
    let mut rig = storage();
    let mut rows = vec![processes::starts(&rig)];
    rig.start_daemon();
    let memory = processes::idle_memory(&rig);
    let by_hand = storage();
    rows.splice(0..0, processes::runs(&rig, &by_hand));
    rows.extend(rates(&rig));
    rows.extend(durable_rates(&mut rig));
    rows.push(memory);
    rows.extend(processes::crowds(&rig));
    rows.push(processes::run_memory(&rig));
    rows.extend(watched::rows(&mut rig, &by_hand));
    drop(by_hand);
    rows.extend(wear::rows(&mut rig));
    drop(rig);
    rows.push(silence.end());
    rows.extend(sizes());
    rows
}

/// The storage that everything is measured on; no daemon yet.
fn storage() -> Rig {
    let image = |rig: &Rig| {
        let path = rig.dir().join("backing/image");
        File::create(&path)
            .and_then(|file| file.set_len(256 << 20))
            .expect("image");
        path
    };
    // Names that `files` knows: for others the daemon would load what asks systemd for them.
    let setup = Setup::new(Fs::Ext4)
        .head("group = \"root\"")
        .storage("user = \"root\"\ngroup = \"root\"");
    // In memory: what else uses the disk must not count.
    let rig = setup.backed_by_tmpfs(300).on(image).stopped().start();
    let head = rig::tool(std::process::Command::new("dumpe2fs").args(["-h", rig.device()]));
    let block = head
        .lines()
        .find_map(|line| line.strip_prefix("Block size:"));
    assert_eq!(block.map(str::trim), Some("1024"), "mke2fs chose otherwise");
    rig
}

/// Sessions that open, are granted and are gone, while another holds the storage.
fn rates(rig: &Rig) -> Vec<Row> {
    let socket = rig.socket();
    let holder = Session::open(&socket);
    let [mut alone, mut crowd, mut waits] = [(); 3].map(|()| Samples::default());
    for _ in 0..RATE_ROUNDS {
        alone.push(churn(&socket, 1, RATE_TIME).0);
        let (rate, waited) = churn(&socket, 100, RATE_TIME);
        crowd.push(rate);
        waits.append(waited);
    }
    holder.close();
    let p99 = waits.quantile(0.99);
    vec![
        Row::new("open, granted, gone; one after another")
            .rounds(RATE_ROUNDS)
            .measured(rate(alone.median()))
            .target(">= 18000/s", alone.median() >= 18000.0),
        Row::new("  the same, 100 at once")
            .rounds(RATE_ROUNDS)
            .measured(rate(crowd.median()))
            .target(">= 40000/s", crowd.median() >= 40000.0),
        Row::new("  their wait for the grant, p99")
            .rounds(waits.count())
            .measured(milliseconds(p99))
            .target("<= 10 ms", p99 <= 10.0),
    ]
}

/// Sessions that write 4 KiB each and hear that it is on the medium. How many syncs that took says
/// a daemon that logs them.
fn durable_rates(rig: &mut Rig) -> Vec<Row> {
    let (socket, data) = (rig.socket(), rig.data());
    let holder = Session::open(&socket);
    let [mut alone, mut crowd] = [(); 2].map(|()| Samples::default());
    for _ in 0..RATE_ROUNDS {
        alone.push(churn_durably(&socket, &data, 1, RATE_TIME).0);
        crowd.push(churn_durably(&socket, &data, 64, RATE_TIME).0);
    }
    holder.close();
    restart_logging(rig);
    let holder = Session::open(&socket);
    let (_, sessions) = churn_durably(&socket, &data, 64, RATE_TIME);
    holder.close();
    let syncs = rig.log().matches(" Synced(").count();
    rig.stop_daemon();
    rig.start_daemon();
    let ratio = crowd.median() / alone.median();
    let shared = sessions as f64 / syncs as f64;
    vec![
        Row::new("durable sessions of 4 KiB, 64 at once")
            .rounds(RATE_ROUNDS)
            .measured(rate(crowd.median()))
            .reference(format!("one after another {}", rate(alone.median())))
            .ratio(ratio)
            .target(">= 7 x", ratio >= 7.0),
        Row::new("  sessions to a sync")
            .rounds(1)
            .measured(format!("{shared:.1}"))
            .reference(format!("{sessions} to {syncs}"))
            .target(">= 8", shared >= 8.0),
    ]
}

/// A new daemon, whose log tells of every remount and sync.
fn restart_logging(rig: &mut Rig) {
    rig.stop_daemon();
    let mut logging = rig.daemon_command();
    logging.env("RUST_LOG", "debug");
    rig.start_daemon_as(logging);
}

/// The binaries; those besides our own where `PST_BENCH_BINARIES` says, if they were built.
fn sizes() -> Vec<Row> {
    let binaries = std::env::var("PST_BENCH_BINARIES").unwrap_or_default();
    let mut rows = vec![size("x86-64", env!("CARGO_BIN_EXE_pst"), true)];
    for named in binaries.split_whitespace() {
        let (name, path) = named.split_once('=').expect("NAME=PATH");
        let all = !name.ends_with("-small");
        rows.push(size(name.trim_end_matches("-small"), path, all));
    }
    rows
}

fn size(processor: &str, path: &str, all: bool) -> Row {
    let (what, target, most) = match all {
        true => ("all features", "<= 1.1 MiB", 1.1 * KIB),
        false => ("without kvmd's API", "<= 850 KiB", 850.0),
    };
    let row = Row::new(&format!("binary, {processor}, {what}"));
    match Path::new(path).metadata() {
        Ok(metadata) => {
            let size = metadata.len() as f64 / KIB;
            row.measured(table::kibibytes(size))
                .target(target, size <= most)
        }
        Err(_) => row.missing(target, "not built"),
    }
}

fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}
