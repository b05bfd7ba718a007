//! Timers of the executor's thread. One that is dropped is forgotten at once, so a thread without
//! any sleeps for ever.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// When, and which of those that are due then.
type Key = (Instant, u64);

thread_local! {
    static PENDING: RefCell<BTreeMap<Key, Waker>> = const { RefCell::new(BTreeMap::new()) };
    static LAST: Cell<u64> = const { Cell::new(0) };
}

/// How long until the next is due; `None`: there is none.
pub fn until_next() -> Option<Duration> {
    let first = PENDING.with_borrow(|pending| pending.keys().next().copied());
    first.map(|(when, _)| when.saturating_duration_since(Instant::now()))
}

/// Wakes those who wait for what is due.
pub fn wake_due() {
    while let Some(waker) = take_due() {
        waker.wake();
    }
}

fn take_due() -> Option<Waker> {
    PENDING.with_borrow_mut(|pending| {
        let first = pending.first_entry()?;
        let due = first.key().0 <= Instant::now();
        due.then(|| first.remove())
    })
}

/// Ready from a moment on; without one, never.
#[derive(Debug)]
pub struct Timer {
    when: Option<Instant>,
    /// Somebody waits.
    key: Option<Key>,
}

impl Timer {
    /// Never ready.
    pub fn never() -> Timer {
        Timer {
            when: None,
            key: None,
        }
    }

    /// Ready from this moment on.
    pub fn at(when: Instant) -> Timer {
        Timer {
            when: Some(when),
            key: None,
        }
    }

    /// Ready when this time is over.
    pub fn after(time: Duration) -> Timer {
        Timer::at(Instant::now() + time)
    }

    fn forget(&mut self) {
        if let Some(key) = self.key.take() {
            PENDING.with_borrow_mut(|pending| pending.remove(&key));
        }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(when) = self.when else {
            return Poll::Pending;
        };
        if when <= Instant::now() {
            self.forget();
            return Poll::Ready(());
        }
        let key = *self.key.get_or_insert_with(|| {
            LAST.set(LAST.get() + 1);
            (when, LAST.get())
        });
        PENDING.with_borrow_mut(|pending| pending.insert(key, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.forget();
    }
}
