"""The server from which tasks are forked: multiprocessing's fork server, set up to import only exportkit's modules.

It lives as long as this process, and is started again if it dies.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from exportkit.processes import child
from exportkit.processes.child import Surroundings
from exportkit.processes.events import Task

LONGEST = 64  # bytes in the path of a temporary directory; the socket's own name and directory add 40

_context = multiprocessing.get_context("forkserver")


def start(task: Task, scratch: Path, preload: Sequence[str]) -> tuple[BaseProcess, Connection]:
    """Fork a task's process, and start the server if it does not run.

    Args:
        task: the task to run.
        scratch: the task's own directory, which is made.
        preload: modules that the server imports when this call starts it.

    Returns:
        The process, and a connection that receives the task's messages.

    Raises:
        Exception: the task cannot be pickled, or its log cannot be written.
        EOFError, ConnectionError: the server died, and died again after it was restarted.
    """
    content = pickle.dumps((task.function, task.arguments))
    _context.set_forkserver_preload(list(preload))
    with ExitStack() as ours:
        output = [ours.enter_context(Connection(number, readable=False)) for number in _output(task.log)]
        surroundings = Surroundings(dict(os.environ), scratch, output)
        surroundings.temporary.mkdir(parents=True)
        try:
            return _fork(surroundings, content)
        except (EOFError, ConnectionError):
            return _fork(surroundings, content)


def _output(log: Path | None) -> tuple[int, int]:
    """Return file descriptors for a task's stdout and stderr: of its log, or copies of this process's own."""
    if log is None:
        return os.dup(1), os.dup(2)
    log.parent.mkdir(parents=True, exist_ok=True)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    return out, os.dup(out)


def _fork(surroundings: Surroundings, content: bytes) -> tuple[BaseProcess, Connection]:
    _ensure_running()
    reader, writer = _context.Pipe(duplex=False)
    process = _context.Process(target=child.main, args=(surroundings, writer, content))
    try:
        with writer, _hidden_main():
            process.start()
    except BaseException:
        reader.close()
        raise
    return process, reader


def _ensure_running() -> None:
    """Start the server if it does not run, with SIGINT blocked: this process handles Ctrl-C."""
    with _without_working_directory(), _short_temporary_directory():
        resource_tracker.ensure_running()  # otherwise started with the server, and that would unblock the signals again
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _short_temporary_directory() -> Iterator[None]:
    """Let multiprocessing put the server's socket, whose path may have 107 bytes, into /tmp if TMPDIR is too long."""
    before = tempfile.tempdir
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST:
        tempfile.tempdir = "/tmp"
    try:
        util.get_temp_dir()  # creates the directory on its first call, and keeps it
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def _without_working_directory() -> Iterator[None]:
    """Remove the working directory from sys.path and PYTHONPATH: it holds the user's modules, which the server must not see."""
    here = os.getcwd()
    path, before = sys.path[:], {name: os.environ.get(name) for name in ("PYTHONPATH", "PYTHONSAFEPATH")}
    elsewhere = [entry for entry in (before["PYTHONPATH"] or "").split(os.pathsep) if entry not in ("", here)]
    try:
        os.environ.update(PYTHONPATH=os.pathsep.join(elsewhere), PYTHONSAFEPATH="1")
        sys.path[:] = [entry for entry in path if entry not in ("", here)]
        yield
    finally:
        sys.path[:] = path
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Hide this process's main script and start method from multiprocessing, which would send them to the child.

    The child would run the main script again, and may not know the start method (joblib's).
    """
    main, method = sys.modules["__main__"], multiprocessing.get_start_method(allow_none=True)
    known = multiprocessing.get_all_start_methods()
    sys.modules["__main__"] = types.ModuleType("__main__")
    if method not in (None, *known):
        multiprocessing.set_start_method(known[0], force=True)
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        multiprocessing.set_start_method(method, force=True)
