//! Accepts connections and enforces their limits. The protocols are handled in `native` and `kvmd`.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use async_io::{Async, Timer};
use smol::LocalExecutor;
use smol::future::yield_now;

use super::admission::{Admission, Place, lacks_descriptors};
use super::connection::{Connection, Fault};
use super::context::Context;
use super::handle::Request;
#[cfg(feature = "kvmd-api")]
use super::kvmd;
use super::native;
use super::timeouts::NO_RESOURCES;
use crate::sys::socket::{self, Peer};
#[cfg(feature = "kvmd-api")]
use crate::wire::Opening;
use crate::wire::{DenyReason, Message};

/// Connections that are accepted in a row, before those that are open get their turn.
const ACCEPT_BATCH: usize = 64;
/// Refused clients that may be waited for until they send a request. More are refused at once, in the native protocol.
const REFUSALS_MAX: usize = 64;

/// Accepts connections for as long as the daemon lives.
pub(super) struct Server {
    context: Rc<Context>,
    executor: Rc<LocalExecutor<'static>>,
    admission: Rc<Admission>,
    /// Has one more reference for each refused client that is being waited for.
    refusals: Rc<()>,
}

impl Server {
    pub(super) fn new(context: Rc<Context>, executor: Rc<LocalExecutor<'static>>) -> Server {
        Server {
            admission: Admission::new(context.settings.limit),
            context,
            executor,
            refusals: Rc::default(),
        }
    }

    /// Accepts connections. `outlives_daemon`: the service manager keeps the socket, so the next daemon serves the
    /// clients that connect while this one stops.
    pub(super) async fn run(self, socket: UnixListener, outlives_daemon: bool) {
        let Ok(socket) = Async::new_nonblocking(socket) else {
            log::error!("cannot wait for connections");
            return self.context.controller.send(Request::Stop);
        };
        let _ = self.context.started.recv().await;
        let mut error_logged = false;
        loop {
            let ready = socket.readable().await;
            if outlives_daemon && self.context.is_stopping() {
                return;
            }
            match ready.and_then(|()| self.accept_batch(socket.get_ref())) {
                Ok(()) => error_logged = false,
                Err(error) => {
                    if !std::mem::replace(&mut error_logged, true) {
                        log::error!("cannot accept a connection: {error}");
                    }
                    Timer::after(NO_RESOURCES).await;
                }
            }
            yield_now().await;
        }
    }

    /// Accepts the connections that wait, up to a limit. All are counted before any is served, so that most of a flood
    /// is over its user's share by then, and cheap.
    fn accept_batch(&self, socket: &UnixListener) -> io::Result<()> {
        for _ in 0..ACCEPT_BATCH {
            match socket.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            if self.admission.is_full() {
                break; // some of them may hang up at once, and leave room for the next
            }
        }
        Ok(())
    }

    fn admit(&self, stream: UnixStream) {
        let Ok(peer) = socket::peer(stream.as_fd()) else {
            return;
        };
        if socket::hung_up(&stream) {
            return; // the client has already hung up
        }
        match self.admission.enter(stream.as_fd(), peer.uid) {
            Ok(place) => self.serve(stream, peer, place),
            Err(refusal) => {
                self.context.controller.send(Request::TurnedAway);
                self.refuse(stream, peer, refusal.to_string());
            }
        }
    }

    fn serve(&self, stream: UnixStream, peer: Peer, place: Place) {
        let admitted = is_member(&stream, peer, self.context.settings.access_gid);
        let stream = match Async::new(stream) {
            Ok(stream) => stream,
            Err(error) => return log::error!("cannot serve {peer}: {error}"),
        };
        let context = self.context.clone();
        let task = async move {
            serve(&context, Connection::new(stream, peer, admitted)).await;
            drop(place);
        };
        self.executor.spawn(task).detach();
    }

    /// Refuses a connection: in its own protocol, if it can be waited for until it sends a request.
    fn refuse(&self, stream: UnixStream, peer: Peer, text: String) {
        let waiting = self.refusals.clone();
        if Rc::strong_count(&waiting) - 1 > REFUSALS_MAX || lacks_descriptors(stream.as_fd()) {
            return refuse_now(&stream, text);
        }
        let Ok(stream) = Async::new(stream) else {
            return;
        };
        let task = async move {
            refuse_in_protocol(Connection::new(stream, peer, false), text).await;
            drop(waiting);
        };
        self.executor.spawn(task).detach();
    }
}

fn is_member(stream: &UnixStream, peer: Peer, group: u32) -> bool {
    peer.uid == 0
        || peer.gid == group
        || socket::peer_groups(stream.as_fd()).is_ok_and(|groups| groups.contains(&group))
}

/// Serves a connection to its end.
async fn serve(context: &Context, connection: Connection) {
    let mut early = Vec::new();
    match connection.in_time(connection.opening(&mut early)).await {
        #[cfg(feature = "kvmd-api")]
        Ok(Opening::Other) if kvmd::speaks(&early) => {
            // Boxed, as the status is: a native session then takes 3.2 KiB instead of 4.4.
            Box::pin(kvmd::serve(context, &connection, early)).await
        }
        Ok(opening) => native::serve(context, &connection, opening, &early).await,
        Err(fault) => native::refuse(&connection, fault).await,
    }
}

async fn refuse_in_protocol(connection: Connection, text: String) {
    let mut early = Vec::new();
    match connection.in_time(connection.opening(&mut early)).await {
        #[cfg(feature = "kvmd-api")]
        Ok(Opening::Other) if kvmd::speaks(&early) => kvmd::refuse(&connection, early, text).await,
        Err(Fault::Gone) => {}
        _ => {
            let denied = native::denied(DenyReason::Limit, text);
            let _ = native::send(&connection, denied).await; // it may be gone
        }
    }
}

/// Refuses without waiting: the send buffer of a new connection has room for it.
fn refuse_now(mut stream: &UnixStream, text: String) {
    let mut denied = Vec::new();
    native::denied(DenyReason::Limit, text).encode(&mut denied);
    if let Err(error) = stream.write(&denied) {
        log::debug!("a refused client did not get the reason: {error}");
    }
}
