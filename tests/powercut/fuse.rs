//! Shows a card as a file, through FUSE: each write and each flush of the loop
//! device on it comes here, in order, past all caches. The filesystem is that
//! one file, its root, so of the protocol (linux/fuse.h) a dozen requests are
//! enough. It never calls anything that could wait for the file itself.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

use crate::card::Card;
use crate::rig::Rig;
use crate::rig::job::tool;

const LONGEST_WRITE: usize = 1 << 20;
const PAGES: u16 = 256;

const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const DESTROY: u32 = 38;

const FUSE_BIG_WRITES: u32 = 1 << 5;
const FUSE_MAX_PAGES: u32 = 1 << 22;
const FOPEN_DIRECT_IO: u32 = 1;

const IN_HEADER: usize = 40;
const WRITE_IN: usize = 40;

/// Mounts the card on the file `at`. It ends with its mount, which the rig's
/// janitor undoes; should this process die, with that.
///
/// From then on nothing in this process may read or write what lies on the
/// card: waiting for its own server it could not be killed.
pub fn show(card: &Arc<Card>, rig: &Rig, at: &Path) {
    File::create(at).expect("mount point");
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .expect("/dev/fuse");
    tool(
        rig.command("mount")
            .args(["-i", "-t", "fuse", "-o"])
            .arg("fd=0,rootmode=100600,user_id=0,group_id=0")
            .arg("card")
            .arg(at)
            .stdin(device.try_clone().expect("dup")),
    );
    let card = Arc::clone(card);
    std::thread::Builder::new()
        .name("card".to_owned())
        .spawn(move || serve(device, &card))
        .expect("thread");
}

fn serve(mut device: File, card: &Card) {
    let mut buffer = vec![0; LONGEST_WRITE + 4096];
    loop {
        let len = match device.read(&mut buffer) {
            Ok(len) => len,
            // The request was taken back.
            Err(e) if e.kind() == ErrorKind::Interrupted || e.kind() == ErrorKind::NotFound => {
                continue;
            }
            // ENODEV: unmounted.
            Err(_) => return,
        };
        let request = Request(&buffer[..len]);
        let Some(answer) = answer(card, &request) else {
            continue;
        };
        let (error, payload) = match answer {
            Ok(payload) => (0, payload),
            Err(errno) => (-errno, Vec::new()),
        };
        let mut reply = Vec::with_capacity(16 + payload.len());
        put(&mut reply, &[16 + payload.len() as u32, error as u32]);
        reply.extend(request.u64(8).to_ne_bytes());
        reply.extend(payload);
        // ENOENT: nobody waits for it any more.
        let _ = device.write(&reply);
    }
}

struct Request<'a>(&'a [u8]);

impl Request<'_> {
    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.0[at..at + 4].try_into().expect("4 bytes"))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.0[at..at + 8].try_into().expect("8 bytes"))
    }
}

fn put(out: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        out.extend(word.to_ne_bytes());
    }
}

/// `None`: it takes no answer.
fn answer(card: &Card, request: &Request<'_>) -> Option<Result<Vec<u8>, i32>> {
    let offset = || request.u64(IN_HEADER + 8) as usize;
    let size = || request.u32(IN_HEADER + 16) as usize;
    let mut out = Vec::new();
    match request.u32(4) {
        INIT => out = init(),
        GETATTR | SETATTR => out = attributes(card),
        OPEN => put(&mut out, &[0, 0, FOPEN_DIRECT_IO, 0]),
        READ => card.read(offset(), size(), &mut out),
        WRITE => {
            let data = &request.0[IN_HEADER + WRITE_IN..][..size()];
            if card.write(offset(), data).is_err() {
                return Some(Err(libc::ENOSPC));
            }
            put(&mut out, &[data.len() as u32, 0]);
        }
        FSYNC => card.flush(),
        STATFS => out = vec![0; 80],
        RELEASE | FLUSH | DESTROY => {}
        INTERRUPT => return None,
        _ => return Some(Err(libc::ENOSYS)),
    }
    Some(Ok(out))
}

/// `struct fuse_init_out`.
fn init() -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, &[7, 31, 0, FUSE_BIG_WRITES | FUSE_MAX_PAGES]);
    put(&mut out, &[0, LONGEST_WRITE as u32, 1]); // background 0: the default
    out.extend(PAGES.to_ne_bytes());
    out.resize(64, 0);
    out
}

/// `struct fuse_attr_out`, good for ever.
fn attributes(card: &Card) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend((1_u64 << 30).to_ne_bytes()); // seconds
    put(&mut out, &[0, 0]);
    let (inode, size) = (1_u64, card.len() as u64);
    for word in [inode, size, size.div_ceil(512), 0, 0, 0] {
        out.extend(word.to_ne_bytes());
    }
    let (mode, links) = (libc::S_IFREG | 0o600, 1);
    put(&mut out, &[0, 0, 0, mode, links, 0, 0, 0, 4096, 0]);
    out
}
