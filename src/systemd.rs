//! The service manager: the socket that it passes, its watchdog, and the states that we send it.

use std::env;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};
use sd_notify::NotifyState;

use crate::problem::Problem;
use crate::sys::socket;

/// States that are queued while the service manager does not read. More are dropped.
const QUEUE: usize = 64;
/// The daemon waits this long at its end until the last states are sent.
const LAST_STATES: Duration = Duration::from_secs(1);

/// Sends states to the service manager from a thread, because PID 1 may be slow to read them. Without
/// a NOTIFY_SOCKET, sends nothing.
#[derive(Debug, Default)]
pub(crate) struct ServiceManager {
    /// The queue, and a channel that the thread closes when it has sent everything.
    thread: Option<(SyncSender<String>, Receiver<()>)>,
}

impl ServiceManager {
    pub(crate) fn start() -> ServiceManager {
        if env::var_os("NOTIFY_SOCKET").is_none_or(|socket| socket.is_empty()) {
            return ServiceManager::default();
        }
        let (sender, states) = sync_channel::<String>(QUEUE);
        let (sending, sent) = channel();
        let send = move || {
            let _sending = sending; // dropped, it closes the channel
            for state in states {
                if let Err(error) = sd_notify::notify(&[NotifyState::Custom(&state)]) {
                    log::warn!("cannot tell the service manager '{state}': {error}");
                }
            }
        };
        let started = thread::Builder::new().name("notify".into()).spawn(send);
        if let Err(error) = &started {
            log::warn!("cannot tell the service manager anything: {error}");
        }
        ServiceManager {
            thread: started.is_ok().then_some((sender, sent)),
        }
    }

    /// Sends a line such as `READY=1` or `STATUS=…`, sd_notify(3). Never blocks.
    pub(crate) fn notify(&self, state: &str) {
        if let Some((sender, _)) = &self.thread {
            let _ = sender.try_send(state.to_owned());
        }
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        if let Some((sender, sent)) = self.thread.take() {
            drop(sender); // the thread ends when it has sent the rest
            let _ = sent.recv_timeout(LAST_STATES);
        }
    }
}

/// Returns the listening Unix stream socket that the service manager passed, if any;
/// sd_listen_fds(3). Call it once, before other descriptors are opened.
pub(crate) fn listen_fds() -> Result<Option<OwnedFd>, Problem> {
    let unusable = |error| Problem::io("socket activation", &error);
    let passed = sd_notify::listen_fds().map_err(unusable)?.len();
    if passed == 0 {
        return Ok(None);
    }
    let socket = socket::take_passed().map_err(unusable)?;
    if passed > 1 || !is_listener(socket.as_fd()).unwrap_or(false) {
        let what = "socket activation: exactly one listening Unix stream socket is needed";
        let hint = "see the unit's Sockets= and the .socket unit's ListenStream= and Accept=";
        return Err(Problem::new(what).hint(hint));
    }
    Ok(Some(socket))
}

fn is_listener(socket: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    Ok(socket_domain(socket)? == AddressFamily::UNIX
        && socket_type(socket)? == SocketType::STREAM
        && socket_acceptconn(socket)?)
}

/// Returns the interval for `WATCHDOG=1`: half of the service manager's limit. `None` if there is no
/// watchdog; sd_watchdog_enabled(3).
pub(crate) fn watchdog_interval() -> Option<Duration> {
    let limit = sd_notify::watchdog_enabled();
    limit
        .filter(|limit| !limit.is_zero())
        .map(|limit| limit / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use crate::sys::file::tests::TempDir;

    #[test]
    fn only_a_listening_unix_stream_socket_is_usable() {
        let dir = TempDir::new("listener");
        let listener = UnixListener::bind(dir.0.join("stream")).unwrap();
        assert!(is_listener(listener.as_fd()).unwrap());
        let datagram = UnixDatagram::bind(dir.0.join("datagram")).unwrap();
        assert!(!is_listener(datagram.as_fd()).unwrap());
        let (connected, _other) = UnixStream::pair().unwrap();
        assert!(!is_listener(connected.as_fd()).unwrap());
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!is_listener(tcp.as_fd()).unwrap());
        let file = std::fs::File::open("/").unwrap();
        assert!(is_listener(file.as_fd()).is_err());
    }

    /// Returns a command that runs one of the tests below in a process that is started like a service.
    fn service(test: &str, notified: &UnixDatagram, count: &str) -> Command {
        let notified = notified.local_addr().unwrap();
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "LISTEN_PID=$$ exec $PST_TEST_EMULATOR \"$0\" \"$@\" 3<&0 4<&0 0</dev/null",
            ])
            .arg(env::current_exe().unwrap())
            .args(["--exact", &format!("systemd::tests::{test}")])
            .env("LISTEN_FDS", count)
            .env("NOTIFY_SOCKET", notified.as_pathname().unwrap())
            .env("WATCHDOG_USEC", "20000000")
            .env_remove("WATCHDOG_PID")
            .env("PST_TEST_SERVICE", test)
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn succeeds(service: &mut Command) {
        let output = service.output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{stdout}");
        assert!(stdout.contains("1 passed"), "{stdout}");
    }

    fn is_service(test: &str) -> bool {
        env::var_os("PST_TEST_SERVICE").is_some_and(|of| of == test)
    }

    fn received(notified: &UnixDatagram) -> String {
        notified.set_nonblocking(true).unwrap();
        let mut buffer = [0; 256];
        let size = notified.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..size]).into_owned()
    }

    #[test]
    fn child_is_a_service() {
        if !is_service("child_is_a_service") {
            return;
        }
        let listener = UnixListener::from(listen_fds().unwrap().unwrap());
        let flags = std::fs::read_to_string("/proc/self/fdinfo/3").unwrap();
        assert!(flags.contains("flags:\t02000002"), "close-on-exec: {flags}");
        assert!(listen_fds().is_err(), "taken twice");
        assert_eq!(watchdog_interval(), Some(Duration::from_secs(10)));
        let path = listener.local_addr().unwrap();
        UnixStream::connect(path.as_pathname().unwrap()).unwrap();
        listener.accept().unwrap();
        let manager = ServiceManager::start();
        manager.notify("READY=1");
        manager.notify("STOPPING=1");
    }

    #[test]
    fn the_last_states_are_sent_before_a_service_ends() {
        let dir = TempDir::new("service");
        let notified = UnixDatagram::bind(dir.0.join("notify")).unwrap();
        let listener = UnixListener::bind(dir.0.join("socket")).unwrap();
        let mut service = service("child_is_a_service", &notified, "1");
        succeeds(service.stdin(OwnedFd::from(listener)));
        assert_eq!(received(&notified), "READY=1\n");
        assert_eq!(received(&notified), "STOPPING=1\n");
    }

    #[test]
    fn child_cannot_use_its_sockets() {
        if let Some(hint) = env::var_os("PST_TEST_HINT") {
            let problem = listen_fds().unwrap_err();
            assert!(problem.hint.unwrap().contains(hint.to_str().unwrap()));
        }
    }

    #[test]
    fn the_hint_for_an_unusable_socket_names_the_units_setting() {
        let dir = TempDir::new("unusable");
        let notified = UnixDatagram::bind(dir.0.join("notify")).unwrap();
        for (count, hint) in [("2", "Sockets="), ("1", "Accept=")] {
            let mut service = service("child_cannot_use_its_sockets", &notified, count);
            succeeds(service.env("PST_TEST_HINT", hint));
        }
    }

    #[test]
    fn child_has_a_full_manager() {
        if !is_service("child_has_a_full_manager") {
            return;
        }
        let start = Instant::now();
        let manager = ServiceManager::start();
        for _ in 0..2 * QUEUE {
            manager.notify("WATCHDOG=1");
        }
        assert!(start.elapsed() < LAST_STATES, "notify blocked");
        drop(manager);
        assert!(start.elapsed() >= LAST_STATES, "drop did not wait");
    }

    #[test]
    fn a_manager_that_reads_nothing_blocks_nothing() {
        let dir = TempDir::new("full");
        let path = dir.0.join("notify");
        let notified = UnixDatagram::bind(&path).unwrap();
        // The limit of one sender may be reached before that of the receiver.
        let sends = || {
            let filler = UnixDatagram::unbound().unwrap();
            filler.set_nonblocking(true).unwrap();
            let count = std::iter::from_fn(|| filler.send_to(b"x", &path).ok()).count();
            count > 0
        };
        while sends() {}
        succeeds(&mut service("child_has_a_full_manager", &notified, "0"));
    }
}
