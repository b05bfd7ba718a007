//! A connection in our own protocol: a session or a status, until either side ends it.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::arbiter::Input;
use super::connection::{Connection, Fault};
use super::core::Core;
use super::need;
use super::seat::{Notice, Occupied};
use super::telling;
use crate::wire::{
    ClientMessage, DaemonMessage, Decoder, DenyReason, MAGIC, Message, Opening, VERSION,
};

/// Serves a connection to its end. `early`: what was read of it to know its opening.
pub async fn serve(core: &Core, connection: &Connection, opening: Opening, early: &[u8]) {
    let mut conversation = Conversation {
        connection,
        decoder: Decoder::new(),
    };
    if let Err(fault) = conversation.converse(core, opening, early).await {
        refuse(connection, fault).await;
    }
}

/// Tells a client what it did wrong, if it can be told.
pub async fn refuse(connection: &Connection, fault: Fault) {
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

/// That no session can be opened, as it is sent.
pub fn denied(reason: DenyReason, text: String) -> Vec<u8> {
    let mut bytes = Vec::new();
    let version = VERSION;
    DaemonMessage::Denied {
        version,
        reason,
        text,
    }
    .encode(&mut bytes);
    bytes
}

struct Conversation<'a> {
    connection: &'a Connection,
    decoder: Decoder<ClientMessage>,
}

/// What happens next on a connection with a session.
enum Turn {
    Said(ClientMessage),
    Say(Notice),
    Cut,
}

impl Conversation<'_> {
    async fn converse(&mut self, core: &Core, opening: Opening, early: &[u8]) -> Result<(), Fault> {
        if opening != Opening::Frames {
            let text = "this is the socket of pst, and that is not its protocol";
            return Err(Fault::Broken(text.into()));
        }
        self.decoder.push(early.get(MAGIC.len()..).unwrap_or(&[]));
        let first = self.connection.in_time(self.first_message()).await?;
        match first {
            ClientMessage::Open { command, need, .. } if self.connection.admitted => {
                match need::lacking(core, need, self.connection.peer) {
                    Some(text) => {
                        log::warn!("{} was refused: {text}", self.connection.peer);
                        core.refused();
                        self.deny(DenyReason::Full, text).await
                    }
                    None => self.session(core, command, need).await,
                }
            }
            ClientMessage::Open { .. } => {
                let text = core.not_admitted(self.connection.peer);
                self.deny(DenyReason::NotAdmitted, text).await
            }
            // On the heap: a session is not to be as large as a status.
            ClientMessage::Status { watch, .. } => {
                Box::pin(telling::serve(core, self.connection, watch)).await
            }
            ClientMessage::Close => Err(Fault::Broken("Close without a session".into())),
        }
    }

    async fn first_message(&mut self) -> Result<ClientMessage, Fault> {
        loop {
            if let Some(message) = self.decoded()? {
                return Ok(message);
            }
            self.connection
                .read(|bytes| self.decoder.push(bytes))
                .await?;
        }
    }

    async fn deny(&self, reason: DenyReason, text: String) -> Result<(), Fault> {
        self.connection.write(&denied(reason, text)).await
    }

    async fn session(&mut self, core: &Core, command: Vec<u8>, need: u64) -> Result<(), Fault> {
        let session = Occupied::open(core, self.connection.peer, command, need);
        let mut granted = false;
        loop {
            match poll_fn(|cx| self.poll_turn(cx, &session)).await? {
                Turn::Cut => return Ok(()),
                Turn::Say(notice) => {
                    let last = matches!(notice, Notice::Denied(..) | Notice::Closed(..));
                    granted |= matches!(notice, Notice::Granted { .. });
                    let sent = self.send(message(core, notice)).await;
                    core.answered(1);
                    sent?;
                    if last {
                        return Ok(());
                    }
                }
                Turn::Said(ClientMessage::Close) if granted => {
                    granted = false; // once
                    core.input(Input::Close(session.id));
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

    /// Sends a message, if the client takes it in time.
    async fn send(&self, message: DaemonMessage) -> Result<(), Fault> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        // Only this is kept while the client does not read, and there may be many such.
        let bytes = bytes.into_boxed_slice();
        self.connection.write(&bytes).await
    }

    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        session: &Occupied<'_>,
    ) -> Poll<Result<Turn, Fault>> {
        if let Poll::Ready(notice) = session.poll_notice(cx) {
            return Poll::Ready(Ok(notice.map_or(Turn::Cut, Turn::Say)));
        }
        loop {
            if let Some(message) = self.decoded()? {
                return Poll::Ready(Ok(Turn::Said(message)));
            }
            match self
                .connection
                .poll_read(cx, |bytes| self.decoder.push(bytes))
            {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => result?,
            }
        }
    }

    fn decoded(&mut self) -> Result<Option<ClientMessage>, Fault> {
        let decoded = self.decoder.next_message();
        decoded.map_err(|error| Fault::Broken(error.to_string()))
    }
}

/// A notice in the protocol's words.
fn message(core: &Core, notice: Notice) -> DaemonMessage {
    match notice {
        Notice::Granted { device } => core.grant(device),
        Notice::Denied(reason, text) => DaemonMessage::Denied {
            version: VERSION,
            reason,
            text: text.to_string(),
        },
        Notice::Revoked(reason, text) => DaemonMessage::Revoked {
            reason,
            text: text.to_string(),
        },
        Notice::Closed(result, text) => DaemonMessage::Closed {
            result,
            text: text.to_string(),
        },
    }
}
