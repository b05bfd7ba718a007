//! A connection in our own protocol: a session or a status, until either side ends it.

use async_io::Timer;
use smol::future::{or, yield_now};

use super::connection::{Connection, Fault};
use super::context::Context;
use super::handle::SessionEvent;
use super::timeouts::STATUS_INTERVAL;
use crate::wire::{
    ClientMessage, DaemonMessage, Decoder, DenyReason, MAGIC, Message, Opening, VERSION,
};

/// Bytes of a status that are sent before the other connections get their turn.
const SEND_CHUNK: usize = 16 << 10;

/// Serves a connection to its end. `early` are the bytes that were read to recognise the protocol.
pub(super) async fn serve(
    context: &Context,
    connection: &Connection,
    opening: Opening,
    early: &[u8],
) {
    let mut client = NativeClient {
        connection,
        decoder: Decoder::new(),
    };
    if let Err(fault) = client.serve(context, opening, early).await {
        refuse(connection, fault).await;
    }
}

/// Reports its mistake to a client that can still be reached.
pub(super) async fn refuse(connection: &Connection, fault: Fault) {
    let text = match fault {
        Fault::Gone => return,
        Fault::Broken(text) => text,
        Fault::Late => "no valid request within 5 s".into(),
    };
    log::warn!("a client ({}) broke the protocol: {text}", connection.peer);
    let version = VERSION;
    let _ = send(connection, DaemonMessage::Error { version, text }).await; // it may be gone
}

/// Refuses a session.
pub(super) fn denied(reason: DenyReason, text: String) -> DaemonMessage {
    DaemonMessage::Denied {
        version: VERSION,
        reason,
        text,
    }
}

pub(super) async fn send(connection: &Connection, message: DaemonMessage) -> Result<(), Fault> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    connection.write(&bytes).await
}

struct NativeClient<'a> {
    connection: &'a Connection,
    decoder: Decoder<ClientMessage>,
}

/// What happens next during a session.
enum Next {
    /// `None`: disconnect the client.
    Event(Option<SessionEvent>),
    Message(ClientMessage),
}

impl NativeClient<'_> {
    async fn serve(
        &mut self,
        context: &Context,
        opening: Opening,
        early: &[u8],
    ) -> Result<(), Fault> {
        if opening != Opening::Frames {
            let text = "this is the socket of pst, and that is not its protocol";
            return Err(Fault::Broken(text.into()));
        }
        self.decoder.push(early.get(MAGIC.len()..).unwrap_or(&[]));
        match self.connection.in_time(self.next_message()).await? {
            ClientMessage::Open { command, .. } if self.connection.admitted => {
                self.session(context, command).await
            }
            ClientMessage::Open { .. } => {
                let text = context.not_admitted(self.connection.peer);
                send(self.connection, denied(DenyReason::NotAdmitted, text)).await
            }
            ClientMessage::Status { watch, .. } => {
                Box::pin(status(context, self.connection, watch)).await
            }
            ClientMessage::Close => Err(Fault::Broken("Close without a session".into())),
        }
    }

    async fn next_message(&mut self) -> Result<ClientMessage, Fault> {
        loop {
            let decoded = self.decoder.next_message();
            if let Some(message) = decoded.map_err(|error| Fault::Broken(error.to_string()))? {
                return Ok(message);
            }
            self.connection
                .read(|bytes| self.decoder.push(bytes))
                .await?;
        }
    }

    async fn session(&mut self, context: &Context, command: Vec<u8>) -> Result<(), Fault> {
        let session = context.controller.open(self.connection.peer, command);
        let mut may_close = false;
        loop {
            let event = async { Ok::<_, Fault>(Next::Event(session.event().await)) };
            let message = async { Ok(Next::Message(self.next_message().await?)) };
            match or(event, message).await? {
                Next::Event(None) => return Ok(()),
                Next::Event(Some(event)) => {
                    let last = matches!(event, SessionEvent::Denied(..) | SessionEvent::Closed(..));
                    may_close |= matches!(event, SessionEvent::Granted { .. });
                    send(self.connection, message_of(context, event)).await?;
                    if last {
                        return Ok(());
                    }
                }
                Next::Message(ClientMessage::Close) if may_close => {
                    may_close = false;
                    session.close();
                }
                Next::Message(message) => {
                    let mistake = match message {
                        ClientMessage::Open { .. } => "a second Open",
                        ClientMessage::Close => "Close without a session",
                        ClientMessage::Status { .. } => "Status during a session",
                    };
                    return Err(Fault::Broken(mistake.into()));
                }
            }
        }
    }
}

fn message_of(context: &Context, event: SessionEvent) -> DaemonMessage {
    let settings = &context.settings;
    match event {
        SessionEvent::Granted { device } => DaemonMessage::Granted {
            version: VERSION,
            data: settings.data.clone(),
            device,
            kill_grace_ms: u32::try_from(settings.kill_grace.as_millis()).unwrap_or(u32::MAX),
        },
        SessionEvent::Denied(reason, text) => denied(reason, text.to_string()),
        SessionEvent::Revoked(reason, text) => DaemonMessage::Revoked {
            reason,
            text: text.to_string(),
        },
        SessionEvent::Closed(result, text) => DaemonMessage::Closed {
            result,
            text: text.to_string(),
        },
    }
}

/// Sends the status, and with `watch` again after each change until the client hangs up. Changes are not queued: the
/// next status is made once the client has taken the last one.
async fn status(context: &Context, connection: &Connection, watch: bool) -> Result<(), Fault> {
    let controller = &context.controller;
    let mut sent = None;
    while let Some(snapshot) = controller.status(sent.is_none()).await {
        let generation = snapshot.generation;
        if sent != Some(generation) {
            connection
                .patiently(send_in_turns(connection, &snapshot.bytes))
                .await?;
        }
        drop(snapshot); // it may be large
        if !watch {
            return Ok(());
        }
        sent = Some(generation);
        let change = controller.await_change(generation);
        let next = async {
            Timer::after(STATUS_INTERVAL).await;
            let _ = change.recv().await;
            Ok(())
        };
        or(fail_on_input(connection), next).await?;
    }
    Ok(())
}

async fn send_in_turns(connection: &Connection, bytes: &[u8]) -> Result<(), Fault> {
    for chunk in bytes.chunks(SEND_CHUNK) {
        connection.write_all(chunk).await?;
        yield_now().await;
    }
    Ok(())
}

/// Waits until a watching client hangs up or sends something, which it may not.
async fn fail_on_input(connection: &Connection) -> Result<(), Fault> {
    connection.read(|_| ()).await?;
    Err(Fault::Broken("a message during a watch".into()))
}
