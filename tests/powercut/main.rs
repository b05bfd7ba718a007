//! Power cuts: a card that remembers every write and every flush lies below the
//! loop device while sessions run; then the power fails at each point of its
//! life, in each way in which it can, and what `pst run` acknowledged must be
//! there.
//!
//! `PST_POWER_ROUNDS` makes the sessions more, `PST_POWER_SEED` repeats the choices
//! of a run (not the kernel's). `make powercut` runs it for long.
//! `PST_POWER_LENGTH` has all sequences of two, or also of three, operations made in transactions, and the power cut
//! at every flush and once in `PST_POWER_SAMPLE` places between them: `make powercut-sequences`.

#![allow(clippy::expect_used)] // all of it is tests, not only what bears the attribute

mod alone;
mod archive;
mod card;
#[allow(dead_code)] // shared: not all of it is used here
#[path = "../soak/chance.rs"]
mod chance;
mod cut;
mod fuse;
mod liar;
mod record;
mod renewals;
mod replay;
#[allow(dead_code, unused_imports)] // shared: not all of it is used here
#[path = "../e2e/rig/mod.rs"]
mod rig;
mod sequences;
mod stage;
mod steps;
mod workload;

use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use chance::Chance;
use liar::Liar;
use record::{Change, Content, Step};
use rig::RunToEnd;
use stage::Stage;

/// Enough for more than 1,000 cut points.
const ROUNDS: u64 = 2;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}: {value}")))
}

fn seed() -> u64 {
    number("PST_POWER_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.expect("after 1970").as_micros() as u64 % 1_000_000
    })
}

/// Leaves the test out where there can be no card.
macro_rules! needs_card {
    () => {
        needs_root!("FUSE and loop devices");
        needs_mounts!();
        if !Path::new("/dev/fuse").exists() {
            rig::leave_out("a kernel with FUSE");
            return;
        }
    };
}

/// Past what cargo keeps of the output of a test that is well.
fn say(line: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    let _ = writeln!(std::io::stderr(), "{test}: {line}");
}

fn step(path: &str, script: &str, content: &str) -> Step {
    Step {
        script: script.to_owned(),
        changes: vec![Change {
            path: format!("data/{path}"),
            leaves: Some(Content::File(content.as_bytes().into())),
            atomic: false,
        }],
    }
}

#[test]
fn p1_p4_a_power_cut_loses_nothing_that_was_acknowledged() {
    needs_card!();
    let seed = seed();
    let rounds = number("PST_POWER_ROUNDS").unwrap_or(ROUNDS) as usize;
    let mut stage = Stage::new();
    workload::run(&mut stage, rounds, &mut Chance::new(seed));
    let (rig, record) = stage.finish();
    let report = replay::replay(&rig, &record, seed);
    say(&format!("seed {seed}: {report}"));
    report.must_be_clean();
    let flushes = record
        .events
        .iter()
        .filter(|e| matches!(e, card::Event::Flush));
    assert!(report.cuts >= 1000, "only {} cut points", report.cuts);
    assert!(report.boundaries > flushes.count(), "not every boundary");
    assert!(report.recovered > 0 && report.quiet > 0 && report.files > 0);
}

/// Of the sequences of two operations, one is tried where all would take too long.
const EVERY: usize = 12;

#[test]
fn p12_a_power_cut_leaves_the_old_tree_or_the_new_one() {
    needs_card!();
    let seed = seed();
    let chosen = match number("PST_POWER_LENGTH") {
        None => {
            let all = sequences::sequences(2).into_iter();
            all.skip(seed as usize % EVERY).step_by(EVERY).collect()
        }
        Some(length) => (2..=length as usize)
            .flat_map(sequences::sequences)
            .collect::<Vec<_>>(),
    };
    let (mut cuts, mut boundaries, mut done) = (0, 0, 0);
    for (rig, record) in sequences::record_all(&chosen) {
        let report = replay::replay(&rig, &record, seed);
        report.must_be_clean();
        (cuts, boundaries) = (cuts + report.cuts, boundaries + report.boundaries);
        done += record.swaps.len();
        say(&format!(
            "seed {seed}: {done} of {} sequences, {cuts} cuts, {boundaries} of them at a flush, violations: 0",
            chosen.len()
        ));
    }
    assert!(
        boundaries >= 5 * chosen.len(),
        "only {boundaries} boundaries"
    );
}

#[test]
fn p12_a_power_cut_leaves_the_old_file_or_the_new_one() {
    needs_card!();
    let (rig, record) = steps::record_puts();
    must_be_all_or_nothing(&rig, &record, SLOW);
}

#[test]
fn p12_a_power_cut_after_any_step_leaves_the_old_tree_or_the_new_one() {
    needs_card!();
    let (rig, record) = steps::record_atomic();
    must_be_all_or_nothing(&rig, &record, SLOW);
}

#[test]
fn p12_a_power_cut_during_a_renewal_leaves_the_old_pair_or_the_new_one() {
    needs_card!();
    needs_tool!("openssl");
    let (rig, record) = renewals::record();
    renewals::must_be_pairs(&record);
    must_be_all_or_nothing(&rig, &record, QUICK);
}

/// The least number of flushes during a change: if every step is committed, and otherwise.
const SLOW: usize = 10;
const QUICK: usize = 5;

fn must_be_all_or_nothing(rig: &rig::Rig, record: &record::Record, flushes: usize) {
    let seed = seed();
    let report = replay::replay(rig, record, seed);
    say(&format!("seed {seed}: {report}"));
    report.must_be_clean();
    assert!(
        report.boundaries >= flushes * record.swaps.len(),
        "{report}"
    );
}

#[test]
fn the_rig_finds_a_file_that_is_not_synced_before_the_rename() {
    needs_card!();
    let (rig, record) = steps::record_puts_without_fsync();
    must_find(&rig, &record);
}

#[test]
fn the_rig_finds_a_rename_before_the_content() {
    needs_card!();
    let (rig, record) = steps::record_wrong_order();
    must_find(&rig, &record);
}

#[track_caller]
fn must_find(rig: &rig::Rig, record: &record::Record) {
    let report = replay::replay(rig, record, 1);
    say(&format!("on purpose: {report}"));
    assert!(!report.lost.is_empty(), "{report}");
    assert!(report.broken.is_empty(), "{:#?}", report.broken);
}

#[test]
fn the_rig_finds_a_tree_that_is_not_flushed_before_the_exchange() {
    needs_card!();
    let (rig, record) = sequences::record_without_syncfs(&sequences::sequences(1)[..4]);
    must_find(&rig, &record);
}

#[test]
fn the_rig_finds_an_early_acknowledgement() {
    needs_card!();
    let mut stage = Stage::new();
    let socket = stage.rig.dir().join("liar.sock");
    let liar = Liar::new(socket, stage.rig.socket());
    let early = step("early", "printf early >$KVMD_PST_DATA/early", "early");
    let mut run = stage.rig.run(["sh", "-c", &early.script]);
    let begun = stage.begin(early);
    run.env("PST_SOCKET", &liar.socket).to_end().must(0);
    stage.acknowledge_only(&begun);
    liar.come_clean();
    stage.rig.await_state("ro");
    stage.end(begun);
    let (rig, record) = stage.finish();
    let report = replay::replay(&rig, &record, 1);
    say(&format!("on purpose: {report}"));
    assert!(!report.lost.is_empty(), "{report}");
    assert!(report.broken.is_empty(), "{:#?}", report.broken);
}

#[test]
fn the_rig_finds_a_storage_that_is_not_at_rest() {
    needs_card!();
    let mut stage = Stage::new();
    stage.serial(step("file", "printf whole >$KVMD_PST_DATA/file", "whole"));
    let (rig, mut record) = stage.finish();
    record.quiet = vec![(0, record.events.len())];
    let report = replay::replay(&rig, &record, 1);
    say(&format!("on purpose: {report}"));
    assert!(!report.broken.is_empty(), "{report}");
    assert!(report.lost.is_empty(), "{:#?}", report.lost);
}
