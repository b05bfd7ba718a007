//! Sessions without processes: what the daemon alone can do.
//!
//! The frames are made by hand, so that a daemon of protocol 2 can be measured beside our own.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pst::wire::{MAGIC, VERSION};

use crate::rig::Rig;
use crate::table::Samples;

const OPEN: u8 = 0x01;
const CLOSE: u8 = 0x02;
const STATUS: u8 = 0x03;
const GRANTED: u8 = 0x81;
const CLOSED: u8 = 0x84;
/// The first byte of `Closed`'s payload if the data is on stable storage.
const DURABLE: u8 = 1;

const PIECE: [u8; 4096] = [b'x'; 4096];

/// A running daemon and the version of the protocol that it speaks.
pub struct Server {
    socket: PathBuf,
    protocol: u16,
}

impl Server {
    /// A daemon of our own binary.
    pub fn of(rig: &Rig) -> Server {
        Server {
            socket: rig.socket(),
            protocol: VERSION,
        }
    }

    /// A daemon of any binary: the newest protocol in which it grants a session.
    pub fn detect(rig: &Rig) -> Server {
        let speaks = |protocol: &u16| {
            let socket = rig.socket();
            let server = Server {
                socket,
                protocol: *protocol,
            };
            let (kind, _) = server.ask().frame();
            kind == GRANTED
        };
        let protocol = (2..=VERSION).rev().find(speaks);
        Server {
            socket: rig.socket(),
            protocol: protocol.expect("it speaks no protocol from 2 on"),
        }
    }

    /// Connects and sends one frame.
    fn connect(&self, frame: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).expect("connect");
        stream
            .write_all(&[&MAGIC, frame].concat())
            .expect("write a request");
        stream
    }

    /// Asks for a session.
    pub fn ask(&self) -> Session {
        Session(self.connect(&open(self.protocol)))
    }

    /// A session that is granted.
    pub fn open(&self) -> Session {
        let mut session = self.ask();
        session.await_grant();
        session
    }

    /// A client that watches the status.
    fn watch(&self) -> UnixStream {
        let [low, high] = self.protocol.to_le_bytes();
        self.connect(&frame(STATUS, &[low, high, 1]))
    }
}

/// `Open` of any protocol from 2 on.
fn open(protocol: u16) -> Vec<u8> {
    let command = b"bench";
    let mut payload = protocol.to_le_bytes().to_vec();
    payload.extend((command.len() as u16).to_le_bytes());
    payload.extend(command);
    if protocol == 2 {
        payload.extend(0u64.to_le_bytes()); // the free space that the client needs
    }
    frame(OPEN, &payload)
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = 1 + payload.len() as u16;
    [&length.to_le_bytes()[..], &[kind], payload].concat()
}

/// A connection with a session, granted or not yet.
pub struct Session(UnixStream);

impl Session {
    pub fn await_grant(&mut self) {
        let (kind, payload) = self.frame();
        assert_eq!(kind, GRANTED, "not granted: {payload:?}");
    }

    /// Closes the session and waits until its data is on stable storage.
    pub fn close(mut self) {
        self.0.write_all(&frame(CLOSE, &[])).expect("write a close");
        let (kind, payload) = self.frame();
        let durable = kind == CLOSED && payload[0] == DURABLE;
        assert!(durable, "not durable: {kind:#x} {payload:?}");
    }

    /// The type and the payload of the next frame.
    fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut length = [0; 2];
        self.0.read_exact(&mut length).expect("a frame's length");
        let mut frame = vec![0; u16::from_le_bytes(length).into()];
        self.0.read_exact(&mut frame).expect("a frame");
        let payload = frame.split_off(1);
        (frame[0], payload)
    }
}

/// Opens sessions and drops each once it is granted, `at_once` at a time. Returns how many a second,
/// and how long each waited for its grant.
pub fn churn(server: &Server, at_once: usize, time: Duration) -> (f64, Samples) {
    let mut line = VecDeque::with_capacity(at_once);
    let mut waits = Samples::default();
    let start = Instant::now();
    while start.elapsed() < time {
        if line.len() == at_once {
            let (asked, mut session): (Instant, Session) = line.pop_front().expect("full");
            session.await_grant();
            waits.push_time(asked.elapsed());
        }
        line.push_back((Instant::now(), server.ask()));
    }
    (waits.count() as f64 / start.elapsed().as_secs_f64(), waits)
}

/// Runs sessions that write 4 KiB and wait until that is on stable storage, `at_once` at a time.
/// Returns how many a second, and how many in all.
pub fn churn_durably(server: &Server, data: &Path, at_once: usize, time: Duration) -> (f64, usize) {
    let over = AtomicBool::new(false);
    let done = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..at_once {
            let (over, done) = (&over, &done);
            scope.spawn(move || {
                let file = data.join(format!("file{number}"));
                while !over.load(Ordering::Relaxed) {
                    let session = server.open();
                    write_piece(&file);
                    session.close();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(time);
        over.store(true, Ordering::Relaxed);
    });
    let done = done.into_inner();
    (done as f64 / start.elapsed().as_secs_f64(), done)
}

/// Calls `work` while `count` clients watch the status and read all that they are sent.
pub fn while_watched<T>(server: &Server, count: usize, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    let watchers: Vec<UnixStream> = (0..count).map(|_| server.watch()).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| read_all(&watchers, &over));
        let out = work();
        over.store(true, Ordering::Relaxed);
        out
    })
}

/// Reads and drops what comes on these connections.
fn read_all(watchers: &[UnixStream], over: &AtomicBool) {
    let mut buffer = vec![0; 1 << 20];
    for watcher in watchers {
        watcher.set_nonblocking(true).expect("non-blocking");
    }
    let entry = |watcher: &UnixStream| libc::pollfd {
        fd: watcher.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut polled: Vec<libc::pollfd> = watchers.iter().map(entry).collect();
    while !over.load(Ordering::Relaxed) {
        // SAFETY: a live array of the length given.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, 50) };
        for (mut watcher, polled) in watchers.iter().zip(&polled) {
            if polled.revents != 0 {
                match watcher.read(&mut buffer) {
                    Ok(count) => assert_ne!(count, 0, "the daemon disconnected a watcher"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
        }
    }
}

/// Runs `count` overlapping sessions that write a file of 4 KiB each and close together.
pub fn write_together(server: &Server, data: &Path, count: usize) {
    let barrier = Barrier::new(count);
    std::thread::scope(|scope| {
        for number in 0..count {
            let barrier = &barrier;
            scope.spawn(move || {
                let session = server.open();
                write_piece(&piece(data, number));
                barrier.wait();
                session.close();
            });
        }
    });
}

/// Writes the same files in one session.
pub fn write_alone(server: &Server, data: &Path, count: usize) {
    let session = server.open();
    for number in 0..count {
        write_piece(&piece(data, number));
    }
    session.close();
}

/// Removes these files.
pub fn remove_pieces(server: &Server, data: &Path, count: usize) {
    let session = server.open();
    for number in 0..count {
        std::fs::remove_file(piece(data, number)).expect("remove");
    }
    session.close();
}

fn piece(data: &Path, number: usize) -> PathBuf {
    data.join(format!("piece{number}"))
}

/// Does not truncate the file: ext4 would then write it at the close.
pub fn write_piece(path: &Path) {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    file.and_then(|file| file.write_all_at(&PIECE, 0))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
