//! A session over a WebSocket: from the upgrade to the end of the connection.

use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Bytes, Error, Message};

use super::events::{self, Event};
use super::state;
use crate::daemon::arbiter::{CloseResult, Input, RevokeReason};
use crate::daemon::connection::{Connection, Fault};
use crate::daemon::core::Core;
use crate::daemon::seat::{Notice, Occupied};
use crate::daemon::timers::Sleep;
use crate::daemon::times::{CHANGES_EVERY, PING_EVERY};
use crate::escape::escape;

/// Longest message of a client, in bytes.
const MESSAGE_MAX: usize = 4 << 10;
/// What is read of one client before it is the others' turn, in bytes.
const TURN_MAX: usize = 4 << 10;
/// Longest reason that a close frame can hold, in bytes; RFC 6455, 5.5.
const REASON_MAX: usize = 123;
/// How many broken events of one connection are logged.
const COMPLAINTS: u32 = 3;

/// Holds a session for as long as the connection is open. `early` came behind the request.
pub async fn session(
    core: &Core,
    connection: &Connection,
    name: Vec<u8>,
    early: Box<[u8]>,
) -> Result<(), Fault> {
    let config = WebSocketConfig::default()
        .read_buffer_size(512)
        .write_buffer_size(4 << 10)
        .max_write_buffer_size(16 << 10)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    let mut talk = Talk {
        core,
        connection,
        session: Occupied::open(core, connection.peer, name, 0),
        socket: WebSocketContext::from_partially_read(early.into_vec(), Role::Server, Some(config)),
        stage: Stage::Waiting,
        flushed: true,
        told: 0,
        rest: None,
        ping: core.timers.after(PING_EVERY),
        answered: true,
        complaints: 0,
    };
    talk.say(events::begin())?;
    while talk.turn().await? {
        smol::future::yield_now().await; // who talks without end must not keep the others waiting
    }
    Ok(())
}

/// Where a session stands, as its client knows it.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// Neither granted nor denied.
    Waiting,
    Granted,
    /// The client closed it, and is answered once its data is safe.
    Closing,
    /// The client was told that it is over.
    Over,
}

/// One client's session.
struct Talk<'a> {
    core: &'a Core,
    connection: &'a Connection,
    session: Occupied<'a>,
    socket: WebSocketContext,
    stage: Stage,
    /// All that was said is on its way.
    flushed: bool,
    /// The number of sessions that it was told of.
    told: usize,
    /// Runs while it is too early to tell it of another number.
    rest: Option<Sleep>,
    ping: Sleep,
    /// It has said something since the last ping.
    answered: bool,
    complaints: u32,
}

/// What happens next.
enum Turn {
    Cut,
    Notice(Notice),
    Ping,
    Changed,
    Said(Result<Message, Error>),
}

impl Talk<'_> {
    /// Does what is next. False at the end.
    async fn turn(&mut self) -> Result<bool, Fault> {
        match poll_fn(|cx| self.poll_turn(cx)).await? {
            Turn::Cut => return Ok(false),
            Turn::Notice(notice) => {
                let more = self.notice(notice).await;
                self.core.answered(1);
                if !more? {
                    return Ok(false);
                }
            }
            Turn::Ping if !self.answered => {
                let (id, peer) = (self.session.id, self.connection.peer);
                log::warn!("session {id} ({peer}) does not answer pings: dropped");
                return Ok(false);
            }
            Turn::Ping => {
                self.answered = false;
                self.write(Message::Ping(Bytes::new()))?;
            }
            Turn::Changed => {
                self.rest = Some(self.core.timers.after(CHANGES_EVERY));
                self.tell(true)?;
            }
            Turn::Said(Ok(message)) => return self.said(message).await,
            Turn::Said(Err(error)) => return self.broken(error).await,
        }
        Ok(true)
    }

    async fn notice(&mut self, notice: Notice) -> Result<bool, Fault> {
        match notice {
            Notice::Granted { .. } if self.stage == Stage::Waiting => {
                self.stage = Stage::Granted;
                self.tell(true)?;
                self.flush().await?;
            }
            Notice::Revoked(reason, text) if self.stage == Stage::Granted => {
                let code = match reason {
                    RevokeReason::Stopping => CloseCode::Away,
                    RevokeReason::Lost => CloseCode::Error,
                };
                self.tell(false)?;
                self.close(code, &text).await?;
            }
            Notice::Denied(_, text) => {
                self.tell(false)?;
                self.close(CloseCode::Again, &text).await?;
                return Ok(false);
            }
            Notice::Closed(CloseResult::Durable, _) => {
                self.flush().await?; // the answer to its close frame
                return Ok(false);
            }
            Notice::Closed(CloseResult::Failed, _) => return Ok(false),
            Notice::Granted { .. } | Notice::Revoked(..) => {} // it has closed it meanwhile
        }
        Ok(true)
    }

    async fn said(&mut self, message: Message) -> Result<bool, Fault> {
        self.answered = true;
        match message {
            Message::Close(_) if self.stage == Stage::Granted => {
                self.stage = Stage::Closing;
                self.core.input(Input::Close(self.session.id));
            }
            Message::Close(_) => {
                self.flush().await?;
                return Ok(false);
            }
            Message::Text(text) => match Event::parse(&text) {
                Ok(Event::Ping) if self.stage != Stage::Over => self.say(events::pong())?,
                Ok(Event::Ping) => {}
                Ok(Event::Unknown(name)) => {
                    self.complain(format_args!("unknown '{}'", escape(&name)))
                }
                Err(error) => self.complain(format_args!("{}", escape(&error.to_string()))),
            },
            Message::Binary(_) => self.complain(format_args!("it is binary")),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
        Ok(true)
    }

    async fn broken(&mut self, error: Error) -> Result<bool, Fault> {
        let code = match &error {
            Error::Capacity(_) => CloseCode::Size,
            Error::Utf8(_) => CloseCode::Invalid,
            Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => {
                return Ok(false);
            }
            Error::Protocol(_) => CloseCode::Protocol,
            _ => return Ok(false), // it is gone
        };
        let text = error.to_string();
        if self.stage != Stage::Over {
            self.close(code, &text).await?;
        }
        Err(Fault::Broken(text))
    }

    fn complain(&mut self, what: std::fmt::Arguments<'_>) {
        self.complaints += 1;
        let (id, peer) = (self.session.id, self.connection.peer);
        if self.complaints <= COMPLAINTS {
            log::warn!("session {id} ({peer}): an event was passed over: {what}");
        }
        if self.complaints == COMPLAINTS {
            log::warn!("session {id} ({peer}): no more of these are logged");
        }
    }

    /// Tells it what the storage is.
    fn tell(&mut self, write_allowed: bool) -> Result<(), Fault> {
        let state = state(self.core, write_allowed);
        self.told = state.clients;
        self.say(events::storage(&state))
    }

    fn say(&mut self, event: String) -> Result<(), Fault> {
        self.write(Message::text(event))
    }

    /// Leaves a message to be sent.
    fn write(&mut self, message: Message) -> Result<(), Fault> {
        self.flushed = false;
        match self.socket.write(&mut channel(self.connection), message) {
            Err(error) if !blocks(&error) => Err(Fault::Gone),
            _ => Ok(()),
        }
    }

    /// Says that it is over, and why.
    async fn close(&mut self, code: CloseCode, text: &str) -> Result<(), Fault> {
        self.stage = Stage::Over;
        self.flushed = false;
        let frame = CloseFrame {
            code,
            reason: cut(text).into(),
        };
        let closed = self
            .socket
            .close(&mut channel(self.connection), Some(frame));
        match closed {
            Err(error) if !blocks(&error) => Err(Fault::Gone),
            _ => self.flush().await,
        }
    }

    /// Sends what is left to be sent, if the client takes it in time.
    async fn flush(&mut self) -> Result<(), Fault> {
        self.flushed = false;
        let connection = self.connection;
        connection
            .patiently(poll_fn(|cx| self.poll_flush(cx)))
            .await
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<Turn, Fault>> {
        if let Poll::Ready(notice) = self.session.poll_notice(cx) {
            return Poll::Ready(Ok(notice.map_or(Turn::Cut, Turn::Notice)));
        }
        if self.stage == Stage::Closing {
            return Poll::Pending; // any other step would send the answer to its close frame
        }
        if self.stage != Stage::Over && Pin::new(&mut self.ping).poll(cx).is_ready() {
            self.ping = self.core.timers.after(PING_EVERY);
            return Poll::Ready(Ok(Turn::Ping));
        }
        ready!(self.poll_flush(cx))?;
        if self.stage == Stage::Granted && self.poll_changed(cx).is_ready() {
            return Poll::Ready(Ok(Turn::Changed));
        }
        self.poll_message(cx).map(|said| Ok(Turn::Said(said)))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        while !self.flushed {
            match self.socket.flush(&mut channel(self.connection)) {
                Ok(()) | Err(Error::ConnectionClosed) => self.flushed = true,
                Err(error) if blocks(&error) => ready!(self.connection.stream.poll_writable(cx))?,
                Err(_) => return Poll::Ready(Err(Fault::Gone)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(rest) = &mut self.rest {
            ready!(Pin::new(rest).poll(cx));
            self.rest = None;
        }
        if self.core.sessions() != self.told {
            return Poll::Ready(());
        }
        self.core.api.watchers.add(self.session.id, cx.waker());
        Poll::Pending
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        loop {
            let mut channel = channel(self.connection);
            match self.socket.read(&mut channel) {
                Err(error) if blocks(&error) => {
                    if channel.left == 0 {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    ready!(self.connection.stream.poll_readable(cx))?;
                }
                said => return Poll::Ready(said),
            }
        }
    }
}

/// As much of a text as a close frame can hold.
fn cut(text: &str) -> &str {
    let ends = 0..=REASON_MAX.min(text.len());
    ends.rev()
        .find_map(|end| text.get(..end))
        .unwrap_or_default()
}

fn blocks(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// The stream for one step: it blocks once enough was read, so that frames that make no message
/// do not keep the daemon for ever.
struct Channel<'a> {
    stream: &'a UnixStream,
    left: usize,
}

fn channel(connection: &Connection) -> Channel<'_> {
    Channel {
        stream: connection.stream.get_ref(),
        left: TURN_MAX,
    }
}

impl Read for Channel<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let most = buffer.len().min(self.left);
        let count = self
            .stream
            .read(buffer.get_mut(..most).unwrap_or_default())?;
        self.left -= count;
        Ok(count)
    }
}

impl Write for Channel<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"a".repeat(124)).len(), 123);
        assert_eq!(cut(&"\u{e9}".repeat(100)).len(), 122);
    }
}
