//! One client's connection: its bytes, in time.

use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Instant;

use async_io::Async;
use smol::io::{AsyncReadExt, AsyncWriteExt};

use super::timeouts::{HANDSHAKE, WRITE_PATIENCE};
use super::timers::Timers;
use crate::sys::socket::Peer;
use crate::wire::{Opening, opening};

/// Why a connection ends before its time.
#[derive(Debug)]
pub(super) enum Fault {
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

#[derive(Debug)]
pub(super) struct Connection {
    timers: Rc<Timers>,
    pub stream: Async<UnixStream>,
    /// Who is at the other end.
    pub peer: Peer,
    pub admitted: bool,
    /// When it must have said what it wants.
    deadline: Instant,
}

impl Connection {
    /// Of this peer, whose handshake begins now.
    pub(super) fn new(
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
        }
    }

    /// Reads until it can be told what is spoken.
    pub(super) async fn opening(&self, early: &mut Vec<u8>) -> Result<Opening, Fault> {
        loop {
            self.read(|bytes| early.extend_from_slice(bytes)).await?;
            match opening(early) {
                Opening::NeedMore => {}
                told => return Ok(told),
            }
        }
    }

    /// What the client wants, if it says so before its deadline.
    pub(super) async fn in_time<T>(
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
    pub(super) async fn write(&self, bytes: &[u8]) -> Result<(), Fault> {
        self.patiently(async { Ok((&self.stream).write_all(bytes).await?) })
            .await
    }

    /// Reads what comes next and hands it on.
    pub(super) async fn read(&self, take: impl FnOnce(&[u8])) -> Result<(), Fault> {
        let mut buffer = [0; 1280];
        match (&self.stream).read(&mut buffer).await? {
            0 => Err(Fault::Gone),
            count => {
                take(buffer.get(..count).unwrap_or(&[]));
                Ok(())
            }
        }
    }

    /// Waits for the client to take something, for as long as one does.
    pub(super) async fn patiently<T>(
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
