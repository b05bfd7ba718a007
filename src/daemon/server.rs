//! Accepting: who may come in, and how many. What is said then is the session's business.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use async_io::{Async, Timer};
use smol::LocalExecutor;

use super::core::Core;
use super::session;
use super::times::NO_RESOURCES;
use crate::sys::own;
use crate::sys::socket::{self, Peer};
use crate::wire::{DaemonMessage, DenyReason, Message, VERSION};

/// So many connections are accepted in a row: as many as the kernel lets wait.
const TURN: usize = 4096;
/// After more connections at once than these, the end of most gives memory back to the kernel.
const MANY: usize = 64;

/// Accepts for as long as the daemon lives. `lasting`: the socket outlives the daemon, so who
/// comes while it stops is left for the next one.
pub async fn accept(
    core: Rc<Core>,
    executor: Rc<LocalExecutor<'static>>,
    socket: UnixListener,
    lasting: bool,
) {
    let Ok(socket) = Async::new_nonblocking(socket) else {
        log::error!("cannot wait for connections");
        return core.stop();
    };
    let connections = Rc::new(Connections::default());
    let mut complained = false;
    while !(lasting && core.stopping()) {
        let mut first = Some(socket.read_with(UnixListener::accept).await);
        // All who are there are counted before any is heard: most of a flood is over its user's
        // share then, which costs little, and is not in the others' way.
        for _ in 0..TURN {
            match first.take().unwrap_or_else(|| socket.get_ref().accept()) {
                Ok((stream, _)) => {
                    complained = false;
                    admit(&core, &executor, &connections, stream);
                    if connections.are_all(core.limit) {
                        break; // some may have nothing to say, and leave room for the next
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        log::error!("cannot accept a connection: {error}");
                    }
                    Timer::after(NO_RESOURCES).await;
                    break;
                }
            }
        }
        // Connections that come without end must not keep the others from their turn.
        smol::future::yield_now().await;
    }
}

fn admit(
    core: &Rc<Core>,
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
    let Some(entry) = connections.enter(peer.uid, core.limit) else {
        refuse(&stream, peer, core.limit);
        return;
    };
    let admitted = is_member(&stream, peer, core.access.0);
    let stream = match Async::new(stream) {
        Ok(stream) => stream,
        Err(error) => return log::error!("cannot serve {peer}: {error}"),
    };
    let core = core.clone();
    let task = async move {
        session::serve(&core, stream, peer, admitted).await;
        drop(entry);
    };
    executor.spawn(task).detach();
}

fn is_member(stream: &UnixStream, peer: Peer, group: u32) -> bool {
    peer.uid == 0
        || peer.gid == group
        || socket::peer_groups(stream.as_fd()).is_ok_and(|groups| groups.contains(&group))
}

/// Says that there are too many, if that can be said at once.
fn refuse(mut stream: &UnixStream, peer: Peer, limit: usize) {
    let reason = DenyReason::Limit;
    let text = format!(
        "too many connections: {limit} in all, {} for one user; end some, or raise \
         `session.limit` in the config file",
        share(peer.uid, limit)
    );
    let mut bytes = Vec::new();
    DaemonMessage::Denied {
        version: VERSION,
        reason,
        text,
    }
    .encode(&mut bytes);
    let written = stream.write(&bytes); // fresh, so there is room
    if let Err(error) = written {
        log::debug!("{peer} was not told of the limit: {error}");
    }
}

/// How many of `limit` one user may have.
fn share(uid: u32, limit: usize) -> usize {
    if uid == 0 { limit } else { (limit / 4).max(1) }
}

/// The open connections.
#[derive(Debug, Default)]
struct Connections {
    counts: RefCell<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    most: usize,
    /// The most since there was none.
    peak: usize,
    by_user: BTreeMap<u32, usize>,
    /// A refusal was logged since the last connection ended.
    refused: bool,
}

impl Connections {
    /// Whether there is no room left, for whomever.
    fn are_all(&self, limit: usize) -> bool {
        self.counts.borrow().all >= limit
    }

    /// Counts one in, if there is room.
    fn enter(self: &Rc<Self>, uid: u32, limit: usize) -> Option<Entry> {
        let mut counts = self.counts.borrow_mut();
        let own = counts.by_user.get(&uid).copied().unwrap_or(0);
        if counts.all >= limit || own >= share(uid, limit) {
            if !std::mem::replace(&mut counts.refused, true) {
                log::warn!(
                    "user {uid} was refused: {own} connections open, {} in all",
                    counts.all
                );
            }
            return None;
        }
        counts.all += 1;
        counts.most = counts.most.max(counts.all);
        counts.peak = counts.peak.max(counts.all);
        counts.by_user.insert(uid, own + 1);
        Some(Entry {
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
        if let Some(own) = counts.by_user.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                counts.by_user.remove(&self.uid);
            }
        }
        if counts.all == 0 {
            // What the last of many leave is theirs too.
            counts.most = counts.most.max(std::mem::take(&mut counts.peak));
            super::forget_dropped_timers(); // of handshakes that were in time
        }
        if counts.most > MANY && counts.all <= counts.most / 4 {
            counts.most = counts.all;
            own::trim_memory();
        }
    }
}
