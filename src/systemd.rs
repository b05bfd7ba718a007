//! The service manager's side: readiness, the passed socket, the watchdog.
//! Only its documented protocols (sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3)); without
//! a service manager everything here does nothing.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::time::Duration;

use crate::sys::descriptor;

/// A service manager that reads nothing for so long costs a message, not the daemon.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);

/// The service manager, as far as it wants to be told of anything: sd_notify(3).
#[derive(Debug, Default)]
pub(crate) struct Manager(Option<(UnixDatagram, SocketAddr)>);

impl Manager {
    /// The one that NOTIFY_SOCKET names.
    pub(crate) fn new() -> io::Result<Manager> {
        let socket = variable("NOTIFY_SOCKET");
        socket.map_or(Ok(Manager::default()), |socket| Manager::at(&socket))
    }

    fn at(socket: &OsStr) -> io::Result<Manager> {
        let address = match socket.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(socket)?,
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "NOTIFY_SOCKET is neither a path nor an abstract name",
                ));
            }
        };
        let sender = UnixDatagram::unbound()?;
        sender.set_write_timeout(Some(NOTIFY_TIMEOUT))?;
        Ok(Manager(Some((sender, address))))
    }

    /// Tells it about the state: lines such as `READY=1` or `STATUS=…`. One that is not there is
    /// told nothing.
    pub(crate) fn tell(&self, state: &str) -> io::Result<()> {
        match &self.0 {
            Some((sender, address)) => sender.send_to_addr(state.as_bytes(), address).map(drop),
            None => Ok(()),
        }
    }
}

/// Why the service manager's socket cannot be used.
#[derive(Debug)]
pub(crate) enum ListenError {
    /// A variable of the protocol holds what is no number: name and value.
    Malformed(&'static str, OsString),
    /// Not exactly one descriptor was passed: how many.
    Count(u32),
    /// The descriptor is not one that can be listened at: what it is instead.
    Unfit(&'static str),
    /// The descriptor could not be looked at.
    Look(io::Error),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("socket activation: ")?;
        match self {
            Self::Malformed(name, value) => write!(f, "{name} is no number: {value:?}"),
            Self::Count(count) => write!(
                f,
                "exactly one socket is needed, {count} were passed; see the unit's Sockets= and the .socket unit's ListenStream="
            ),
            Self::Unfit(what) => write!(
                f,
                "descriptor 3 is {what}; a listening Unix stream socket is needed, see the .socket unit's ListenStream= and Accept="
            ),
            Self::Look(error) => write!(f, "cannot use descriptor 3: {error}"),
        }
    }
}

impl std::error::Error for ListenError {}

/// The listening Unix stream socket that the service manager passed, if it did: close-on-exec now,
/// blocking or not as it was made; sd_listen_fds(3). To be called once, before other descriptors
/// are opened.
pub(crate) fn listen_fds() -> Result<Option<OwnedFd>, ListenError> {
    if !is_passed(variable("LISTEN_PID"), variable("LISTEN_FDS"))? {
        return Ok(None);
    }
    let socket = descriptor::take_passed().map_err(ListenError::Look)?;
    check_listener(socket.as_fd())?;
    Ok(Some(socket))
}

/// What LISTEN_PID and LISTEN_FDS say: whether there is one descriptor for this very process.
fn is_passed(pid: Option<OsString>, count: Option<OsString>) -> Result<bool, ListenError> {
    let Some(pid) = pid else { return Ok(false) };
    if number("LISTEN_PID", pid)? != process::id() {
        return Ok(false); // inherited from a parent that it was meant for
    }
    let Some(count) = count else { return Ok(false) };
    match number("LISTEN_FDS", count)? {
        0 => Ok(false),
        1 => Ok(true),
        more => Err(ListenError::Count(more)),
    }
}

fn check_listener(socket: BorrowedFd<'_>) -> Result<(), ListenError> {
    let family = match descriptor::socket_family(socket) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => {
            return Err(ListenError::Unfit("no socket"));
        }
        answer => answer.map_err(ListenError::Look)?,
    };
    if family != libc::AF_UNIX {
        return Err(ListenError::Unfit("a socket of another family"));
    }
    if descriptor::socket_type(socket).map_err(ListenError::Look)? != libc::SOCK_STREAM {
        return Err(ListenError::Unfit("a Unix socket, but no stream"));
    }
    if !descriptor::is_listening(socket).map_err(ListenError::Look)? {
        return Err(ListenError::Unfit("a Unix stream socket that listens not"));
    }
    Ok(())
}

/// How often `WATCHDOG=1` is to be sent: half of what the service manager waits; `None` where it
/// asks for no watchdog; sd_watchdog_enabled(3).
pub(crate) fn watchdog_interval() -> Option<Duration> {
    interval(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"))
}

fn interval(microseconds: Option<OsString>, pid: Option<OsString>) -> Option<Duration> {
    let microseconds: u64 = microseconds?.to_str()?.parse().ok()?;
    if let Some(pid) = pid {
        if pid.to_str()?.parse() != Ok(process::id()) {
            return None;
        }
    }
    (microseconds > 0).then(|| Duration::from_micros(microseconds) / 2)
}

/// An environment variable; empty ones count as unset.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn number(name: &'static str, value: OsString) -> Result<u32, ListenError> {
    match value.to_str().map(str::parse) {
        Some(Ok(number)) => Ok(number),
        _ => Err(ListenError::Malformed(name, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    /// A directory of its own, removed at the end, also of a failed test.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let path = env::temp_dir().join(format!("pst-systemd-{}-{name}", process::id()));
            std::fs::create_dir(&path).unwrap();
            Dir(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn text(value: &str) -> Option<OsString> {
        Some(value.into())
    }

    fn received(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let size = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..size]).into_owned()
    }

    #[test]
    fn a_state_reaches_the_manager_at_a_path() {
        let dir = Dir::new("notify");
        let path = dir.0.join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let told = Manager::at(path.as_os_str()).unwrap();
        for state in ["READY=1\nSTATUS=idle\n", "STOPPING=1"] {
            told.tell(state).unwrap();
            assert_eq!(received(&manager), state);
        }
    }

    #[test]
    fn a_state_reaches_the_manager_at_an_abstract_name() {
        let name = format!("pst-notify-{}", process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let told = Manager::at(OsStr::new(&format!("@{name}"))).unwrap();
        told.tell("STOPPING=1").unwrap();
        assert_eq!(received(&manager), "STOPPING=1");
    }

    #[test]
    fn no_manager_and_no_address_are_errors() {
        let gone = Manager::at(OsStr::new("/nonexistent/notify")).unwrap();
        let error = gone.tell("READY=1").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let error = Manager::at(OsStr::new("vsock:2:1")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        let long = format!("/{}", "x".repeat(200));
        assert!(Manager::at(OsStr::new(&long)).is_err());
    }

    #[test]
    fn a_full_manager_costs_a_message_and_no_more() {
        let dir = Dir::new("full");
        let path = dir.0.join("notify");
        let _manager = UnixDatagram::bind(&path).unwrap();
        let filler = UnixDatagram::unbound().unwrap();
        filler.set_nonblocking(true).unwrap();
        while filler.send_to(b"x", &path).is_ok() {}
        let told = Manager::at(path.as_os_str()).unwrap();
        let error = told.tell("WATCHDOG=1").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn descriptors_are_taken_only_where_meant_for_us() {
        let me = process::id().to_string();
        let passed = |pid: &str, count: &str| is_passed(text(pid), text(count));
        assert!(passed(&me, "1").unwrap());
        assert!(!passed("1", "1").unwrap(), "another process's");
        assert!(!passed(&me, "0").unwrap());
        assert!(!is_passed(None, text("1")).unwrap());
        assert!(!is_passed(text(&me), None).unwrap());
        for (pid, count, says) in [
            (
                me.as_str(),
                "2",
                "exactly one socket is needed, 2 were passed",
            ),
            (&me, "x", "LISTEN_FDS is no number: \"x\""),
            (&me, "-1", "LISTEN_FDS is no number: \"-1\""),
            ("x", "1", "LISTEN_PID is no number: \"x\""),
        ] {
            let error = passed(pid, count).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn only_a_listening_unix_stream_socket_will_do() {
        let dir = Dir::new("listener");
        let fault = |socket: BorrowedFd<'_>| check_listener(socket).unwrap_err().to_string();
        let listener = UnixListener::bind(dir.0.join("stream")).unwrap();
        check_listener(listener.as_fd()).unwrap();
        let datagram = UnixDatagram::bind(dir.0.join("datagram")).unwrap();
        assert!(fault(datagram.as_fd()).contains("but no stream"));
        let (connected, _other) = UnixStream::pair().unwrap();
        assert!(fault(connected.as_fd()).contains("that listens not"));
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(fault(tcp.as_fd()).contains("another family"));
        let file = std::fs::File::open("/").unwrap();
        assert!(fault(file.as_fd()).contains("no socket"));
    }

    /// Run by `a_service_speaks_with_its_manager` in a process of its own, as a service is started.
    #[test]
    fn child_is_a_service() {
        if env::var_os("PST_TEST_PASSED").is_none() {
            return;
        }
        let listener = UnixListener::from(listen_fds().unwrap().unwrap());
        let flags = std::fs::read_to_string("/proc/self/fdinfo/3").unwrap();
        assert!(flags.contains("flags:\t02000002"), "close-on-exec: {flags}");
        assert!(listen_fds().is_err(), "taken twice");
        assert_eq!(watchdog_interval(), Some(Duration::from_secs(10)));
        Manager::new().unwrap().tell("READY=1").unwrap();
        let path = listener.local_addr().unwrap();
        UnixStream::connect(path.as_pathname().unwrap()).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn a_service_speaks_with_its_manager() {
        let dir = Dir::new("service");
        let notified = UnixDatagram::bind(dir.0.join("notify")).unwrap();
        let listener = UnixListener::bind(dir.0.join("socket")).unwrap();
        let output = Command::new("sh")
            .args([
                "-c",
                "LISTEN_PID=$$ exec $PST_TEST_EMULATOR \"$0\" \"$@\" 3<&0 0</dev/null",
            ])
            .arg(env::current_exe().unwrap())
            .args(["--exact", "systemd::tests::child_is_a_service"])
            .env("LISTEN_FDS", "1")
            .env("NOTIFY_SOCKET", dir.0.join("notify"))
            .env("WATCHDOG_USEC", "20000000")
            .env_remove("WATCHDOG_PID")
            .env("PST_TEST_PASSED", "1")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{stdout}");
        assert!(stdout.contains("1 passed"), "{stdout}");
        notified.set_nonblocking(true).unwrap();
        assert_eq!(received(&notified), "READY=1");
    }

    #[test]
    fn the_watchdog_is_asked_for_by_its_variables() {
        let me = process::id().to_string();
        let half = Some(Duration::from_millis(1500));
        assert_eq!(interval(text("3000000"), text(&me)), half);
        assert_eq!(interval(text("3000000"), None), half);
        assert_eq!(interval(text("3000000"), text("1")), None);
        assert_eq!(interval(text("3000000"), text("x")), None);
        assert_eq!(interval(None, text(&me)), None);
        assert_eq!(interval(text("0"), None), None);
        assert_eq!(interval(text("soon"), None), None);
        assert!(interval(text("18446744073709551615"), None).is_some());
    }
}
