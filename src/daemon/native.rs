//! A connection in our own protocol: a session or a status, until either side ends it.

use async_io::Timer;
use smol::channel::Receiver;
use smol::future::or;

use super::connection::{Connection, Fault};
use super::context::Context;
use super::timeouts::STATUS_INTERVAL;
use crate::wire::{ClientMessage, DaemonMessage, Decoder, DenyReason, Message, VERSION};

/// Serves a connection to its end. `early` are the bytes that were read after the magic ones.
pub(super) async fn serve(
    context: &Context,
    connection: &Connection,
    early: &[u8],
) -> Result<(), Fault> {
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
        ClientMessage::Close => Err(Fault::Broken("Close without a session".into())),
    }
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

async fn next_message(
    connection: &Connection,
    decoder: &mut Decoder<ClientMessage>,
) -> Result<ClientMessage, Fault> {
    loop {
        match decoder.next_message() {
            Ok(Some(message)) => return Ok(message),
            Ok(None) => connection.read(|bytes| decoder.push(bytes)).await?,
            Err(error) => return Err(Fault::Broken(error.to_string())),
        }
    }
}

/// What happens next during a session.
enum Next {
    /// `None`: disconnect the client.
    Answer(Option<DaemonMessage>),
    Message(ClientMessage),
}

async fn session(
    context: &Context,
    connection: &Connection,
    mut decoder: Decoder<ClientMessage>,
    command: Vec<u8>,
) -> Result<(), Fault> {
    use DaemonMessage::{Closed, Denied, Granted};
    let session = context.controller.open(connection.peer, command);
    let mut may_close = false;
    loop {
        let answer = async { Ok::<_, Fault>(Next::Answer(session.answer().await)) };
        let message = async {
            let message = next_message(connection, &mut decoder).await?;
            Ok(Next::Message(message))
        };
        match or(answer, message).await? {
            Next::Answer(None) => return Ok(()),
            Next::Answer(Some(answer @ (Denied { .. } | Closed { .. }))) => {
                return send(connection, answer).await;
            }
            Next::Answer(Some(answer)) => {
                may_close |= matches!(answer, Granted { .. });
                send(connection, answer).await?;
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

/// Sends the status, and with `watch` again after each change until the client hangs up. Changes are not queued: the
/// next status is made once the client has taken the last one.
async fn status(context: &Context, connection: &Connection, watch: bool) -> Result<(), Fault> {
    let mut sent: Option<Receiver<()>> = None;
    while let Some(snapshot) = context.controller.status(sent.is_none()).await {
        let outdated = snapshot.outdated.clone();
        if !sent.is_some_and(|sent| sent.same_channel(&outdated)) {
            connection.write(&snapshot.bytes).await?;
        }
        drop(snapshot); // it may be large
        if !watch {
            return Ok(());
        }
        let changed = async {
            Timer::after(STATUS_INTERVAL).await;
            let _ = outdated.recv().await;
            Ok(())
        };
        let input = async {
            connection.read(|_| ()).await?;
            Err(Fault::Broken("a message during a watch".into()))
        };
        or(input, changed).await?;
        sent = Some(outdated);
    }
    Ok(())
}
