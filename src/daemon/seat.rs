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

/// How far it has come, for whoever tells of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not granted.
    Asked,
    /// Granted.
    Granted {
        /// Bytes that had been written to the device by then, where they are counted.
        written: Option<u64>,
        /// It was told to end.
        revoked: bool,
    },
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
    /// How many bytes have to be free for it.
    pub need: u64,
    /// When it was asked for.
    pub opened: Instant,
    /// The last change of what a status shows of it.
    pub changed: Cell<u64>,
    stage: Cell<Stage>,
    outbox: RefCell<VecDeque<Notice>>,
    cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Its number, who has it, and what it runs: as each line of the log about it begins.
impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = escape(&self.command);
        write!(f, "{} of {}, `{command}`,", self.id, self.peer)
    }
}

impl Seat {
    /// One that is asked for now.
    pub fn new(id: SessionId, peer: Peer, command: Vec<u8>, need: u64) -> Seat {
        Seat {
            id,
            peer,
            command: command.into_boxed_slice(),
            need,
            opened: Instant::now(),
            changed: Cell::new(0),
            stage: Cell::new(Stage::Asked),
            outbox: RefCell::default(),
            cut: Cell::new(false),
            waker: RefCell::default(),
        }
    }

    /// How far it has come.
    pub fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// It is granted, when so many bytes had been written to the device.
    pub fn granted(&self, written: Option<u64>) {
        let revoked = false;
        self.stage.set(Stage::Granted { written, revoked });
    }

    /// It is told to end.
    pub fn revoked(&self) {
        if let Stage::Granted { written, .. } = self.stage.get() {
            let revoked = true;
            self.stage.set(Stage::Granted { written, revoked });
        }
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
    /// Opens a session for an admitted client that needs so many bytes.
    pub fn open(core: &'a Core, peer: Peer, command: Vec<u8>, need: u64) -> Occupied<'a> {
        let seat = Rc::new(Seat::new(core.next_id(), peer, command, need));
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
