"""A process that is ready before a worker is needed, and from which workers are forked.

Reason: a worker that is forked from a process that has loaded TensorFlow's C library, and used nothing of it, begins at once
instead of after half a second. After a session of the usual kind a fork would hang; `exportkit.core.warm` has the one kind that
this process may make. Tasks of `exportkit.processes.run` share that of the process that started them.
"""

import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import pairwise
from typing import NoReturn

from exportkit.processes import sandbox
from exportkit.processes.lifeline import lead_group

CPU_ONLY = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}  # a worker computes on the CPU

_CODE = struct.Struct("i")
_KIND = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_STREAM  # several processes may send requests

_BLAS = "OPENBLAS_NUM_THREADS"  # NumPy's library starts its threads when it is loaded, whether it computes or not

_READ_ONCE = ("TF_", "XLA_", "DNNL_", "ONEDNN_")  # how the variables begin that TensorFlow reads once in a process
_OWN = {*CPU_ONLY, "TF_USE_LEGACY_KERAS"}  # those of them that exportkit sets

_spare: socket.socket | None = None
_pid = 0  # of the spare, if this process made it
_settings: dict[str, str] = {}  # what the spare may have read of the variables that TensorFlow reads once
_added: set[str] = set()  # environment variables that are not the user's


def reserve(*preload: str) -> None:
    """Keep a copy of this process, as it is, to fork workers from. It ends with this process.

    TensorFlow's C library may be loaded by now, and its Python imported; nothing of it may have been used.

    Args:
        preload: modules that the copy imports before it forks the first worker, while this process does something else.
    """
    global _spare, _pid, _settings
    ours, theirs = socket.socketpair(socket.AF_UNIX, _KIND)
    if pid := fork():
        theirs.close()
        _spare, _pid, _settings = ours, pid, _read_once()
        return
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that was copied handles Ctrl-C
        _leave_files(theirs.fileno())
        os.environ.setdefault(_BLAS, "1")  # NumPy's threads would keep it from being warmed up
        for name in preload:
            import_module(name)
        _serve_requests(theirs)
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(0)


@contextmanager
def early(*preload: str) -> Iterator[None]:
    """Do as `reserve` where that is safe now, as this process has one thread, and there is no spare yet.

    That spare ends with the context. NumPy, if it is imported meanwhile, starts no threads, so that this process can still be
    forked.
    """
    if _spare is not None or not single_threaded():
        yield
        return
    reserve(*preload)
    if _BLAS not in os.environ:
        os.environ[_BLAS] = "1"
        _added.add(_BLAS)
    try:
        yield
    finally:
        for name in _added:
            os.environ.pop(name, None)
        _added.clear()
        _end_spare()


def _end_spare() -> None:
    """End the spare, if there is one."""
    if _pid:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(_pid, signal.SIGKILL)
            os.waitpid(_pid, 0)
    share(None)


def environment() -> dict[str, str]:
    """Return the environment of this process as the user has set it, for those that it starts."""
    return {name: value for name, value in os.environ.items() if name not in _added}


def single_threaded() -> bool:
    """Return whether this process has one thread, those of C libraries counted, as far as it can know: on Linux."""
    return sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1


def shared() -> socket.socket | None:
    """Return the socket that another process needs to fork workers from this one's spare."""
    return _spare


def share(spare: socket.socket | None) -> None:
    """Fork workers from another process's spare from now on, or from none."""
    global _spare, _pid, _settings
    if _spare is not None:
        _spare.close()
    _spare, _pid, _settings = spare, 0, _read_once()


def _read_once() -> dict[str, str]:
    """Return the environment variables that TensorFlow reads once in a process."""
    return {name: value for name, value in os.environ.items() if name.startswith(_READ_ONCE) and name not in _OWN}


def fork_worker(script: str, files: Sequence[int]) -> "ForkedWorker | None":
    """Fork a worker from the spare; return None where there is no spare, or one that has read other settings of TensorFlow.

    Args:
        script: the name of a module with a `main`.
        files: the descriptors of its stdin, stdout, stderr and lifeline.
    """
    if _spare is None or _settings != _read_once():
        return None
    with suppress(OSError):  # the spare is gone
        return ForkedWorker(_spare, script, files)
    return None


def fork() -> int:
    """Do as os.fork, without Python's warning of threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads; a worker needs none of their locks
        return os.fork()


def _leave_files(kept: int) -> None:
    """Close what the process that was copied had open, but stderr: an end of a pipe that stayed open here would never end."""
    quiet = os.open(os.devnull, os.O_RDWR)
    os.dup2(quiet, 0)
    os.dup2(quiet, 1)
    for last, following in pairwise([2, kept, os.sysconf("SC_OPEN_MAX")]):
        os.closerange(last + 1, following)


def _serve_requests(requests: socket.socket) -> None:
    """Fork a worker for each request, five descriptors, until nobody can send one any more.

    The worker reads from the last one what it shall be. Its pid, then its exit code, are written to it.
    """
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    workers: dict[int, int] = {}
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    poll.register(ended, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if ended in ready:
            os.read(ended, 1024)
            _report_ended(workers)
        if requests.fileno() not in ready:
            continue
        request, files, *_ = socket.recv_fds(requests, 1, 5)
        if not request:
            return
        *ours, results = files
        if not (pid := fork()):
            for descriptor in (requests.fileno(), ended, wake, *workers.values()):
                os.close(descriptor)
            _work(results, ours)
        with suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)  # as the worker does itself: its group must be there before anybody kills it
        workers[pid] = results
        for file in ours:
            os.close(file)
        _send(results, pid)


def _report_ended(workers: dict[int, int]) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            if (results := workers.pop(pid, None)) is not None:
                _send(results, os.waitstatus_to_exitcode(status))
                os.close(results)


def _send(results: int, code: int) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):
        os.write(results, _CODE.pack(code))


def _work(request: int, files: Sequence[int]) -> NoReturn:
    """Become the worker, with its own files and process group and the surroundings of its starter, and run its `main`."""
    code = 1
    try:
        with open(request, "rb") as letter:
            script, environment, directory = pickle.load(letter)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        *streams, lifeline = files
        lead_group(lifeline)
        for number, file in enumerate(streams):
            os.dup2(file, number)
            os.close(file)
        sys.stdin = os.fdopen(0, closefd=False)  # multiprocessing has put another in its place
        sys.stdout = os.fdopen(1, "w", 1, closefd=False)  # by the line: what is printed before a crash is not lost
        sys.stderr = os.fdopen(2, "w", 1, closefd=False)
        os.environ.clear()
        os.environ.update({**environment, **CPU_ONLY})
        with suppress(OSError):
            os.chdir(directory)
        worker = import_module(script)
        sandbox.begin()
        worker.main()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _working_directory() -> str:
    with suppress(FileNotFoundError):
        return os.getcwd()
    return os.sep


class ForkedWorker:
    """A worker that the spare forked."""

    def __init__(self, spare: socket.socket, script: str, files: Sequence[int]):
        self._results, results = socket.socketpair()
        with results:
            socket.send_fds(spare, [b"1"], [*files, results.fileno()])
        self._results.sendall(pickle.dumps((script, environment(), _working_directory())))
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
                self._code = -signal.SIGKILL  # the spare was killed
            self._results.close()
        return self._code

    def _receive(self) -> int:
        data = self._results.recv(_CODE.size)
        if not data:
            raise OSError("the spare process is gone")
        return _CODE.unpack(data)[0]
