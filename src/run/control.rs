//! The messages between `pst run` and its supervisor. A closed end is a message too: the supervisor
//! then ends the tree, and `pst run` does so in the supervisor's place.

use std::io;

use crate::sys::process::WaitStatus;
use crate::sys::signal::Received;
use crate::sys::stream::Stream;

/// What `pst run` asks of the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SupervisorRequest {
    /// Send this signal to the command, unless it reached the whole process group.
    Forward(Received),
    EndTree,
}

/// The supervisor's last message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SupervisorReport {
    /// The command ended by itself, or its exec failed.
    Finished(WaitStatus),
    /// The tree was ended. `None`: the command does not die, or was not started.
    Ended(Option<WaitStatus>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ControlEvent<M> {
    Message(M),
    Nothing,
    /// The other end is closed, and everything it sent was received.
    Closed,
}

type Packet = [i32; 2];

/// If the supervisor is stopped and its queue full, the signal is lost.
pub(super) fn forward(link: &Stream, received: Received) {
    send(link, [received.signal, received.sender]);
}

/// The end of sending follows, in case the queue is full.
pub(super) fn request_end(link: &Stream) {
    send(link, [0, 0]);
    link.end_sending();
}

/// `Closed` means that `pst run` is dead.
pub(super) fn next_request(link: &Stream) -> ControlEvent<SupervisorRequest> {
    receive(link, |[signal, sender]| match signal {
        0 => SupervisorRequest::EndTree,
        _ => SupervisorRequest::Forward(Received { signal, sender }),
    })
}

pub(super) fn report(link: &Stream, report: SupervisorReport) {
    let packet = match report {
        SupervisorReport::Finished(status) => [0, status.0],
        SupervisorReport::Ended(Some(status)) => [1, status.0],
        SupervisorReport::Ended(None) => [2, 0],
    };
    send(link, packet);
}

pub(super) fn next_report(link: &Stream) -> ControlEvent<SupervisorReport> {
    receive(link, |[kind, value]| match kind {
        0 => SupervisorReport::Finished(WaitStatus(value)),
        1 => SupervisorReport::Ended(Some(WaitStatus(value))),
        _ => SupervisorReport::Ended(None),
    })
}

/// A failure is not an error: the other end is gone, which is seen by its closed end.
fn send(link: &Stream, packet: Packet) {
    let [a, b] = packet.map(i32::to_ne_bytes);
    let _ = link.send(&[a, b].concat());
}

fn receive<M>(link: &Stream, read: impl Fn(Packet) -> M) -> ControlEvent<M> {
    let mut bytes = [0; 8];
    loop {
        return match link.receive(&mut bytes) {
            Ok(0) => ControlEvent::Closed,
            Ok(_) => {
                let [a, b, c, d, e, f, g, h] = bytes;
                let packet = [[a, b, c, d], [e, f, g, h]].map(i32::from_ne_bytes);
                ControlEvent::Message(read(packet))
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => ControlEvent::Nothing,
                // The other end closed before it read everything. The kernel reports this
                // once, and before what that end sent.
                io::ErrorKind::ConnectionReset => continue,
                _ => ControlEvent::Closed,
            },
        };
    }
}
