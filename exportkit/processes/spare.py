"""A copy of this process, made in time, from which workers are forked.

Reason: a worker that is forked from a process that has loaded TensorFlow's C library, and used nothing of it, begins at once
instead of after half a second. After one session a fork would hang, so the copy is made before the first.
"""

import os
import signal
import socket
import struct
import subprocess
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from exportkit.processes import sandbox
from exportkit.processes.lifeline import lead_group

CPU_ONLY = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}  # a worker computes on the CPU

_CODE = struct.Struct("i")

_spare: socket.socket | None = None


def reserve() -> None:
    """Keep a copy of this process, as it is, to fork workers from. It ends with this process.

    TensorFlow's C library may be loaded by now, and its Python imported; nothing of it may have been used.
    """
    global _spare
    ours, theirs = socket.socketpair()
    if _fork():
        theirs.close()
        _spare = ours
        return
    try:
        ours.close()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the supervisors
        _serve_requests(theirs)
    finally:
        os._exit(0)


def fork_worker(script: str, files: Sequence[int]) -> "ForkedWorker | None":
    """Fork a worker from the spare; return None where there is no spare.

    Args:
        script: the name of a module with a `main`.
        files: the descriptors of its stdin, stdout, stderr and lifeline.
    """
    if _spare is None:
        return None
    with suppress(OSError):  # the spare is gone
        return ForkedWorker(_spare, script, files)
    return None


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads; a worker needs none of their locks
        return os.fork()


def _serve_requests(requests: socket.socket) -> None:
    """Fork a supervisor for each request, a script's name and five descriptors, until the other end is closed."""
    while True:
        name, files, *_ = socket.recv_fds(requests, 200, 5)
        if not name:
            return
        if not _fork():
            requests.close()
            _supervise(name.decode(), files)
        for file in files:
            os.close(file)


def _supervise(script: str, files: Sequence[int]) -> None:
    """Fork the worker, and write its pid, then its exit code, to the last descriptor."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *ours, results = files
    pid = _fork()
    if not pid:
        os.close(results)
        _work(script, ours)
    with suppress(ProcessLookupError):
        os.setpgid(pid, pid)  # as the worker does itself: its group must be there before anybody kills it
    os.write(results, _CODE.pack(pid))
    for file in ours:
        os.close(file)
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):
        os.write(results, _CODE.pack(os.waitstatus_to_exitcode(status)))
    os._exit(0)


def _work(script: str, files: Sequence[int]) -> None:
    """Become the worker, with its own files, environment and process group, and run its `main`."""
    code = 1
    try:
        *streams, lifeline = files
        lead_group(lifeline)
        for number, file in enumerate(streams):
            os.dup2(file, number)
            os.close(file)
        sys.stdin = os.fdopen(0, closefd=False)  # multiprocessing has put another in its place
        sys.stdout = os.fdopen(1, "w", 1, closefd=False)  # by the line: what is printed before a crash is not lost
        sys.stderr = os.fdopen(2, "w", 1, closefd=False)
        os.environ.update(CPU_ONLY)
        worker = import_module(script)
        sandbox.begin()
        worker.main()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


class ForkedWorker:
    """A worker that the spare forked."""

    def __init__(self, spare: socket.socket, script: str, files: Sequence[int]):
        self._results, results = socket.socketpair()
        with results:
            socket.send_fds(spare, [script.encode()], [*files, results.fileno()])
        self.pid = self._receive()
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, minus a signal's number. Raises subprocess.TimeoutExpired."""
        if self._code is None:
            self._results.settimeout(timeout)
            try:
                self._code = self._receive()
            except TimeoutError:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0) from None
            except OSError:
                self._code = -signal.SIGKILL  # its supervisor was killed
            self._results.close()
        return self._code

    def _receive(self) -> int:
        data = self._results.recv(_CODE.size)
        if not data:
            raise OSError("the spare process is gone")
        return _CODE.unpack(data)[0]
