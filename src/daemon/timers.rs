//! The daemon's timers, all on one of the kernel's.
//!
//! Not `async_io::Timer`: whoever waits for one anew interrupts the reactor, and where that is
//! async-io's thread just then, nobody waits for anything else until it comes back from a sleep. A
//! dropped one wakes up an idle daemon besides.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_io::Async;

use crate::sys::timer::Timer;

/// See the module's text.
#[derive(Debug)]
pub struct Timers {
    timer: Async<Timer>,
    /// In no order: they are few, and never more than some for each connection.
    waiting: RefCell<Vec<Waiting>>,
    numbers: Cell<u64>,
    /// When the timer goes off.
    set: Cell<Option<Instant>>,
}

#[derive(Debug)]
struct Waiting {
    time: Instant,
    number: u64,
    waker: Waker,
}

impl Timers {
    /// None yet; none goes off until they are [`run`](Timers::run).
    pub fn new() -> io::Result<Rc<Timers>> {
        Ok(Rc::new(Timers {
            timer: Async::new_nonblocking(Timer::new()?)?,
            waiting: RefCell::default(),
            numbers: Cell::new(0),
            set: Cell::new(None),
        }))
    }

    /// Ends at that time.
    pub fn at(self: &Rc<Timers>, time: Instant) -> Sleep {
        Sleep {
            timers: self.clone(),
            time,
            number: None,
        }
    }

    /// Ends after that time.
    pub fn after(self: &Rc<Timers>, time: Duration) -> Sleep {
        self.at(Instant::now() + time)
    }

    /// Wakes who waits, for as long as it is polled.
    pub async fn run(self: Rc<Timers>) -> io::Result<()> {
        loop {
            self.timer.readable().await?;
            if !self.timer.get_ref().take()? {
                continue; // it was set anew meanwhile
            }
            let now = Instant::now();
            while let Some(due) = self.take(|one| one.time <= now) {
                due.waker.wake();
            }
            self.set.set(None);
            self.set_timer();
        }
    }

    /// Takes out one who waits, if there is one such.
    fn take(&self, is_wanted: impl Fn(&Waiting) -> bool) -> Option<Waiting> {
        let mut waiting = self.waiting.borrow_mut();
        let at = waiting.iter().position(is_wanted)?;
        let taken = waiting.swap_remove(at);
        if waiting.is_empty() {
            *waiting = Vec::new(); // what many took is given back
        }
        Some(taken)
    }

    /// Has the timer go off for who waits for the earliest time.
    fn set_timer(&self) {
        let first = self.waiting.borrow().iter().map(|one| one.time).min();
        if self.set.replace(first) == first {
            return;
        }
        let after = first.map(|time| time.saturating_duration_since(Instant::now()));
        if let Err(error) = self.timer.get_ref().set(after) {
            log::error!("cannot set a timer: {error}");
            self.set.set(None);
        }
    }
}

/// Ends at its time.
#[derive(Debug)]
pub struct Sleep {
    timers: Rc<Timers>,
    time: Instant,
    /// Once it waits.
    number: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let timers = self.timers.clone();
        if let Some(number) = self.number {
            let mut waiting = timers.waiting.borrow_mut();
            return match waiting.iter_mut().find(|one| one.number == number) {
                Some(one) => {
                    one.waker.clone_from(cx.waker());
                    Poll::Pending
                }
                None => Poll::Ready(()),
            };
        }
        let number = timers.numbers.get() + 1;
        timers.numbers.set(number);
        self.number = Some(number);
        timers.waiting.borrow_mut().push(Waiting {
            time: self.time,
            number,
            waker: cx.waker().clone(),
        });
        timers.set_timer();
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let forgotten = self.timers.take(|one| one.number == number);
        if forgotten.is_some() {
            self.timers.set_timer();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poll::{self, Watch};
    use smol::LocalExecutor;
    use std::future::poll_fn;
    use std::task::Waker;

    const SHORT: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(60);

    /// What comes of `future` while they run.
    fn with_timers<T>(timers: &Rc<Timers>, future: impl Future<Output = T>) -> T {
        let executor = LocalExecutor::new();
        let running = executor.spawn(timers.clone().run());
        let out = async_io::block_on(executor.run(future));
        drop(running);
        out
    }

    fn begun(mut sleep: Sleep) -> Sleep {
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut sleep).poll(&mut context).is_pending());
        sleep
    }

    fn goes_off(timers: &Timers, within: Duration) -> bool {
        let mut watches = [Watch::new(&timers.timer, libc::POLLIN)];
        poll::wait(&mut watches, Some(within)).unwrap();
        watches[0].seen()
    }

    #[test]
    fn each_ends_and_none_before_its_time() {
        let timers = Timers::new().unwrap();
        let start = Instant::now();
        let times = [4, 1, 3, 1, 0, 2].map(|count| start + count * SHORT);
        let ended = RefCell::new(Vec::new());
        with_timers(&timers, async {
            let executor = LocalExecutor::new();
            let tasks = times.map(|time| {
                let (sleep, ended) = (timers.at(time), &ended);
                executor.spawn(async move {
                    sleep.await;
                    assert!(Instant::now() >= time);
                    ended.borrow_mut().push(time);
                })
            });
            executor
                .run(async {
                    for task in tasks {
                        task.await;
                    }
                })
                .await;
        });
        ended.borrow_mut().sort();
        let mut sorted = times;
        sorted.sort();
        assert_eq!(ended.into_inner(), sorted);
        assert!(timers.waiting.borrow().is_empty());
        assert_eq!(timers.set.get(), None);
    }

    #[test]
    fn the_timer_goes_off_for_nobody_who_does_not_wait() {
        let timers = Timers::new().unwrap();
        let asked = timers.after(SHORT);
        assert_eq!(timers.set.get(), None, "not begun");
        let short = begun(asked);
        let long = begun(timers.after(LONG));
        assert_eq!(timers.set.get(), Some(short.time));
        drop(short);
        assert_eq!(timers.set.get(), Some(long.time));
        assert!(!goes_off(&timers, 4 * SHORT));
        drop(long);
        assert_eq!(timers.set.get(), None);
        drop(begun(timers.after(SHORT)));
        assert!(!goes_off(&timers, 4 * SHORT));
    }

    #[test]
    fn who_waits_now_is_woken_and_not_who_did() {
        let timers = Timers::new().unwrap();
        let mut sleep = begun(timers.after(SHORT));
        let waited = poll_fn(|cx| Pin::new(&mut sleep).poll(cx).map(|()| true));
        let bound = async {
            async_io::Timer::after(LONG).await; // not one of these
            false
        };
        assert!(with_timers(&timers, smol::future::or(waited, bound)));
    }
}
