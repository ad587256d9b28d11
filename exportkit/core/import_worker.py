"""Imports graphs into TensorFlow's C++ core, and describes its ops, without TensorFlow's Python.

As a script, this is the process that `exportkit.exporting.savedmodel.checker` starts: a graph that breaks an assumption of
TensorFlow's can end it.
"""

import os
import pickle
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

from exportkit.core import capi
from exportkit.core.graph import Graph

Facts = tuple[int, tuple[int | None, ...] | None]  # the number of a dtype (types.proto), and a shape


def describe() -> tuple[str, bytes]:
    """Return TensorFlow's version and its ops, a serialized OpList."""
    return capi.version(), capi.op_list()


def kernels() -> bytes:
    """Return all kernels, a serialized KernelList."""
    return capi.kernels()


def import_graph(graph_def: bytes, tensors: Sequence[str]) -> dict[str, Facts]:
    """Import a graph, and return the dtypes and shapes of some of its tensors."""
    with Graph() as graph:
        graph.import_(graph_def)
        return {tensor: graph.tensor(tensor) for tensor in tensors}


CALLS = {call.__name__: call for call in (describe, kernels, import_graph)}


def main() -> None:
    """Answer calls until stdin ends: ``(name, arguments)`` in, ``(value, error)`` out, where an error is a status's text."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a graph prints goes to stderr
    with suppress(EOFError):
        while True:
            name, arguments = pickle.load(sys.stdin.buffer)
            _reply(replies, name, arguments)
    os._exit(0)  # the library's own shutdown would take 60 ms


def _reply(replies: IO[bytes], name: str, arguments: tuple[Any, ...]) -> None:
    value = error = None
    try:
        value = CALLS[name](*arguments)
    except capi.StatusError as status:
        error = status.args[1]
    pickle.dump((value, error), replies, protocol=5)
    replies.flush()
