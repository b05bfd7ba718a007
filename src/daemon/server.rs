//! Accepts connections and enforces their limits. `native` and `kvmd` handle the protocols.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use async_io::{Async, Timer};
use smol::LocalExecutor;
use smol::channel::Receiver;
use smol::future::yield_now;

use super::admission::{Admission, ConnectionSlot, lacks_descriptors};
use super::closer::Closer;
use super::connection::{Connection, ConnectionError};
use super::context::Context;
use super::handle::Request;
#[cfg(feature = "kvmd-api")]
use super::kvmd;
use super::native;
use super::timeouts::NO_RESOURCES;
use crate::problem::Problem;
use crate::sys::socket::{self, Peer};
use crate::wire::{DaemonMessage, DenyReason, MAGIC, Message, VERSION};

/// Connections that are accepted in a row before open connections get their turn.
const ACCEPT_BATCH: usize = 64;
/// Refused clients whose request is awaited, to answer in their protocol. Others are refused at once, in the native one.
const REFUSALS_MAX: usize = 64;

pub(super) struct Server {
    context: Rc<Context>,
    executor: Rc<LocalExecutor<'static>>,
    admission: Rc<Admission>,
    closer: Closer,
    /// Has one more reference for each refused client whose request is awaited.
    refusals: Rc<()>,
}

impl Server {
    pub(super) fn new(
        context: Rc<Context>,
        executor: Rc<LocalExecutor<'static>>,
        closer: Closer,
    ) -> Server {
        Server {
            admission: Admission::new(context.config.limit, context.controller.clone()),
            context,
            executor,
            closer,
            refusals: Rc::default(),
        }
    }

    /// Accepts connections once the storage's state is known, when `started` is closed.
    pub(super) async fn run(self, socket: Async<UnixListener>, started: Receiver<()>) {
        let _ = started.recv().await;
        let mut error_logged = false;
        loop {
            let ready = socket.readable().await;
            match ready.and_then(|()| self.accept_batch(socket.get_ref())) {
                Ok(()) => error_logged = false,
                Err(error) => {
                    if !std::mem::replace(&mut error_logged, true) {
                        log::error!("cannot accept a connection: {error}");
                    }
                    Timer::after(NO_RESOURCES).await;
                }
            }
            self.closer.catch_up().await;
            yield_now().await;
        }
    }

    /// Accepts pending connections, up to a limit. All are counted before any is served: most connections of a flood
    /// then exceed their user's share and cost little.
    fn accept_batch(&self, socket: &UnixListener) -> io::Result<()> {
        for _ in 0..ACCEPT_BATCH {
            match socket.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            if self.admission.is_full() {
                break; // some clients may hang up at once and leave room for others
            }
        }
        Ok(())
    }

    fn admit(&self, stream: UnixStream) {
        let stream = Rc::new(stream);
        let Some((connection, entry)) = self.enter(&stream) else {
            self.closer.close(stream);
            return;
        };
        let (context, closer) = (self.context.clone(), self.closer.clone());
        let task = async move {
            let refusal = entry.as_ref().err().map(|(problem, _)| problem);
            serve(&context, &connection, refusal).await;
            drop(connection);
            if let Some(closed) = closer.close(stream) {
                let _ = closed.recv().await; // the connection counts until it is closed
            }
            drop(entry);
        };
        self.executor.spawn(task).detach();
    }

    /// Counts a new connection. Returns `None` if there is nothing to serve: the client has hung up or was refused.
    fn enter(&self, stream: &Rc<UnixStream>) -> Option<(Connection, Entry)> {
        let peer = socket::peer(stream.as_fd()).ok()?;
        if socket::hung_up(stream) {
            return None;
        }
        let entry = match self.admission.enter(stream.as_fd(), peer.uid) {
            Ok(slot) => Ok(slot),
            Err(problem) => {
                self.context.controller.send(Request::TurnedAway);
                let waiting = Rc::strong_count(&self.refusals) - 1;
                if waiting >= REFUSALS_MAX || lacks_descriptors(stream.as_fd()) {
                    refuse_now(stream, &problem);
                    return None;
                }
                Err((problem, self.refusals.clone()))
            }
        };
        let admitted = entry.is_ok() && is_member(stream, peer, self.context.access_gid);
        match Connection::new(stream.clone(), peer, admitted) {
            Ok(connection) => Some((connection, entry)),
            Err(error) => {
                log::error!("cannot serve {peer}: {error}");
                None
            }
        }
    }
}

/// A new connection's slot, or why it has none and its place among the [refusals](Server::refusals).
type Entry = Result<ConnectionSlot, (Problem, Rc<()>)>;

fn is_member(stream: &UnixStream, peer: Peer, group: u32) -> bool {
    peer.uid == 0
        || peer.gid == group
        || socket::peer_groups(stream.as_fd()).is_ok_and(|groups| groups.contains(&group))
}

/// Serves a connection until it ends, or refuses it in the client's protocol.
async fn serve(context: &Context, connection: &Connection, refusal: Option<&Problem>) {
    let mut early = Vec::new();
    let recognized = connection.recognize(&mut early).await;
    #[cfg(feature = "kvmd-api")]
    if kvmd::speaks(&early) {
        // Boxed, like the status, so that a native session takes 3.2 KiB instead of 4.4.
        return Box::pin(kvmd::serve(context, connection, early, refusal)).await;
    }
    let served = match (refusal, recognized) {
        (Some(problem), _) => native::send(connection, over_limit(problem)).await,
        (None, Ok(())) => native::serve(context, connection, &early[MAGIC.len()..]).await,
        (None, Err(fault)) => Err(fault),
    };
    if let Err(ConnectionError::Broken(text)) = served {
        let peer = connection.peer;
        let line = format!("a client ({peer}) broke the protocol: {text}");
        context.controller.warn(peer.uid, line);
        let version = VERSION;
        let error = DaemonMessage::Error { version, text };
        let _ = native::send(connection, error).await; // the client may be gone
    }
}

/// Refuses a client without waiting: the send buffer of a new connection has room for the message.
fn refuse_now(mut stream: &UnixStream, problem: &Problem) {
    let mut denied = Vec::new();
    over_limit(problem).encode(&mut denied);
    if let Err(error) = stream.write(&denied) {
        log::debug!("a refused client did not get the reason: {error}");
    }
}

fn over_limit(problem: &Problem) -> DaemonMessage {
    native::denied(DenyReason::Limit, problem.to_string())
}
