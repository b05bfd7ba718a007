//! Counts the open connections, and limits them for each user and in total.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::handle::{Handle, Request};
use crate::problem::Problem;
use crate::sys::current;

/// Descriptors that the daemon needs for its own work. Without them, it could not inspect the storage and would revoke
/// all sessions.
const OWN_DESCRIPTORS: u64 = 16;
/// If more connections than this were open and three quarters of them have ended, the allocator returns their memory to
/// the kernel. After 1,000 sessions, the daemon then takes 4 MiB instead of 8.
const TRIM_AFTER: usize = 8;

#[derive(Debug)]
pub(super) struct Admission {
    limit: usize,
    controller: Handle,
    counters: RefCell<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    all: usize,
    /// The maximum of `all` since memory was last returned.
    peak: usize,
    by_user: BTreeMap<u32, usize>,
    /// A refusal was logged after the last connection ended.
    refusal_logged: bool,
}

/// One counted connection. Dropping it frees its slot.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    admission: Rc<Admission>,
    uid: u32,
}

impl Admission {
    pub(super) fn new(limit: usize, controller: Handle) -> Rc<Admission> {
        Rc::new(Admission {
            limit,
            controller,
            counters: RefCell::default(),
        })
    }

    pub(super) fn is_full(&self) -> bool {
        self.counters.borrow().all >= self.limit
    }

    /// Counts a connection.
    ///
    /// # Errors
    /// A limit is reached, so the connection must be refused.
    pub(super) fn enter(
        self: &Rc<Self>,
        connection: BorrowedFd<'_>,
        uid: u32,
    ) -> Result<ConnectionSlot, Problem> {
        let mut counters = self.counters.borrow_mut();
        let all = counters.all;
        let of_user = |uid| counters.by_user.get(&uid).copied().unwrap_or(0);
        let own = of_user(uid);
        let roots = roots_part(self.limit);
        let (share, left_to_root) = match uid {
            0 => (self.limit, 0),
            _ => ((self.limit / 4).max(1), roots),
        };
        let full = all >= self.limit || all - of_user(0) >= self.limit - left_to_root;
        let problem = if full || own >= share {
            Problem::new(format!(
                "too many connections: {} in all, {share} for one user, {roots} for root alone",
                self.limit
            ))
            .hint(
                "end some (as root, `pst status` names them), or raise `session.limit` in the \
                 config file",
            )
        } else if current::descriptors_left(connection) < OWN_DESCRIPTORS + left_to_root as u64 {
            Problem::new("the daemon has no descriptors left")
                .hint("end some sessions, or raise its limit")
        } else {
            counters.all += 1;
            counters.peak = counters.peak.max(counters.all);
            *counters.by_user.entry(uid).or_default() += 1;
            let admission = self.clone();
            return Ok(ConnectionSlot { admission, uid });
        };
        if !std::mem::replace(&mut counters.refusal_logged, true) {
            let open = format!("{own} connections open, {all} in all");
            let line = format!("user {uid} was refused with {open}: {problem}");
            self.controller.warn(uid, line);
        }
        Err(problem)
    }
}

/// Returns how many connections only root may open: a sixteenth, at least 8, and at most half of a small limit. One user
/// may act as many, with subordinate uids.
fn roots_part(limit: usize) -> usize {
    (limit / 16).max(8).min(limit / 2)
}

/// Whether the daemon is about to run out of descriptors. `newest` is the last one that it opened.
pub(super) fn lacks_descriptors(newest: BorrowedFd<'_>) -> bool {
    current::descriptors_left(newest) < OWN_DESCRIPTORS
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut counters = self.admission.counters.borrow_mut();
        counters.all -= 1;
        counters.refusal_logged = false;
        *counters.by_user.entry(self.uid).or_default() -= 1;
        counters.by_user.retain(|_, own| *own > 0);
        if counters.peak > TRIM_AFTER && counters.all <= counters.peak / 4 {
            counters.peak = counters.all;
            // The controller first handles the ends of their sessions.
            self.admission.controller.send(Request::TrimMemory);
        }
    }
}
