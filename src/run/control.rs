//! The messages between `pst run` and its supervisor, over a pair of stream sockets. If one closes its
//! end, the other one ends the command's process tree.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use crate::sys::signal::Received;

/// The supervisor's last message: how the command ended, with its exit code as a shell reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommandEnd {
    /// It ended by itself, or its exec failed.
    Finished(u8),
    /// The supervisor ended its process tree. The code is 0 if the command does not die.
    Ended(u8),
}

/// Asks the supervisor to send this signal to the command, unless the whole process group received it.
/// The signal is lost if the supervisor is stopped and its queue is full.
pub(super) fn forward(link: &UnixStream, received: Received) {
    let [signal, sender] = [received.signal, received.sender].map(i32::to_ne_bytes);
    send(link, &[signal, sender].concat());
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

pub(super) fn report(link: &UnixStream, end: CommandEnd) {
    let message = match end {
        CommandEnd::Finished(code) => [0, code],
        CommandEnd::Ended(code) => [1, code],
    };
    send(link, &message);
}

/// Returns the supervisor's report, if it has arrived.
///
/// # Errors
/// The supervisor has ended without a report.
pub(super) fn next_report(link: &UnixStream) -> io::Result<Option<CommandEnd>> {
    Ok(receive(link)?.map(|[kind, code]| match kind {
        0 => CommandEnd::Finished(code),
        _ => CommandEnd::Ended(code),
    }))
}

/// Ignores errors: if the other process is gone, its end of the link is closed.
fn send(mut link: &UnixStream, message: &[u8]) {
    let _ = link.write_all(message);
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
