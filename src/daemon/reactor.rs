//! How the executor's thread waits: one epoll for its descriptors, its timers, and a bell for the
//! other threads. It has no thread of its own, so nothing is handed from one to another before it
//! is served, and while there is nothing to do it sleeps without a timeout.
//!
//! All of it belongs to the thread that uses it, but for the bell.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::timer;
use crate::sys::epoll::{Bell, Epoll, Event};
use crate::sys::poll::{self, Watch};

/// As many events are taken at a time.
const EVENTS: usize = 64;

thread_local! {
    static REACTOR: OnceCell<Rc<Reactor>> = const { OnceCell::new() };
}

struct Reactor {
    epoll: Epoll,
    alarm: Arc<Alarm>,
    /// By descriptor number.
    sources: RefCell<Vec<Option<Rc<Source>>>>,
    /// Who goes on once the kernel was asked for events again.
    next_turn: RefCell<Vec<Waker>>,
}

/// Who waits for a descriptor.
#[derive(Debug, Default)]
struct Source {
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
    /// Told of when it becomes writable, too.
    writing: Cell<bool>,
}

/// What ends the sleep.
struct Alarm {
    bell: Bell,
    /// The future is to be polled again.
    woken: AtomicBool,
    /// It takes the bell to wake the thread.
    asleep: AtomicBool,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.bell.ring();
        }
    }
}

fn reactor() -> io::Result<Rc<Reactor>> {
    REACTOR.with(|cell| match cell.get() {
        Some(reactor) => Ok(reactor.clone()),
        None => {
            let new = Reactor::new()?;
            Ok(cell.get_or_init(|| Rc::new(new)).clone())
        }
    })
}

/// Drives a future, and all that it waits for, to its end.
///
/// # Errors
/// The kernel does not let this thread wait.
pub fn block_on<T>(future: impl Future<Output = T>) -> io::Result<T> {
    let reactor = reactor()?;
    let waker = Waker::from(reactor.alarm.clone());
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        reactor.alarm.woken.store(false, Ordering::SeqCst);
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return Ok(value);
        }
        reactor.wait(timer::until_next())?;
        timer::wake_due();
    }
}

/// Lets everybody else go first who can go on, or can once the kernel is asked.
pub async fn next_turn() -> io::Result<()> {
    let reactor = reactor()?;
    once(|cx| reactor.next_turn.borrow_mut().push(cx.waker().clone())).await;
    Ok(())
}

/// Waits until it is woken, which `arrange` arranges.
async fn once(mut arrange: impl FnMut(&Context<'_>)) {
    let mut arranged = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut arranged, true) {
            return Poll::Ready(());
        }
        arrange(cx);
        Poll::Pending
    })
    .await;
}

impl Reactor {
    fn new() -> io::Result<Reactor> {
        let epoll = Epoll::new()?;
        let bell = Bell::new()?;
        epoll.add(bell.as_fd())?;
        Ok(Reactor {
            epoll,
            alarm: Arc::new(Alarm {
                bell,
                woken: AtomicBool::new(false),
                asleep: AtomicBool::new(false),
            }),
            sources: RefCell::default(),
            next_turn: RefCell::default(),
        })
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let alarm = &self.alarm;
        alarm.asleep.store(true, Ordering::SeqCst);
        let next_turn = self.next_turn.take();
        // Who woke before that did not ring; who does from here on rings.
        let at_once = alarm.woken.load(Ordering::SeqCst) || !next_turn.is_empty();
        let timeout = if at_once {
            Some(Duration::ZERO)
        } else {
            timeout
        };
        let mut events = [Event::EMPTY; EVENTS];
        let events = self.epoll.wait(&mut events, timeout);
        alarm.asleep.store(false, Ordering::SeqCst);
        for event in events? {
            // Of the bell, and of what is gone, nothing is known here.
            let source = self.sources.borrow().get(event.number()).cloned().flatten();
            if let Some(source) = source {
                source.wake(*event);
            }
        }
        next_turn.into_iter().for_each(Waker::wake);
        Ok(())
    }
}

impl Source {
    fn wake(&self, event: Event) {
        let reader = event.is_readable().then(|| self.reader.take()).flatten();
        let writer = event.is_writable().then(|| self.writer.take()).flatten();
        for waker in reader.into_iter().chain(writer) {
            waker.wake();
        }
    }
}

/// Something with a non-blocking descriptor that can be waited for.
#[derive(Debug)]
pub struct Async<T: AsFd> {
    io: T,
    source: Rc<Source>,
}

impl<T: AsFd> Async<T> {
    /// Of what never blocks.
    pub fn new(io: T) -> io::Result<Async<T>> {
        let reactor = reactor()?;
        let source = Rc::new(Source::default());
        let number = number(&io);
        let mut sources = reactor.sources.borrow_mut();
        if sources.len() <= number {
            sources.resize(number + 1, None);
        }
        reactor.epoll.add(io.as_fd())?;
        sources[number] = Some(source.clone());
        drop(sources);
        Ok(Async { io, source })
    }

    /// The thing itself.
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// Waits until something happens, after an attempt that would have blocked.
    pub async fn more(&self) {
        once(|cx| self.wake_when_readable(cx)).await;
    }

    /// Waits until there is something to read.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// The same, for one who asks again when woken.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is(libc::POLLIN | libc::POLLRDHUP)? {
            return Poll::Ready(Ok(()));
        }
        self.wake_when_readable(cx);
        Poll::Pending
    }

    /// Has the task woken when there is more, after a read that would have blocked.
    pub fn wake_when_readable(&self, cx: &Context<'_>) {
        self.source.reader.replace(Some(cx.waker().clone()));
    }

    /// Whether it can be written, for one who asks again when woken.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is(libc::POLLOUT)? {
            return Poll::Ready(Ok(()));
        }
        self.source.writer.replace(Some(cx.waker().clone()));
        if !self.source.writing.replace(true) {
            reactor()?.epoll.add_writing(self.io.as_fd())?;
        }
        Poll::Pending
    }

    fn is(&self, events: libc::c_short) -> io::Result<bool> {
        let mut watch = [Watch::new(&self.io, events)];
        poll::wait(&mut watch, Some(Duration::ZERO))?;
        Ok(watch[0].seen())
    }
}

impl<T: AsFd> Drop for Async<T> {
    fn drop(&mut self) {
        let Ok(reactor) = reactor() else {
            return;
        };
        if let Some(source) = reactor.sources.borrow_mut().get_mut(number(&self.io)) {
            *source = None;
        }
        // It may live on, in another descriptor.
        let _ = reactor.epoll.remove(self.io.as_fd());
    }
}

fn number(io: &impl AsFd) -> usize {
    io.as_fd().as_raw_fd() as usize // an open one is not negative
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;
    use crate::daemon::timer::Timer;

    fn pair() -> (UnixStream, Async<UnixStream>) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (theirs, Async::new(ours).unwrap())
    }

    #[test]
    fn another_thread_wakes_it() {
        let (sender, receiver) = smol::channel::unbounded();
        let other = thread::spawn(move || {
            for number in 0..10_000 {
                sender.try_send(number).unwrap();
                if number % 100 == 0 {
                    thread::yield_now(); // so that it falls asleep in between
                }
            }
        });
        let all = block_on(async {
            let mut all = 0;
            while receiver.recv().await.is_ok() {
                all += 1;
            }
            all
        });
        assert_eq!(all.unwrap(), 10_000);
        other.join().unwrap();
    }

    #[test]
    fn what_is_written_is_read_and_the_end_is_seen() {
        let (mut theirs, ours) = pair();
        let other = thread::spawn(move || {
            for _ in 0..1000 {
                theirs.write_all(b"x").unwrap();
            }
        });
        let count = block_on(async {
            let mut count = 0;
            loop {
                ours.readable().await.unwrap();
                match ours.get_ref().read(&mut [0; 7]).unwrap() {
                    0 => return count,
                    read => count += read,
                }
            }
        });
        assert_eq!(count.unwrap(), 1000);
        other.join().unwrap();
    }

    #[test]
    fn a_full_socket_is_written_when_it_is_empty_again() {
        let (mut theirs, ours) = pair();
        let other = thread::spawn(move || theirs.read_to_end(&mut Vec::new()).unwrap());
        let written = block_on(async {
            let mut left = vec![b'x'; 1 << 22];
            while !left.is_empty() {
                match ours.get_ref().write(&left) {
                    Ok(count) => drop(left.drain(..count)),
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                        poll_fn(|cx| ours.poll_writable(cx)).await.unwrap();
                    }
                }
            }
            drop(ours);
        });
        written.unwrap();
        assert_eq!(other.join().unwrap(), 1 << 22);
    }

    #[test]
    fn a_timer_ends_a_wait_and_a_dropped_one_is_forgotten() {
        let (_theirs, ours) = pair();
        let wait = async {
            let _ = ours.readable().await;
            "readable"
        };
        let timer = async {
            Timer::after(Duration::from_millis(5)).await;
            "late"
        };
        let late = block_on(smol::future::or(wait, timer)).unwrap();
        assert_eq!(late, "late");
        let mut dropped = Timer::after(Duration::from_secs(3600));
        let waker = Waker::noop();
        assert!(
            pin!(&mut dropped)
                .poll(&mut Context::from_waker(waker))
                .is_pending()
        );
        assert!(timer::until_next().is_some());
        drop(dropped);
        assert_eq!(timer::until_next(), None);
    }
}
