//! The listening socket: the daemon's own, with a lock file beside it, or the service manager's.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::process::umask;

use crate::config::Config;
use crate::escape::escape_path;
use crate::problem::Problem;
use crate::storage::lock::check_lock_file;
use crate::sys::file;
use crate::sys::{current, socket};
use crate::systemd;

/// kvmd's clients do not wait while the backlog is full, so a burst of them must fit in.
const LEAST_BACKLOG: usize = 128;

/// A socket that clients can connect to.
#[derive(Debug)]
pub(super) struct Listener {
    /// Non-blocking.
    pub socket: UnixListener,
    /// `None` if the service manager keeps the socket, also while no daemon runs.
    pub name: Option<SocketName>,
}

/// The socket's name in the filesystem. Dropping it removes the name, unless something else has taken its place.
#[derive(Debug)]
pub(super) struct SocketName {
    path: PathBuf,
    metadata: Metadata,
    _lock: File,
}

impl Listener {
    /// Takes the socket of the service manager, or creates the one that the config names.
    ///
    /// # Errors
    /// For one, another daemon listens there.
    pub(super) fn open(config: &Config, access_gid: u32) -> Result<Listener, Problem> {
        let (socket, name) = match systemd::listen_fds()? {
            Some(passed) => (UnixListener::from(passed), None),
            None => create(config, access_gid).map(|(socket, name)| (socket, Some(name)))?,
        };
        if let Err(error) = socket::refuse_descriptors(socket.as_fd()) {
            log::debug!("cannot refuse descriptors from clients: {error}");
        }
        // Not as long as the kernel allows: connections are served in turn, so a flood would delay everybody.
        let backlog = i32::try_from(config.session.limit.max(LEAST_BACKLOG)).unwrap_or(i32::MAX);
        rustix::net::listen(&socket, backlog)
            .map_err(io::Error::from)
            .and_then(|()| socket.set_nonblocking(true))
            .map_err(|error| Problem::io("cannot use the socket", &error))?;
        Ok(Listener { socket, name })
    }
}

fn create(config: &Config, access_gid: u32) -> Result<(UnixListener, SocketName), Problem> {
    let path = &config.socket;
    let shown = escape_path(path);
    let lock = lock(path)?;
    refuse_other_daemon(path)?;
    // The umask gives the socket its mode from the start, so there is no moment in which anybody could connect.
    let before = umask(Mode::from_raw_mode(!config.socket_mode & 0o777));
    let bound = UnixListener::bind(path);
    umask(before);
    let socket = bound.map_err(|error| Problem::io(format!("cannot listen at {shown}"), &error))?;
    let (bound_name, metadata) = socket::open_own_name(path)
        .map_err(|error| Problem::io(format!("cannot use {shown}"), &error))?;
    if metadata.gid() != access_gid {
        socket::set_group(&bound_name, access_gid).map_err(|error| {
            Problem::io(
                format!("cannot give {shown} to the group '{}'", config.group),
                &error,
            )
        })?;
    }
    let name = SocketName {
        path: path.clone(),
        metadata,
        _lock: lock,
    };
    Ok((socket, name))
}

/// Makes sure that nothing listens at `path`, and removes the socket of a daemon that died. It does not wait for a
/// listener that accepts nothing.
fn refuse_other_daemon(path: &Path) -> Result<(), Problem> {
    let shown = escape_path(path);
    match socket::connect(path) {
        Ok(other) => {
            let pid = socket::peer(other.as_fd()).map_or(0, |peer| peer.pid);
            Err(Problem::new(format!(
                "another daemon (pid {pid}) already listens at {shown}"
            )))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Problem::new(format!(
            "a process listens at {shown}, but accepts no connections"
        ))
        .hint("end it, or remove the socket")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => remove_stale(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Problem::io(format!("cannot use {shown}"), &error)),
    }
}

/// Locks the socket's name, because two daemons that start at the same time must not both find the socket stale.
fn lock(socket: &Path) -> Result<File, Problem> {
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
            io::ErrorKind::NotFound => Problem::io(format!("cannot create {shown}"), &error)
                .hint("create its directory first, or set `socket` in the config file"),
            _ => Problem::io(format!("cannot open {shown}"), &error),
        })?;
    check_lock_file(&file, &[0, current::effective_uid()], &path)?;
    match file::lock_exclusive(file.as_fd()) {
        Ok(()) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let other = socket::connect(socket);
            let pid = other.and_then(|other| socket::peer(other.as_fd()));
            let pid = pid.map_or("pid unknown".into(), |peer| format!("pid {}", peer.pid));
            Err(Problem::new(format!(
                "another daemon ({pid}) already uses {}",
                escape_path(socket)
            )))
        }
        Err(error) => Err(Problem::io(format!("cannot lock {shown}"), &error)),
    }
}

/// Removes a socket at which nothing listens. Anything else stays.
fn remove_stale(path: &Path) -> Result<(), Problem> {
    let shown = escape_path(path);
    let metadata = std::fs::symlink_metadata(path);
    if metadata.is_ok_and(|metadata| !metadata.file_type().is_socket()) {
        return Err(
            Problem::new(format!("{shown} is in the way: it is not a socket")).hint("remove it"),
        );
    }
    std::fs::remove_file(path)
        .map_err(|error| Problem::io(format!("cannot remove the stale {shown}"), &error))
}

impl Drop for SocketName {
    fn drop(&mut self) {
        let id = |file: &Metadata| (file.dev(), file.ino());
        let found = std::fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| id(&found) == id(&self.metadata)) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
