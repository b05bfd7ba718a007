//! A client's connection to the daemon. Prints nothing, and blocks only as documented.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::net::SendFlags;

use crate::escape::{escape, escape_path};
use crate::problem::{Problem, ProblemKind};
use crate::sys::{current, poll, socket, user};
use crate::wire::{
    ClientMessage, DaemonMessage, DecodeError, Decoder, MAGIC, Message, Status, VERSION,
};

/// One attempt waits this long while the daemon's backlog is full, and delays signals.
const ATTEMPT: Duration = Duration::from_millis(100);

/// The limit for the answer to a status request.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// A non-blocking connection to the daemon.
#[derive(Debug)]
pub(crate) struct DaemonConnection {
    pub stream: UnixStream,
    decoder: Decoder<DaemonMessage>,
    /// The parts of the next status document that have arrived.
    json: Vec<u8>,
}

/// Connects to the daemon and sends the first message; `None` if its backlog stays full for
/// [`ATTEMPT`]. [`cannot_connect`] explains an error.
pub(crate) fn connect(
    socket: &Path,
    first: &ClientMessage,
) -> io::Result<Option<DaemonConnection>> {
    match socket::connect_in_line(socket, ATTEMPT) {
        Ok(stream) => {
            let mut bytes = MAGIC.to_vec();
            first.encode(&mut bytes);
            // If this fails, `receive` returns the error, perhaps with the daemon's reason.
            let _ = send_all(&stream, &bytes);
            Ok(Some(DaemonConnection::new(stream)))
        }
        // Interrupted: this process was stopped and continued.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Connects and asks for the status. With `watch`, more follow.
pub(crate) fn ask_status(
    socket: &Path,
    watch: bool,
) -> Result<(DaemonConnection, Status), ClientError> {
    ask_status_within(STATUS_TIMEOUT, socket, watch)
}

/// Like [`ask_status`], with another limit for the answer.
pub(crate) fn ask_status_within(
    limit: Duration,
    socket: &Path,
    watch: bool,
) -> Result<(DaemonConnection, Status), ClientError> {
    let deadline = Instant::now() + limit;
    let version = VERSION;
    let question = ClientMessage::Status { version, watch };
    loop {
        let connected = connect(socket, &question).map_err(|error| ClientError::NoDaemon {
            problem: cannot_connect(socket, &error),
            forbidden: error.kind() == ErrorKind::PermissionDenied,
        })?;
        if let Some(mut connection) = connected {
            if let Some(status) = connection.next_status(deadline)? {
                return Ok((connection, status));
            }
        }
        if Instant::now() >= deadline {
            return Err(no_answer(socket));
        }
    }
}

/// Sends a message, which fits into the socket's buffer.
fn send_all(stream: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    match rustix::net::send(stream, bytes, SendFlags::NOSIGNAL)? {
        sent if sent == bytes.len() => Ok(()),
        _ => Err(ErrorKind::WriteZero.into()),
    }
}

impl DaemonConnection {
    /// Takes a connection on which the daemon's next message is about to arrive.
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            decoder: Decoder::new(),
            json: Vec::new(),
        }
    }

    pub(crate) fn send(&self, message: &ClientMessage) -> io::Result<()> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        send_all(&self.stream, &bytes)
    }

    /// Returns the next message if it has arrived completely.
    pub(crate) fn receive(&mut self) -> Result<Option<DaemonMessage>, ClientError> {
        let mut buffer = [0; 4096];
        loop {
            let message = self.decoder.next_message().map_err(ClientError::Decode)?;
            if message.is_some() {
                return Ok(message);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(got) => self.decoder.push(&buffer[..got]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(None),
                    // The daemon closed the connection before it read everything.
                    ErrorKind::ConnectionReset => return Err(ClientError::Closed),
                    _ => return Err(ClientError::Io(error)),
                },
            }
        }
    }

    /// Returns the next status document; `None` if it does not arrive before `deadline`.
    pub(crate) fn next_status(&mut self, deadline: Instant) -> Result<Option<Status>, ClientError> {
        loop {
            match self.receive()? {
                Some(DaemonMessage::Status { last, bytes, .. }) => {
                    self.json.extend_from_slice(&bytes);
                    if last {
                        let status = serde_json::from_slice(&mem::take(&mut self.json));
                        return status.map(Some).map_err(|_| ClientError::Unexpected);
                    }
                }
                Some(other) => return Err(other.into()),
                None => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(None);
                    }
                    poll::wait([PollFd::new(self, PollFlags::IN)], Some(left));
                }
            }
        }
    }
}

impl AsFd for DaemonConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Why a request to the daemon failed.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// The connection failed, or there was no answer.
    NoDaemon {
        problem: Problem,
        forbidden: bool,
    },
    /// The daemon closed the connection.
    Closed,
    Io(io::Error),
    /// The daemon sent bytes that are not a valid message.
    Decode(DecodeError),
    /// The daemon, which speaks this version of the protocol, refused.
    Refused {
        version: u16,
        text: String,
    },
    /// The daemon sent a message that does not answer the request.
    Unexpected,
}

impl From<DaemonMessage> for ClientError {
    fn from(message: DaemonMessage) -> ClientError {
        match message {
            DaemonMessage::Error { version, text }
            | DaemonMessage::Denied { version, text, .. } => ClientError::Refused { version, text },
            _ => ClientError::Unexpected,
        }
    }
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Problem {
        let see_log = "see `systemctl status pst`";
        let problem = match error {
            ClientError::NoDaemon { problem, .. } => problem,
            ClientError::Closed => Problem::new("the daemon went away").hint(see_log),
            ClientError::Io(error) => {
                Problem::io("the connection to the daemon failed", &error).hint(see_log)
            }
            ClientError::Decode(DecodeError::Http) => {
                Problem::new("kvmd's own daemon answers at the socket, not pst's").hint(
                    "to switch, run `systemctl disable --now kvmd-pst` and \
                     `systemctl restart pst.socket pst.service` as root",
                )
            }
            // Its text includes the next step.
            ClientError::Decode(error @ DecodeError::Version(_)) => Problem::new(error.to_string()),
            ClientError::Decode(error) => {
                Problem::new(format!("unexpected reply from the daemon: {error}"))
                    .hint("see `pst check`")
            }
            ClientError::Refused { text, .. } => {
                Problem::new(format!("the daemon refused: {}", escape(&text)))
            }
            ClientError::Unexpected => {
                Problem::new("unexpected reply from the daemon").hint("see `pst check`")
            }
        };
        problem.kind(ProblemKind::NoDaemon)
    }
}

/// Explains why [`connect`] failed. May look up users and groups, which can take long.
pub(crate) fn cannot_connect(socket: &Path, error: &io::Error) -> Problem {
    let file = fs::metadata(socket);
    let is_socket = file.as_ref().is_ok_and(|file| file.file_type().is_socket());
    let socket = escape_path(socket);
    let silent = format!("no daemon answers at {socket}");
    let problem = match (error.kind(), file) {
        (ErrorKind::NotFound, _) => Problem::io(silent, error).hint(
            "start it with `systemctl restart pst.socket pst.service`, \
             or pass the right socket with --socket",
        ),
        (ErrorKind::ConnectionRefused, _) if is_socket => Problem::io(silent, error).hint(
            "see why it ended with `systemctl status pst`, \
             and start it with `systemctl start pst`",
        ),
        (ErrorKind::ConnectionRefused, _) => Problem::io(silent, error).hint(
            "not a socket: pass the right one with --socket; if this file replaced the socket, \
             remove it and run `systemctl restart pst.socket pst.service`",
        ),
        (ErrorKind::PermissionDenied, Ok(file)) => not_allowed(&socket, file.gid()),
        (ErrorKind::PermissionDenied, Err(_)) => {
            Problem::io(format!("cannot reach {socket}"), error)
                .hint(format!("see the permissions with `namei -l {socket}`"))
        }
        _ => {
            let problem = Problem::io(format!("cannot connect to the daemon at {socket}"), error);
            match error.raw_os_error() {
                Some(libc::ENAMETOOLONG) => problem.hint("a socket's path has at most 107 bytes"),
                _ => problem,
            }
        }
    };
    problem.kind(ProblemKind::NoDaemon)
}

fn no_answer(socket: &Path) -> ClientError {
    let (socket, seconds) = (escape_path(socket), STATUS_TIMEOUT.as_secs());
    let text = format!("no answer from the daemon at {socket} for {seconds} s");
    ClientError::NoDaemon {
        problem: Problem::new(text).hint("see `systemctl status pst`"),
        forbidden: false,
    }
}

/// Explains that the user must join the group `gid`, or log in again after joining.
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
