//! The controller's interface to the other tasks and threads: requests and answers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_io::Timer;
use smol::channel::{Receiver, Sender, bounded};
use smol::future::or;

use super::arbiter::{Outcome, SessionId};
use super::log::cut_command;
use super::timeouts::SEARCH_WAIT;
use crate::escape::escape;
use crate::storage::StorageReport;
use crate::sys::socket::Peer;
use crate::wire::{DaemonMessage, HolderStatus};

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
    /// Log a warning about a user, within the user's limit.
    Warn {
        uid: u32,
        line: String,
    },
    /// Many connections have ended: the allocator is to return their memory.
    TrimMemory,
    Status {
        /// Include the latest change, rather than return a snapshot of the last [`STATUS_INTERVAL`](super::timeouts).
        fresh: bool,
        /// Answer after the search for holders, if one runs or follows soon.
        searched: bool,
        reply: Sender<Arc<StatusSnapshot>>,
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

/// The result of a job, with the storage's state after it.
#[derive(Debug)]
pub(super) struct JobReport {
    pub outcome: Outcome,
    pub took: Duration,
    pub storage: StorageReport,
    /// Set after a search: the holders that keep the storage writable.
    pub holders: Option<Vec<HolderStatus>>,
}

/// The controller's end of a session.
#[derive(Debug)]
pub(super) struct OpenSession {
    pub id: SessionId,
    pub peer: Peer,
    /// The command that the client says it runs.
    pub command: Box<[u8]>,
    pub opened: Instant,
    /// Dropping it disconnects the client.
    pub answers: Sender<DaemonMessage>,
    pub revoked: bool,
    /// The reminder about a forgotten session was logged.
    pub reminded: bool,
    /// The device's counter of written bytes at the grant, if there is one.
    pub written_before: Option<u64>,
}

impl OpenSession {
    pub(super) fn answer(&self, answer: DaemonMessage) {
        let _ = self.answers.try_send(answer); // the client may be gone
    }
}

/// Displays the start of each log line about the session.
impl fmt::Display for OpenSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = cut_command(escape(&self.command).to_string());
        write!(f, "{} of {}, `{command}`,", self.id.0, self.peer)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {}, pid {}", self.uid, self.pid)
    }
}

/// The status at one moment.
#[derive(Debug)]
pub(super) struct StatusSnapshot {
    pub created: Instant,
    /// The channel closes at the next change.
    pub outdated: Receiver<()>,
    /// The number of open sessions.
    #[cfg(feature = "kvmd-api")]
    pub clients: usize,
    /// Whether any session may write.
    #[cfg(feature = "kvmd-api")]
    pub write_allowed: bool,
    /// The document, encoded as messages.
    pub bytes: Vec<u8>,
}

/// Sends requests to the controller.
#[derive(Clone, Debug)]
pub(super) struct Handle(pub Sender<Request>);

impl Handle {
    pub(super) fn send(&self, request: Request) {
        let _ = self.0.try_send(request); // unbounded, and closed only at the exit
    }

    /// Logs a warning about a user, unless there were too many lines about that user.
    pub(super) fn warn(&self, uid: u32, line: String) {
        self.send(Request::Warn { uid, line });
    }

    /// Asks for a session. The first answer is `Granted` or `Denied`.
    pub(super) fn open(&self, peer: Peer, command: Vec<u8>) -> Session {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = SessionId(LAST.fetch_add(1, Ordering::Relaxed) + 1);
        let (sender, answers) = bounded(4); // at most granted, revoked, closed
        self.send(Request::Open(OpenSession {
            id,
            peer,
            command: command.into(),
            opened: Instant::now(),
            answers: sender,
            revoked: false,
            reminded: false,
            written_before: None,
        }));
        Session {
            id,
            answers,
            controller: self.clone(),
        }
    }

    /// Returns `None` if the daemon is exiting.
    pub(super) async fn status(&self, fresh: bool) -> Option<Arc<StatusSnapshot>> {
        self.ask_status(fresh, false).await
    }

    /// Like [`Handle::status`] with the latest change. Waits up to [`SEARCH_WAIT`] for a search for holders.
    pub(super) async fn status_with_holders(&self) -> Option<Arc<StatusSnapshot>> {
        let late = async {
            Timer::after(SEARCH_WAIT).await;
            self.status(true).await
        };
        or(self.ask_status(true, true), late).await
    }

    async fn ask_status(&self, fresh: bool, searched: bool) -> Option<Arc<StatusSnapshot>> {
        let (reply, answer) = bounded(1);
        self.send(Request::Status {
            fresh,
            searched,
            reply,
        });
        answer.recv().await.ok()
    }
}

/// A connection's end of its session. Dropping it ends the session.
#[derive(Debug)]
pub(super) struct Session {
    pub id: SessionId,
    answers: Receiver<DaemonMessage>,
    controller: Handle,
}

impl Session {
    /// Waits for the next answer: `Granted` or `Denied`, `Revoked`, `Closed`. `None` means: disconnect the client.
    pub(super) async fn answer(&self) -> Option<DaemonMessage> {
        self.answers.recv().await.ok()
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
