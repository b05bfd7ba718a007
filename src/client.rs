//! The daemon's socket from its clients' side: connecting, sending, receiving.
//! Shared by `run`, `status` and `check`. It never prints, and never blocks for longer than it says.

use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::escape::escape;
use crate::problem::Problem;
use crate::shortage;
use crate::sys::poll::{self, Watch};
use crate::sys::stream::Stream;
use crate::sys::{current, user};
use crate::wire::{
    ClientMessage, DaemonMessage, DecodeError, Decoder, MAGIC, Message, Status, VERSION,
};

/// So long it waits in line at a time while the daemon's backlog is full: signals wait as long.
const IN_LINE: Duration = Duration::from_millis(100);

/// A connection to the daemon; non-blocking.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    decoder: Decoder<DaemonMessage>,
    /// The parts of the next status document.
    json: Vec<u8>,
}

/// Connects to the daemon. As long as its backlog is full, `meanwhile` is called from time to
/// time, and may break it off.
pub(crate) fn connect<B>(
    socket: &Path,
    mut meanwhile: impl FnMut() -> ControlFlow<B>,
) -> ControlFlow<B, Result<Connection, ConnectError>> {
    let mut connected = Stream::connect(socket);
    loop {
        match connected {
            Ok(stream) => {
                return ControlFlow::Continue(Ok(Connection {
                    stream,
                    decoder: Decoder::new(),
                    json: Vec::new(),
                }));
            }
            // Interrupted: this process was stopped and goes on.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                meanwhile()?;
                connected = Stream::connect_in_line(socket, IN_LINE);
            }
            Err(error) => return ControlFlow::Continue(Err(ConnectError::new(socket, error))),
        }
    }
}

/// No answer to a question for the status by then is no answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the daemon for the status; `None` if it does not hear that before `deadline`.
pub(crate) fn ask_status(
    socket: &Path,
    watch: bool,
    deadline: Instant,
) -> Option<Result<Connection, ConnectError>> {
    let connected = connect(socket, || match Instant::now() > deadline {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    });
    let ControlFlow::Continue(connected) = connected else {
        return None;
    };
    if let Ok(connection) = &connected {
        let version = VERSION;
        // That a daemon is gone already is received, perhaps with its reason.
        let _ = connection.greet(&ClientMessage::Status { version, watch });
    }
    Some(connected)
}

impl Connection {
    /// Sends the first message, after the bytes that name the protocol.
    pub(crate) fn greet(&self, message: &ClientMessage) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        message.encode(&mut bytes);
        self.stream.send(&bytes)
    }

    pub(crate) fn send(&self, message: &ClientMessage) -> io::Result<()> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.stream.send(&bytes)
    }

    /// The next message, if a whole one has come.
    pub(crate) fn receive(&mut self) -> Result<Option<DaemonMessage>, ReceiveError> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(message) = self.decoder.next_message().map_err(ReceiveError::Decode)? {
                return Ok(Some(message));
            }
            match self.stream.receive(&mut buffer) {
                Ok(0) => return Err(ReceiveError::Closed),
                Ok(got) => self.decoder.push(&buffer[..got]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(None),
                    // It ended with something of ours unread.
                    ErrorKind::ConnectionReset => return Err(ReceiveError::Closed),
                    _ => return Err(ReceiveError::Io(error)),
                },
            }
        }
    }

    /// The next message; `None` if it does not come before `deadline`.
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
            let mut watches = [Watch::new(self, libc::POLLIN)];
            poll::wait(&mut watches, Some(left)).map_err(ReceiveError::Io)?;
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

    /// Ends the session, also for others that have this connection open.
    pub(crate) fn hang_up(&self) {
        self.stream.end_sending();
    }

    /// See [`Stream::wake_this_process`].
    pub(crate) fn wake_this_process(&self) -> io::Result<()> {
        self.stream.wake_this_process()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Why there is no connection. Its text says what to do; to say it, the databases of users and
/// groups are asked, which may take long.
#[derive(Debug)]
pub(crate) struct ConnectError {
    socket: PathBuf,
    error: io::Error,
    found: Found,
}

/// What is at the socket's path, where that tells more than the error.
#[derive(Debug)]
enum Found {
    /// Nothing, or it does not matter.
    Nothing,
    NoSocket,
    /// A socket for members of the group with this number.
    GroupOnly(u32),
}

impl ConnectError {
    fn new(socket: &Path, error: io::Error) -> Self {
        let found = match (error.kind(), std::fs::metadata(socket)) {
            (ErrorKind::PermissionDenied, Ok(at)) => Found::GroupOnly(at.gid()),
            (ErrorKind::ConnectionRefused, Ok(at)) if !at.file_type().is_socket() => {
                Found::NoSocket
            }
            _ => Found::Nothing,
        };
        Self {
            socket: socket.to_owned(),
            error,
            found,
        }
    }

    /// No daemon is there, as opposed to one that cannot be reached.
    pub(crate) fn is_no_daemon(&self) -> bool {
        matches!(
            self.error.kind(),
            ErrorKind::NotFound | ErrorKind::ConnectionRefused
        )
    }
}

impl std::error::Error for ConnectError {}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = escape(self.socket.as_os_str().as_bytes());
        let error = &self.error;
        if let Found::GroupOnly(gid) = self.found {
            let user = user::user_name(current::effective_uid());
            // This user is one, but not yet this process.
            let too_early = user
                .as_ref()
                .is_some_and(|user| user::group_members(gid).contains(user));
            let group = user::group_name(gid).unwrap_or_else(|| gid.to_string());
            let user = user.unwrap_or_else(|| "USER".into());
            let (group, user) = (escape(&group), escape(&user));
            write!(
                f,
                "not allowed to open {socket}: only root and members of the group {group} are; "
            )?;
            return match too_early {
                true => write!(
                    f,
                    "you are one, but became it after this login: log in anew"
                ),
                false => write!(
                    f,
                    "have an administrator run `usermod -aG {group} {user}`, and log in anew"
                ),
            };
        }
        match error.kind() {
            _ if matches!(self.found, Found::NoSocket) => {
                write!(
                    f,
                    "no daemon answers at {socket}: that is no socket; name the one that it has (`--socket`, PST_SOCKET), or if something took its place, move that away and run `systemctl restart pst.socket pst.service`"
                )
            }
            ErrorKind::NotFound => write!(
                f,
                "no daemon answers at {socket}: {error}; start it with \
                 `systemctl restart pst.socket pst.service`, or name the socket that it has (`--socket`, PST_SOCKET)"
            ),
            ErrorKind::ConnectionRefused => write!(
                f,
                "no daemon answers at {socket}: {error}; see why it ended with \
                 `systemctl status pst`, and start it with `systemctl start pst`"
            ),
            ErrorKind::PermissionDenied => write!(
                f,
                "cannot reach {socket}: {error}; see who may pass with `namei -l {socket}`"
            ),
            _ => write!(
                f,
                "cannot connect to the daemon at {socket}: {error}{}",
                match error.raw_os_error() {
                    Some(libc::ENAMETOOLONG) => "; a socket's path has at most 107 bytes",
                    _ => shortage::advice(error),
                }
            ),
        }
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
            StatusError::Receive(error) => Problem::new(error.to_string()),
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
    /// What came is not the protocol.
    Decode(DecodeError),
}

impl std::error::Error for ReceiveError {}

/// What is said of a message that nobody asked for.
pub(crate) const OUT_OF_PLACE: &str = "the daemon's answer is out of place; see `pst check`";

impl fmt::Display for ReceiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => write!(f, "the daemon went away; see `systemctl status pst`"),
            Self::Io(error) => write!(
                f,
                "the connection to the daemon failed: {error}; see `systemctl status pst`"
            ),
            Self::Decode(error @ DecodeError::Version(_)) => {
                write!(f, "the daemon's answer is not understood: {error}")
            }
            Self::Decode(error) => write!(
                f,
                "the daemon's answer is not understood: {error}; see `pst check`"
            ),
        }
    }
}
