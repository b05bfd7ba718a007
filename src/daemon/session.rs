//! One connection: the handshake, then a session or a status, until either side ends it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use async_io::{Async, Timer};
use smol::io::{AsyncRead, AsyncWriteExt};

use super::arbiter::{Input, SessionId};
use super::core::Core;
use super::times::{HANDSHAKE, WRITE_PATIENCE};
use crate::escape::escape;
use crate::sys::socket::Peer;
use crate::wire::{
    ClientMessage, DaemonMessage, Decoder, DenyReason, MAGIC, Message, Opening, VERSION, opening,
};

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {}, pid {}", self.uid, self.pid)
    }
}

/// A session as the core knows it: who, since when, and what it is to be told.
#[derive(Debug)]
pub struct Seat {
    /// Its number.
    pub id: SessionId,
    /// Who has it.
    pub peer: Peer,
    /// What it runs, as it says.
    pub command: Box<[u8]>,
    /// When it was asked for.
    pub opened: Instant,
    outbox: RefCell<VecDeque<DaemonMessage>>,
    cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Seat {
    /// Its command, safe to print.
    pub fn command(&self) -> impl fmt::Display + '_ {
        escape(&self.command)
    }

    /// Leaves a message for the connection to send.
    pub fn push(&self, message: DaemonMessage) {
        self.outbox.borrow_mut().push_back(message);
        self.wake();
    }

    /// Ends the connection, whatever is left to say.
    pub fn cut(&self) {
        self.cut.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Why a connection ends before its time.
enum Fault {
    /// The client is gone, or cannot be talked to.
    Gone,
    /// It broke the protocol; it is told how.
    Broken(String),
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Fault {
        Fault::Gone
    }
}

/// Serves a connection to its end. `admitted`: its peer may open sessions.
pub async fn serve(core: &Core, stream: Async<UnixStream>, peer: Peer, admitted: bool) {
    let mut connection = Connection {
        stream,
        decoder: Decoder::new(),
    };
    let result = connection.converse(core, peer, admitted).await;
    if let Err(Fault::Broken(text)) = result {
        log::warn!("a client ({peer}) broke the protocol: {text}");
        let _ = connection
            .send(vec![DaemonMessage::Error {
                version: VERSION,
                text,
            }])
            .await;
    }
}

struct Connection {
    stream: Async<UnixStream>,
    decoder: Decoder<ClientMessage>,
}

/// What happens next on a connection with a session.
enum Turn {
    Said(ClientMessage),
    Say(DaemonMessage),
    Cut,
}

impl Connection {
    async fn converse(&mut self, core: &Core, peer: Peer, admitted: bool) -> Result<(), Fault> {
        let first = smol::future::or(self.first_message(), async {
            Timer::after(HANDSHAKE).await;
            Err(Fault::Broken("said nothing that makes sense in 5 s".into()))
        })
        .await?;
        match first {
            ClientMessage::Open { command, .. } if admitted => {
                self.session(core, peer, command).await
            }
            ClientMessage::Open { .. } => {
                let text = format!(
                    "user {} is neither root nor in the group '{}': have an administrator run \
                     `usermod -aG {1} USER`, and log in anew",
                    peer.uid, core.access.1
                );
                log::warn!("{peer} was refused: not in the group '{}'", core.access.1);
                let reason = DenyReason::NotAdmitted;
                self.send(vec![DaemonMessage::Denied {
                    version: VERSION,
                    reason,
                    text,
                }])
                .await
            }
            ClientMessage::Status { .. } => self.status(core).await,
            ClientMessage::Close => Err(Fault::Broken("Close without a session".into())),
        }
    }

    /// The protocol's first bytes, and the first message after them.
    async fn first_message(&mut self) -> Result<ClientMessage, Fault> {
        let mut early = Vec::new();
        loop {
            poll_fn(|cx| self.poll_read(cx, |_, bytes| early.extend_from_slice(bytes))).await?;
            match opening(&early) {
                Opening::NeedMore => {}
                Opening::Frames => break,
                Opening::Other => {
                    return Err(Fault::Broken(
                        "this is the socket of pst, and that is not its protocol".into(),
                    ));
                }
            }
        }
        self.decoder.push(early.get(MAGIC.len()..).unwrap_or(&[]));
        drop(early);
        loop {
            if let Some(message) = self.decoded()? {
                return Ok(message);
            }
            poll_fn(|cx| self.poll_read(cx, Decoder::push)).await?;
        }
    }

    async fn session(&mut self, core: &Core, peer: Peer, command: Vec<u8>) -> Result<(), Fault> {
        let seat = Rc::new(Seat {
            id: core.next_id(),
            peer,
            command: command.into_boxed_slice(),
            opened: Instant::now(),
            outbox: RefCell::default(),
            cut: Cell::new(false),
            waker: RefCell::default(),
        });
        core.open(seat.clone());
        let _occupied = Occupied { core, seat: &seat };
        let mut granted = false;
        loop {
            match poll_fn(|cx| self.poll_turn(cx, &seat)).await? {
                Turn::Cut => return Ok(()),
                Turn::Say(message) => {
                    let last = matches!(
                        message,
                        DaemonMessage::Denied { .. } | DaemonMessage::Closed { .. }
                    );
                    granted |= matches!(message, DaemonMessage::Granted { .. });
                    let sent = self.send(vec![message]).await;
                    core.answered(1);
                    sent?;
                    if last {
                        return Ok(());
                    }
                }
                Turn::Said(ClientMessage::Close) if granted => {
                    granted = false; // once
                    core.input(Input::Close(seat.id));
                }
                Turn::Said(message) => {
                    let what = match message {
                        ClientMessage::Open { .. } => "a second Open",
                        ClientMessage::Close => "Close without a session",
                        ClientMessage::Status { .. } => "Status during a session",
                    };
                    return Err(Fault::Broken(what.into()));
                }
            }
        }
    }

    async fn status(&mut self, core: &Core) -> Result<(), Fault> {
        self.send(vec![core.storage_message()]).await?;
        let mut last = SessionId(0);
        loop {
            let mut batch = Vec::new();
            while let Some((id, message)) = core.session_message(last) {
                last = id;
                batch.push(message);
                if batch.len() == 4 {
                    break;
                }
            }
            if batch.is_empty() {
                break;
            }
            self.send(batch).await?;
        }
        // One by one: a client that does not read costs as much as what waits for it.
        for number in 0.. {
            let Some(message) = core.holder_message(number) else {
                break;
            };
            self.send(vec![message]).await?;
        }
        self.send(vec![DaemonMessage::End]).await
    }

    /// Sends messages as one write, if the client takes them in time.
    async fn send(&mut self, messages: Vec<DaemonMessage>) -> Result<(), Fault> {
        let mut bytes = Vec::new();
        for message in messages {
            message.encode(&mut bytes);
        }
        // Only this is kept while the client does not read, and there may be many such.
        let bytes = bytes.into_boxed_slice();
        let write = async { (&self.stream).write_all(&bytes).await.map_err(Fault::from) };
        smol::future::or(write, async {
            Timer::after(WRITE_PATIENCE).await;
            Err(Fault::Gone)
        })
        .await
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>, seat: &Seat) -> Poll<Result<Turn, Fault>> {
        if seat.cut.get() {
            return Poll::Ready(Ok(Turn::Cut));
        }
        if let Some(message) = seat.outbox.borrow_mut().pop_front() {
            return Poll::Ready(Ok(Turn::Say(message)));
        }
        seat.waker.replace(Some(cx.waker().clone()));
        loop {
            if let Some(message) = self.decoded()? {
                return Poll::Ready(Ok(Turn::Said(message)));
            }
            match self.poll_read(cx, Decoder::push) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => result?,
            }
        }
    }

    fn decoded(&mut self) -> Result<Option<ClientMessage>, Fault> {
        let decoded = self.decoder.next_message();
        decoded.map_err(|error| Fault::Broken(error.to_string()))
    }

    /// Reads what there is and hands it on. The buffer lives no longer than that.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut Decoder<ClientMessage>, &[u8]),
    ) -> Poll<Result<(), Fault>> {
        let mut buffer = [0; 1280];
        match Pin::new(&mut &self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => Poll::Ready(Err(Fault::Gone)),
            Poll::Ready(Ok(count)) => {
                take(&mut self.decoder, buffer.get(..count).unwrap_or(&[]));
                Poll::Ready(Ok(()))
            }
        }
    }
}

/// Tells the core when the connection is over, however it came to that.
struct Occupied<'a> {
    core: &'a Core,
    seat: &'a Seat,
}

impl Drop for Occupied<'_> {
    fn drop(&mut self) {
        self.core.answered(self.seat.outbox.borrow().len());
        self.core.gone(self.seat.id);
    }
}
