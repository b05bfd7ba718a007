//! Connects to the daemon, sends and receives. It prints nothing, and blocks only as long as it says.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::escape::{escape, escape_path};
use crate::problem::{Problem, ProblemKind};
use crate::sys::{current, poll, socket, user};
use crate::wire::{
    ClientMessage, DaemonMessage, DecodeError, Decoder, MAGIC, Message, Status, VERSION,
};

/// How long one attempt waits while the daemon's backlog is full. Signals wait as long.
const ATTEMPT: Duration = Duration::from_millis(100);

/// How long the daemon may take to answer a question for its status.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A non-blocking connection to the daemon.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    decoder: Decoder<DaemonMessage>,
    /// The parts of the next status document.
    json: Vec<u8>,
}

/// Connects to the daemon; [`cannot_connect`] explains a failure. While its backlog is full, calls
/// `meanwhile` every [`ATTEMPT`].
///
/// # Errors
/// That of `meanwhile`, which ends the waiting.
pub(crate) fn connect<E>(
    socket: &Path,
    mut meanwhile: impl FnMut() -> Result<(), E>,
) -> Result<io::Result<Connection>, E> {
    let mut connected = socket::connect(socket);
    while let Err(error) = &connected {
        // Interrupted: this process was stopped and continues.
        if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
            break;
        }
        meanwhile()?;
        connected = socket::connect_in_line(socket, ATTEMPT);
    }
    Ok(connected.map(|stream| Connection {
        stream,
        decoder: Decoder::new(),
        json: Vec::new(),
    }))
}

/// Connects and asks for the status; `None` if the backlog stays full until `deadline`.
pub(crate) fn ask_status(
    socket: &Path,
    watch: bool,
    deadline: Instant,
) -> Option<io::Result<Connection>> {
    let in_time = || match Instant::now() > deadline {
        true => Err(()),
        false => Ok(()),
    };
    let connected = connect(socket, in_time).ok()?;
    if let Ok(connection) = &connected {
        let version = VERSION;
        // If the daemon is gone already, receiving says so, perhaps with its reason.
        let _ = connection.greet(&ClientMessage::Status { version, watch });
    }
    Some(connected)
}

impl Connection {
    /// Sends the magic bytes and the first message.
    pub(crate) fn greet(&self, message: &ClientMessage) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        message.encode(&mut bytes);
        (&self.stream).write_all(&bytes)
    }

    pub(crate) fn send(&self, message: &ClientMessage) -> io::Result<()> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        (&self.stream).write_all(&bytes)
    }

    /// Returns the next message if all of it is there.
    pub(crate) fn receive(&mut self) -> Result<Option<DaemonMessage>, ReceiveError> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(message) = self.decoder.next_message().map_err(ReceiveError::Decode)? {
                return Ok(Some(message));
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ReceiveError::Closed),
                Ok(got) => self.decoder.push(&buffer[..got]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(None),
                    // The daemon closed the connection before it read everything.
                    ErrorKind::ConnectionReset => return Err(ReceiveError::Closed),
                    _ => return Err(ReceiveError::Io(error)),
                },
            }
        }
    }

    /// Waits for the next message; `None` if it does not arrive before `deadline`.
    pub(crate) fn receive_until(
        &mut self,
        deadline: Instant,
    ) -> Result<Option<DaemonMessage>, ReceiveError> {
        loop {
            let message = self.receive()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if message.is_some() || left.is_zero() {
                return Ok(message);
            }
            poll::wait([PollFd::new(self, PollFlags::IN)], Some(left));
        }
    }

    /// Returns the next status document; `None` if it does not arrive before `deadline`.
    pub(crate) fn next_status(&mut self, deadline: Instant) -> Result<Option<Status>, StatusError> {
        loop {
            let message = self.receive_until(deadline).map_err(StatusError::Receive)?;
            let (last, bytes) = match message {
                None => return Ok(None),
                Some(DaemonMessage::Status { last, bytes, .. }) => (last, bytes),
                Some(DaemonMessage::Error { version, text }) => {
                    return Err(StatusError::Refused { version, text });
                }
                Some(DaemonMessage::Denied { version, text, .. }) => {
                    return Err(StatusError::Refused { version, text });
                }
                Some(_) => return Err(StatusError::Unexpected),
            };
            self.json.extend_from_slice(&bytes);
            if last {
                let json = std::mem::take(&mut self.json);
                let status = serde_json::from_slice(&json);
                return status.map(Some).map_err(|_| StatusError::Unexpected);
            }
        }
    }

    /// Ends the session even if other processes have this connection open.
    pub(crate) fn hang_up(&self) {
        let _ = self.stream.shutdown(Shutdown::Write); // it fails only if the daemon is gone
    }

    /// See [`socket::wake_this_process`].
    pub(crate) fn wake_this_process(&self) -> io::Result<()> {
        socket::wake_this_process(&self.stream)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Why there is no status.
#[derive(Debug)]
pub(crate) enum StatusError {
    Receive(ReceiveError),
    /// The daemon refuses to answer. It speaks this version of the protocol.
    Refused {
        version: u16,
        text: String,
    },
    /// What arrived is not a status.
    Unexpected,
}

impl From<StatusError> for Problem {
    fn from(error: StatusError) -> Problem {
        match error {
            StatusError::Receive(error) => error.into(),
            StatusError::Refused { text, .. } => {
                Problem::new(format!("the daemon refused: {}", escape(&text)))
            }
            StatusError::Unexpected => Problem::new(OUT_OF_PLACE),
        }
    }
}

/// Why nothing more can be received.
#[derive(Debug)]
pub(crate) enum ReceiveError {
    /// The daemon closed the connection.
    Closed,
    Io(io::Error),
    /// The daemon sent something that is not the protocol.
    Decode(DecodeError),
}

pub(crate) const OUT_OF_PLACE: &str = "unexpected reply from the daemon; see `pst check`";

impl From<ReceiveError> for Problem {
    fn from(error: ReceiveError) -> Problem {
        let see_log = "see `systemctl status pst`";
        match error {
            ReceiveError::Closed => Problem::new("the daemon went away").hint(see_log),
            ReceiveError::Io(error) => {
                Problem::io("the connection to the daemon failed", &error).hint(see_log)
            }
            // Its text says what to do.
            ReceiveError::Decode(error @ DecodeError::Version(_)) => {
                Problem::new(error.to_string())
            }
            ReceiveError::Decode(error) => {
                Problem::new(format!("unexpected reply from the daemon: {error}"))
                    .hint("see `pst check`")
            }
        }
    }
}

/// Explains why [`connect`] failed. May look up users and groups, which can take long.
pub(crate) fn cannot_connect(socket: &Path, error: &io::Error) -> Problem {
    let metadata = fs::metadata(socket);
    let socket = escape_path(socket);
    let hint = match (error.kind(), metadata) {
        (ErrorKind::NotFound, _) => {
            "start it with `systemctl restart pst.socket pst.service`, \
             or pass the right socket with --socket"
        }
        (ErrorKind::ConnectionRefused, Ok(file)) if !file.file_type().is_socket() => {
            "not a socket: pass the right one with --socket; if this file replaced the socket, \
             remove it and run `systemctl restart pst.socket pst.service`"
        }
        (ErrorKind::ConnectionRefused, _) => {
            "see why it ended with `systemctl status pst`, \
             and start it with `systemctl start pst`"
        }
        (ErrorKind::PermissionDenied, Ok(file)) => return not_allowed(&socket, file.gid()),
        (ErrorKind::PermissionDenied, Err(_)) => {
            return Problem::io(format!("cannot reach {socket}"), error)
                .hint(format!("see who may pass with `namei -l {socket}`"));
        }
        _ => {
            let problem = Problem::io(format!("cannot connect to the daemon at {socket}"), error);
            return match error.raw_os_error() {
                Some(libc::ENAMETOOLONG) => problem.hint("a socket's path has at most 107 bytes"),
                _ => problem,
            };
        }
    };
    Problem::io(format!("no daemon answers at {socket}"), error)
        .hint(hint)
        .kind(ProblemKind::NoDaemon)
}

/// The problem that the daemon is silent for [`PATIENCE`].
pub(crate) fn no_answer(socket: &Path) -> Problem {
    let socket = escape_path(socket);
    let seconds = PATIENCE.as_secs();
    Problem::new(format!(
        "no answer from the daemon at {socket} for {seconds} s"
    ))
    .hint("see `systemctl status pst`")
    .kind(ProblemKind::NoDaemon)
}

/// Says whether the user must join the group `gid`, or joined it after this login.
fn not_allowed(socket: &str, gid: u32) -> Problem {
    let user = user::user_name(current::effective_uid());
    let joined = user::group_members(gid).contains(&user);
    let group = user::group_name(gid);
    let (group, user) = (escape(&group), escape(&user));
    Problem::new(format!(
        "not allowed to open {socket}: only root and members of the group {group} are"
    ))
    .hint(match joined {
        true => "you joined the group after this login: log in again".to_owned(),
        false => {
            format!("ask an administrator to run `usermod -aG {group} {user}`, then log in again")
        }
    })
}
