//! A client's connection: its bytes, and how long it may take for them.

use std::future::Future;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use async_io::{Async, Timer};
use smol::future::{or, yield_now};
use smol::io::AsyncWriteExt;

use super::timeouts::{HANDSHAKE, WRITE_TIMEOUT};
use crate::sys::socket::Peer;
use crate::wire::begins_with_magic;

/// Bytes that are sent before the other connections get their turn.
const SEND_CHUNK: usize = 16 << 10;

/// Why a connection ends before its time.
#[derive(Debug)]
pub(super) enum Fault {
    /// The client hung up, or does not take what it is sent.
    Gone,
    /// The client broke the protocol; the text says how.
    Broken(String),
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Fault {
        Fault::Gone
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: Async<UnixStream>,
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

    /// Reads until it is clear whether the client speaks our own protocol, and appends the bytes to `early`.
    pub(super) async fn recognize(&self, early: &mut Vec<u8>) -> Result<(), Fault> {
        let recognized = async {
            loop {
                self.read(|bytes| early.extend_from_slice(bytes)).await?;
                match begins_with_magic(early) {
                    None => {}
                    Some(true) => return Ok(()),
                    Some(false) => {
                        let text = "this is the socket of pst, and that is not its protocol";
                        return Err(Fault::Broken(text.into()));
                    }
                }
            }
        };
        self.in_time(recognized).await
    }

    /// Waits for a part of the client's request, until its deadline.
    pub(super) async fn in_time<T>(
        &self,
        request: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let late = async {
            Timer::at(self.deadline).await;
            Err(Fault::Broken("no complete request within 5 s".into()))
        };
        or(request, late).await
    }

    /// Sends bytes, if the client takes them in time.
    pub(super) async fn write(&self, bytes: &[u8]) -> Result<(), Fault> {
        let sent = async {
            for chunk in bytes.chunks(SEND_CHUNK) {
                (&self.stream).write_all(chunk).await?;
                yield_now().await;
            }
            Ok(())
        };
        let late = async {
            Timer::after(WRITE_TIMEOUT).await;
            Err(Fault::Gone)
        };
        or(sent, late).await
    }

    /// Reads what comes next and hands it on. No buffer is kept while waiting.
    pub(super) async fn read(&self, mut take: impl FnMut(&[u8])) -> Result<(), Fault> {
        let read = |mut stream: &UnixStream| {
            let mut buffer = [0; 1280];
            let count = stream.read(&mut buffer)?;
            take(&buffer[..count]);
            Ok(count)
        };
        match self.stream.read_with(read).await? {
            0 => Err(Fault::Gone),
            _ => Ok(()),
        }
    }
}
