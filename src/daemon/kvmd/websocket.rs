//! A session over a WebSocket: from the upgrade to the end of the connection.

use std::future::{pending, poll_fn};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll, ready};

use async_io::Timer;
use smol::channel::Receiver;
use smol::future::or;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Bytes, Error, Message};

use super::events::{self, Event};
use super::state;
use crate::daemon::arbiter::{CloseResult, RevokeReason};
use crate::daemon::connection::{Connection, Fault};
use crate::daemon::context::Context as Daemon;
use crate::daemon::handle::{Session, SessionEvent};
use crate::daemon::timeouts::{CHANGES_EVERY, PING_EVERY};
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
pub(super) async fn session(
    daemon: &Daemon,
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
        daemon,
        connection,
        session: daemon.controller.open(connection.peer, name),
        line: Line {
            connection,
            socket: WebSocketContext::from_partially_read(
                early.into_vec(),
                Role::Server,
                Some(config),
            ),
            flushed: true,
        },
        stage: Stage::Waiting,
        told: None,
        ping: Timer::after(PING_EVERY),
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
    Waiting,
    Granted,
    /// The client closed it, and is answered once its data is safe.
    Closing,
    /// The client was told that it is over.
    Over,
}

struct Talk<'a> {
    daemon: &'a Daemon,
    connection: &'a Connection,
    session: Session,
    line: Line<'a>,
    stage: Stage,
    /// The number of sessions that it was told of, and when to look for another one.
    told: Option<Told>,
    ping: Timer,
    /// It has said something since the last ping.
    answered: bool,
    complaints: u32,
}

struct Told {
    clients: usize,
    rest: Timer,
    changed: Receiver<()>,
}

/// The WebSocket on its way to the client.
struct Line<'a> {
    connection: &'a Connection,
    socket: WebSocketContext,
    /// All that was said is on its way.
    flushed: bool,
}

enum Turn {
    Event(Option<SessionEvent>),
    Ping,
    Changed,
    Said(Result<Message, Error>),
}

impl Talk<'_> {
    /// Does what is next. False at the end.
    async fn turn(&mut self) -> Result<bool, Fault> {
        match self.next().await? {
            Turn::Event(None) => return Ok(false),
            Turn::Event(Some(event)) => return self.event(event).await,
            Turn::Ping if !self.answered => {
                let (id, peer) = (self.session.id.0, self.connection.peer);
                log::warn!("session {id} ({peer}) does not answer pings: dropped");
                return Ok(false);
            }
            Turn::Ping => {
                self.ping = Timer::after(PING_EVERY);
                self.answered = false;
                self.line.write(Message::Ping(Bytes::new()))?;
            }
            Turn::Changed => self.tell_if(true, false).await?,
            Turn::Said(Ok(message)) => return self.said(message).await,
            Turn::Said(Err(error)) => return self.broken(error).await,
        }
        Ok(true)
    }

    async fn next(&mut self) -> Result<Turn, Fault> {
        let event = async { Ok(Turn::Event(self.session.event().await)) };
        if self.stage == Stage::Closing {
            return event.await; // any other step would send the answer to its close frame
        }
        let over = self.stage == Stage::Over;
        let ping = async {
            match over {
                true => pending().await,
                false => {
                    let _ = (&mut self.ping).await;
                }
            }
            Ok(Turn::Ping)
        };
        let changed = async {
            match &mut self.told {
                Some(told) if !over => {
                    let _ = (&mut told.rest).await;
                    let _ = told.changed.recv().await;
                }
                _ => pending().await,
            }
            Ok(Turn::Changed)
        };
        let said = async {
            poll_fn(|cx| self.line.poll_flush(cx)).await?;
            Ok(Turn::Said(poll_fn(|cx| self.line.poll_message(cx)).await))
        };
        or(event, or(ping, or(changed, said))).await
    }

    async fn event(&mut self, event: SessionEvent) -> Result<bool, Fault> {
        match event {
            SessionEvent::Granted { .. } if self.stage == Stage::Waiting => {
                self.stage = Stage::Granted;
                self.tell(true).await?;
                self.flush().await?;
            }
            SessionEvent::Revoked(reason, text) if self.stage == Stage::Granted => {
                let code = match reason {
                    RevokeReason::Stopping => CloseCode::Away,
                    RevokeReason::Lost => CloseCode::Error,
                };
                self.tell(false).await?;
                self.close(code, &text).await?;
            }
            SessionEvent::Denied(_, text) => {
                self.tell(false).await?;
                self.close(CloseCode::Again, &text).await?;
                return Ok(false);
            }
            SessionEvent::Closed(CloseResult::Durable, _) => {
                self.flush().await?; // the answer to its close frame
                return Ok(false);
            }
            SessionEvent::Closed(CloseResult::Failed, _) => return Ok(false),
            SessionEvent::Granted { .. } | SessionEvent::Revoked(..) => {} // it has closed it meanwhile
        }
        Ok(true)
    }

    async fn said(&mut self, message: Message) -> Result<bool, Fault> {
        self.answered = true;
        match message {
            Message::Close(_) if self.stage == Stage::Granted => {
                self.stage = Stage::Closing;
                self.session.close();
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
        let (id, peer) = (self.session.id.0, self.connection.peer);
        if self.complaints <= COMPLAINTS {
            log::warn!("session {id} ({peer}): an event was passed over: {what}");
        }
        if self.complaints == COMPLAINTS {
            log::warn!("session {id} ({peer}): no more of these are logged");
        }
    }

    /// Tells it what the storage is.
    async fn tell(&mut self, write_allowed: bool) -> Result<(), Fault> {
        self.tell_if(write_allowed, true).await
    }

    /// The same, if it is news or `anyway`.
    async fn tell_if(&mut self, write_allowed: bool, anyway: bool) -> Result<(), Fault> {
        let controller = &self.daemon.controller;
        let status = controller.status(anyway).await.ok_or(Fault::Gone)?;
        let clients = status.clients;
        let before = self.told.replace(Told {
            clients,
            rest: Timer::after(CHANGES_EVERY),
            changed: controller.await_change(status.generation),
        });
        if anyway || before.is_none_or(|before| before.clients != clients) {
            self.say(events::storage(&state(self.daemon, &status, write_allowed)))?;
        }
        Ok(())
    }

    fn say(&mut self, event: String) -> Result<(), Fault> {
        self.line.write(Message::text(event))
    }

    /// Says that it is over, and why.
    async fn close(&mut self, code: CloseCode, text: &str) -> Result<(), Fault> {
        self.stage = Stage::Over;
        let frame = CloseFrame {
            code,
            reason: cut(text).into(),
        };
        let closed = self
            .line
            .socket
            .close(&mut channel(self.connection), Some(frame));
        match closed {
            Err(error) if !blocks(&error) => Err(Fault::Gone),
            _ => self.flush().await,
        }
    }

    /// Sends what is left to be sent, if the client takes it in time.
    async fn flush(&mut self) -> Result<(), Fault> {
        self.line.flushed = false;
        let flushed = poll_fn(|cx| self.line.poll_flush(cx));
        self.connection.patiently(flushed).await
    }
}

impl Line<'_> {
    /// Leaves a message to be sent.
    fn write(&mut self, message: Message) -> Result<(), Fault> {
        self.flushed = false;
        match self.socket.write(&mut channel(self.connection), message) {
            Err(error) if !blocks(&error) => Err(Fault::Gone),
            _ => Ok(()),
        }
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
