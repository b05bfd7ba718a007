//! A client's connection: its bytes, and how long it may take for them.

use std::future::Future;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use async_io::{Async, Timer};
use smol::future::or;
use smol::io::AsyncWriteExt;

use super::timeouts::{HANDSHAKE, WRITE_TIMEOUT};
use crate::sys::socket::Peer;
use crate::wire::{Opening, opening};

/// Why a connection ends before its time.
#[derive(Debug)]
pub(super) enum Fault {
    /// The client hung up, or does not take what it is sent.
    Gone,
    /// The client broke the protocol; the text says how.
    Broken(String),
    /// No valid request came in time.
    Late,
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Fault {
        Fault::Gone
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    pub stream: Async<UnixStream>,
    pub peer: Peer,
    /// The peer may open sessions.
    pub admitted: bool,
    /// When the request must be complete.
    deadline: Instant,
}

impl Connection {
    /// Starts the time that the client has for its request.
    pub(super) fn new(stream: Async<UnixStream>, peer: Peer, admitted: bool) -> Connection {
        Connection {
            stream,
            peer,
            admitted,
            deadline: Instant::now() + HANDSHAKE,
        }
    }

    /// Reads until the protocol is clear. Appends the bytes to `early`.
    pub(super) async fn opening(&self, early: &mut Vec<u8>) -> Result<Opening, Fault> {
        loop {
            self.read(|bytes| early.extend_from_slice(bytes)).await?;
            match opening(early) {
                Opening::NeedMore => {}
                known => return Ok(known),
            }
        }
    }

    /// Waits for a part of the client's request, until its deadline.
    pub(super) async fn in_time<T>(
        &self,
        request: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        or(request, async {
            Timer::at(self.deadline).await;
            Err(Fault::Late)
        })
        .await
    }

    /// Waits until the client has taken something, for a limited time.
    pub(super) async fn patiently<T>(
        &self,
        taken: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        or(taken, async {
            Timer::after(WRITE_TIMEOUT).await;
            Err(Fault::Gone)
        })
        .await
    }

    /// Sends bytes, if the client takes them in time.
    pub(super) async fn write(&self, bytes: &[u8]) -> Result<(), Fault> {
        self.patiently(self.write_all(bytes)).await
    }

    /// Sends bytes, however long the client takes.
    pub(super) async fn write_all(&self, bytes: &[u8]) -> Result<(), Fault> {
        Ok((&self.stream).write_all(bytes).await?)
    }

    /// Reads what comes next and hands it on.
    pub(super) async fn read(&self, mut take: impl FnMut(&[u8])) -> Result<(), Fault> {
        while !self.read_now(&mut take)? {
            self.stream.readable().await?;
        }
        Ok(())
    }

    /// Returns whether there was anything to read. The buffer is not kept while waiting.
    fn read_now(&self, take: &mut impl FnMut(&[u8])) -> Result<bool, Fault> {
        let mut buffer = [0; 1280];
        match self.stream.get_ref().read(&mut buffer) {
            Ok(0) => Err(Fault::Gone),
            Ok(count) => {
                take(&buffer[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(_) => Err(Fault::Gone),
        }
    }
}
