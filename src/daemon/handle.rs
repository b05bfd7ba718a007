//! All that the other tasks know of the controller: the requests that they send to it, and a session's events.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use smol::channel::{Receiver, Sender, bounded};

use super::arbiter::{CloseResult, DenyReason, RevokeReason, SessionId, Text};
use super::status::StatusSnapshot;
use super::worker::JobReport;
use crate::escape::escape;
use crate::sys::socket::Peer;

/// What happens to a session, in the terms of no protocol.
#[derive(Debug)]
pub(super) enum SessionEvent {
    /// The storage is writable.
    Granted {
        /// `st_dev` of the data directory.
        device: u64,
    },
    Denied(DenyReason, Text),
    /// The session must end.
    Revoked(RevokeReason, Text),
    /// Answers a close.
    Closed(CloseResult, Text),
}

#[derive(Debug)]
pub(super) enum Request {
    /// An admitted client asks for a session.
    Open(OpenSession),
    /// The client asks whether its data is safe.
    Close(SessionId),
    /// The connection of the session has ended.
    Disconnected(SessionId),
    /// A client was refused before it could ask for a session.
    TurnedAway,
    Status {
        /// Include the latest change, instead of the snapshot of the last [`STATUS_INTERVAL`](super::timeouts).
        fresh: bool,
        reply: Sender<Arc<StatusSnapshot>>,
    },
    /// Drop `reply` when something has changed since this generation.
    AwaitChange {
        generation: u64,
        reply: Sender<()>,
    },
    /// The worker finished a job.
    Done(Box<JobReport>),
    /// The mount or the filesystem may have changed.
    Recheck,
    /// A file that was open for writing was closed.
    WriterClosed,
    /// The service manager expects a sign of life.
    Watchdog,
    Stop,
}

/// A session as the controller owns it.
#[derive(Debug)]
pub(super) struct OpenSession {
    pub id: SessionId,
    pub peer: Peer,
    /// What the client says that it runs.
    pub command: Box<[u8]>,
    pub opened: Instant,
    /// Dropping it disconnects the client.
    pub events: Sender<SessionEvent>,
    pub revoked: bool,
    /// The device's counter of written bytes at the grant, if there is one.
    pub written_before: Option<u64>,
}

/// The start of each log line about a session.
impl fmt::Display for OpenSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, peer, command) = (self.id.0, self.peer, escape(&self.command));
        write!(f, "{id} of {peer}, `{command}`,")
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {}, pid {}", self.uid, self.pid)
    }
}

/// The way to the controller.
#[derive(Clone, Debug)]
pub(super) struct Handle(pub Sender<Request>);

impl Handle {
    pub(super) fn send(&self, request: Request) {
        let _ = self.0.try_send(request); // unbounded, and closed only at the exit
    }

    /// Asks for a session. The first event says whether it is granted.
    pub(super) fn open(&self, peer: Peer, command: Vec<u8>) -> Session {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = SessionId(LAST.fetch_add(1, Ordering::Relaxed) + 1);
        let (sender, events) = bounded(4); // at most granted, revoked, closed
        self.send(Request::Open(OpenSession {
            id,
            peer,
            command: command.into(),
            opened: Instant::now(),
            events: sender,
            revoked: false,
            written_before: None,
        }));
        Session {
            id,
            events,
            controller: self.clone(),
        }
    }

    /// Returns `None` if the daemon is exiting.
    pub(super) async fn status(&self, fresh: bool) -> Option<Arc<StatusSnapshot>> {
        let (reply, answer) = bounded(1);
        self.send(Request::Status { fresh, reply });
        answer.recv().await.ok()
    }

    /// Returns a channel that is closed once something has changed since this generation.
    pub(super) fn await_change(&self, generation: u64) -> Receiver<()> {
        let (reply, changed) = bounded(1);
        self.send(Request::AwaitChange { generation, reply });
        changed
    }
}

/// A connection's end of its session. Dropping it ends the session.
#[derive(Debug)]
pub(super) struct Session {
    pub id: SessionId,
    events: Receiver<SessionEvent>,
    controller: Handle,
}

impl Session {
    /// Returns `None` if the client must be disconnected.
    pub(super) async fn event(&self) -> Option<SessionEvent> {
        self.events.recv().await.ok()
    }

    pub(super) fn close(&self) {
        self.controller.send(Request::Close(self.id));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.controller.send(Request::Disconnected(self.id));
    }
}
