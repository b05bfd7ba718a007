//! What `run` and its keeper tell each other. The end of either one's side is a
//! message too: the keeper ends the tree, `run` takes over from the keeper.

use std::io;
use std::time::Duration;

use crate::sys::poll::{self, Watch};
use crate::sys::process::WaitStatus;
use crate::sys::signal::Received;
use crate::sys::stream::Stream;
use crate::wire::PATH_MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The command could not be started: an errno.
    NotStarted(i32),
    /// The command ended by itself.
    Finished(WaitStatus),
    /// The tree was ended; how the command ended, if it did.
    Ended(Option<WaitStatus>),
}

/// What has come over the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard<M> {
    Message(M),
    Nothing,
    /// The other side is closed, and all it sent was received.
    End,
}

type Packet = [i32; 2];

/// The first thing that is said: the command may start, with this grace and this data path. A
/// keeper that is gone is no error here: its end is heard.
pub(super) fn order(link: &Stream, kill_grace: Duration, data: &[u8]) -> io::Result<()> {
    let grace = u32::try_from(kill_grace.as_millis()).unwrap_or(u32::MAX);
    match link.send(&[&grace.to_ne_bytes(), data].concat()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        sent => sent,
    }
}

/// Waits for the order; `None`: it never comes, `run` is gone.
pub(super) fn await_order(link: &Stream) -> Option<(Duration, Vec<u8>)> {
    let mut bytes = [0; 4 + PATH_MAX];
    loop {
        match link.receive(&mut bytes) {
            Ok(got) => {
                let (grace, data) = bytes.get(..got)?.split_first_chunk()?;
                let grace = u32::from_ne_bytes(*grace);
                return Some((Duration::from_millis(grace.into()), data.to_vec()));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // It fails for want of kernel memory only; then it is tried again.
                let _ = poll::wait(&mut [Watch::new(link, libc::POLLIN)], None);
            }
            Err(_) => return None,
        }
    }
}

/// What `run` wants of the keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// That the command gets this signal. If the keeper has it from the same sender, it has.
    Pass(Received),
    End,
}

/// The keeper hears what is wanted. An end without a wish is `run`'s death.
pub(super) fn hear_wish(link: &Stream) -> Heard<Wish> {
    receive(link).map(|[signal, sender]| match signal {
        0 => Wish::End,
        _ => Wish::Pass(Received { signal, sender }),
    })
}

/// Wants the tree's end. The end of our side follows, in case the queue is full.
pub(super) fn end(link: &Stream) {
    let _ = send(link, [0, 0]);
    link.end_sending();
}

/// A signal more or less: if the keeper is stopped and its queue full, it is lost.
pub(super) fn pass(link: &Stream, passed: Received) {
    let _ = send(link, [passed.signal, passed.sender]);
}

/// `run` hears the keeper's report.
pub(super) fn hear_report(link: &Stream) -> Heard<Report> {
    receive(link).map(|[kind, value]| match kind {
        0 => Report::NotStarted(value),
        1 => Report::Finished(WaitStatus(value)),
        2 => Report::Ended(Some(WaitStatus(value))),
        _ => Report::Ended(None),
    })
}

/// Says the keeper's last word; without anybody to hear it, it is lost.
pub(super) fn report(link: &Stream, report: Report) {
    let packet = match report {
        Report::NotStarted(errno) => [0, errno],
        Report::Finished(status) => [1, status.0],
        Report::Ended(Some(status)) => [2, status.0],
        Report::Ended(None) => [3, 0],
    };
    let _ = send(link, packet);
}

impl<M> Heard<M> {
    fn map<N>(self, f: impl FnOnce(M) -> N) -> Heard<N> {
        match self {
            Self::Message(message) => Heard::Message(f(message)),
            Self::Nothing => Heard::Nothing,
            Self::End => Heard::End,
        }
    }
}

fn send(link: &Stream, packet: Packet) -> io::Result<()> {
    let [a, b] = packet.map(i32::to_ne_bytes);
    link.send(&[a, b].concat())
}

fn receive(link: &Stream) -> Heard<Packet> {
    let mut bytes = [0; 8];
    loop {
        return match link.receive(&mut bytes) {
            Ok(0) => Heard::End,
            Ok(_) => {
                let [a, b, c, d, e, f, g, h] = bytes;
                Heard::Message([[a, b, c, d], [e, f, g, h]].map(i32::from_ne_bytes))
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Heard::Nothing,
                // The other side ended with something of ours unread. This is told
                // once, and before what it has sent.
                io::ErrorKind::ConnectionReset => continue,
                _ => Heard::End,
            },
        };
    }
}
