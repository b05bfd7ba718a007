"""Holds one thing on a filesystem until its standard input ends: hold.py WHAT PATH"""

import ctypes
import mmap
import os
import socket
import sys
import threading

what, path = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]


def make(kind="file"):
    if kind == "dir":
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))
        os.truncate(path, 4096)


def map_it(flags, prot, share):
    """A mapping that outlives its descriptor (mmap.mmap keeps one)."""
    fd = os.open(path, flags)
    at = libc.mmap(None, 4096, prot, share, fd, 0)
    assert at != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
    ctypes.string_at(at, 1)
    os.close(fd)


if what == "writer":
    os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
elif what == "deleted":
    make()
    os.open(path, os.O_RDONLY)
    os.unlink(path)
elif what == "deleted-path":
    make()
    os.open(path, os.O_PATH)
    os.unlink(path)
elif what == "deleted-cwd":
    make("dir")
    os.chdir(path)
    os.rmdir(path)
elif what == "deleted-mapping":
    make()
    map_it(os.O_RDONLY, mmap.PROT_READ, mmap.MAP_PRIVATE)
    os.unlink(path)
elif what == "unnamed":
    os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR)
elif what == "shared-mapping":
    make()
    map_it(os.O_RDWR, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED)
elif what == "in-flight":
    ends = socket.socketpair()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    socket.send_fds(ends[0], [b"x"], [fd])
    os.close(fd)
elif what == "thread":
    # A descriptor table of its own, in which alone the file is open.
    opened = threading.Event()

    def hold():
        assert libc.unshare(0x400) == 0  # CLONE_FILES
        os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        opened.set()
        threading.Event().wait()

    threading.Thread(target=hold, daemon=True).start()
    opened.wait()
elif what == "reader":
    import fcntl
    make()
    fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX)
    os.open(path, os.O_PATH)
    map_it(os.O_RDONLY, mmap.PROT_READ, mmap.MAP_SHARED)
    os.chdir(os.path.dirname(path))
elif what == "fifo":
    os.mkfifo(path)
    os.open(path, os.O_RDWR)
elif what == "socket":
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
else:
    sys.exit("unknown: " + what)
print("holding", flush=True)
sys.stdin.read()
