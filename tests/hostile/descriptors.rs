//! Clients that pass descriptors to the daemon: SCM_RIGHTS of unix(7).

use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

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
            send(&client.stream, message, &fds);
            send(&client.stream, b"\x00", &fds);
        }
        if !std::mem::replace(&mut told, true) {
            begun();
        }
    }
}

/// Passes TCP sockets that take a minute to close, because their peer reads nothing: the process that
/// closes the last descriptor waits.
pub fn send_lingering() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut peers = Vec::new();
    for i in 0..4 {
        let mut socket = TcpStream::connect(listener.local_addr().expect("address")).expect("TCP");
        peers.push(listener.accept().expect("accept"));
        linger(&socket, 60);
        socket.set_nonblocking(true).expect("non-blocking");
        while socket.write(&[0; 65536]).is_ok() {}
        let client = Client::connect().expect("connect");
        // The daemon reads some of them; the others stay in the closed connection.
        let first: &[u8] = if i % 2 == 0 { b"\0PST" } else { b"GET" };
        client.raw(&first[..i / 2 * 3]);
        send(&client.stream, first, &[socket.as_raw_fd()]);
        // In a thread: this close may be the one that waits.
        std::thread::spawn(move || drop((socket, client)));
    }
    begun();
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

/// Returns whether all was sent. A receiver can refuse descriptors on new kernels.
fn send(stream: &UnixStream, data: &[u8], fds: &[RawFd]) -> bool {
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
        libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    sent == data.len() as isize
}

/// SO_LINGER of socket(7).
fn linger(socket: &TcpStream, seconds: i32) {
    let value = libc::linger {
        l_onoff: 1,
        l_linger: seconds,
    };
    // SAFETY: a live struct of the size given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    assert_eq!(set, 0);
}
