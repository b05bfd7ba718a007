//! Clients that pass descriptors to the daemon: SCM_RIGHTS of unix(7).

use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use pst::wire::{ClientMessage, DaemonMessage};

use crate::clients::{Client, begun, bytes, enough, open, status};

/// The most descriptors in one message, SCM_MAX_FD.
const MOST: usize = 253;

/// Passes a file of the rig, many times, before, with and after messages.
pub fn send_many() {
    let socket = std::env::var_os("PST_SOCKET").expect("PST_SOCKET");
    let directory = std::path::Path::new(&socket).ancestors().nth(2);
    let marker = File::open(directory.expect("the rig").join("marker")).expect("marker");
    let fds = vec![marker.as_raw_fd(); MOST];
    let mut told = false;
    while !enough() {
        for message in [
            &b"\0PST"[..],
            b"G",
            &bytes(&open(b"x")),
            &bytes(&status(false)),
        ] {
            let Some(client) = Client::connect() else {
                continue;
            };
            client.raw(b"\0PST");
            let _ = send(&client.stream, message, &fds, 0);
            let _ = send(&client.stream, b"\x00", &fds, 0);
        }
        if !std::mem::replace(&mut told, true) {
            begun();
        }
    }
}

/// TCP sockets that take a minute to close, because their peers read nothing: the process that closes the last
/// descriptor waits.
struct Lingering {
    listener: TcpListener,
    peers: Vec<TcpStream>,
}

impl Lingering {
    fn new() -> Lingering {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        set(&listener, libc::SO_RCVBUF, 4096);
        Lingering {
            listener,
            peers: Vec::new(),
        }
    }

    fn socket(&mut self) -> OwnedFd {
        let address = self.listener.local_addr().expect("address");
        let mut socket = TcpStream::connect(address).expect("TCP");
        self.peers.push(self.listener.accept().expect("accept").0);
        set(&socket, libc::SO_SNDBUF, 4096);
        let (l_onoff, l_linger) = (1, 60);
        set(&socket, libc::SO_LINGER, libc::linger { l_onoff, l_linger });
        socket.set_nonblocking(true).expect("non-blocking");
        while socket.write(&[0; 65536]).is_ok() {}
        socket.into()
    }

    /// Sends a message with new sockets, which only the receiver holds afterwards.
    fn send(&mut self, client: &Client, data: &[u8], count: usize) {
        self.send_with(client, data, count, 0);
    }

    fn send_with(&mut self, client: &Client, data: &[u8], count: usize, flags: libc::c_int) {
        let sockets: Vec<OwnedFd> = (0..count).map(|_| self.socket()).collect();
        let fds: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        // Too many are on their way, of other attacks of this user.
        while send(&client.stream, data, &fds, flags) == Err(libc::ETOOMANYREFS) {
            std::thread::yield_now();
        }
        // If the receiver was faster, this close waits.
        std::thread::spawn(move || drop(sockets));
    }
}

/// Sends lingering sockets to a daemon that is stopped meanwhile.
pub fn send_lingering() {
    let mut lingering = Lingering::new();
    let mut clients = Vec::new();
    let closing = [&b"\0PST"[..], &bytes(&ClientMessage::Close)].concat();
    for vanish in [false, true] {
        let mut talk = |before: &[u8], data: &[u8], count| {
            let client = Client::connect().expect("connect");
            client.raw(before);
            lingering.send(&client, data, count);
            clients.extend((!vanish).then_some(client));
        };
        talk(b"", b"\0PST", 1);
        talk(b"", b"GET /state HTTP/1.1\r\n\r\n", 1);
        talk(b"\0PST", &bytes(&open(b"x")), 1);
        talk(b"GET", b" /state HTTP/1.1\r\n\r\n", 1);
        talk(b"\0PST", &bytes(&status(true)), MOST);
        // Beyond what the daemon reads before it ends the connection.
        talk(&[&closing[..], &[b'x'; 8192]].concat(), b"x", 1);
        let client = Client::connect().expect("connect");
        lingering.send_with(&client, b"x", 1, libc::MSG_OOB);
        client.raw(b"\0PST");
        client.raw(&bytes(&open(b"x")));
        clients.extend((!vanish).then_some(client));
    }
    begun();
    crate::clients::hold();
}

/// Sends lingering sockets in sessions, whose storage the daemon must make read-only, and with connections that exceed the
/// limit.
pub fn send_lingering_in_sessions() {
    let mut lingering = Lingering::new();
    for message in [b"", &bytes(&ClientMessage::Close)[..]] {
        let mut client = Client::greeted().expect("connect");
        client.open(b"lingering");
        let granted = client.next();
        assert!(
            matches!(granted, Some(DaemonMessage::Granted { .. })),
            "{granted:?}"
        );
        lingering.send(&client, &[message, b"\x01"].concat(), 1);
        let last = client.rest().pop();
        println!("the daemon's last word: {last:?}");
    }
    begun();
    let mut clients = Vec::new();
    while !enough() && clients.len() < 400 {
        let Some(client) = Client::connect() else {
            continue;
        };
        lingering.send(&client, b"\0PST", 1);
        clients.push(client);
    }
    crate::clients::hold();
}

/// Opens as many descriptors as allowed and maps a file with a very long path 60,000 times, which makes
/// /proc/PID/maps 200 MiB long.
pub fn hide() {
    let mount = std::path::PathBuf::from(std::env::var_os("PST_MOUNT").expect("PST_MOUNT"));
    std::env::set_current_dir(mount.with_file_name("bin")).expect("chdir");
    for _ in 0..14 {
        let name = "n".repeat(250);
        std::fs::create_dir(&name).expect("mkdir");
        std::env::set_current_dir(&name).expect("chdir");
    }
    std::fs::write("file", "x").expect("file");
    let file = File::open("file").expect("file");
    for _ in 0..60_000 {
        // SAFETY: a new mapping, at an address that the kernel chooses, and it is never accessed.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                1,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(mapped, libc::MAP_FAILED);
    }
    // SAFETY: takes no pointer; nothing else owns the new descriptors.
    while unsafe { libc::dup(file.as_raw_fd()) } != -1 {}
    begun();
}

/// Sends a message with descriptors. Returns the error of sendmsg(2), if any: the daemon may have closed the connection.
fn send(stream: &UnixStream, data: &[u8], fds: &[RawFd], flags: libc::c_int) -> Result<(), i32> {
    let size = size_of_val(fds) as u32;
    // SAFETY: arithmetic.
    let space = unsafe { libc::CMSG_SPACE(size) } as usize;
    let mut control = vec![0u64; space.div_ceil(8)];
    let mut piece = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    // SAFETY: all zeroes is a valid, empty msghdr; it then points to live buffers of the sizes
    // given, the control buffer being aligned and large enough for the header and the array.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut piece;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = space as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size) as _;
        let to = libc::CMSG_DATA(header);
        std::ptr::copy_nonoverlapping(fds.as_ptr().cast(), to, size as usize);
        let flags = flags | libc::MSG_NOSIGNAL;
        libc::sendmsg(stream.as_raw_fd(), &raw const message, flags)
    };
    match sent {
        -1 => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        _ => Ok(()),
    }
}

/// Sets an option of socket(7).
fn set<T>(socket: &impl AsRawFd, option: libc::c_int, value: T) {
    // SAFETY: a live value of the size given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    assert_eq!(set, 0);
}
