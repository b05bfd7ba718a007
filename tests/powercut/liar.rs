//! A go-between that says `Closed` before the daemon has even heard of it: what
//! `pst run` would meet if the daemon answered before its sync.

use std::io::{Read, Write, copy};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use pst::wire::{ClientMessage, CloseResult, DaemonMessage, Decoder, MAGIC, Message};

/// Stands between one client and the daemon.
pub struct Liar {
    pub socket: PathBuf,
    thread: JoinHandle<UnixStream>,
}

impl Liar {
    pub fn new(socket: PathBuf, daemon: PathBuf) -> Liar {
        let listener = UnixListener::bind(&socket).expect("bind");
        let thread = std::thread::spawn(move || {
            let (client, _) = listener.accept().expect("accept");
            lie(client, &daemon)
        });
        Liar { socket, thread }
    }

    /// Only now the daemon hears that the session is over.
    pub fn come_clean(self) {
        let daemon = self.thread.join().expect("the go-between failed");
        daemon.shutdown(Shutdown::Both).expect("shutdown");
        std::fs::remove_file(&self.socket).expect("remove");
    }
}

/// Passes everything on but the close; gives the daemon's connection back.
fn lie(mut client: UnixStream, daemon: &Path) -> UnixStream {
    let mut daemon = UnixStream::connect(daemon).expect("connect");
    let mut answers = daemon.try_clone().expect("dup");
    let mut to_client = client.try_clone().expect("dup");
    // Ends with the daemon's connection.
    std::thread::spawn(move || copy(&mut answers, &mut to_client));
    let mut magic = MAGIC;
    client.read_exact(&mut magic).expect("magic");
    daemon.write_all(&magic).expect("pass on");
    let mut decoder = Decoder::<ClientMessage>::new();
    let mut buffer = [0; 4096];
    loop {
        let len = client.read(&mut buffer).expect("read");
        assert!(len > 0, "the client went away without a close");
        decoder.push(&buffer[..len]);
        while let Some(message) = decoder.next_message().expect("the protocol") {
            let mut bytes = Vec::new();
            if message == ClientMessage::Close {
                let result = CloseResult::Durable;
                let text = String::new();
                DaemonMessage::Closed { result, text }.encode(&mut bytes);
                client.write_all(&bytes).expect("lie");
                return daemon;
            }
            message.encode(&mut bytes);
            daemon.write_all(&bytes).expect("pass on");
        }
    }
}
