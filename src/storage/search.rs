//! Runs the search for holders with a time limit. Reading some entries of /proc is slow or never ends,
//! so the search runs in a thread that is abandoned if it hangs.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use crate::escape::escape;
use crate::wire::{HolderKind, HolderStatus};

/// No search starts while this many threads hang.
const MAX_HANGING: usize = 4;

/// The search ends after this number of holders.
const LIMIT: usize = 64;

/// Starts searches, and remembers those that hang.
#[derive(Debug, Default)]
pub(super) struct Searcher {
    hanging: Vec<Arc<Search>>,
}

/// A running search, shared with its thread.
#[derive(Debug, Default)]
pub(super) struct Search {
    found: Mutex<Vec<HolderStatus>>,
    /// Processes at which other searches hang.
    skipped: Vec<u32>,
    /// The process that is being inspected; 0 for loop devices and swap files.
    current: AtomicU32,
    stopped: AtomicBool,
    finished: AtomicBool,
}

impl Searcher {
    /// Runs `find` in a thread. Returns its results when it ends or the time is over.
    pub(super) fn run(
        &mut self,
        timeout: Duration,
        find: impl FnOnce(&Search) + Send + 'static,
    ) -> Vec<HolderStatus> {
        self.hanging
            .retain(|other| !other.finished.load(Ordering::Acquire));
        let hanging = self.hanging.iter();
        let skipped: Vec<u32> = hanging.map(|other| other.current()).collect();
        let mut found: Vec<HolderStatus> = skipped.iter().map(|pid| unanswered(*pid)).collect();
        if self.hanging.len() >= MAX_HANGING {
            return found;
        }
        let search = Arc::new(Search {
            skipped,
            ..Search::default()
        });
        let (end, ended) = mpsc::channel();
        let of_thread = search.clone();
        let started = thread::Builder::new().name("search".into()).spawn(move || {
            find(&of_thread);
            of_thread.finished.store(true, Ordering::Release);
            let _ = end.send(());
        });
        if let Err(error) = started {
            return vec![unknown(&format!("cannot start a search: {error}"))];
        }
        let in_time = ended.recv_timeout(timeout).is_ok();
        search.stopped.store(true, Ordering::Relaxed);
        found.append(&mut search.list());
        if !in_time {
            found.push(unanswered(search.current()));
            self.hanging.push(search);
        }
        found.truncate(LIMIT);
        if found.is_empty() {
            let text = "nothing found: a kernel user or a descriptor in flight";
            found.push(unknown(text));
        }
        found
    }
}

impl Search {
    /// Moves on to process `pid`. Returns false if the search must end.
    pub(super) fn proceed_to(&self, pid: u32) -> bool {
        self.current.store(pid, Ordering::Relaxed);
        !self.stopped.load(Ordering::Relaxed) && self.list().len() < LIMIT
    }

    /// Whether another search hangs at this process.
    pub(super) fn skips(&self, pid: u32) -> bool {
        self.skipped.contains(&pid)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list().is_empty()
    }

    pub(super) fn add(&self, holders: impl IntoIterator<Item = HolderStatus>) {
        self.list().extend(holders);
    }

    fn current(&self) -> u32 {
        self.current.load(Ordering::Relaxed)
    }

    fn list(&self) -> MutexGuard<'_, Vec<HolderStatus>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Describes a holder that cannot be named; `text` says why.
pub(super) fn unknown(text: &str) -> HolderStatus {
    describe(HolderKind::Unknown, b"", text.as_bytes())
}

pub(super) fn describe(kind: HolderKind, command: &[u8], path: &[u8]) -> HolderStatus {
    HolderStatus {
        kind,
        pid: None,
        uid: None,
        user: None,
        command: (!command.is_empty()).then(|| escape(command).to_string()),
        path: escape(path).to_string(),
    }
}

/// Describes the process at which a search hangs.
fn unanswered(pid: u32) -> HolderStatus {
    unknown(&match pid {
        0 => "search incomplete: a loop device or swap file does not answer".to_owned(),
        pid => format!("search incomplete: pid {pid} does not answer"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_that_hangs_is_abandoned_and_the_next_one_skips_its_process() {
        let (release, released) = mpsc::channel::<()>();
        let mut searcher = Searcher::default();
        let found = searcher.run(Duration::ZERO, move |search| {
            search.proceed_to(7);
            let _ = released.recv(); // hangs
            assert!(!search.proceed_to(8), "it was stopped");
        });
        assert_eq!(found.len(), 1);
        let hung = searcher.hanging[0].clone();
        while hung.current() != 7 {
            thread::yield_now();
        }
        let found = searcher.run(Duration::MAX, |search| {
            assert!(search.skips(7) && !search.skips(8));
            search.add([unknown("the next")]);
        });
        assert_eq!(found, [unanswered(7), unknown("the next")]);
        drop(release);
        while !hung.finished.load(Ordering::Acquire) {
            thread::yield_now();
        }
        let found = searcher.run(Duration::MAX, |_| {});
        assert!(found[0].path.starts_with("nothing found"), "{found:?}");
    }

    #[test]
    fn no_search_starts_while_too_many_hang() {
        let (release, released) = mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let mut searcher = Searcher::default();
        for _ in 0..MAX_HANGING {
            let released = released.clone();
            searcher.run(Duration::ZERO, move |_| {
                let _ = released.lock().map(|released| released.recv());
            });
        }
        let found = searcher.run(Duration::MAX, |_| unreachable!("a thread too many"));
        assert_eq!(found.len(), MAX_HANGING);
        drop(release);
    }
}
