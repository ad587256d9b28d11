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
from multiprocessing import forkserver
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
    with _apart():
        forkserver.ensure_running()
    with ExitStack() as ours:
        reader, writer = _context.Pipe(duplex=False)
        ours.enter_context(writer)
        if surroundings.log is None:
            output = tuple(ours.enter_context(Connection(os.dup(number), readable=False)) for number in (1, 2))
            surroundings = replace(surroundings, output=output)
        process = _context.Process(target=child.main, args=(surroundings, writer, task))
        try:
            with _as_others_know():
                process.start()
        except BaseException:
            reader.close()
            raise
    return process, reader


@contextmanager
def _apart() -> Iterator[None]:
    """What the server inherits: no working directory to import from, in which the user's modules are, and no Ctrl-C."""
    here = os.getcwd()
    environment, path = dict(os.environ), sys.path[:]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    elsewhere = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry not in ("", here)]
    try:
        os.environ.update(PYTHONSAFEPATH="1", PYTHONPATH=os.pathsep.join(elsewhere))
        sys.path[:] = [entry for entry in path if entry not in ("", here)]
        yield
    finally:
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environment)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


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
