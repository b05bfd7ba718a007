//! A client's connection: reads and writes bytes with time limits.

use std::future::Future;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Instant;

use async_io::{Async, Timer};
use smol::future::{or, yield_now};

use super::timeouts::{HANDSHAKE, WRITE_TIMEOUT};
use crate::sys::socket::{self, Peer};
use crate::wire::begins_with_magic;

/// Bytes that are sent before other connections get their turn.
const SEND_CHUNK: usize = 16 << 10;

/// Why a connection ends early.
#[derive(Debug)]
pub(super) enum ConnectionError {
    /// The client hung up or does not read.
    Gone,
    /// The client broke the protocol; the text says how.
    Broken(String),
}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> ConnectionError {
        match error.kind() {
            io::ErrorKind::InvalidData => {
                ConnectionError::Broken("a message with file descriptors".into())
            }
            _ => ConnectionError::Gone,
        }
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    /// Shared with the task that closes it.
    stream: Async<Rc<UnixStream>>,
    pub peer: Peer,
    /// The peer may open sessions.
    pub admitted: bool,
    /// The request must be complete by then.
    deadline: Instant,
}

impl Connection {
    /// Starts the time limit for the client's request.
    pub(super) fn new(
        stream: Rc<UnixStream>,
        peer: Peer,
        admitted: bool,
    ) -> io::Result<Connection> {
        socket::keep_in_line(&stream)?;
        Ok(Connection {
            stream: Async::new(stream)?,
            peer,
            admitted,
            deadline: Instant::now() + HANDSHAKE,
        })
    }

    /// Reads until the client's protocol is known, and appends the bytes to `early`.
    pub(super) async fn recognize(&self, early: &mut Vec<u8>) -> Result<(), ConnectionError> {
        let recognized = async {
            loop {
                self.read(|bytes| early.extend_from_slice(bytes)).await?;
                match begins_with_magic(early) {
                    None => {}
                    Some(true) => return Ok(()),
                    Some(false) => {
                        let text = "this is the socket of pst, and that is not its protocol";
                        return Err(ConnectionError::Broken(text.into()));
                    }
                }
            }
        };
        self.in_time(recognized).await
    }

    /// Waits for a part of the client's request, at most until its deadline.
    pub(super) async fn in_time<T>(
        &self,
        request: impl Future<Output = Result<T, ConnectionError>>,
    ) -> Result<T, ConnectionError> {
        let late = async {
            Timer::at(self.deadline).await;
            Err(ConnectionError::Broken(
                "no complete request within 5 s".into(),
            ))
        };
        or(request, late).await
    }

    /// Sends bytes. Fails if the client does not read them in time.
    pub(super) async fn write(&self, bytes: &[u8]) -> Result<(), ConnectionError> {
        let sent = async {
            for chunk in bytes.chunks(SEND_CHUNK) {
                self.write_chunk(chunk).await?;
                yield_now().await;
            }
            Ok(())
        };
        let late = async {
            Timer::after(WRITE_TIMEOUT).await;
            Err(ConnectionError::Gone)
        };
        or(sent, late).await
    }

    async fn write_chunk(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let write = |stream: &Rc<UnixStream>| (&**stream).write(bytes);
            let sent = self.stream.write_with(write).await?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Waits for bytes and passes them to `take`. Keeps no buffer while waiting.
    pub(super) async fn read(&self, mut take: impl FnMut(&[u8])) -> Result<(), ConnectionError> {
        let read = |stream: &Rc<UnixStream>| {
            let mut buffer = [0; 1280];
            let count = socket::receive(stream, &mut buffer)?;
            take(&buffer[..count]);
            Ok(count)
        };
        match self.stream.read_with(read).await? {
            0 => Err(ConnectionError::Gone),
            _ => Ok(()),
        }
    }
}
