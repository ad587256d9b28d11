"""Runs a SavedModel in TensorFlow's C++ core, as a model server does, without TensorFlow's Python.

As a script, this is the process that `native` starts: it loads a model once, answers all runs and ends with its input. A
request can kill it, since a failed CHECK in the C++ core aborts the process. It imports NumPy and `exportkit.core`, so it
starts fast.
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


def main() -> None:
    """Load the SavedModel that stdin names, and answer runs until stdin ends.

    It writes ``(value, seconds, error)`` to stdout for the load and for each run.

    The messages are pickled: both ends are the same program, and the files between them have no name.
    """
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the graph prints goes to stderr
    directory, tags, config = pickle.load(sys.stdin.buffer)
    library()
    session, *loaded = _timed(Session.load, Graph(), directory, tags, config)
    _reply(replies, None, *loaded)
    for feeds, fetches in _runs(sys.stdin.buffer) if session else ():
        _reply(replies, *_timed(session.run, feeds, fetches))
    os._exit(0)  # the library's own shutdown would take 60 ms


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
