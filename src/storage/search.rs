//! A search that cannot be kept waiting: /proc and paths lead to what others made, and some of it
//! is slow on purpose or never answers. It runs in a thread that is left behind if it hangs.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use super::holders::{self, Holder, LIMIT};
use crate::sys::file;

/// How long a search may take; then what it has found must do.
const PATIENCE: Duration = Duration::from_secs(1);
/// Threads that may be left behind.
const HANGING: usize = 4;

/// Starts searches, and knows those that hang.
#[derive(Debug, Default)]
pub(crate) struct Searcher {
    hanging: Vec<Arc<Search>>,
}

/// A search as it goes on.
#[derive(Debug, Default)]
pub(crate) struct Search {
    found: Mutex<Vec<Holder>>,
    /// Processes at which others hang.
    skipped: Vec<u32>,
    /// Which process it is at; 0: loop devices and swap files.
    at: AtomicU32,
    stopped: AtomicBool,
    over: AtomicBool,
}

impl Searcher {
    /// Who keeps the filesystem of `root`. One that finds nothing says so by a single
    /// [`HolderKind::Unknown`](holders::HolderKind::Unknown).
    pub(crate) fn find(&mut self, root: BorrowedFd<'_>) -> Vec<Holder> {
        match file::status(root) {
            Ok(status) => self.within(PATIENCE, move |search| {
                holders::find(status.device, search);
            }),
            Err(_) => Vec::new(),
        }
    }

    fn within(
        &mut self,
        patience: Duration,
        look: impl FnOnce(&Search) + Send + 'static,
    ) -> Vec<Holder> {
        self.hanging
            .retain(|other| !other.over.load(Ordering::Acquire));
        let skipped = self
            .hanging
            .iter()
            .map(|other| other.at.load(Ordering::Relaxed));
        let skipped: Vec<u32> = skipped.collect();
        let mut found: Vec<Holder> = skipped.iter().map(|pid| silent(*pid)).collect();
        if self.hanging.len() >= HANGING {
            return found;
        }
        let search = Arc::new(Search {
            skipped,
            ..Search::default()
        });
        let (end, ended) = mpsc::channel();
        let theirs = search.clone();
        let started = thread::Builder::new().name("search".into()).spawn(move || {
            look(&theirs);
            theirs.over.store(true, Ordering::Release);
            let _ = end.send(());
        });
        if let Err(error) = started {
            return vec![Holder::unknown(&format!("cannot look who it is: {error}"))];
        }
        let in_time = ended.recv_timeout(patience).is_ok();
        search.stopped.store(true, Ordering::Relaxed);
        found.append(&mut search.list());
        if !in_time {
            found.push(silent(search.at.load(Ordering::Relaxed)));
            self.hanging.push(search);
        }
        found.truncate(LIMIT);
        if found.is_empty() {
            let text = "nothing found: a kernel user or a descriptor in flight";
            found.push(Holder::unknown(text));
        }
        found
    }
}

impl Search {
    /// Whether to go on, with this process.
    pub(crate) fn goes_on_with(&self, pid: u32) -> bool {
        self.at.store(pid, Ordering::Relaxed);
        !self.stopped.load(Ordering::Relaxed) && self.list().len() < LIMIT
    }

    /// Whether another search hangs there.
    pub(crate) fn skips(&self, pid: u32) -> bool {
        self.skipped.contains(&pid)
    }

    /// Whether nothing was found so far.
    pub(crate) fn found_nothing(&self) -> bool {
        self.list().is_empty()
    }

    pub(crate) fn found(&self, holders: impl IntoIterator<Item = Holder>) {
        self.list().extend(holders);
    }

    fn list(&self) -> std::sync::MutexGuard<'_, Vec<Holder>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was looked at when the patience was over.
fn silent(pid: u32) -> Holder {
    Holder::unknown(&match pid {
        0 => "not all was looked at: loop devices or swap files do not answer".to_owned(),
        pid => format!("not all was looked at: pid {pid} does not answer"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_that_hangs_is_left_behind_and_its_process_passed_over() {
        let (release, released) = mpsc::channel::<()>();
        let mut searcher = Searcher::default();
        let found = searcher.within(Duration::ZERO, move |search| {
            search.goes_on_with(7);
            let _ = released.recv(); // hangs
            assert!(!search.goes_on_with(8), "it was stopped");
        });
        assert_eq!(found.len(), 1);
        let hung = searcher.hanging[0].clone();
        while hung.at.load(Ordering::Relaxed) != 7 {
            thread::yield_now();
        }
        let found = searcher.within(Duration::MAX, |search| {
            assert!(search.skips(7) && !search.skips(8));
            search.found([Holder::unknown("the next")]);
        });
        assert_eq!(found, [silent(7), Holder::unknown("the next")]);
        drop(release);
        while !hung.over.load(Ordering::Acquire) {
            thread::yield_now();
        }
        let found = searcher.within(Duration::MAX, |_| {});
        assert!(found[0].path.starts_with(b"nothing found"), "{found:?}");
    }

    #[test]
    fn no_more_threads_hang_than_a_few() {
        let (release, released) = mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let mut searcher = Searcher::default();
        for _ in 0..HANGING {
            let released = released.clone();
            searcher.within(Duration::ZERO, move |_| {
                let _ = released.lock().map(|released| released.recv());
            });
        }
        let found = searcher.within(Duration::MAX, |_| unreachable!("a thread too many"));
        assert_eq!(found.len(), HANGING);
        drop(release);
    }
}
