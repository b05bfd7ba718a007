//! `make bench`: measures speed, size, memory and wear in one run and prints a table with the targets.
//! The references are what the kernel and the shell need for the same work. Nothing is asserted.
//!
//! The storage is an ext4 of 256 MiB with blocks of 1 KiB on a loop device in memory, mounted as on a PiKVM.
//! Figures that are compared are measured in turns; times and rates are medians.
//!
//! With `PST_BENCH_AGAINST=PATH` it only compares the session rates with those of another `pst` binary.

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
use std::process::Command;
use std::time::Duration;

use clients::{Server, churn, churn_durably};
use rig::{Fs, Rig, Setup};
use table::{Row, Samples, milliseconds, rate};

const RATE_ROUNDS: usize = 10;
const RATE_TIME: Duration = Duration::from_millis(400);
const KIB: f64 = 1024.0;
const ONE_BY_ONE: &str = "open, granted, gone; one after another";
const HUNDRED_AT_ONCE: &str = "  the same, 100 at once";

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
    let rows = match std::env::var_os("PST_BENCH_AGAINST") {
        Some(other) => compare(Path::new(&other)),
        None => measure(),
    };
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

/// A storage to measure on, without a daemon.
fn storage() -> Rig {
    let image = |rig: &Rig| {
        let path = rig.dir().join("backing/image");
        File::create(&path)
            .and_then(|file| file.set_len(256 << 20))
            .expect("image");
        path
    };
    // These names are in /etc: for others the daemon would load nss-systemd.
    let setup = Setup::new(Fs::Ext4)
        .head("group = \"root\"")
        .storage("user = \"root\"\ngroup = \"root\"");
    // In memory, so that other work on the disk does not count.
    let rig = setup.backed_by_tmpfs(300).on(image).stopped().start();
    let head = rig::tool(Command::new("dumpe2fs").args(["-h", rig.device()]));
    let block = head
        .lines()
        .find_map(|line| line.strip_prefix("Block size:"));
    assert_eq!(block.map(str::trim), Some("1024"), "mke2fs chose otherwise");
    rig
}

/// Measures sessions that open, are granted and are gone, while another holds the storage.
fn rates(rig: &Rig) -> Vec<Row> {
    let server = Server::of(rig);
    let holder = server.open();
    let [mut alone, mut crowd, mut waits] = [(); 3].map(|()| Samples::default());
    for _ in 0..RATE_ROUNDS {
        alone.push(churn(&server, 1, RATE_TIME).0);
        let (rate, waited) = churn(&server, 100, RATE_TIME);
        crowd.push(rate);
        waits.append(waited);
    }
    holder.close();
    vec![
        Row::new(ONE_BY_ONE)
            .rounds(RATE_ROUNDS)
            .measured(rate(alone.median())),
        Row::new(HUNDRED_AT_ONCE)
            .rounds(RATE_ROUNDS)
            .measured(rate(crowd.median())),
        Row::new("  their wait for the grant, p99")
            .rounds(waits.count())
            .measured(milliseconds(waits.quantile(0.99))),
    ]
}

/// Measures the same rates of our binary and of another one, in turns.
fn compare(other: &Path) -> Vec<Row> {
    let mut own = storage();
    own.start_daemon();
    let mut theirs = storage();
    let installed = theirs.bin("pst");
    fs::remove_file(&installed).expect("remove");
    rig::tool(Command::new("cp").arg(other).arg(&installed));
    theirs.start_daemon();
    let servers = [Server::of(&own), Server::detect(&theirs)];
    let holders = servers.each_ref().map(Server::open);
    let [mut alone, mut crowd] = [(); 2].map(|()| [(); 2].map(|()| Samples::default()));
    for _ in 0..2 * RATE_ROUNDS {
        for (server, (alone, crowd)) in servers.iter().zip(alone.iter_mut().zip(&mut crowd)) {
            alone.push(churn(server, 1, RATE_TIME).0);
            crowd.push(churn(server, 100, RATE_TIME).0);
        }
    }
    for holder in holders {
        holder.close();
    }
    let row = |name, [own, theirs]: &[Samples; 2]| {
        let ratio = own.median() / theirs.median();
        Row::new(name)
            .rounds(own.count())
            .measured(rate(own.median()))
            .reference(format!("other {}", rate(theirs.median())))
            .ratio(ratio)
            .target(">= 0.85 x", ratio >= 0.85)
    };
    vec![row(ONE_BY_ONE, &alone), row(HUNDRED_AT_ONCE, &crowd)]
}

/// Measures sessions that write 4 KiB each and wait until that is on stable storage. A daemon that
/// logs its syncs shows how many these took.
fn durable_rates(rig: &mut Rig) -> Vec<Row> {
    let (server, data) = (Server::of(rig), rig.data());
    let holder = server.open();
    let [mut alone, mut crowd] = [(); 2].map(|()| Samples::default());
    for _ in 0..RATE_ROUNDS {
        alone.push(churn_durably(&server, &data, 1, RATE_TIME).0);
        crowd.push(churn_durably(&server, &data, 64, RATE_TIME).0);
    }
    holder.close();
    restart_logging(rig);
    let holder = server.open();
    let (_, sessions) = churn_durably(&server, &data, 64, RATE_TIME);
    holder.close();
    let syncs = rig.log().matches(" Synced(").count();
    rig.stop_daemon();
    rig.start_daemon();
    let shared = sessions as f64 / syncs as f64;
    vec![
        Row::new("durable sessions of 4 KiB, 64 at once")
            .rounds(RATE_ROUNDS)
            .measured(rate(crowd.median()))
            .reference(format!("one after another {}", rate(alone.median())))
            .ratio(crowd.median() / alone.median()),
        Row::new("  sessions to a sync")
            .rounds(1)
            .measured(format!("{shared:.1}"))
            .reference(format!("{sessions} to {syncs}"))
            .target(">= 8", shared >= 8.0),
    ]
}

/// Restarts the daemon with a log of every remount and sync.
fn restart_logging(rig: &mut Rig) {
    rig.stop_daemon();
    let mut logging = rig.daemon_command();
    logging.env("RUST_LOG", "debug");
    rig.start_daemon_as(logging);
}

/// The sizes of our own binary and of those in `PST_BENCH_BINARIES` that were built.
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
    let what = match all {
        true => "all features",
        false => "without kvmd's API",
    };
    let row = Row::new(&format!("binary, {processor}, {what}"));
    let target = if all { "<= 1.6 MiB" } else { "" };
    let Ok(metadata) = Path::new(path).metadata() else {
        return row.missing(target, "not built");
    };
    let size = metadata.len() as f64 / KIB;
    let row = row.measured(table::kibibytes(size));
    match all {
        true => row.target(target, size <= 1.6 * KIB),
        false => row,
    }
}

fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}
