//! A session as the core and a connection share it: who has it, and what it is told, in no
//! protocol's words. It decides nothing, and writes to nobody.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::arbiter::{CloseResult, DenyReason, RevokeReason, SessionId, Text};
use super::core::Core;
use crate::escape::escape;
use crate::sys::socket::Peer;

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {}, pid {}", self.uid, self.pid)
    }
}

/// What a session is told.
#[derive(Debug)]
pub enum Notice {
    /// The storage is writable.
    Granted {
        /// `st_dev` of the data root.
        device: u64,
    },
    /// There is no session; the last word.
    Denied(DenyReason, Text),
    /// It must end.
    Revoked(RevokeReason, Text),
    /// What came of its close; the last word.
    Closed(CloseResult, Text),
}

/// A session as the core knows it: who, since when, and what it is to be told.
#[derive(Debug)]
pub struct Seat {
    /// Its number.
    pub id: SessionId,
    /// Who has it.
    pub peer: Peer,
    /// What it runs, as it says.
    pub command: Box<[u8]>,
    /// When it was asked for.
    pub opened: Instant,
    outbox: RefCell<VecDeque<Notice>>,
    cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Seat {
    /// Its command, safe to print.
    pub fn command(&self) -> impl fmt::Display + '_ {
        escape(&self.command)
    }

    /// Leaves a notice for the connection to send.
    pub fn push(&self, notice: Notice) {
        self.outbox.borrow_mut().push_back(notice);
        self.wake();
    }

    /// Ends the connection, whatever is left to say.
    pub fn cut(&self) {
        self.cut.set(true);
        self.wake();
    }

    /// The next notice; `None`: the connection is cut.
    pub fn poll_notice(&self, cx: &mut Context<'_>) -> Poll<Option<Notice>> {
        if self.cut.get() {
            return Poll::Ready(None);
        }
        if let Some(notice) = self.outbox.borrow_mut().pop_front() {
            return Poll::Ready(Some(notice));
        }
        self.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A connection's hold on its session: the core is told when it is dropped, however it comes to that.
pub struct Occupied<'a> {
    core: &'a Core,
    seat: Rc<Seat>,
}

impl<'a> Occupied<'a> {
    /// Opens a session for an admitted client.
    pub fn open(core: &'a Core, peer: Peer, command: Vec<u8>) -> Occupied<'a> {
        let seat = Rc::new(Seat {
            id: core.next_id(),
            peer,
            command: command.into_boxed_slice(),
            opened: Instant::now(),
            outbox: RefCell::default(),
            cut: Cell::new(false),
            waker: RefCell::default(),
        });
        core.open(seat.clone());
        Occupied { core, seat }
    }
}

impl Deref for Occupied<'_> {
    type Target = Seat;

    fn deref(&self) -> &Seat {
        &self.seat
    }
}

impl Drop for Occupied<'_> {
    fn drop(&mut self) {
        self.core.answered(self.seat.outbox.borrow().len());
        self.core.gone(self.seat.id);
    }
}
