"""The server from which tasks are forked: multiprocessing's forkserver, kept from importing the user's modules.

It lives as long as this process. If it died, the next task starts it again.
"""

import gc
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from exportkit.processes import child, spare
from exportkit.processes.child import Surroundings
from exportkit.processes.events import Task
from exportkit.processes.output import Output

LONGEST = 64  # bytes of TMPDIR; the socket's name and its directory take 40 more, and a socket's path may have 107

_context = multiprocessing.get_context("forkserver")
_direct = multiprocessing.get_context("fork")
_HANDLED = (signal.SIGINT, *child.ENDING)
_used = False  # whether a task was forked


@contextmanager
def prestarted(preload: Sequence[str]) -> Iterator[None]:
    """Start the server now, if there is none, so that it imports while this process does something else.

    On Linux it is a fork of this process, if this has one thread: what was imported by now is not imported again. So call it
    before anything of the user's is imported.

    Where it cannot be started, the first task reports that. If the body starts no task, the server is killed at its end: it
    would hold this process's stdout and stderr open until its imports are done.
    """
    _context.set_forkserver_preload(list(preload))
    with suppress(OSError), _forked_server():
        _ensure_running()
    try:
        yield
    finally:
        if not _used:
            end_server()


def end_server() -> None:
    """Kill the server; the next task starts it again, with the imports that it asks for. No task may be running."""
    if pid := _pid():
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # till then it would count as running; multiprocessing reaps it


def _pid() -> int | None:
    """Return the server's process id, for which multiprocessing has no public name; None where there is no server."""
    return getattr(forkserver._forkserver, "_forkserver_pid", None)


def _await_end(seconds: float = 2.0) -> None:
    """Wait until a server that has closed its connections is dead: a process that is still ending counts as running."""
    pid, last = _pid(), time.monotonic() + seconds
    with suppress(ChildProcessError):  # multiprocessing has reaped it
        while pid and time.monotonic() < last:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
                return
            time.sleep(0.01)


def start(task: Task, scratch: Path, preload: Sequence[str], output: Output | None) -> tuple[BaseProcess, Connection]:
    """Fork a task's process, after starting the server if there is none.

    Args:
        scratch: the task's own directory; it is created.
        preload: the modules that the server imports, if this call starts it.
        output: where the task prints to; None: to this process's own stdout and stderr.

    Returns:
        The process, and the connection that the task's messages (`send_message`) come out of.

    Raises:
        Exception: the task cannot be pickled.
        EOFError, ConnectionError: the server died, and died again after a restart.
    """
    content = b"" if task.here else pickle.dumps((task.function, task.arguments))
    with ExitStack() as ours:
        streams = (1, 2) if output is None else (output.writer, output.writer)
        connections = [ours.enter_context(Connection(os.dup(stream), readable=False)) for stream in streams]
        shared = spare.shared()
        requests = ours.enter_context(Connection(os.dup(shared.fileno()))) if shared and not task.here else None
        surroundings = Surroundings(spare.environment(), scratch, connections, requests)
        surroundings.temporary.mkdir(parents=True)
        if task.here:
            return _fork_here(surroundings, task, output)
        _context.set_forkserver_preload(list(preload))
        try:
            return _fork(surroundings, content)
        except (EOFError, ConnectionError):
            _await_end()
            return _fork(surroundings, content)


def _fork(surroundings: Surroundings, content: bytes) -> tuple[BaseProcess, Connection]:
    global _used
    _ensure_running()
    _used = True
    reader, writer = _context.Pipe(duplex=False)
    process = _context.Process(target=child.main, args=(surroundings, writer, content))
    try:
        with writer, _hide_main_and_start_method():
            process.start()
    except BaseException:
        reader.close()
        raise
    return process, reader


def _fork_here(surroundings: Surroundings, task: Task, output: Output | None) -> tuple[BaseProcess, Connection]:
    """Fork a task's process from this one."""
    reader, writer = _direct.Pipe(duplex=False)

    def work() -> None:
        reader.close()
        if output is not None:
            output.leave()
        child.leave_parent()
        child.main(surroundings, writer, (task.function, task.arguments))

    process = _direct.Process(target=work)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)  # until the fork has forgotten this process's handlers
    gc.freeze()  # the fork's garbage collector must not touch what is there by now: that would copy its memory
    try:
        with writer:
            process.start()
    except BaseException:
        reader.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return process, reader


def _ensure_running() -> None:
    """Start the server if it is not running, with SIGINT blocked: this process handles Ctrl-C."""
    with _without_working_directory(), _short_temporary_directory():
        resource_tracker.ensure_running()  # else the server's start would start it, which unblocks all signals
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _forked_server() -> Iterator[None]:
    """Have multiprocessing fork the server from this process, where that is safe, instead of starting it anew."""
    spawn = util.spawnv_passfds
    resource_tracker.ensure_running()  # it is started in the same way, and must not be a fork
    if spare.single_threaded():
        util.spawnv_passfds = _fork_server  # type: ignore[assignment]  # it takes what multiprocessing gives
    try:
        yield
    finally:
        util.spawnv_passfds = spawn


def _fork_server(_: str, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
    """Do in a fork what `multiprocessing.util.spawnv_passfds` has a new interpreter do: ``python … -c CODE``."""
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    try:
        spare.share(None)
        kept = sorted({0, 1, 2, *descriptors})
        for last, following in pairwise([*kept, os.sysconf("SC_OPEN_MAX")]):
            os.closerange(last + 1, following)
        forkserver._forkserver.__init__()  # type: ignore[misc]  # this process's own lock is held while it forks
        exec(arguments[-1], {})
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(0)


@contextmanager
def _short_temporary_directory() -> Iterator[None]:
    """Have multiprocessing create its directory, for the server's socket, in /tmp if TMPDIR is too long for a socket's path."""
    before = tempfile.tempdir
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST:
        tempfile.tempdir = "/tmp"
    try:
        util.get_temp_dir()  # created by the first call, then kept
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def _without_working_directory() -> Iterator[None]:
    """Take the working directory, where the user's modules are, off the paths that the server will import from."""
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
def _hide_main_and_start_method() -> Iterator[None]:
    """Keep multiprocessing from handing over this process's main script, which the child would run again, and a start method
    that the child does not know (joblib's).
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
