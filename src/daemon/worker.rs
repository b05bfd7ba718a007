//! The worker thread, which owns the storage and runs jobs that may block: inspections, remounts, syncs, searches.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use super::arbiter::{Job, Outcome};
use super::handle::{Handle, JobReport, Request};
use crate::storage::Storage;

/// Starts the thread. It ends when the returned sender is dropped.
pub(super) fn start(mut storage: Storage, controller: Handle) -> io::Result<mpsc::Sender<Job>> {
    let (jobs, inbox) = mpsc::channel();
    let work = move || {
        for job in inbox {
            let report = run(&mut storage, job);
            controller.send(Request::Done(Box::new(report)));
        }
    };
    thread::Builder::new().name("worker".into()).spawn(work)?;
    Ok(jobs)
}

fn run(storage: &mut Storage, job: Job) -> JobReport {
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
    if matches!(job, Job::Inspect | Job::MakeReadOnly { .. }) {
        storage.read_ext4_stats(); // not before a grant
    }
    JobReport {
        outcome,
        took: start.elapsed(),
        storage: storage.report(),
        holders,
    }
}
