//! Hostile clients. They run in processes of their own, as other users: this binary again, with the
//! attack in its environment.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use pst::wire::{ClientMessage, DaemonMessage, Decoder, MAGIC, Message, VERSION};

use crate::attacks;
use crate::rig::{BOUND, Job, Person, Rig, start};

/// Set when standard input ends: the test has seen enough.
static ENOUGH: AtomicBool = AtomicBool::new(false);

pub fn enough() -> bool {
    ENOUGH.load(Ordering::Relaxed)
}

/// Reports to the test that the attack has begun.
pub fn begun() {
    println!("begun");
}

/// Waits until the test has seen enough.
pub fn hold() {
    while !enough() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Not a test: runs the attack that the environment names.
#[test]
fn play() {
    let Ok(attack) = std::env::var("PST_ATTACK") else {
        return;
    };
    pst::sys::current::raise_descriptor_limit().expect("setrlimit");
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        ENOUGH.store(true, Ordering::Relaxed);
    });
    attacks::play(&attack);
    println!("done");
}

/// Starts an attack as this user, as root for `None`. It goes on until the job is ended.
pub fn attack(rig: &Rig, who: Option<Person>, attack: &str) -> Job {
    let program = program(rig);
    let mut command = match who {
        Some(who) => rig.command_as(who, program),
        None => rig.command(program),
    };
    command
        .args(["--exact", "clients::play", "--nocapture"])
        .env("PST_ATTACK", attack)
        .env("PST_MOUNT", rig.mount())
        .stdin(Stdio::piped());
    start(&mut command)
}

/// The path of a copy of this binary that every user can run.
fn program(rig: &Rig) -> PathBuf {
    let to = rig.bin("hostile");
    if !to.exists() {
        let from = std::env::current_exe().expect("this binary");
        if std::fs::hard_link(&from, &to).is_err() {
            let copied = Command::new("cp").arg(&from).arg(&to).status();
            assert!(copied.expect("cp").success());
        }
    }
    to
}

/// A connection to the daemon.
pub struct Client {
    pub stream: UnixStream,
    decoder: Decoder<DaemonMessage>,
}

impl Client {
    /// Connects; `None` if the kernel refuses.
    pub fn connect() -> Option<Client> {
        let path = std::env::var_os("PST_SOCKET").expect("PST_SOCKET");
        let stream = UnixStream::connect(path).ok()?;
        stream.set_read_timeout(Some(BOUND)).expect("timeout");
        stream.set_write_timeout(Some(BOUND)).expect("timeout");
        Some(Client {
            stream,
            decoder: Decoder::new(),
        })
    }

    /// Connects and sends the first four bytes.
    pub fn greeted() -> Option<Client> {
        let client = Client::connect()?;
        client.raw(&MAGIC).then_some(client)
    }

    /// Sends bytes. Returns whether all were sent.
    pub fn raw(&self, bytes: &[u8]) -> bool {
        (&self.stream).write_all(bytes).is_ok()
    }

    pub fn say(&self, message: &ClientMessage) -> bool {
        self.raw(&bytes(message))
    }

    /// Asks for a session.
    pub fn open(&self, command: &[u8]) -> bool {
        self.say(&open(command))
    }

    /// The next message; `None` if the daemon has closed the connection.
    pub fn next(&mut self) -> Option<DaemonMessage> {
        loop {
            if let Some(message) = self.decoder.next_message().expect("the daemon's frames") {
                return Some(message);
            }
            let mut buffer = [0; 32 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) => {
                    let kind = error.kind();
                    assert_eq!(kind, std::io::ErrorKind::ConnectionReset, "not closed");
                    return None;
                }
            }
        }
    }

    /// The next status document.
    pub fn document(&mut self) -> String {
        let mut document = Vec::new();
        loop {
            match self.next() {
                Some(DaemonMessage::Status { last, bytes, .. }) => {
                    document.extend(bytes);
                    if last {
                        return String::from_utf8(document).expect("UTF-8");
                    }
                }
                other => panic!("no status, but {other:?}"),
            }
        }
    }

    /// Waits for these events of poll(2), without reading; with none, until the daemon closes the
    /// connection. Returns false after the usual bound.
    pub fn awaits(&self, events: i16) -> bool {
        let mut poll = libc::pollfd {
            fd: std::os::fd::AsRawFd::as_raw_fd(&self.stream),
            events,
            revents: 0,
        };
        // SAFETY: one live struct.
        unsafe { libc::poll(&raw mut poll, 1, BOUND.as_millis() as i32) == 1 }
    }

    /// Closes the session and waits for the answer.
    pub fn finish(self) {
        assert!(self.say(&ClientMessage::Close), "close");
        let answers = self.rest();
        assert!(
            matches!(answers[..], [DaemonMessage::Closed { .. }]),
            "{answers:?}"
        );
    }

    /// All messages until the daemon closes the connection.
    pub fn rest(mut self) -> Vec<DaemonMessage> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// Reads until the daemon closes the connection. The bytes may be an answer in HTTP.
    pub fn drain(mut self) {
        let drained = self.stream.read_to_end(&mut Vec::new());
        if let Err(error) = drained {
            let kind = error.kind();
            assert_eq!(kind, std::io::ErrorKind::ConnectionReset, "not closed");
        }
    }

    /// Checks that the last message before the daemon closes the connection is an `Error` with these
    /// words. A reset may drop the message.
    pub fn must_fail(self, words: &str) {
        match self.rest().last() {
            Some(DaemonMessage::Error { text, .. }) => assert!(text.contains(words), "{text}"),
            Some(DaemonMessage::Denied { .. }) | None => {}
            other => panic!("no error, but {other:?}"),
        }
    }
}

pub fn bytes(message: &ClientMessage) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

pub fn open(command: &[u8]) -> ClientMessage {
    ClientMessage::Open {
        version: VERSION,
        command: command.to_vec(),
    }
}

pub fn status(watch: bool) -> ClientMessage {
    ClientMessage::Status {
        version: VERSION,
        watch,
    }
}
