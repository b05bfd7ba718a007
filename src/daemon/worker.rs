//! The thread that does what blocks: inspections, remounts, syncs and the search for holders, in the order of the jobs.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::arbiter::{Job, Outcome};
use crate::storage::holders::Holder;
use crate::storage::stats::Counters;
use crate::storage::{Storage, StorageInfo};
use crate::sys::file::Space;
use crate::wire::Ext4Stats;

/// What came of a job.
#[derive(Debug)]
pub(super) struct JobReport {
    pub outcome: Outcome,
    pub took: Duration,
    pub storage: StorageReport,
    /// What keeps the storage writable, after a search.
    pub holders: Option<Vec<Holder>>,
}

/// What was known of the storage after a job.
#[derive(Clone, Debug, Default)]
pub(super) struct StorageReport {
    pub info: StorageInfo,
    pub counters: Counters,
    /// `None` if nothing is mounted.
    pub space: Option<Space>,
    /// `st_dev` of the data directory, once the storage was writable.
    pub data_device: u64,
    /// As of the last inspection or remount to read-only.
    pub ext4: Option<Ext4Stats>,
}

/// Starts the thread. It ends when the returned sender is dropped or `done` returns false.
///
/// # Errors
/// The thread cannot be created.
pub(super) fn start(
    mut storage: Storage,
    done: impl Fn(JobReport) -> bool + Send + 'static,
) -> io::Result<mpsc::Sender<Job>> {
    let (jobs, inbox) = mpsc::channel();
    thread::Builder::new()
        .name("worker".into())
        .spawn(move || {
            let mut ext4 = None;
            while let Ok(job) = inbox.recv() {
                let report = run(&mut storage, job, &mut ext4);
                if !done(report) {
                    break;
                }
            }
        })?;
    Ok(jobs)
}

fn run(storage: &mut Storage, job: Job, ext4: &mut Option<Ext4Stats>) -> JobReport {
    let start = Instant::now();
    let mut holders = None;
    let outcome = match job {
        Job::Inspect => Outcome::Inspected(storage.inspect()),
        Job::MakeWritable => Outcome::MadeWritable(storage.make_writable()),
        Job::MakeReadOnly { release, awaited } => {
            let (remount, sync) = storage.make_read_only(release, awaited);
            Outcome::MadeReadOnly { remount, sync }
        }
        Job::Sync => Outcome::Synced(storage.sync()),
        Job::FindHolders => {
            holders = Some(storage.find_holders());
            Outcome::Searched
        }
    };
    let took = start.elapsed();
    if matches!(job, Job::Inspect | Job::MakeReadOnly { .. }) {
        *ext4 = storage.ext4_stats();
    }
    JobReport {
        outcome,
        took,
        storage: StorageReport {
            info: storage.info().clone(),
            counters: storage.counters(),
            space: storage.space(),
            data_device: storage.data_device(),
            ext4: *ext4,
        },
        holders,
    }
}
