//! How the other tasks talk to the controller, and it to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use smol::channel::{Receiver, Sender, bounded};

use super::arbiter::{CloseResult, DenyReason, RevokeReason, SessionId, Text};
use super::client::Client;
use super::status::Status;
use super::worker::Report;
use crate::sys::socket::Peer;

/// What a session's client is told, in no protocol's words.
#[derive(Debug)]
pub(super) enum SessionEvent {
    /// The storage is writable; the data root's `st_dev`.
    Granted(u64),
    Denied(DenyReason, Text),
    Revoked(RevokeReason, Text),
    /// The answer to a close.
    Closed(CloseResult, Text),
}

/// What the controller is asked or told.
#[derive(Debug)]
pub(super) enum Request {
    /// Open a session for an admitted client.
    Open(Arc<Client>, Sender<SessionEvent>),
    /// Close it: is its data safe?
    Close(SessionId),
    Disconnected(SessionId),
    /// A client was turned away before it came to a session.
    TurnedAway,
    /// The status: fresh, or at most [`WATCH_EVERY`] old.
    Status {
        fresh: bool,
        reply: Sender<Arc<Status>>,
    },
    /// Tell when something has changed since this generation.
    Changed {
        since: u64,
        reply: Sender<()>,
    },
    /// The worker has done a job.
    Done(Box<Report>),
    /// Something happened to the mount or the filesystem.
    Recheck,
    /// A writer closed its file.
    WriterClosed,
    /// The service manager wants to hear that the daemon lives.
    Watchdog,
    Stop,
}

/// The way to the controller.
#[derive(Clone, Debug)]
pub(super) struct Handle(pub Sender<Request>);

impl Handle {
    pub(super) fn tell(&self, request: Request) {
        let _ = self.0.try_send(request); // unbounded; closed only at the exit
    }

    pub(super) fn open(&self, peer: Peer, command: Vec<u8>, need: u64) -> Session {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = SessionId(LAST.fetch_add(1, Ordering::Relaxed) + 1);
        let client = Client {
            id,
            peer,
            command: command.into(),
            need,
            opened: Instant::now(),
        };
        let (sender, events) = bounded(4); // granted, revoked, closed: never more
        self.tell(Request::Open(Arc::new(client), sender));
        Session {
            id,
            events,
            controller: self.clone(),
        }
    }

    pub(super) async fn status(&self, fresh: bool) -> Option<Arc<Status>> {
        let (reply, answer) = bounded(1);
        self.tell(Request::Status { fresh, reply });
        answer.recv().await.ok()
    }

    /// Resolves once something has changed since this generation.
    pub(super) fn changed(&self, since: u64) -> Receiver<()> {
        let (reply, answer) = bounded(1);
        self.tell(Request::Changed { since, reply });
        answer
    }
}

/// A connection's end of its session. The session ends when it is dropped.
#[derive(Debug)]
pub(super) struct Session {
    pub id: SessionId,
    events: Receiver<SessionEvent>,
    controller: Handle,
}

impl Session {
    /// The next thing to tell the client; `None`: cut the connection.
    pub(super) async fn event(&self) -> Option<SessionEvent> {
        self.events.recv().await.ok()
    }

    pub(super) fn close(&self) {
        self.controller.tell(Request::Close(self.id));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.controller.tell(Request::Disconnected(self.id));
    }
}
