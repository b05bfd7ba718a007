//! One client's connection: its bytes, in time.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{self, Poll, ready};
use std::time::Instant;

use async_io::Async;
use smol::io::{AsyncRead, AsyncWriteExt};

use super::timers::Timers;
use super::times::{HANDSHAKE, WRITE_PATIENCE};
use crate::sys::socket::Peer;
use crate::wire::{Opening, opening};

/// Why a connection ends before its time.
#[derive(Debug)]
pub enum Fault {
    /// The client is gone, or cannot be talked to.
    Gone,
    /// It broke the protocol; it is told how.
    Broken(String),
    /// It has not said in time what it wants.
    Late,
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Fault {
        Fault::Gone
    }
}

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    timers: Rc<Timers>,
    /// Its stream.
    pub stream: Async<UnixStream>,
    /// Who is at the other end.
    pub peer: Peer,
    /// May open sessions.
    pub admitted: bool,
    /// When it must have said what it wants.
    deadline: Instant,
    /// The last read found less than it had room for: it is asked for news before the next one.
    /// Should there be something to read after all, the reactor says so at once: it is told of what
    /// there is, not of what comes (epoll(7), level-triggered).
    drained: Cell<bool>,
}

impl Connection {
    /// Of this peer, whose handshake begins now.
    pub fn new(
        timers: &Rc<Timers>,
        stream: Async<UnixStream>,
        peer: Peer,
        admitted: bool,
    ) -> Connection {
        Connection {
            timers: timers.clone(),
            stream,
            peer,
            admitted,
            deadline: Instant::now() + HANDSHAKE,
            drained: Cell::new(false),
        }
    }

    /// Reads until it can be told what is spoken.
    pub async fn opening(&self, early: &mut Vec<u8>) -> Result<Opening, Fault> {
        loop {
            self.read(|bytes| early.extend_from_slice(bytes)).await?;
            match opening(early) {
                Opening::NeedMore => {}
                told => return Ok(told),
            }
        }
    }

    /// What the client wants, if it says so before its deadline.
    pub async fn in_time<T>(
        &self,
        said: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        smol::future::or(said, async {
            self.timers.at(self.deadline).await;
            Err(Fault::Late)
        })
        .await
    }

    /// Sends bytes, if the client takes them in time.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), Fault> {
        self.patiently(async { Ok((&self.stream).write_all(bytes).await?) })
            .await
    }

    /// Reads what comes next and hands it on.
    pub async fn read(&self, mut take: impl FnMut(&[u8])) -> Result<(), Fault> {
        poll_fn(|cx| self.poll_read(cx, &mut take)).await
    }

    /// Reads what there is and hands it on. The buffer lives no longer than that.
    pub fn poll_read(
        &self,
        cx: &mut task::Context<'_>,
        take: impl FnOnce(&[u8]),
    ) -> Poll<Result<(), Fault>> {
        // Once: what wakes us then is followed by a read, also where the reactor takes the news for
        // old and asks again.
        if self.drained.take() {
            ready!(self.stream.poll_readable(cx))?;
        }
        let mut buffer = [0; 1280];
        match Pin::new(&mut &self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => Poll::Ready(Err(Fault::Gone)),
            Poll::Ready(Ok(count)) => {
                self.drained.set(count < buffer.len());
                take(buffer.get(..count).unwrap_or(&[]));
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Waits for the client to take something, for as long as one does.
    pub async fn patiently<T>(
        &self,
        taken: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        smol::future::or(taken, async {
            self.timers.after(WRITE_PATIENCE).await;
            Err(Fault::Gone)
        })
        .await
    }
}
