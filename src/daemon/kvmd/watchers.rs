//! Who is woken when the number of sessions changes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::task::Waker;

use crate::daemon::arbiter::SessionId;

/// The sessions that want to be woken, once each.
#[derive(Debug, Default)]
pub struct Watchers {
    wakers: RefCell<BTreeMap<SessionId, Waker>>,
}

impl Watchers {
    /// Has this session woken at the next change.
    pub fn add(&self, id: SessionId, waker: &Waker) {
        self.wakers.borrow_mut().insert(id, waker.clone());
    }

    /// Wakes all, and forgets them: also who has gone since.
    pub fn wake(&self) {
        for waker in self.wakers.take().into_values() {
            waker.wake();
        }
    }
}
