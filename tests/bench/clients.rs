//! Sessions without processes: what the daemon alone can do.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pst::wire::{ClientMessage, CloseResult, DaemonMessage, Decoder, MAGIC, Message, VERSION};

use crate::table::Samples;

const PIECE: [u8; 4096] = [b'x'; 4096];

/// A connection with a session, or on the way to one.
pub struct Session {
    stream: UnixStream,
    decoder: Decoder<DaemonMessage>,
}

impl Session {
    /// Asks for a session.
    pub fn ask(socket: &Path) -> Session {
        let mut bytes = MAGIC.to_vec();
        ClientMessage::Open {
            version: VERSION,
            command: b"bench".to_vec(),
            need: 0,
        }
        .encode(&mut bytes);
        let mut stream = UnixStream::connect(socket).expect("connect");
        stream.write_all(&bytes).expect("write");
        Session {
            stream,
            decoder: Decoder::new(),
        }
    }

    /// A session that is granted.
    pub fn open(socket: &Path) -> Session {
        let mut session = Session::ask(socket);
        session.await_grant();
        session
    }

    pub fn await_grant(&mut self) {
        match self.next() {
            DaemonMessage::Granted { .. } => {}
            other => panic!("not granted, but {other:?}"),
        }
    }

    /// Says that it is done; waits until its data is on the medium.
    pub fn close(mut self) {
        let mut bytes = Vec::new();
        ClientMessage::Close.encode(&mut bytes);
        self.stream.write_all(&bytes).expect("write");
        match self.next() {
            DaemonMessage::Closed {
                result: CloseResult::Durable,
                ..
            } => {}
            other => panic!("not durable, but {other:?}"),
        }
    }

    fn next(&mut self) -> DaemonMessage {
        loop {
            if let Some(message) = self.decoder.next_message().expect("frames") {
                return message;
            }
            let mut buffer = [0; 512];
            let count = self.stream.read(&mut buffer).expect("read");
            assert_ne!(count, 0, "the daemon closed the connection");
            self.decoder.push(&buffer[..count]);
        }
    }
}

/// Sessions that open, are granted and vanish, so many at once, for so long: how many a second,
/// and how long each waited for its grant.
pub fn churn(socket: &Path, at_once: usize, time: Duration) -> (f64, Samples) {
    let mut line = VecDeque::with_capacity(at_once);
    let mut waits = Samples::default();
    let start = Instant::now();
    while start.elapsed() < time {
        if line.len() == at_once {
            let (asked, mut session): (Instant, Session) = line.pop_front().expect("full");
            session.await_grant();
            waits.push_time(asked.elapsed());
        }
        line.push_back((Instant::now(), Session::ask(socket)));
    }
    (waits.count() as f64 / start.elapsed().as_secs_f64(), waits)
}

/// Sessions that write 4 KiB and wait until that is on the medium, so many at once, for so long:
/// how many a second, and how many.
pub fn churn_durably(socket: &Path, data: &Path, at_once: usize, time: Duration) -> (f64, usize) {
    let over = AtomicBool::new(false);
    let done = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..at_once {
            let (over, done) = (&over, &done);
            scope.spawn(move || {
                let file = data.join(format!("file{number}"));
                while !over.load(Ordering::Relaxed) {
                    let session = Session::open(socket);
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

/// So many overlapping sessions, each with a file of 4 KiB, that close together.
pub fn write_together(socket: &Path, data: &Path, count: usize) {
    let barrier = Barrier::new(count);
    std::thread::scope(|scope| {
        for number in 0..count {
            let barrier = &barrier;
            scope.spawn(move || {
                let session = Session::open(socket);
                write_piece(&piece(data, number));
                barrier.wait();
                session.close();
            });
        }
    });
}

/// The same files from one session.
pub fn write_alone(socket: &Path, data: &Path, count: usize) {
    let session = Session::open(socket);
    for number in 0..count {
        write_piece(&piece(data, number));
    }
    session.close();
}

/// Takes them away again.
pub fn remove_pieces(socket: &Path, data: &Path, count: usize) {
    let session = Session::open(socket);
    for number in 0..count {
        std::fs::remove_file(piece(data, number)).expect("remove");
    }
    session.close();
}

fn piece(data: &Path, number: usize) -> PathBuf {
    data.join(format!("piece{number}"))
}

/// Without truncating: that would have ext4 write it at the close.
pub fn write_piece(path: &Path) {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    file.and_then(|file| file.write_all_at(&PIECE, 0))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
