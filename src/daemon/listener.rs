//! The listening socket: creates it, with a lock file beside it, or takes the service manager's.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use async_io::Async;
use rustix::fs::Mode;
use rustix::process::umask;

use crate::config::Config;
use crate::escape::escape_path;
use crate::problem::Problem;
use crate::storage::lock::{lock_file, taken};
use crate::sys::{current, socket};
use crate::systemd;

/// kvmd's clients do not wait if the backlog is full, so a burst of them must fit in.
const LEAST_BACKLOG: usize = 128;

#[derive(Debug)]
pub(super) struct Listener {
    pub socket: Async<UnixListener>,
    /// `None` if the service manager keeps the socket, even while no daemon runs.
    pub name: Option<SocketName>,
}

/// The socket's file. Dropping it removes the file, unless another file has replaced it.
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
    /// The socket cannot be used, for example because another daemon listens there.
    pub(super) fn open(config: &Config, access_gid: u32) -> Result<Listener, Problem> {
        let (socket, name) = match systemd::listen_fds()? {
            Some(passed) => (UnixListener::from(passed), None),
            None => create(config, access_gid).map(|(socket, name)| (socket, Some(name)))?,
        };
        // Not the kernel's maximum: connections are served in turn, so a flood would delay all clients.
        let backlog = i32::try_from(config.limit.max(LEAST_BACKLOG)).unwrap_or(i32::MAX);
        // Also if the service manager has done it: SO_PEERCRED shows clients the last process that did.
        let socket = rustix::net::listen(&socket, backlog)
            .map_err(io::Error::from)
            .and_then(|()| Async::new(socket))
            .map_err(|error| Problem::io("cannot use the socket", &error))?;
        Ok(Listener { socket, name })
    }
}

fn create(config: &Config, access_gid: u32) -> Result<(UnixListener, SocketName), Problem> {
    let path = &config.socket;
    let shown = escape_path(path);
    let failed = |what, error| Problem::io(format!("cannot {what} {shown}"), &error);
    // Prevents that two daemons that start at the same time both find the socket stale.
    let mut lock = path.clone().into_os_string();
    lock.push(".lock");
    let lock = Path::new(&lock);
    let lock = lock_file(lock, current::effective_uid())?
        .ok_or_else(|| taken(format!("another daemon already uses {shown}"), lock))?;
    refuse_other_daemon(path)?;
    // The umask sets the mode from the start. At no moment can other users connect.
    let before = umask(Mode::from_raw_mode(!config.socket_mode & 0o777));
    let bound = UnixListener::bind(path);
    umask(before);
    let socket = bound.map_err(|error| failed("listen at", error))?;
    let (bound_name, metadata) =
        socket::open_own_name(path).map_err(|error| failed("use", error))?;
    if metadata.gid() != access_gid {
        socket::set_group(&bound_name, access_gid)
            .map_err(|error| failed("set the group of", error))?;
    }
    let name = SocketName {
        path: path.clone(),
        metadata,
        _lock: lock,
    };
    Ok((socket, name))
}

/// Checks that no process listens at `path`, and removes the socket of a daemon that died. Does not wait for a listener
/// that accepts no connections.
fn refuse_other_daemon(path: &Path) -> Result<(), Problem> {
    let shown = escape_path(path);
    let error = match socket::connect(path) {
        Ok(other) => {
            let pid = socket::peer(other.as_fd()).map_or(0, |peer| peer.pid);
            let what = format!("another daemon (pid {pid}) already listens at {shown}");
            return Err(Problem::new(what));
        }
        Err(error) => error,
    };
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        io::ErrorKind::ConnectionRefused if is_socket(path) => std::fs::remove_file(path)
            .map_err(|error| Problem::io(format!("cannot remove the stale {shown}"), &error)),
        io::ErrorKind::ConnectionRefused => Err(Problem::new(format!(
            "{shown} is in the way: it is not a socket"
        ))
        .hint("remove it")),
        io::ErrorKind::WouldBlock => {
            let what = format!("a process listens at {shown}, but accepts no connections");
            Err(Problem::new(what).hint("end it, or remove the socket"))
        }
        _ => Err(Problem::io(format!("cannot use {shown}"), &error)),
    }
}

/// Whether `path` is a socket, rather than a symlink to one.
fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
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
