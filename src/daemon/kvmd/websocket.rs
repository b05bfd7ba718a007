//! A session over a WebSocket, from the upgrade to the end of the connection.

use std::collections::VecDeque;
use std::future::pending;
use std::io::{self, Read, Write};
use std::time::Instant;

use async_io::Timer;
use smol::channel::Receiver;
use smol::future::{or, yield_now};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Bytes, Error, Message};

use super::events::{self, ClientEvent};
use crate::daemon::connection::{Connection, ConnectionError};
use crate::daemon::context::Context;
use crate::daemon::handle::Session;
use crate::daemon::timeouts::{CHANGES_EVERY, PING_EVERY};
use crate::escape::escape;
use crate::wire::{CloseResult, DaemonMessage, RevokeReason};

/// Longest message of a client, in bytes.
const MESSAGE_MAX: usize = 4 << 10;
/// Longest reason in a close frame, in bytes (RFC 6455, section 5.5).
const REASON_MAX: usize = 123;

#[derive(Clone, Copy, PartialEq)]
enum SocketStage {
    Waiting,
    Granted,
    /// The client closed the session and waits until its data is safe.
    Closing,
    /// The daemon ended the session. The client still has to close.
    Revoked,
    Ended,
}

/// The next event of a WebSocket session.
enum SocketEvent {
    Session(Option<DaemonMessage>),
    Ping,
    StatusChanged,
    Input(Vec<u8>),
}

struct WebSocketSession<'a> {
    context: &'a Context,
    connection: &'a Connection,
    session: Session,
    socket: WebSocketContext,
    buffers: Buffers,
    stage: SocketStage,
    last_storage: Option<SentStorage>,
    ping_at: Instant,
    /// The client has sent a message since the last ping.
    answered: bool,
    /// An invalid event has been logged.
    warned: bool,
}

/// The last `storage` event that was sent, and the earliest time of the next.
struct SentStorage {
    event: String,
    /// The channel closes at the next change.
    outdated: Receiver<()>,
    not_before: Instant,
}

/// Keeps a session open until the connection ends. `accept` is the HTTP response that opens the WebSocket, `early` are
/// the bytes after the request.
pub(super) async fn serve(
    context: &Context,
    connection: &Connection,
    client: Vec<u8>,
    accept: Vec<u8>,
    early: Vec<u8>,
) {
    let config = WebSocketConfig::default()
        .read_buffer_size(512)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    let mut session = WebSocketSession {
        context,
        connection,
        session: context.controller.open(connection.peer, client),
        socket: WebSocketContext::new(Role::Server, Some(config)),
        buffers: Buffers {
            input: VecDeque::new(),
            output: accept,
        },
        stage: SocketStage::Waiting,
        last_storage: None,
        ping_at: Instant::now() + PING_EVERY,
        answered: true,
        warned: false,
    };
    if let Err(ConnectionError::Broken(text)) = session.run(early).await {
        let peer = connection.peer;
        let line = format!("a client ({peer}) broke the protocol: {text}");
        context.controller.warn(peer.uid, line);
        let _ = session.flush().await; // the close frame; the client may be gone
    }
}

impl WebSocketSession<'_> {
    async fn run(&mut self, early: Vec<u8>) -> Result<(), ConnectionError> {
        self.send(Message::text(events::begin()));
        self.receive(early)?;
        while self.stage != SocketStage::Ended {
            self.flush().await?;
            match self.next().await? {
                SocketEvent::Session(Some(event)) => self.session_event(event).await?,
                SocketEvent::Session(None) => self.stage = SocketStage::Ended,
                SocketEvent::Ping => self.ping(),
                SocketEvent::StatusChanged => self.send_storage(true).await?,
                SocketEvent::Input(bytes) => self.receive(bytes)?,
            }
            yield_now().await; // a client that never pauses must not keep the others waiting
        }
        self.flush().await
    }

    async fn next(&self) -> Result<SocketEvent, ConnectionError> {
        let event = async { Ok(SocketEvent::Session(self.session.answer().await)) };
        // Using the socket now would answer the client's close frame too early.
        if self.stage == SocketStage::Closing {
            return event.await;
        }
        let ping = async {
            Timer::at(self.ping_at).await;
            Ok(SocketEvent::Ping)
        };
        let changed = async {
            let Some(sent) = &self.last_storage else {
                return pending().await;
            };
            Timer::at(sent.not_before).await;
            let _ = sent.outdated.recv().await;
            Ok(SocketEvent::StatusChanged)
        };
        let input = async {
            let mut bytes = Vec::new();
            self.connection
                .read(|read| bytes.extend_from_slice(read))
                .await?;
            Ok(SocketEvent::Input(bytes))
        };
        or(event, or(ping, or(changed, input))).await
    }

    async fn session_event(&mut self, event: DaemonMessage) -> Result<(), ConnectionError> {
        match event {
            DaemonMessage::Granted { .. } if self.stage == SocketStage::Waiting => {
                self.stage = SocketStage::Granted;
                self.send_storage(true).await?;
            }
            DaemonMessage::Revoked { reason, text } if self.stage == SocketStage::Granted => {
                let code = match reason {
                    RevokeReason::Stopping => CloseCode::Away,
                    RevokeReason::Lost => CloseCode::Error,
                };
                self.send_storage(false).await?;
                self.close(code, &text);
                self.stage = SocketStage::Revoked;
            }
            DaemonMessage::Denied { text, .. } => {
                self.send_storage(false).await?;
                self.close(CloseCode::Again, &text);
                self.stage = SocketStage::Ended;
            }
            DaemonMessage::Closed { result, .. } => {
                if result == CloseResult::Durable {
                    self.answer_close();
                }
                self.stage = SocketStage::Ended;
            }
            _ => {} // the client has closed
        }
        Ok(())
    }

    fn ping(&mut self) {
        if !self.answered {
            self.warn("does not answer pings: dropped");
            self.stage = SocketStage::Ended;
            return;
        }
        self.ping_at = Instant::now() + PING_EVERY;
        self.answered = false;
        self.send(Message::Ping(Bytes::new()));
    }

    /// Processes bytes from the client.
    fn receive(&mut self, bytes: Vec<u8>) -> Result<(), ConnectionError> {
        self.buffers.input = bytes.into();
        while !matches!(self.stage, SocketStage::Closing | SocketStage::Ended) {
            match self.socket.read(&mut self.buffers) {
                Ok(message) => self.message(message),
                Err(Error::Io(_)) => break, // incomplete
                Err(error) => return Err(self.protocol_error(&error)),
            }
        }
        self.buffers.input = VecDeque::new(); // an idle session needs no buffer
        Ok(())
    }

    fn message(&mut self, message: Message) {
        self.answered = true;
        match message {
            Message::Close(_) if self.stage == SocketStage::Granted => {
                self.stage = SocketStage::Closing;
                self.session.close();
            }
            Message::Close(_) => {
                self.answer_close();
                self.stage = SocketStage::Ended;
            }
            Message::Text(text) => match ClientEvent::parse(&text) {
                Ok(ClientEvent::Ping) => self.send(Message::text(events::pong())),
                Ok(ClientEvent::Unknown(name)) => {
                    self.skip_event(&format!("unknown type '{}'", escape(&name)))
                }
                Err(error) => self.skip_event(&escape(&error.to_string()).to_string()),
            },
            Message::Binary(_) => self.skip_event("not text"),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }

    /// Logs only the client's first invalid event, because it may send any number.
    fn skip_event(&mut self, why: &str) {
        if !std::mem::replace(&mut self.warned, true) {
            self.warn(&format!("an event was ignored ({why})"));
        }
    }

    fn warn(&self, what: &str) {
        let (id, peer) = (self.session.id.0, self.connection.peer);
        let line = format!("session {id} ({peer}): {what}");
        self.context.controller.warn(peer.uid, line);
    }

    fn protocol_error(&mut self, error: &Error) -> ConnectionError {
        let code = match error {
            Error::Capacity(_) => CloseCode::Size,
            Error::Utf8(_) => CloseCode::Invalid,
            _ => CloseCode::Protocol,
        };
        let text = error.to_string();
        self.close(code, &text);
        ConnectionError::Broken(text)
    }

    /// Queues a `storage` event, unless it is the same as the last one.
    async fn send_storage(&mut self, write_allowed: bool) -> Result<(), ConnectionError> {
        let fresh = self.last_storage.is_none();
        let status = self.context.controller.status(fresh).await;
        let status = status.ok_or(ConnectionError::Gone)?;
        let event = events::storage(&super::storage(self.context, &status, write_allowed));
        if self.last_storage.as_ref().map(|sent| &sent.event) != Some(&event) {
            self.send(Message::text(event.clone()));
        }
        self.last_storage = Some(SentStorage {
            event,
            outdated: status.outdated.clone(),
            not_before: Instant::now() + CHANGES_EVERY,
        });
        Ok(())
    }

    /// Queues a message, unless a close frame was queued before.
    fn send(&mut self, message: Message) {
        let _ = self.socket.write(&mut self.buffers, message);
    }

    /// Queues a close frame, after which nothing else is sent.
    fn close(&mut self, code: CloseCode, reason: &str) {
        self.last_storage = None;
        let reason = truncated(reason).into();
        let frame = CloseFrame { code, reason };
        let _ = self.socket.close(&mut self.buffers, Some(frame));
    }

    /// Queues the answer to the client's close frame, which the WebSocket has delayed.
    fn answer_close(&mut self) {
        let _ = self.socket.flush(&mut self.buffers);
    }

    /// Sends the queued bytes. Fails if the client does not read them in time.
    async fn flush(&mut self) -> Result<(), ConnectionError> {
        let bytes = std::mem::take(&mut self.buffers.output);
        self.connection.write(&bytes).await
    }
}

/// The bytes between the WebSocket and the connection: the session's loop does all I/O. Writing never fails. Reading
/// fails only if more input is needed.
struct Buffers {
    input: VecDeque<u8>,
    output: Vec<u8>,
}

impl Read for Buffers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.input.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Buffers {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Cuts a text to the length limit of a close frame.
fn truncated(text: &str) -> &str {
    let mut ends = (0..=REASON_MAX.min(text.len())).rev();
    ends.find_map(|end| text.get(..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_between_characters() {
        assert_eq!(truncated("short"), "short");
        assert_eq!(truncated(&"a".repeat(124)).len(), 123);
        assert_eq!(truncated(&"\u{e9}".repeat(100)).len(), 122);
    }
}
