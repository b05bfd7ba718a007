//! The one thread that blocks: looks, remounts, syncs, and the search for holders, one after
//! another in the order in which they come. It decides nothing.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::arbiter::{Health, Job, Outcome};
use crate::storage::holders::Holder;
use crate::storage::meter::Counts;
use crate::storage::{Storage, StorageInfo};
use crate::sys::file::Space;

/// What came of a job, and what the outside may be told.
#[derive(Debug)]
pub(super) struct Report {
    pub outcome: Outcome,
    pub took: Duration,
    /// What the storage has cost, right after it.
    pub counts: Counts,
    /// How much was free there; `None` if nothing is mounted.
    pub space: Option<Space>,
    /// What the storage is, after a look.
    pub facts: Option<StorageInfo>,
    /// `st_dev` of the data root, after going read-write.
    pub data_device: Option<u64>,
    /// Who keeps it from going read-only, after a search.
    pub holders: Option<Vec<Holder>>,
}

/// Starts the thread. It ends when the returned sender is dropped, or `done` says so.
///
/// # Errors
/// No thread can be had.
pub(super) fn start(
    mut storage: Storage,
    done: impl Fn(Report) -> bool + Send + 'static,
) -> io::Result<mpsc::Sender<Job>> {
    let (jobs, inbox) = mpsc::channel();
    thread::Builder::new()
        .name("worker".into())
        .spawn(move || {
            while let Ok(job) = inbox.recv() {
                let report = run(&mut storage, job);
                if !done(report) {
                    break; // the daemon is gone
                }
            }
        })?;
    Ok(jobs)
}

fn run(storage: &mut Storage, job: Job) -> Report {
    let start = Instant::now();
    let mut holders = None;
    let outcome = match job {
        Job::Inspect => Outcome::Inspected(storage.look()),
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
    let (facts, data_device) = match &outcome {
        Outcome::Inspected(_) => (Some(storage.facts().clone()), None),
        Outcome::MadeWritable(seen) => (
            Some(storage.facts().clone()),
            (seen.health == Health::Ready).then(|| storage.data_device()),
        ),
        _ => (None, None),
    };
    Report {
        outcome,
        took,
        counts: storage.counts(),
        space: storage.space(),
        facts,
        data_device,
        holders,
    }
}
