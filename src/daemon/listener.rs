//! The listening socket: ours, with a lock beside it, or the service manager's.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::storage::inspect::escape_path;
use crate::storage::lock::trusted;
use crate::sys::file::{self, Status};
use crate::sys::stream::Stream;
use crate::sys::{current, socket};
use crate::systemd;

/// A burst of clients that do not wait in line, as kvmd's do not, must find room.
const LEAST_BACKLOG: usize = 128;

/// A socket that clients can connect to.
#[derive(Debug)]
pub(super) struct Listener {
    pub socket: UnixListener,
    /// `None` if the service manager keeps the socket: then who comes while we stop is for the
    /// next daemon.
    pub name: Option<Name>,
}

/// Our name in the filesystem; removed when dropped, if it is still ours.
#[derive(Debug)]
pub(super) struct Name {
    path: PathBuf,
    status: Status,
    _lock: File,
}

impl Listener {
    /// Takes the socket that was passed, or makes the one that the config names.
    ///
    /// # Errors
    /// A line that says why there is none: another daemon listens there, for one.
    pub(super) fn open(config: &Config, access: u32) -> Result<Listener, String> {
        let passed = systemd::listen_fds().map_err(|error| error.to_string())?;
        let (socket, name) = match passed {
            Some(passed) => (UnixListener::from(passed), None),
            None => make(config, access).map(|(socket, name)| (socket, Some(name)))?,
        };
        if let Err(error) = socket::refuse_descriptors(socket.as_fd()) {
            log::debug!("cannot refuse descriptors from clients: {error}");
        }
        // More than may be open could not be let in. What waits here is heard in its turn, so a line
        // as long as the kernel allows would keep everybody waiting while somebody floods it.
        socket::set_backlog(socket.as_fd(), config.session.limit.max(LEAST_BACKLOG))
            .and_then(|()| socket.set_nonblocking(true))
            .map_err(|error| format!("cannot use the socket: {error}"))?;
        Ok(Listener { socket, name })
    }
}

fn make(config: &Config, access: u32) -> Result<(UnixListener, Name), String> {
    let path = &config.socket;
    let shown = escape_path(path);
    let lock = lock(path)?;
    // Without waiting: whoever listens there may let nobody in.
    match Stream::connect(path) {
        Ok(other) => {
            let pid = socket::peer(other.as_fd()).map_or(0, |peer| peer.pid);
            return Err(format!(
                "another daemon (pid {pid}) already listens at {shown}"
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(format!(
                "somebody already listens at {shown}, and answers nobody: end that, or remove it"
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => remove_stale(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(format!("cannot use {shown}: {error}")),
    }
    // The mode is right from the first moment on: there is none in which anybody could connect.
    let before = file::set_umask(!config.socket_mode & 0o777);
    let bound = UnixListener::bind(path);
    file::set_umask(before);
    let socket = bound.map_err(|error| format!("cannot listen at {shown}: {error}"))?;
    let status = socket::own_name_status(path).map_err(|e| format!("cannot use {shown}: {e}"))?;
    if status.gid != access {
        socket::set_name_group(path, status, access)
            .map_err(|e| format!("cannot give {shown} to the group '{}': {e}", config.group))?;
    }
    let path = path.clone();
    Ok((
        socket,
        Name {
            path,
            status,
            _lock: lock,
        },
    ))
}

/// Two daemons that start at the same time must not both find the socket stale.
fn lock(socket: &Path) -> Result<File, String> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let shown = escape_path(&path);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => format!(
                "cannot make {shown}: {error}; make its directory first, or set `socket` in the config file"
            ),
            _ => format!("cannot open {shown}: {error}"),
        })?;
    trusted(&file, &[0, current::effective_uid()], &path)?;
    match file::lock_exclusive(file.as_fd()) {
        Ok(()) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let other = Stream::connect(socket);
            let pid = other.and_then(|other| socket::peer(other.as_fd()));
            let pid = pid.map_or("pid unknown".into(), |peer| format!("pid {}", peer.pid));
            Err(format!(
                "another daemon ({pid}) already uses {}",
                escape_path(socket)
            ))
        }
        Err(error) => Err(format!("cannot lock {shown}: {error}")),
    }
}

/// Removes a socket that nobody listens at; nothing else.
fn remove_stale(path: &Path) -> Result<(), String> {
    let shown = escape_path(path);
    let metadata = std::fs::symlink_metadata(path);
    if metadata.is_ok_and(|metadata| !metadata.file_type().is_socket()) {
        return Err(format!("{shown} is in the way: it is no socket; remove it"));
    }
    std::fs::remove_file(path).map_err(|error| format!("cannot remove the stale {shown}: {error}"))
}

impl Drop for Name {
    fn drop(&mut self) {
        let found = socket::name_status(&self.path);
        let same =
            |found: &Status| (found.device, found.inode) == (self.status.device, self.status.inode);
        if found.as_ref().is_ok_and(same) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
