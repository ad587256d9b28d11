"""Imports and runs graphs in TensorFlow's C++ core, without TensorFlow's Python: SavedModels, or graphs and what fills their
variables.

As a script, this is the process that `exportkit.processes.conversation` starts: it answers messages, and ends with its input.
It has the sessions of one graph at a time. What it loads, imports or runs can kill it, since a failed CHECK in the C++ core
aborts it. It imports NumPy and, of exportkit, only this room and what that needs, so it starts fast.
"""

import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any

import numpy as np

from exportkit.core import capi
from exportkit.core.graph import Graph, Session

Facts = tuple[int, tuple[int | None, ...] | None]  # the number of a dtype (types.proto), and a shape

_sessions: list[Session] = []  # those that there are, of one graph


def load(directory: str, tags: Sequence[str], config: bytes) -> None:
    """Make a session of a SavedModel's meta graph, with exactly these tags, in place of the last ones.

    Args:
        config: a serialized ConfigProto.
    """
    _close()
    _sessions.append(Session.load(Graph(), directory, tags, config))


def second(
    values: Sequence[tuple[str, str]],
    restore: Sequence[str],
    initialize: Sequence[str],
    assets: Mapping[str, np.ndarray],
    config: bytes,
) -> None:
    """Make another session of the graph that was loaded; it restores the first one's variables, which are not copied.

    Args:
        values: ``(tensor with a variable's value, tensor that is assigned to it)``.
        restore: operations that assign them.
        initialize: operations to run then.
        assets: tensor → path, which `initialize` is fed.
        config: a serialized ConfigProto.
    """
    session = Session(_sessions[0].graph, config)
    try:
        if restore:
            _sessions[0].share(session, values, restore)
        session.run(assets if initialize else {}, [], initialize)
    except capi.StatusError:
        with session:
            raise
    _sessions.append(session)


def import_(graph_def: bytes, stages: Sequence[Sequence[str]], config: bytes) -> None:
    """Make a session of a graph, in place of the last ones, and run groups of operations, one group after the other."""
    _close()
    graph = Graph()
    graph.import_(graph_def)
    session = Session(graph, config)
    _sessions.append(session)
    try:
        for operations in stages:
            session.run({}, [], operations)
    except capi.StatusError:
        _close()
        raise


def run(feeds: Mapping[str, np.ndarray], fetches: Sequence[str], number: int = 0) -> list[np.ndarray]:
    """Run session `number` once. Raises EOFError where there is none: what should have made it has failed."""
    if number >= len(_sessions):
        raise EOFError
    return _sessions[number].run(feeds, fetches)


def describe() -> tuple[str, bytes]:
    """Return TensorFlow's version and its ops, a serialized OpList."""
    return capi.version(), capi.op_list()


def devices(ops: Sequence[str]) -> dict[str, set[str]]:
    """Return op → the kinds of devices that it has a kernel for."""
    known = capi.devices()
    return {op: known.get(op, set()) for op in ops}


def infer(graph_def: bytes, tensors: Sequence[str]) -> dict[str, Facts]:
    """Import a graph, run nothing, and return the dtypes and shapes of some of its tensors."""
    with Graph() as graph:
        graph.import_(graph_def)
        return {tensor: graph.tensor(tensor) for tensor in tensors}


LOAD, SECOND, IMPORT, RUN = "load", "second", "import", "run"
DESCRIBE, DEVICES, INFER = "describe", "devices", "infer"
CALLS: dict[str, Callable[..., Any]] = {
    LOAD: load,
    SECOND: second,
    IMPORT: import_,
    RUN: run,
    DESCRIBE: describe,
    DEVICES: devices,
    INFER: infer,
}


def main() -> None:
    """Answer the messages on stdin until it ends.

    A message is one of `CALLS` and its arguments. For each, ``(value, seconds, error)`` is written to stdout; an error is the
    name of a status code and TensorFlow's message.

    The messages are pickled: both ends are the same program, and the files between them have no name.
    """
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the graph prints goes to stderr
    capi.library()
    with suppress(EOFError):  # up to here, nothing of the job has been read
        while True:
            name, arguments = pickle.load(sys.stdin.buffer)
            pickle.dump(_timed(CALLS[name], *arguments), replies, protocol=5)
            replies.flush()
    os._exit(0)  # the library's own shutdown would take 60 ms


def _timed(call: Callable, *arguments: Any) -> tuple[Any, float, tuple[str, str] | None]:
    """Return the call's value, its duration in seconds, and the code and message of the status that it failed with."""
    started = perf_counter()
    try:
        return call(*arguments), perf_counter() - started, None
    except capi.StatusError as error:
        return None, perf_counter() - started, error.args


def _close() -> None:
    """Free the sessions' memory."""
    graphs = [session.graph for session in _sessions[:1]]
    while _sessions:
        with _sessions.pop():
            pass
    for graph in graphs:
        with graph:
            pass
