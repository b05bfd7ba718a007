//! Accepting: who may come in, and how many. What is said then is the session's business.

use std::cell::RefCell;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use async_io::Async;
use smol::LocalExecutor;

use super::connection::{Connection, Fault};
use super::context::Context;
use super::handle::Request;
#[cfg(feature = "kvmd-api")]
use super::kvmd;
use super::native;
use super::timeouts::NO_RESOURCES;
use crate::sys::current;
use crate::sys::socket::{self, Peer};
#[cfg(feature = "kvmd-api")]
use crate::wire::Opening;
use crate::wire::{DenyReason, Message};

/// So many connections are accepted in a row. More would keep those who are in waiting longer.
const TURN: usize = 64;
/// After more connections at once than these, memory is given back to the kernel.
const MANY: usize = 8;
/// So many who are refused are waited for at a time; the others are told at once, in our protocol.
const REFUSALS: usize = 64;
/// Descriptors that the daemon must be able to open for its work: looks, remounts, the search
/// for holders. Without them it would lose sight of the storage, and revoke who has it.
const OWN_DESCRIPTORS: u64 = 16;
/// Accepts for as long as the daemon lives. `lasting`: the socket outlives the daemon, so who
/// comes while it stops is left for the next one.
pub(super) async fn accept(
    context: Rc<Context>,
    executor: Rc<LocalExecutor<'static>>,
    socket: UnixListener,
    lasting: bool,
) {
    let Ok(socket) = Async::new_nonblocking(socket) else {
        log::error!("cannot wait for connections");
        return context.controller.tell(Request::Stop);
    };
    let _ = context.started.recv().await; // before that there is nothing to tell anybody
    let connections = Rc::new(Connections::default());
    let mut complained = false;
    loop {
        let ready = socket.readable().await;
        // Before anybody is taken: who is not accepted stays for the next daemon.
        if lasting && context.stopping() {
            return;
        }
        // All who are there are counted before any is heard: most of a flood is over its user's
        // share then, which costs little, and is not in the others' way.
        for _ in 0..TURN {
            let accepted = match &ready {
                Ok(()) => socket.get_ref().accept(),
                Err(error) => Err(error.kind().into()),
            };
            match accepted {
                Ok((stream, _)) => {
                    complained = false;
                    admit(&context, &executor, &connections, stream);
                    if connections.are_all(context.settings.limit) {
                        break; // some may have nothing to say, and leave room for the next
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        log::error!("cannot accept a connection: {error}");
                    }
                    context.timers.after(NO_RESOURCES).await;
                    break;
                }
            }
        }
        // Connections that come without end must not keep the others from their turn.
        smol::future::yield_now().await;
    }
}

fn admit(
    context: &Rc<Context>,
    executor: &Rc<LocalExecutor<'static>>,
    connections: &Rc<Connections>,
    stream: UnixStream,
) {
    let Ok(peer) = socket::peer(stream.as_fd()) else {
        return;
    };
    if socket::hung_up(stream.as_fd()) {
        return; // who opens and vanishes costs no more than this
    }
    let entry = match connections.enter(stream.as_fd(), peer.uid, context.settings.limit) {
        Ok(entry) => entry,
        Err(text) => {
            context.controller.tell(Request::TurnedAway);
            return refuse(context, executor, connections, stream, peer, text);
        }
    };
    let admitted = is_member(&stream, peer, context.settings.access.0);
    let stream = match Async::new(stream) {
        Ok(stream) => stream,
        Err(error) => return log::error!("cannot serve {peer}: {error}"),
    };
    let context = context.clone();
    let task = async move {
        serve(&context, stream, peer, admitted).await;
        drop(entry);
    };
    executor.spawn(task).detach();
}

fn is_member(stream: &UnixStream, peer: Peer, group: u32) -> bool {
    peer.uid == 0
        || peer.gid == group
        || socket::peer_groups(stream.as_fd()).is_ok_and(|groups| groups.contains(&group))
}

/// Why this connection cannot be taken although there is room for it.
fn shortage(connection: BorrowedFd<'_>) -> Option<&'static str> {
    current::descriptors_left(connection)
        .is_ok_and(|left| left < OWN_DESCRIPTORS)
        .then_some("the daemon has no descriptors left: end some sessions, or raise its limit")
}

/// Denies what it will ask for: in its own protocol, if it can be waited for until it speaks.
fn refuse(
    context: &Rc<Context>,
    executor: &Rc<LocalExecutor<'static>>,
    connections: &Rc<Connections>,
    stream: UnixStream,
    peer: Peer,
    text: String,
) {
    let place = connections.refusals.clone();
    let refusals = Rc::strong_count(&place) - 1; // this one, too
    if refusals <= REFUSALS && shortage(stream.as_fd()).is_none() {
        let Ok(stream) = Async::new(stream) else {
            return;
        };
        let context = context.clone();
        let task = async move {
            refuse_in_turn(&context, stream, peer, text).await;
            drop(place);
        };
        return executor.spawn(task).detach();
    }
    // Fresh, so there is room in it.
    let mut denied = Vec::new();
    native::denied(DenyReason::Limit, text).encode(&mut denied);
    let written = (&stream).write(&denied);
    if let Err(error) = written {
        log::debug!("a client was not told that it was refused: {error}");
    }
}

/// Serves a connection to its end. `admitted`: its peer may open sessions.
async fn serve(context: &Context, stream: Async<UnixStream>, peer: Peer, admitted: bool) {
    let connection = Connection::new(&context.timers, stream, peer, admitted);
    let mut early = Vec::new();
    let opening = connection.in_time(connection.opening(&mut early)).await;
    match opening {
        #[cfg(feature = "kvmd-api")]
        Ok(Opening::Other) if kvmd::speaks(&early) => {
            kvmd::serve(context, &connection, early).await
        }
        Ok(opening) => native::serve(context, &connection, opening, &early).await,
        Err(fault) => native::refuse(&connection, fault).await,
    }
}

/// Tells a client for which there is no room so, in the protocol in which it begins to speak.
async fn refuse_in_turn(context: &Context, stream: Async<UnixStream>, peer: Peer, text: String) {
    let connection = Connection::new(&context.timers, stream, peer, false);
    let mut early = Vec::new();
    match connection.in_time(connection.opening(&mut early)).await {
        #[cfg(feature = "kvmd-api")]
        Ok(Opening::Other) if kvmd::speaks(&early) => kvmd::refuse(&connection, early, text).await,
        Err(Fault::Gone) => {}
        _ => {
            let mut denied = Vec::new();
            native::denied(DenyReason::Limit, text).encode(&mut denied);
            let _ = connection.write(&denied).await; // it may be gone
        }
    }
}

/// How many of `limit` one user may have.
fn share(uid: u32, limit: usize) -> usize {
    if uid == 0 { limit } else { (limit / 4).max(1) }
}

#[derive(Debug, Default)]
struct Connections {
    counts: RefCell<Counts>,
    /// Referred to once more by each who is refused and waited for.
    refusals: Rc<()>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    /// The most since memory was last trimmed.
    peak: usize,
    /// Of each user who has some, in no order.
    by_user: Vec<(u32, usize)>,
    /// A refusal was logged since the last connection ended.
    refused: bool,
}

impl Counts {
    fn of_user(&mut self, uid: u32) -> Option<&mut usize> {
        let mut users = self.by_user.iter_mut();
        users.find_map(|(user, own)| (*user == uid).then_some(own))
    }
}

impl Connections {
    /// Whether there is no room left, for whomever.
    fn are_all(&self, limit: usize) -> bool {
        self.counts.borrow().all >= limit
    }

    /// Counts one in.
    ///
    /// # Errors
    /// Why there is no room for it.
    fn enter(
        self: &Rc<Self>,
        connection: BorrowedFd<'_>,
        uid: u32,
        limit: usize,
    ) -> Result<Entry, String> {
        let mut counts = self.counts.borrow_mut();
        let own = counts.of_user(uid).map_or(0, |own| *own);
        let full = counts.all >= limit || own >= share(uid, limit);
        let refusal = match full {
            true => Some(format!(
                "too many connections: {limit} in all, {} for one user; end some (as root, \
                 `pst status` names them), or raise `session.limit` in the config file",
                share(uid, limit)
            )),
            false => shortage(connection).map(str::to_owned),
        };
        if let Some(text) = refusal {
            if !std::mem::replace(&mut counts.refused, true) {
                log::warn!(
                    "user {uid} was refused with {own} connections open, {} in all: {text}",
                    counts.all
                );
            }
            return Err(text);
        }
        counts.all += 1;
        counts.peak = counts.peak.max(counts.all);
        match counts.of_user(uid) {
            Some(own) => *own += 1,
            None => counts.by_user.push((uid, 1)),
        }
        Ok(Entry {
            connections: self.clone(),
            uid,
        })
    }
}

/// One connection, counted out when dropped.
struct Entry {
    connections: Rc<Connections>,
    uid: u32,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut counts = self.connections.counts.borrow_mut();
        counts.all -= 1;
        counts.refused = false;
        if let Some(own) = counts.of_user(self.uid) {
            *own -= 1;
        }
        counts.by_user.retain(|(_, own)| *own > 0);
        if counts.all <= counts.peak / 4 && counts.peak > MANY {
            counts.peak = counts.all;
            current::trim_memory(); // what a crowd needed goes back to the kernel
        }
    }
}
