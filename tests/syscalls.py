"""Every system call by which a process changes files waits here for a verdict: go on, fail, or die.

Linux hands such calls of a process, whichever thread or library makes them, to another one that decides (seccomp's user
notification). So a fault can be put at each of them, those inside TensorFlow's C++ too, and what is on the disk between any two
can be looked at while nothing moves.
"""

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path

# name → number on x86_64, and the arguments that say what is changed: (directory descriptor, path), with -1 for the working
# directory, or a lone descriptor. Of two paths the last is where something appears.
_FD = {
    "write": (1, 0),
    "pwrite64": (18, 0),
    "writev": (20, 0),
    "sendfile": (40, 0),
    "fsync": (74, 0),
    "fdatasync": (75, 0),
    "ftruncate": (77, 0),
    "fchmod": (91, 0),
    "fchown": (93, 0),
    "splice": (275, 2),
    "sync_file_range": (277, 0),
    "fallocate": (285, 0),
    "pwritev": (296, 0),
    "copy_file_range": (326, 2),
    "pwritev2": (328, 0),
}
_PATH = {
    "open": (2, -1, 0),
    "truncate": (76, -1, 0),
    "rename": (82, -1, 1),
    "mkdir": (83, -1, 0),
    "rmdir": (84, -1, 0),
    "creat": (85, -1, 0),
    "link": (86, -1, 1),
    "unlink": (87, -1, 0),
    "symlink": (88, -1, 1),
    "chmod": (90, -1, 0),
    "mknod": (133, -1, 0),
    "openat": (257, 0, 1),
    "mkdirat": (258, 0, 1),
    "mknodat": (259, 0, 1),
    "unlinkat": (263, 0, 1),
    "renameat": (264, 2, 3),
    "linkat": (265, 2, 3),
    "symlinkat": (266, 1, 2),
    "fchmodat": (268, 0, 1),
    "utimensat": (280, 0, 1),
    "renameat2": (316, 2, 3),
}
_NAMES = {number: name for name, (number, *_) in (_FD | _PATH).items()}
_OPEN_FLAGS = {"open": 1, "openat": 2}
GROWS = {"write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "splice", "copy_file_range", "fallocate"}
_RENAMES = {"rename", "renameat", "renameat2"}
_MAKES = {"open", "openat", "creat", "mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat"} | _RENAMES
SYNCS = {"fsync", "fdatasync"}
TAKES_SPACE = GROWS | _MAKES | SYNCS

_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
_NOTIFICATION, _RESPONSE = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
_AT_FDCWD = -100


@dataclass(frozen=True)
class Point:
    """A call that is about to change something: its name, and the path of what it changes."""

    call: str
    path: str

    def __str__(self) -> str:
        return f"{self.call} {self.path}"


Verdict = Callable[[int, Point], int | None]
"""Asked before each change, with the process; returns an errno to fail with, or None to go on."""


def available() -> bool:
    """Whether this machine can do it."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, __file__])
    return os.waitpid(pid, 0)[1] == 0


def submit(connection: Connection) -> None:
    """Called in the process that is to be judged: from here on its changes wait for `judge` at the connection's other end."""
    descriptor = _install()
    reduction.send_handle(connection, descriptor, None)
    os.close(descriptor)


def judge(connection: Connection, below: tuple[Path, ...], verdict: Verdict) -> None:
    """Decide on every change below some directories of the process at the other end, until it ends."""
    listener = reduction.recv_handle(connection)
    try:
        for tid, notice, name, arguments in _notices(listener):
            path = _changed(tid, name, arguments)
            error = verdict(tid, Point(name, path)) if path and _is_below(path, below) else None
            _answer(listener, notice, error)
    finally:
        os.close(listener)


def kill(pid: int, _: Point) -> int:
    """The verdict that ends it all; the call must fail as well, or it might still be carried out."""
    os.kill(pid, signal.SIGKILL)
    return errno.EINTR


def _install() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    code = [struct.pack("=HBBI", 0x20, 0, 0, 0)]  # load the call's number
    numbers = sorted(_NAMES)
    code += [struct.pack("=HBBI", 0x15, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    code += [struct.pack("=HBBI", 0x06, 0, 0, verdict) for verdict in (0x7FFF0000, 0x7FC00000)]  # allow; notify
    program = ctypes.create_string_buffer(b"".join(code))
    header = struct.pack("HP", len(code), ctypes.addressof(program))
    if libc.prctl(38, 1, 0, 0, 0) != 0:  # no new privileges, which a filter asks for
        raise OSError(ctypes.get_errno(), "prctl")
    descriptor = libc.syscall(317, 1, 8, header)  # seccomp(SET_MODE_FILTER, NEW_LISTENER)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return descriptor


def _notices(listener: int) -> Iterator[tuple[int, int, str, tuple[int, ...]]]:
    """Thread, notice, name of the call and arguments of one call after the other."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        if not any(event & select.POLLIN for _, event in poll.poll()):
            return
        buffer = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, buffer)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):  # it died in between
                continue
            raise
        notice, tid, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
        yield tid, notice, _NAMES[number], tuple(arguments)


def _answer(listener: int, notice: int, error: int | None) -> None:
    response = _RESPONSE.pack(notice, 0, 0, _CONTINUE) if error is None else _RESPONSE.pack(notice, 0, -error, 0)
    try:
        fcntl.ioctl(listener, _SEND, bytearray(response))
    except OSError as gone:
        if gone.errno != errno.ENOENT:
            raise


def _changed(tid: int, name: str, arguments: tuple[int, ...]) -> str | None:
    """The path of what a call changes; None where it changes nothing."""
    if name in _FD:
        return _link(f"/proc/{tid}/fd/{_signed(arguments[_FD[name][1]])}")
    if name in _OPEN_FLAGS and not arguments[_OPEN_FLAGS[name]] & (os.O_CREAT | os.O_TRUNC):
        return None
    _, directory, path = _PATH[name]
    at = _AT_FDCWD if directory < 0 else _signed(arguments[directory])
    text = os.fsdecode(_string(tid, arguments[path])) if arguments[path] else ""
    if os.path.isabs(text):
        return os.path.normpath(text)
    root = _link(f"/proc/{tid}/cwd" if at == _AT_FDCWD else f"/proc/{tid}/fd/{at}")
    return root and os.path.normpath(os.path.join(root, text))


def _signed(argument: int) -> int:
    return ctypes.c_int(argument & 0xFFFFFFFF).value


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _string(tid: int, address: int) -> bytes:
    """The zero-terminated string at an address of another process."""
    with open(f"/proc/{tid}/mem", "rb", buffering=0) as memory:
        found = b""
        while b"\0" not in found:
            at = address + len(found)
            memory.seek(at)
            found += memory.read(4096 - at % 4096)
    return found[: found.index(b"\0")]


def _is_below(path: str, directories: tuple[Path, ...]) -> bool:
    return any(path == str(d) or path.startswith(f"{d}/") for d in directories)


if __name__ == "__main__":
    os.close(_install())
    os._exit(0)
