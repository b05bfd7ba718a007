//! What the tests of `pst run` stand on: a daemon that does what the test says,
//! processes that carry a mark, so that none is missed, and a terminal.

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use pst::wire::{
    ClientMessage, CloseResult, DaemonMessage, Decoder, MAGIC, Message, RevokeReason, VERSION,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// For anything that must happen.
const LONG: Duration = Duration::from_secs(20);

/// Waits until `condition` gives something.
#[track_caller]
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "never came: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A folder with a socket and a data root, a daemon on the socket, and a mark in
/// the environment of every process started; on drop all of it is gone.
pub struct Rig {
    pub folder: PathBuf,
    pub kill_grace_ms: u32,
    mark: String,
    listener: UnixListener,
}

impl Rig {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pst-run-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir_all(folder.join("data")).unwrap();
        let listener = UnixListener::bind(folder.join("sock")).unwrap();
        Self {
            mark: format!("PST_TEST_MARK={name}"),
            kill_grace_ms: 300,
            folder,
            listener,
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("sock")
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Any program, with the mark and the socket in its environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let (name, value) = self.mark.split_once('=').unwrap();
        let mut command = Command::new(program);
        command
            .env(name, value)
            .env("PST_SOCKET", self.socket())
            .env("PST", env!("CARGO_BIN_EXE_pst"))
            .env("F", &self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// `pst run -- words`, not yet started.
    pub fn run(&self, words: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_pst"));
        command.args(["run", "--"]).args(words);
        command
    }

    /// The script in bash, where `$PST` is the binary and `$F` the folder.
    pub fn bash(&self, script: &str) -> Command {
        let mut command = self.command("bash");
        command.args(["-c", script]);
        command
    }

    /// Runs to the end under a daemon that grants, and closes as durable.
    pub fn served(&self, mut command: Command) -> Output {
        let child = command.spawn().unwrap();
        let mut client = self.accept();
        client.grant(self);
        let served = thread::spawn(move || {
            while let Some(message) = client.next() {
                if message == ClientMessage::Close {
                    client.close(CloseResult::Durable);
                }
            }
        });
        let output = child.wait_with_output().unwrap();
        served.join().unwrap();
        output
    }

    /// The next client, its opening message read.
    pub fn accept(&self) -> Client {
        self.listener.set_nonblocking(true).unwrap();
        let (stream, _) = until("a client", || self.listener.accept().ok());
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut client = Client {
            stream,
            decoder: Decoder::new(),
            command: Vec::new(),
        };
        let mut magic = [0; 4];
        client.stream.read_exact(&mut magic).unwrap();
        assert_eq!(magic, MAGIC);
        match client.next() {
            Some(ClientMessage::Open { command, .. }) => {
                client.command = command;
            }
            other => panic!("{other:?}"),
        }
        client
    }

    /// The processes that carry the mark and are no zombies.
    pub fn marked(&self) -> Vec<i32> {
        let marked = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|&b| b == 0)
                .any(|variable| variable == self.mark.as_bytes())
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(marked).collect()
    }

    /// Waits for the end of every process that carries the mark.
    #[track_caller]
    pub fn all_end(&self) {
        let deadline = Instant::now() + LONG;
        while !self.marked().is_empty() {
            if Instant::now() > deadline {
                let left = self.marked().into_iter();
                let names: Vec<_> = left.map(|pid| (pid, comm(pid), state(pid))).collect();
                panic!("still there: {names:?}");
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for a file in the folder to be there, with its line whole; gives the line.
    #[track_caller]
    pub fn line_of(&self, file: &str) -> String {
        until(file, || {
            let text = fs::read_to_string(self.folder.join(file)).ok()?;
            text.ends_with('\n').then(|| text.trim_end().to_owned())
        })
    }

    /// Waits for a number in a file of the folder.
    #[track_caller]
    pub fn pid_of(&self, file: &str) -> i32 {
        self.line_of(file).parse().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Again and again: what is killed may have forked meanwhile.
        let mut left = self.marked();
        while !left.is_empty() {
            for pid in left {
                signal(pid, libc::SIGKILL);
            }
            thread::sleep(Duration::from_millis(5));
            left = self.marked();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A connected `pst run`, as the daemon sees it.
pub struct Client {
    pub stream: UnixStream,
    decoder: Decoder<ClientMessage>,
    pub command: Vec<u8>,
}

impl Client {
    /// The next message; `None` at the connection's end.
    pub fn next(&mut self) -> Option<ClientMessage> {
        loop {
            if let Some(message) = self.decoder.next_message().unwrap() {
                return Some(message);
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(got) => self.decoder.push(&buffer[..got]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub fn send(&mut self, message: &DaemonMessage) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    pub fn grant(&mut self, rig: &Rig) {
        let device = fs::metadata(rig.data()).unwrap().dev();
        self.grant_as(rig, rig.data().as_os_str(), device);
    }

    pub fn grant_as(&mut self, rig: &Rig, data: &OsStr, device: u64) {
        self.send(&DaemonMessage::Granted {
            version: VERSION,
            data: data.as_bytes().to_vec(),
            device,
            kill_grace_ms: rig.kill_grace_ms,
        });
    }

    pub fn revoke(&mut self, reason: RevokeReason) {
        let text = "for this test".into();
        self.send(&DaemonMessage::Revoked { reason, text });
    }

    /// Answers a close.
    pub fn close(&mut self, result: CloseResult) {
        let text = match result {
            CloseResult::Durable => "",
            CloseResult::Failed => "the card is broken",
        };
        self.send(&DaemonMessage::Closed {
            result,
            text: text.into(),
        });
    }
}

/// Sends a signal; a process that is gone is no error.
pub fn signal(pid: i32, signal: i32) {
    let signal = Signal::from_named_raw(signal).unwrap();
    if let Ok(process) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) {
        let _ = pidfd_send_signal(&process, signal);
    }
}

/// The one child of a process, such as the supervisor.
#[track_caller]
pub fn child_of(pid: i32) -> i32 {
    until("a child", || {
        let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        list.split_whitespace().next()?.parse().ok()
    })
}

pub fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Continues a stopped process until it forks. Gives the new process, which is stopped before its first instruction.
pub fn stopped_at_fork(pid: i32) -> i32 {
    let parent = nix::unistd::Pid::from_raw(pid);
    ptrace::seize(parent, ptrace::Options::PTRACE_O_TRACEFORK).unwrap();
    signal(pid, libc::SIGCONT);
    loop {
        match waitpid(parent, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_FORK) => break,
            WaitStatus::Stopped(_, received) => ptrace::cont(parent, received).unwrap(),
            WaitStatus::PtraceEvent(..) => ptrace::cont(parent, None).unwrap(),
            other => panic!("{other:?}"),
        }
    }
    let child = i32::try_from(ptrace::getevent(parent).unwrap()).unwrap();
    let forked = nix::unistd::Pid::from_raw(child);
    waitpid(forked, Some(WaitPidFlag::__WALL)).unwrap();
    signal(child, libc::SIGSTOP);
    ptrace::detach(forked, None).unwrap();
    ptrace::detach(parent, None).unwrap();
    child
}

/// Waits until a process is in this state, as in proc_pid_stat(5): `T` is stopped.
#[track_caller]
pub fn becomes(pid: i32, wanted: &str) {
    until(wanted, || (state(pid)? == wanted).then_some(()));
}

pub fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != "Z")
}

fn state(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after) = stat.rsplit_once(") ")?;
    Some(after[..1].to_owned())
}

pub fn comm(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}

/// A shell on a terminal of its own, with job control.
pub struct Terminal {
    master: fs::File,
    shown: Arc<Mutex<Vec<u8>>>,
    pub shell: Child,
}

impl Terminal {
    pub fn new(rig: &Rig) -> Self {
        let (master, slave) = open_pty();
        let mut shell = rig.command("setsid");
        shell
            .args([
                "--ctty",
                "bash",
                "--norc",
                "--noprofile",
                "--noediting",
                "-i",
            ])
            .env("PS1", "ready> ")
            .env("HISTFILE", "")
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(slave);
        let shell = shell.spawn().unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, to) = (master.try_clone().unwrap(), shown.clone());
        // Ends with EIO when the last process has closed the terminal.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(got @ 1..) = reader.read(&mut buffer) {
                to.lock().unwrap().extend_from_slice(&buffer[..got]);
            }
        });
        let terminal = Self {
            master,
            shown,
            shell,
        };
        terminal.shows("ready> ");
        terminal
    }

    /// Types; what was shown before is forgotten.
    pub fn types(&self, text: &str) {
        self.shown.lock().unwrap().clear();
        (&self.master).write_all(text.as_bytes()).unwrap();
    }

    /// Waits until this is shown; gives all that was shown since something was typed.
    #[track_caller]
    pub fn shows(&self, text: &str) -> String {
        let shown = || String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned();
        let deadline = Instant::now() + LONG;
        while !shown().contains(text) {
            assert!(Instant::now() < deadline, "{text:?} not in {:?}", shown());
            thread::sleep(Duration::from_millis(2));
        }
        shown()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// A FIFO with room for so many bytes and no more, of a page in all.
pub struct Narrow(fs::File);

impl Narrow {
    pub fn new(path: &std::path::Path, room: usize) -> Self {
        let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: a valid C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let file = fs::File::options().read(true).write(true).open(path);
        let mut file = file.unwrap();
        // SAFETY: takes integers.
        let size = unsafe {
            libc::fcntl(
                std::os::fd::AsRawFd::as_raw_fd(&file),
                libc::F_SETPIPE_SZ,
                1,
            )
        };
        file.write_all(&vec![b'.'; usize::try_from(size).unwrap() - room])
            .unwrap();
        Self(file)
    }

    /// To write to.
    pub fn end(&self) -> Stdio {
        self.0.try_clone().unwrap().into()
    }

    /// Waits until this process cannot go on before there is more room.
    #[track_caller]
    pub fn holds_up(&self, pid: i32) {
        until("it writes in vain", || {
            let place = fs::read_to_string(format!("/proc/{pid}/wchan")).ok()?;
            place.contains("pipe_write").then_some(())
        });
    }

    /// Makes room.
    pub fn read(&mut self) -> String {
        let mut buffer = [0; 65536];
        let got = self.0.read(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..got]).into_owned();
        text.trim_start_matches('.').to_owned()
    }
}

/// A terminal: what is outside of it, and what programs get.
pub fn open_pty() -> (fs::File, fs::File) {
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: the descriptors are written to valid places and are nobody else's; the rest may be null.
    unsafe {
        let result = libc::openpty(&mut master, &mut slave, null_mut(), null(), null());
        assert_eq!(result, 0);
        for fd in [master, slave] {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
        (fs::File::from_raw_fd(master), fs::File::from_raw_fd(slave))
    }
}
