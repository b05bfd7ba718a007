//! The thread that closes clients' sockets with unread data. That may include descriptors, and the last close of a
//! foreign file may block: of a TCP socket with SO_LINGER, as long as its sender wants.

use std::io;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use async_io::Timer;
use smol::channel::{Receiver, Sender, bounded, unbounded};

use crate::sys::interrupt::interrupting;
use crate::sys::socket::stop_receiving;

/// Sockets that may wait for the thread before the daemon accepts connections more slowly.
const WAITING_MAX: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Closer(Sender<Unread>);

/// A socket with unread data. The channel closes after the socket.
type Unread = (UnixStream, Sender<()>);

impl Closer {
    /// Starts the thread, which runs until the daemon exits.
    pub(super) fn start() -> io::Result<Closer> {
        let (sender, inbox) = unbounded::<Unread>();
        let work = move || {
            while let Ok((socket, closing)) = inbox.recv_blocking() {
                // One thread is enough: a signal ends all waits of a close after a millisecond.
                interrupting(|| drop(socket));
                drop(closing);
            }
        };
        thread::Builder::new().name("closer".into()).spawn(work)?;
        Ok(Closer(sender))
    }

    /// Closes a client's socket, whose last reference this must be. Returns a channel that closes after the socket, if
    /// that takes the thread.
    pub(super) fn close(&self, socket: Rc<UnixStream>) -> Option<Receiver<()>> {
        if !stop_receiving(&socket) {
            return None; // nothing from outside is closed with it
        }
        let (closing, closed) = bounded(1);
        let socket = Rc::into_inner(socket)?;
        self.0.try_send((socket, closing)).ok()?; // the thread runs until the exit
        Some(closed)
    }

    /// Waits until few sockets wait for the thread, at most 100 ms.
    pub(super) async fn catch_up(&self) {
        for _ in 0..100 {
            if self.0.len() <= WAITING_MAX {
                return;
            }
            Timer::after(Duration::from_millis(1)).await;
        }
    }
}
