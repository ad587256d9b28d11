"""Forks of this process, as it is now, that serve one function.

Reason: composing needs Hydra's registries and search path, which cannot be pickled. The forks are made before the first job is
composed, and import no TensorFlow. Threads that this process has by then are harmless as long as the function waits for no lock
that one of them may hold.
"""

import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

from exportkit.processes.death import Death

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def forked(function: Callable[[T], R], count: int) -> Iterator["Pool[T, R]"]:
    """Fork `count` members; kill them when the context ends. They ignore Ctrl-C, which this process handles.

    Args:
        function: called in a member with each item sent to it; must not raise. Its values must be picklable.
    """
    members: list[tuple[Connection, BaseProcess]] = []
    try:
        for _ in range(count):
            members.append(_fork(function, [connection for connection, _ in members]))
        yield Pool(members)
    finally:
        for connection, process in members:
            process.kill()
            process.join()
            connection.close()


class Pool(Generic[T, R]):
    """Members, known by their numbers from 0; `forked` makes them."""

    def __init__(self, members: list[tuple[Connection, BaseProcess]]):
        self._connections = [connection for connection, _ in members]
        self._processes = [process for _, process in members]
        self._busy: set[int] = set()

    def send(self, member: int, item: T) -> None:
        """Send an item to a member that is not busy."""
        self._busy.add(member)
        with suppress(BrokenPipeError, ConnectionResetError):  # it died while it was idle: `replies` reports it
            self._connections[member].send(item)

    def replies(self) -> Iterator[tuple[int, R | Death]]:
        """Yield the member and the value, or the member's death, of each item sent, as they come, until no member is busy."""
        while self._busy:
            ready = wait([self._connections[member] for member in self._busy])
            for member in [member for member in self._busy if self._connections[member] in ready]:
                self._busy.remove(member)
                yield member, self._reply(member)

    def _reply(self, member: int) -> R | Death:
        try:
            return self._connections[member].recv()
        except (EOFError, OSError):
            process = self._processes[member]
            process.join()
            return Death.from_exit_code(process.exitcode or 0)


def _fork(function: Callable[[T], R], others: Iterable[Connection]) -> tuple[Connection, BaseProcess]:
    context = get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(function, theirs, [ours, *others]), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork with threads: see above
        process.start()
    theirs.close()
    return ours, process


def _serve(function: Callable[[T], R], connection: Connection, others: Iterable[Connection]) -> None:
    """Call the function with each item received and send its value back, until the parent closes its end of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:
        other.close()  # an inherited copy would keep the pipe open after the parent has closed its own
    try:
        while True:
            connection.send(function(connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
