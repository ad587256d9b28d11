"""The server from which tasks are forked: multiprocessing's, so that it imports our modules and nobody else's.

It lives as long as this process. One that died is started again.
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

LONGEST = 64  # bytes of a temporary directory; the socket's own name, and the directory that it is in, take 40

_context = multiprocessing.get_context("forkserver")


def start(task: Task, scratch: Path, preload: Sequence[str]) -> tuple[BaseProcess, Connection]:
    """Fork a task's process, starting the server where there is none; what the task tells comes out of the connection.

    Args:
        scratch: the task's own directory, to be made.
        preload: what the server imports, if this starts it.

    Raises:
        Exception: the task cannot be pickled, its log cannot be written.
        EOFError, ConnectionError: the server died, and did so again when it was started anew.
    """
    content = pickle.dumps((task.function, task.arguments))
    _context.set_forkserver_preload(list(preload))
    with ExitStack() as ours:
        output = [ours.enter_context(Connection(number, readable=False)) for number in _output(task.log)]
        surroundings = Surroundings(dict(os.environ), scratch, output)
        surroundings.temporary.mkdir(parents=True)
        try:
            return _forked(surroundings, content)
        except (EOFError, ConnectionError):
            return _forked(surroundings, content)


def _output(log: Path | None) -> tuple[int, int]:
    """Open what a task's stdout and stderr shall be: its log, or this process's own."""
    if log is None:
        return os.dup(1), os.dup(2)
    log.parent.mkdir(parents=True, exist_ok=True)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    return out, os.dup(out)


def _forked(surroundings: Surroundings, content: bytes) -> tuple[BaseProcess, Connection]:
    _ensure_running()
    reader, writer = _context.Pipe(duplex=False)
    process = _context.Process(target=child.main, args=(surroundings, writer, content))
    try:
        with writer, _as_others_know():
            process.start()
    except BaseException:
        reader.close()
        raise
    return process, reader


def _ensure_running() -> None:
    """Start the server, where it is not running, such that a Ctrl-C is not for it: it is this process that answers one."""
    with _apart(), _short_temporary_directory():
        resource_tracker.ensure_running()  # which the server would start, and that lets all signals in again
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _short_temporary_directory() -> Iterator[None]:
    """Where multiprocessing puts the server's socket, whose path may have 107 bytes: not in a TMPDIR that is long itself."""
    before = tempfile.tempdir
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST:
        tempfile.tempdir = "/tmp"
    try:
        util.get_temp_dir()  # is made once, and kept
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def _apart() -> Iterator[None]:
    """Without the working directory to import from: there are the user's modules."""
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
def _as_others_know() -> Iterator[None]:
    """Keep multiprocessing from handing over what is this process's own: a main script, which would be run again in the child,
    whatever it is, and a start method that the child does not know (joblib's).
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
