"""The server from which tasks are forked: multiprocessing's, so that it imports our modules and nobody else's.

It lives as long as this process. One that died is started again.
"""

import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from exportkit.processes import child

_context = multiprocessing.get_context("forkserver")


def start(surroundings: child.Surroundings, task: bytes, preload: Sequence[str]) -> tuple[BaseProcess, Connection]:
    """Fork a process for a task, starting the server where there is none.

    Raises:
        OSError, EOFError: there is no server, and none could be started.
    """
    _context.set_forkserver_preload(list(preload))
    try:
        return _forked(surroundings, task)
    except (OSError, EOFError):  # the server died
        return _forked(surroundings, task)


def _forked(surroundings: child.Surroundings, task: bytes) -> tuple[BaseProcess, Connection]:
    _ensure_running()
    with ExitStack() as ours:
        reader, writer = _context.Pipe(duplex=False)
        ours.enter_context(writer)
        if surroundings.log is None:
            output = tuple(ours.enter_context(Connection(os.dup(number), readable=False)) for number in (1, 2))
            surroundings = replace(surroundings, output=output)
        process = _context.Process(target=child.main, args=(surroundings, writer, task))
        try:
            with _without_main():
                process.start()
        except BaseException:
            reader.close()
            raise
    return process, reader


def _ensure_running() -> None:
    """Start the server, where it is not running, such that a Ctrl-C is not for it: it is this process that answers one."""
    with _apart():
        resource_tracker.ensure_running()  # which the server would start, and that lets all signals in again
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


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
def _without_main() -> Iterator[None]:
    """Keep multiprocessing from running this process's main script again in the child: it may be anything."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
