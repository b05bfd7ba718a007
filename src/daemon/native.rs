//! A connection in our own protocol: a session or a status, until either side ends it.

use super::connection::{Connection, Fault};
use super::context::Context;
use super::handle::SessionEvent;
use super::status::{Status, milliseconds};
use super::timeouts::WATCH_EVERY;
use crate::wire::{
    ClientMessage, DaemonMessage, Decoder, DenyReason, MAGIC, Message, Opening, VERSION,
};

/// So many bytes of a status are gathered before they are sent, and the others get their turn.
const BATCH: usize = 2048;

/// Serves a connection to its end. `early`: what was read of it to know its opening.
pub(super) async fn serve(
    context: &Context,
    connection: &Connection,
    opening: Opening,
    early: &[u8],
) {
    let mut conversation = Conversation {
        connection,
        decoder: Decoder::new(),
    };
    if let Err(fault) = conversation.converse(context, opening, early).await {
        refuse(connection, fault).await;
    }
}

/// Tells a client what it did wrong, if it can be told.
pub(super) async fn refuse(connection: &Connection, fault: Fault) {
    let text = match fault {
        Fault::Gone => return,
        Fault::Broken(text) => text,
        Fault::Late => "said nothing that makes sense in 5 s".into(),
    };
    log::warn!("a client ({}) broke the protocol: {text}", connection.peer);
    let mut bytes = Vec::new();
    let version = VERSION;
    DaemonMessage::Error { version, text }.encode(&mut bytes);
    let _ = connection.write(&bytes).await; // it may be gone
}

/// That no session can be opened.
pub(super) fn denied(reason: DenyReason, text: String) -> DaemonMessage {
    DaemonMessage::Denied {
        version: VERSION,
        reason,
        text,
    }
}

struct Conversation<'a> {
    connection: &'a Connection,
    decoder: Decoder<ClientMessage>,
}

/// What happens next on a connection with a session.
enum Turn {
    Event(Option<SessionEvent>),
    Said(ClientMessage),
}

impl Conversation<'_> {
    async fn converse(
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
        let first = self.connection.in_time(self.next_message()).await?;
        match first {
            ClientMessage::Open { command, need, .. } if self.connection.admitted => {
                self.session(context, command, need).await
            }
            ClientMessage::Open { .. } => {
                let text = context.not_admitted(self.connection.peer);
                self.send(denied(DenyReason::NotAdmitted, text)).await
            }
            // On the heap: a session is not to be as large as a status.
            ClientMessage::Status { watch, .. } => {
                Box::pin(status(context, self.connection, watch)).await
            }
            ClientMessage::Close => Err(Fault::Broken("Close without a session".into())),
        }
    }

    async fn next_message(&mut self) -> Result<ClientMessage, Fault> {
        loop {
            if let Some(message) = self.decoded()? {
                return Ok(message);
            }
            self.connection
                .read(|bytes| self.decoder.push(bytes))
                .await?;
        }
    }

    async fn session(
        &mut self,
        context: &Context,
        command: Vec<u8>,
        need: u64,
    ) -> Result<(), Fault> {
        let session = context.controller.open(self.connection.peer, command, need);
        let mut granted = false;
        loop {
            let event = async { Ok::<_, Fault>(Turn::Event(session.event().await)) };
            let said = async { Ok(Turn::Said(self.next_message().await?)) };
            match smol::future::or(event, said).await? {
                Turn::Event(None) => return Ok(()),
                Turn::Event(Some(event)) => {
                    let last = matches!(event, SessionEvent::Denied(..) | SessionEvent::Closed(..));
                    granted |= matches!(event, SessionEvent::Granted(_));
                    self.send(message(context, event)).await?;
                    if last {
                        return Ok(());
                    }
                }
                Turn::Said(ClientMessage::Close) if granted => {
                    granted = false; // once
                    session.close();
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

    async fn send(&self, message: DaemonMessage) -> Result<(), Fault> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.connection.write(&bytes).await
    }

    fn decoded(&mut self) -> Result<Option<ClientMessage>, Fault> {
        let decoded = self.decoder.next_message();
        decoded.map_err(|error| Fault::Broken(error.to_string()))
    }
}

/// An event in the protocol's words.
fn message(context: &Context, event: SessionEvent) -> DaemonMessage {
    match event {
        SessionEvent::Granted(device) => DaemonMessage::Granted {
            version: VERSION,
            data: context.settings.data.clone(),
            device,
            kill_grace_ms: u32::try_from(context.settings.kill_grace.as_millis())
                .unwrap_or(u32::MAX),
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

async fn send_status(status: &Status, connection: &Connection) -> Result<(), Fault> {
    let sessions = status
        .sessions
        .iter()
        .map(|(client, phase)| DaemonMessage::Session {
            id: client.id.0,
            pid: client.peer.pid,
            uid: client.peer.uid,
            phase: *phase,
            age_ms: milliseconds(client.opened.elapsed()),
            command: client.command.to_vec(),
        });
    let past = status.past.iter().map(|past| DaemonMessage::Past {
        id: past.id,
        pid: past.pid,
        uid: past.uid,
        ended: past.ended,
        ago_ms: milliseconds(past.at.elapsed()),
        lasted_ms: milliseconds(past.lasted),
        written: past.written,
        command: past.command.to_vec(),
    });
    let holders = status.holders.iter().map(|holder| DaemonMessage::Holder {
        kind: holder.kind,
        pid: holder.pid,
        uid: holder.uid,
        command: holder.command.clone(),
        path: holder.path.clone(),
    });
    let mut batch = Vec::new();
    status
        .head
        .iter()
        .for_each(|message| message.encode(&mut batch));
    for message in sessions.chain(past).chain(holders) {
        message.encode(&mut batch);
        drop(message);
        if batch.len() >= BATCH {
            // No more than this is kept while the client does not read, and there may be many such.
            let bytes = std::mem::take(&mut batch).into_boxed_slice();
            connection.write(&bytes).await?;
            smol::future::yield_now().await;
        }
    }
    DaemonMessage::End.encode(&mut batch);
    let bytes = batch.into_boxed_slice();
    connection.write(&bytes).await
}

/// Tells the status; with `watch` again whenever something has changed, until the client goes.
async fn status(context: &Context, connection: &Connection, watch: bool) -> Result<(), Fault> {
    let controller = &context.controller;
    let mut fresh = true;
    while let Some(status) = controller.status(fresh).await {
        send_status(&status, connection).await?;
        if !watch {
            break;
        }
        let changed = controller.changed(status.generation);
        drop(status);
        let news = async {
            context.timers.after(WATCH_EVERY).await;
            let _ = changed.recv().await;
            Ok(())
        };
        smol::future::or(silence(connection), news).await?;
        fresh = false;
    }
    Ok(())
}

/// Fails when a watching client goes, or says something.
async fn silence(connection: &Connection) -> Result<(), Fault> {
    connection.read(|_| ()).await?;
    Err(Fault::Broken("a message during a watch".into()))
}
