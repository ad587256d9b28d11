"""Processes that run one of exportkit's worker scripts: from bytes on stdin to bytes on stdout, and nothing of this process.

A worker is started anew, as a script; or, where `reserve` made a spare in time, forked from that. A spare has imported
TensorFlow and used nothing of it, which is the state that can be forked (after one session a child would hang), and its
workers begin at once instead of importing it.
"""

import os
import signal
import socket
import struct
import subprocess
import sys
import traceback
import warnings
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import IO, Protocol

_CODE = struct.Struct("i")
_HIDDEN = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}  # a worker's numbers are the CPU's

_spare: socket.socket | None = None


class Process(Protocol):
    """A worker that runs."""

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, minus a signal's number. Raises subprocess.TimeoutExpired where it does not end in time."""


def start(script: ModuleType, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]) -> Process:
    """Run a worker script, a module with a `main`, on files; they are the caller's to close."""
    if _spare is not None:
        with suppress(OSError):
            return _Forked(_spare, script.__name__, [file.fileno() for file in (stdin, stdout, stderr)])
    command = [sys.executable, "-P", script.__file__]
    return subprocess.Popen(command, env={**os.environ, **_HIDDEN}, stdin=stdin, stdout=stdout, stderr=stderr)


def reserve() -> None:
    """Keep a copy of this process, as it is, to fork workers from. It ends with this process.

    TensorFlow may be imported by now; nothing of it may have been used.
    """
    global _spare
    ours, theirs = socket.socketpair()
    if _fork():
        theirs.close()
        _spare = ours
        return
    try:
        ours.close()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that watch over workers end unseen
        _lend(theirs)
    finally:
        os._exit(0)


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12's, on threads: a worker needs no lock of theirs
        return os.fork()


def _lend(requests: socket.socket) -> None:
    """The spare's life: a worker's name and files in, its pid and exit code out by the last of them."""
    while True:
        name, files, *_ = socket.recv_fds(requests, 200, 4)
        if not name:
            return
        if not _fork():
            requests.close()
            _watch(name.decode(), files)
        for file in files:
            os.close(file)


def _watch(script: str, files: list[int]) -> None:
    """Run a worker in one more process, and tell its pid and exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    told = files[3]
    pid = _fork()
    if not pid:
        _work(script, files)
    os.write(told, _CODE.pack(pid))
    for file in files[:3]:
        os.close(file)
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):
        os.write(told, _CODE.pack(os.waitstatus_to_exitcode(status)))
    os._exit(0)


def _work(script: str, files: list[int]) -> None:
    code = 1
    try:
        for number, file in enumerate(files[:3]):
            os.dup2(file, number)
        for file in files:
            os.close(file)
        sys.stdin = os.fdopen(0, closefd=False)  # multiprocessing has put another in its place
        os.environ.update(_HIDDEN)
        import_module(script).main()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


class _Forked:
    """A worker that a spare forked."""

    def __init__(self, spare: socket.socket, script: str, files: list[int]):
        self._told, told = socket.socketpair()
        with told:
            socket.send_fds(spare, [script.encode()], [*files, told.fileno()])
        self._pid = self._receive()
        self._code: int | None = None

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        if self._code is None:
            self._told.settimeout(timeout)
            try:
                self._code = self._receive()
            except TimeoutError:
                raise subprocess.TimeoutExpired(str(self._pid), timeout or 0) from None
            self._told.close()
        return self._code

    def _receive(self) -> int:
        data = self._told.recv(_CODE.size)
        if not data:
            raise OSError("the spare process is gone")
        return _CODE.unpack(data)[0]
