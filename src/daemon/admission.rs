//! How many connections each user may have.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::handle::{Handle, Request};
use crate::problem::Problem;
use crate::sys::current;

/// Descriptors that the daemon needs for its own work. Without them it could not inspect the storage, and would revoke
/// the sessions.
const OWN_DESCRIPTORS: u64 = 16;
/// When more than this many connections were open and three quarters of them have ended, the allocator returns their
/// memory to the kernel. Otherwise the daemon stays at 8 MiB instead of 4 after 1,000 sessions.
const TRIM_AFTER: usize = 8;

/// The open connections.
#[derive(Debug)]
pub(super) struct Admission {
    limit: usize,
    controller: Handle,
    counts: RefCell<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    /// The most since memory was last trimmed.
    peak: usize,
    by_user: BTreeMap<u32, usize>,
    /// A refusal was logged since the last connection ended.
    refusal_logged: bool,
}

/// The place of one connection, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Rc<Admission>,
    uid: u32,
}

impl Admission {
    pub(super) fn new(limit: usize, controller: Handle) -> Rc<Admission> {
        Rc::new(Admission {
            limit,
            controller,
            counts: RefCell::default(),
        })
    }

    pub(super) fn is_full(&self) -> bool {
        self.counts.borrow().all >= self.limit
    }

    /// Counts a connection.
    ///
    /// # Errors
    /// Why it has to be refused.
    pub(super) fn enter(
        self: &Rc<Self>,
        connection: BorrowedFd<'_>,
        uid: u32,
    ) -> Result<Place, Problem> {
        let mut counts = self.counts.borrow_mut();
        let all = counts.all;
        let own = counts.by_user.get(&uid).copied().unwrap_or(0);
        let share = match uid {
            0 => self.limit,
            _ => (self.limit / 4).max(1),
        };
        let problem = if all >= self.limit || own >= share {
            Problem::new(format!(
                "too many connections: {} in all, {share} for one user",
                self.limit
            ))
            .hint(
                "end some (as root, `pst status` names them), or raise `session.limit` in the \
                 config file",
            )
        } else if lacks_descriptors(connection) {
            Problem::new("the daemon has no descriptors left")
                .hint("end some sessions, or raise its limit")
        } else {
            counts.all += 1;
            counts.peak = counts.peak.max(counts.all);
            *counts.by_user.entry(uid).or_default() += 1;
            let admission = self.clone();
            return Ok(Place { admission, uid });
        };
        if !std::mem::replace(&mut counts.refusal_logged, true) {
            log::warn!(
                "user {uid} was refused with {own} connections open, {all} in all: {problem}"
            );
        }
        Err(problem)
    }
}

/// Whether the daemon is about to run out of descriptors. `newest` is the last one that it opened.
pub(super) fn lacks_descriptors(newest: BorrowedFd<'_>) -> bool {
    current::descriptors_left(newest) < OWN_DESCRIPTORS
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.admission.counts.borrow_mut();
        counts.all -= 1;
        counts.refusal_logged = false;
        *counts.by_user.entry(self.uid).or_default() -= 1;
        counts.by_user.retain(|_, own| *own > 0);
        if counts.peak > TRIM_AFTER && counts.all <= counts.peak / 4 {
            counts.peak = counts.all;
            // It is handled after the ends of their sessions, which the controller still has.
            self.admission.controller.send(Request::TrimMemory);
        }
    }
}
