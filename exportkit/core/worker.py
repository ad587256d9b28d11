"""Runs a graph in TensorFlow's C++ core, without TensorFlow's Python: a SavedModel, or a graph and what fills its variables.

As a script, this is the process that `exportkit.processes.conversation` starts: it loads a graph once, answers all runs and
ends with its input. A run can kill it, since a failed CHECK in the C++ core aborts the process. It imports NumPy and, of
exportkit, only this room and what that needs, so it starts fast.
"""

import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from typing import IO, Any

import numpy as np

from exportkit.core.capi import StatusError, library
from exportkit.core.graph import Graph, Session

LOAD = "load"  # with the arguments of `_load`
IMPORT = "import"  # with the arguments of `_import`


def main() -> None:
    """Make the session that the first message on stdin describes, then do a run for each further one, until stdin ends.

    The first message is (LOAD or IMPORT, the arguments); the others are (feeds, fetches). For each, the first one too, it
    writes ``(value, seconds, error)`` to stdout; an error is the name of a status code and TensorFlow's message.

    The messages are pickled: both ends are the same program, and the files between them have no name.
    """
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the graph prints goes to stderr
    library()
    _answer(sys.stdin.buffer, replies)  # up to here, nothing of the job has been read
    os._exit(0)  # the library's own shutdown would take 60 ms


def _answer(messages: IO[bytes], replies: IO[bytes]) -> None:
    """Read the job and do its runs."""
    how, arguments = pickle.load(messages)
    session, *made = _timed(_MAKERS[how], *arguments)
    _reply(replies, None, *made)
    for feeds, fetches in _runs(messages) if session else ():
        _reply(replies, *_timed(session.run, feeds, fetches))


def _load(directory: str, tags: Sequence[str], config: bytes) -> Session:
    """Return a session of a SavedModel's meta graph, with exactly these tags; `config` is a serialized ConfigProto."""
    return Session.load(Graph(), directory, tags, config)


def _import(graph_def: bytes, stages: Sequence[Sequence[str]], config: bytes) -> Session:
    """Return a session of a graph in which groups of operations were run, one group after the other."""
    graph = Graph()
    graph.import_(graph_def)
    session = Session(graph, config)
    for operations in stages:
        session.run({}, [], operations)
    return session


_MAKERS: Mapping[str, Callable[..., Session]] = {LOAD: _load, IMPORT: _import}


def _runs(file: IO[bytes]) -> Iterator[tuple[Mapping[str, np.ndarray], Sequence[str]]]:
    """Yield the feeds and fetches of each run until the file ends."""
    with suppress(EOFError):
        while True:
            yield pickle.load(file)


def _timed(call: Callable, *arguments: Any) -> tuple[Any, float, tuple[str, str] | None]:
    """Return the call's value, its duration in seconds, and the code and message of the status that it failed with."""
    started = perf_counter()
    try:
        return call(*arguments), perf_counter() - started, None
    except StatusError as error:
        return None, perf_counter() - started, error.args


def _reply(replies: IO[bytes], *reply: Any) -> None:
    pickle.dump(reply, replies, protocol=5)
    replies.flush()


if __name__ == "__main__":
    main()
