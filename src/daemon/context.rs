//! What every connection is given.

use std::rc::Rc;

use smol::channel::Receiver;

use super::handle::{Handle, Request};
use super::settings::Settings;
use super::timers::Timers;
use crate::sys::socket::Peer;

#[derive(Debug)]
pub(super) struct Context {
    pub settings: Rc<Settings>,
    pub controller: Handle,
    pub timers: Rc<Timers>,
    /// Closed once the first look is over.
    pub started: Receiver<()>,
    /// Closed when the daemon begins to stop.
    pub running: Receiver<()>,
}

impl Context {
    /// Whether the daemon is on its way out.
    pub(super) fn stopping(&self) -> bool {
        self.running.is_closed()
    }

    /// Why this client may not open sessions; it is logged, too.
    pub(super) fn not_admitted(&self, peer: Peer) -> String {
        let group = &self.settings.access.1;
        log::warn!("{peer} was refused: not in the group '{group}'");
        self.controller.tell(Request::TurnedAway);
        format!(
            "user {} is neither root nor in the group '{group}': have an administrator run \
             `usermod -aG {group} USER`, and log in anew",
            peer.uid
        )
    }
}
