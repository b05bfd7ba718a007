//! Sessions come and go: what is written down of each, in the log and for the status, and what
//! its client is told. Which of them come and go is not decided here.

use std::rc::Rc;
use std::time::Instant;

use log::Level;

use super::arbiter::{CloseResult, DenyReason, Input, RevokeReason, SessionId, Text};
use super::core::Core;
use super::need;
use super::seat::{Notice, Seat, Stage};
use super::times::FORGOTTEN;
use crate::amount::{Bytes, Span};
use crate::sys::socket::Peer;
use crate::wire::Ended;

impl Core {
    /// Opens a session for an admitted client.
    pub fn open(&self, seat: Rc<Seat>) {
        let id = seat.id;
        log::debug!("session {seat} asked for");
        seat.changed.set(self.changes.note());
        self.seats.borrow_mut().insert(id, seat);
        self.seats_changed();
        self.input(Input::Opened(id));
    }

    /// Its connection is over.
    pub fn gone(&self, id: SessionId) {
        if let Some(seat) = self.seat(id) {
            match seat.stage() {
                Stage::Asked => {
                    let text = "given up before it was granted";
                    self.end(&seat, Level::Info, Ended::Gone, text);
                }
                Stage::Granted { revoked: true, .. } => self.end(
                    &seat,
                    Level::Info,
                    Ended::Revoked,
                    "ended, as it was told to",
                ),
                Stage::Granted { revoked: false, .. } => {
                    let text = "ended without a close";
                    self.end(&seat, Level::Warn, Ended::Gone, text);
                }
            }
        }
        self.input(Input::Gone(id));
    }

    /// A client was denied before it came to a session.
    pub fn refused(&self) {
        self.ledger.borrow_mut().denials += 1;
        self.changes.note();
    }

    /// The storage is writable for a session.
    pub(super) fn granted(&self, id: SessionId) {
        let Some(seat) = self.seat(id) else {
            return;
        };
        // Judged again: another storage may have been mounted since the opening.
        if let Some(text) = need::lacking(self, seat.need, seat.peer) {
            return self.denied(id, DenyReason::Full, text.into());
        }
        log::info!("session {seat} opened");
        let mut ledger = self.ledger.borrow_mut();
        ledger.granted += 1;
        seat.granted(ledger.counts.written);
        drop(ledger);
        seat.changed.set(self.changes.note());
        let device = self.data_device.get();
        self.say(&seat, Notice::Granted { device });
    }

    /// There is no session.
    pub(super) fn denied(&self, id: SessionId, reason: DenyReason, text: Text) {
        if let Some(seat) = self.seat(id) {
            self.ledger.borrow_mut().denials += 1;
            let told = format!("denied: {text}");
            self.end(&seat, Level::Warn, Ended::Denied, &told);
            self.say(&seat, Notice::Denied(reason, text));
        }
    }

    /// A session must end.
    pub(super) fn revoked(&self, id: SessionId, reason: RevokeReason, text: Text) {
        if let Some(seat) = self.seat(id) {
            log::warn!("session {seat} revoked: {text}");
            seat.revoked();
            seat.changed.set(self.changes.note());
            self.say(&seat, Notice::Revoked(reason, text));
        }
    }

    /// A session's close is answered.
    pub(super) fn closed(&self, id: SessionId, result: CloseResult, text: Text) {
        let Some(seat) = self.seat(id) else {
            return;
        };
        let revoked = matches!(seat.stage(), Stage::Granted { revoked: true, .. });
        match result {
            CloseResult::Failed => {
                let text = format!("closed, its data may be lost: {text}");
                self.end(&seat, Level::Error, Ended::Failed, &text);
            }
            CloseResult::Durable if revoked => {
                self.end(
                    &seat,
                    Level::Info,
                    Ended::Revoked,
                    "closed, as it was told to",
                );
            }
            CloseResult::Durable => self.end(&seat, Level::Info, Ended::Durable, "closed"),
        }
        self.say(&seat, Notice::Closed(result, text));
    }

    /// A session that was told to end, and did not.
    pub(super) fn cut(&self, id: SessionId) {
        if let Some(seat) = self.seat(id) {
            let text = "cut: it was revoked and did not end";
            self.end(&seat, Level::Warn, Ended::Cut, text);
            seat.cut();
        }
    }

    /// A session is over: it is logged, remembered, and no longer one of those that are open.
    fn end(&self, seat: &Seat, level: log::Level, ended: Ended, text: &str) {
        let now = Instant::now();
        let mut ledger = self.ledger.borrow_mut();
        ledger.ended(seat, ended, now);
        let written = ledger.past(ledger.ends()).and_then(|past| past.written);
        drop(ledger);
        let written = written.map_or(String::new(), |count| format!(", {} written", Bytes(count)));
        let lasted = Span(now - seat.opened);
        log::log!(level, "session {seat} {text} (after {lasted}{written})");
        self.unseat(seat.id);
    }

    /// Why this client may not open sessions; it is logged, too.
    pub fn not_admitted(&self, peer: Peer) -> String {
        let group = &self.access.1;
        log::warn!("{peer} was refused: not in the group '{group}'");
        self.refused();
        format!(
            "user {} is neither root nor in the group '{group}': have an administrator run \
             `usermod -aG {group} USER`, and log in anew",
            peer.uid
        )
    }

    /// Says which sessions were perhaps forgotten. A writable storage is looked at every second,
    /// so this is called often enough while there are sessions, and not at all while there are none.
    pub(super) fn remind(&self) {
        let seats = self.seats.borrow();
        let mut ledger = self.ledger.borrow_mut();
        let later = seats.range(SessionId(ledger.reminded().0 + 1)..);
        let later = later.map(|(id, seat)| (*id, seat.opened));
        let overdue = ledger.overdue(later, FORGOTTEN, Instant::now());
        for seat in overdue.iter().filter_map(|id| seats.get(id)) {
            log::warn!("session {seat} is open for more than an hour: was it forgotten?");
            seat.changed.set(self.changes.note());
        }
    }

    fn say(&self, seat: &Seat, notice: Notice) {
        self.ending.expect();
        seat.push(notice);
    }

    /// An open session.
    pub(super) fn seat(&self, id: SessionId) -> Option<Rc<Seat>> {
        self.seats.borrow().get(&id).cloned()
    }

    fn unseat(&self, id: SessionId) {
        self.seats.borrow_mut().remove(&id);
        self.changes.note();
        self.seats_changed();
    }

    fn seats_changed(&self) {
        #[cfg(feature = "kvmd-api")]
        self.api.watchers.wake();
    }

    /// How many sessions are open.
    #[cfg(feature = "kvmd-api")]
    pub fn sessions(&self) -> usize {
        self.seats.borrow().len()
    }
}
