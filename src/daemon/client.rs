//! A client that asks for a session.

use std::fmt;
use std::time::Instant;

use super::arbiter::SessionId;
use crate::escape::escape;
use crate::sys::socket::Peer;

/// Who asked for a session, and for what.
#[derive(Debug)]
pub(super) struct Client {
    pub id: SessionId,
    pub peer: Peer,
    /// What it runs, as it says.
    pub command: Box<[u8]>,
    /// How many bytes have to be free for it.
    pub need: u64,
    pub opened: Instant,
}

/// As each line of the log about a session begins.
impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {}, `{}`,",
            self.id.0,
            self.peer,
            escape(&self.command)
        )
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {}, pid {}", self.uid, self.pid)
    }
}
