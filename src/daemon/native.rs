//! Serves a connection in our own protocol: a session or a status.

use async_io::Timer;
use smol::channel::Receiver;
use smol::future::or;

use super::connection::{Connection, ConnectionError};
use super::context::Context;
use super::timeouts::STATUS_INTERVAL;
use crate::wire::{ClientMessage, DaemonMessage, Decoder, DenyReason, Message, VERSION};

/// Serves a connection until it ends. `early` are the bytes that were already read after the magic bytes.
pub(super) async fn serve(
    context: &Context,
    connection: &Connection,
    early: &[u8],
) -> Result<(), ConnectionError> {
    let mut decoder = Decoder::new();
    decoder.push(early);
    let request = connection.in_time(next_message(connection, &mut decoder));
    match request.await? {
        ClientMessage::Open { command, .. } if connection.admitted => {
            session(context, connection, decoder, command).await
        }
        ClientMessage::Open { .. } => {
            let text = context.not_admitted(connection.peer);
            send(connection, denied(DenyReason::NotAdmitted, text)).await
        }
        ClientMessage::Status { watch, .. } => Box::pin(status(context, connection, watch)).await,
        ClientMessage::Close => Err(ConnectionError::Broken("Close without a session".into())),
    }
}

/// Returns the message that refuses a session.
pub(super) fn denied(reason: DenyReason, text: String) -> DaemonMessage {
    DaemonMessage::Denied {
        version: VERSION,
        reason,
        text,
    }
}

pub(super) async fn send(
    connection: &Connection,
    message: DaemonMessage,
) -> Result<(), ConnectionError> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    connection.write(&bytes).await
}

async fn next_message(
    connection: &Connection,
    decoder: &mut Decoder<ClientMessage>,
) -> Result<ClientMessage, ConnectionError> {
    loop {
        match decoder.next_message() {
            Ok(Some(message)) => return Ok(message),
            Ok(None) => connection.read(|bytes| decoder.push(bytes)).await?,
            Err(error) => return Err(ConnectionError::Broken(error.to_string())),
        }
    }
}

/// The next event of a session.
enum SessionEvent {
    /// `None` means that the client is to be disconnected.
    Answer(Option<DaemonMessage>),
    Message(ClientMessage),
}

async fn session(
    context: &Context,
    connection: &Connection,
    mut decoder: Decoder<ClientMessage>,
    command: Vec<u8>,
) -> Result<(), ConnectionError> {
    use DaemonMessage::{Closed, Denied, Granted};
    let session = context.controller.open(connection.peer, command);
    let mut may_close = false;
    loop {
        let answer =
            async { Ok::<_, ConnectionError>(SessionEvent::Answer(session.answer().await)) };
        let message = async {
            let message = next_message(connection, &mut decoder).await?;
            Ok(SessionEvent::Message(message))
        };
        match or(answer, message).await? {
            SessionEvent::Answer(None) => return Ok(()),
            SessionEvent::Answer(Some(answer @ (Denied { .. } | Closed { .. }))) => {
                return send(connection, answer).await;
            }
            SessionEvent::Answer(Some(answer)) => {
                may_close |= matches!(answer, Granted { .. });
                send(connection, answer).await?;
            }
            SessionEvent::Message(ClientMessage::Close) if may_close => {
                may_close = false;
                session.close();
            }
            SessionEvent::Message(message) => {
                let mistake = match message {
                    ClientMessage::Open { .. } => "a second Open",
                    ClientMessage::Close => "Close without a session",
                    ClientMessage::Status { .. } => "Status during a session",
                };
                return Err(ConnectionError::Broken(mistake.into()));
            }
        }
    }
}

/// Sends the status, and with `watch` a new one after each change until the client hangs up. Changes are not queued. The
/// next status is computed once the client has read the last one.
async fn status(
    context: &Context,
    connection: &Connection,
    watch: bool,
) -> Result<(), ConnectionError> {
    let controller = &context.controller;
    if !watch {
        if let Some(snapshot) = controller.status_with_holders().await {
            connection.write(&snapshot.bytes).await?;
        }
        return Ok(());
    }
    let mut sent: Option<Receiver<()>> = None;
    while let Some(snapshot) = controller.status(sent.is_none()).await {
        let outdated = snapshot.outdated.clone();
        if !sent.is_some_and(|sent| sent.same_channel(&outdated)) {
            connection.write(&snapshot.bytes).await?;
        }
        drop(snapshot); // it may be large
        let changed = async {
            Timer::after(STATUS_INTERVAL).await;
            let _ = outdated.recv().await;
            Ok(())
        };
        let input = async {
            connection.read(|_| ()).await?;
            Err(ConnectionError::Broken("a message during a watch".into()))
        };
        or(input, changed).await?;
        sent = Some(outdated);
    }
    Ok(())
}
