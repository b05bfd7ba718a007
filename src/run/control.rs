//! The messages between `pst run` and its supervisor, over a pair of stream sockets. If one closes its
//! end, the other one ends the command's process tree.

use std::ffi::OsString;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::session::GrantedSession;
use crate::client::DaemonConnection;
use crate::sys::signal::Received;
use crate::sys::{poll, socket};
use crate::wire::PATH_MAX;

/// A message of the supervisor. An exit code is as a shell reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The first one: it waits for the session, and has closed its copy of the other end of the link.
    Ready,
    /// The command ended by itself, or its exec failed.
    Finished(u8),
    /// The supervisor ended its process tree. The code is 0 if the command does not die.
    Ended(u8),
}

/// Asks the supervisor to send this signal to the command, unless the whole process group received it.
/// The signal is lost if the supervisor is stopped and its queue is full.
pub(super) fn forward(mut link: &UnixStream, received: Received) {
    let [signal, sender] = [received.signal, received.sender].map(i32::to_ne_bytes);
    let _ = link.write_all(&[signal, sender].concat()); // if the supervisor is gone, its end is closed
}

/// Asks the supervisor to end the tree.
pub(super) fn request_end(link: &UnixStream) {
    let _ = link.shutdown(Shutdown::Write); // fails only if the supervisor is gone
}

/// Returns the next signal for the command, if there is one.
///
/// # Errors
/// `pst run` asks to end the tree, or has ended.
pub(super) fn next_signal(link: &UnixStream) -> io::Result<Option<Received>> {
    let message: Option<[u8; 8]> = receive(link)?;
    Ok(message.map(|[a, b, c, d, e, f, g, h]| Received {
        signal: i32::from_ne_bytes([a, b, c, d]),
        sender: i32::from_ne_bytes([e, f, g, h]),
    }))
}

/// Hands the session to the supervisor, which is [`Report::Ready`]. This process keeps it, too.
pub(super) fn hand_over(link: &UnixStream, session: &GrantedSession) -> io::Result<()> {
    let device = session.device.to_ne_bytes();
    let grace = session.kill_grace.as_millis().to_ne_bytes();
    let parts = [&device[..], &grace, session.data.as_os_str().as_bytes()].map(IoSlice::new);
    socket::send_descriptor(link, &parts, session.connection.as_fd())
}

/// Returns the session, once it arrives.
///
/// # Errors
/// `UnexpectedEof`: `pst run` has ended.
pub(super) fn take_over(link: &UnixStream) -> io::Result<GrantedSession> {
    let (mut device, mut grace, mut data) = ([0; 8], [0; 16], vec![0; PATH_MAX]);
    let (size, connection) = loop {
        poll::wait([PollFd::new(link, PollFlags::IN)], None);
        let parts = [&mut device[..], &mut grace, &mut data].map(IoSliceMut::new);
        match socket::receive_descriptor(link, parts) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            received => break received?,
        }
    };
    data.truncate(size.saturating_sub(device.len() + grace.len()));
    Ok(GrantedSession {
        connection: DaemonConnection::new(connection.into()),
        data: OsString::from_vec(data).into(),
        device: u64::from_ne_bytes(device),
        kill_grace: Duration::from_millis(u128::from_ne_bytes(grace) as u64),
    })
}

/// # Errors
/// `BrokenPipe`: `pst run` has ended.
pub(super) fn report(mut link: &UnixStream, report: Report) -> io::Result<()> {
    let message = match report {
        Report::Ready => [2, 0],
        Report::Finished(code) => [0, code],
        Report::Ended(code) => [1, code],
    };
    link.write_all(&message)
}

/// Returns the supervisor's report, if it has arrived.
///
/// # Errors
/// The supervisor has ended without a report.
pub(super) fn next_report(link: &UnixStream) -> io::Result<Option<Report>> {
    Ok(receive(link)?.map(|[kind, code]| match kind {
        0 => Report::Finished(code),
        1 => Report::Ended(code),
        _ => Report::Ready,
    }))
}

/// All messages in one direction have the same size, and the kernel does not split such small ones.
fn receive<const N: usize>(mut link: &UnixStream) -> io::Result<Option<[u8; N]>> {
    let mut message = [0; N];
    match link.read(&mut message) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(_) => Ok(Some(message)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
