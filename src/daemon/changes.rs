//! What changed since when, and who waits for that. A change is a number: nothing is kept for
//! anybody, however long he does not look.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// The daemon's changes, as far as a status shows them.
#[derive(Debug, Default)]
pub struct Changes {
    last: Cell<u64>,
    watchers: Cell<u64>,
    /// By their numbers, in no order.
    waiting: RefCell<Vec<(u64, Waker)>>,
}

impl Changes {
    /// The number of the last change.
    pub fn last(&self) -> u64 {
        self.last.get()
    }

    /// Something changed: gives that a number, and wakes who waits.
    pub fn note(&self) -> u64 {
        self.last.set(self.last.get() + 1);
        for (_, waker) in self.waiting.take() {
            waker.wake();
        }
        self.last.get()
    }

    /// Somebody who is going to wait.
    pub fn watcher(&self) -> Watcher<'_> {
        self.watchers.set(self.watchers.get() + 1);
        Watcher {
            changes: self,
            number: self.watchers.get(),
        }
    }
}

/// Waits for changes; forgotten when dropped.
#[derive(Debug)]
pub struct Watcher<'a> {
    changes: &'a Changes,
    number: u64,
}

impl Watcher<'_> {
    /// Waits until something changed after the change `seen`.
    pub async fn after(&self, seen: u64) {
        poll_fn(|cx| {
            if self.changes.last() > seen {
                return Poll::Ready(());
            }
            let mut waiting = self.changes.waiting.borrow_mut();
            match waiting
                .iter_mut()
                .find(|(number, _)| *number == self.number)
            {
                Some((_, waker)) => waker.clone_from(cx.waker()),
                None => waiting.push((self.number, cx.waker().clone())),
            }
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        let mut waiting = self.changes.waiting.borrow_mut();
        waiting.retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_waits_is_woken_once_and_who_left_is_forgotten() {
        let changes = Changes::default();
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut context = Context::from_waker(&waker);
        let watcher = changes.watcher();
        let gone = changes.watcher();
        {
            let mut waiting = pin!(watcher.after(0));
            let mut leaving = pin!(gone.after(0));
            for _ in 0..3 {
                assert!(waiting.as_mut().poll(&mut context).is_pending());
            }
            assert!(leaving.as_mut().poll(&mut context).is_pending());
        }
        drop(gone);
        assert_eq!((changes.note(), changes.note()), (1, 2));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        for (seen, ready) in [(0, true), (1, true), (2, false)] {
            let mut waiting = pin!(watcher.after(seen));
            assert_eq!(waiting.as_mut().poll(&mut context).is_ready(), ready);
        }
    }
}
