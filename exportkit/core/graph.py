"""Graphs and sessions of TensorFlow's C++ core.

Tensors have their usual names: ``op:1``, and ``op`` for ``op:0``.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import POINTER, Array, byref, c_char_p, c_int, c_int64, c_void_p

import numpy as np

from exportkit.core.capi import Output, StatusError, buffer, checked, library
from exportkit.core.tensors import REF, to_array, to_tensor


class Graph:
    """A TF_Graph; a context manager that deletes it, after the sessions that run it."""

    def __init__(self) -> None:
        self.handle = library().TF_NewGraph()

    def __enter__(self) -> "Graph":
        return self

    def __exit__(self, *_: object) -> None:
        library().TF_DeleteGraph(self.handle)

    def import_(self, graph_def: bytes, input_map: Mapping[str, str] | None = None) -> list[str]:
        """Import a graph: TensorFlow checks every node and infers every shape.

        A graph that breaks an assumption of TensorFlow's can end the process: import a stranger's in a process of its own.

        Args:
            graph_def: a serialized GraphDef; its names must be new to this graph. Remove `_output_shapes` first: those of TF 1
                make an import fail.
            input_map: tensor of `graph_def` → tensor that is in this graph already, and that its consumers take instead.

        Returns:
            The keys of `input_map` that no node takes and that `graph_def` does not have.

        Raises:
            StatusError: TensorFlow refuses a node, or a tensor to take is not in this graph.
        """
        options = library().TF_NewImportGraphDefOptions()
        results = None
        try:
            for old, new in (input_map or {}).items():
                library().TF_ImportGraphDefOptionsAddInputMapping(options, *_encoded(old), self.output(new))
            with buffer(graph_def) as content:
                results = checked("TF_GraphImportGraphDefWithResults", self.handle, content, options)
            return _missing(results)
        finally:
            if results:
                library().TF_DeleteImportGraphDefResults(results)
            library().TF_DeleteImportGraphDefOptions(options)

    def tensor(self, name: str) -> tuple[int, tuple[int | None, ...] | None]:
        """Return a tensor's dtype, as a number of types.proto without the mark of a reference, and its shape as far as known.

        Raises:
            StatusError: NOT_FOUND: it is not in the graph.
        """
        place = self.output(name)
        number = library().TF_OperationOutputType(place) % REF
        rank = checked("TF_GraphGetTensorNumDims", self.handle, place)
        if rank < 0:
            return number, None
        sizes = (c_int64 * rank)()
        checked("TF_GraphGetTensorShape", self.handle, place, sizes, rank)
        return number, tuple(None if size < 0 else size for size in sizes)

    def operation(self, name: str) -> int:
        """Return the TF_Operation of this name. Raises StatusError with NOT_FOUND."""
        if found := library().TF_GraphOperationByName(self.handle, name.encode()):
            return found
        raise StatusError("NOT_FOUND", f"{name} is not in the graph")

    def output(self, name: str) -> Output:
        """Return the TF_Output of a tensor. Raises StatusError with NOT_FOUND."""
        operation, index = split(name)
        found = library().TF_GraphOperationByName(self.handle, operation.encode())
        if not found or index >= library().TF_OperationNumOutputs(found):
            raise StatusError("NOT_FOUND", f"{name} is not in the graph")
        return Output(found, index)


class Session:
    """A TF_Session; a context manager that closes it. `Session.load` makes one of a SavedModel.

    Args:
        graph: what it runs; nodes may be added later.
        config: a serialized ConfigProto.

    Attributes:
        graph: what it runs.

    Raises:
        StatusError: the config is none, or there is no such session.
    """

    def __init__(self, graph: Graph, config: bytes = b""):
        self.graph = graph
        with _options(config) as options:
            self._handle = checked("TF_NewSession", graph.handle, options)

    @classmethod
    def load(cls, graph: Graph, directory: str | os.PathLike, tags: Sequence[str], config: bytes = b"") -> "Session":
        """Load a SavedModel's meta graph into `graph`, restore its variables and initialize it.

        Args:
            graph: an empty graph.
            directory: the SavedModel.
            tags: exactly the tags of the meta graph.
            config: a serialized ConfigProto.

        Raises:
            StatusError: the SavedModel cannot be loaded.
        """
        session = cls.__new__(cls)
        session.graph = graph
        names = (c_char_p * len(tags))(*(tag.encode() for tag in tags))
        with _options(config) as options:
            inputs = options, None, os.fsencode(directory), names, len(tags), graph.handle, None
            session._handle = checked("TF_LoadSessionFromSavedModel", *inputs)
        return session

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        checked("TF_DeleteSession", self._handle)

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], targets: Sequence[str] = (), options: bytes = b""
    ) -> list[np.ndarray]:
        """Run the graph once. Several threads may do so at the same time.

        Args:
            feeds: tensor name → value; strings are bytes or str in an object array.
            fetches: tensor names.
            targets: names of operations to run besides.
            options: a serialized RunOptions, which may hold a time limit.

        Returns:
            The fetched values; strings as object arrays of bytes.

        Raises:
            StatusError: TensorFlow reports an error, a name is not in the graph, or a value has a wrong or unknown dtype.
        """
        if not fetches and not targets:
            return []  # TensorFlow refuses to run nothing
        inputs, outputs = self._outputs(list(feeds)), self._outputs(fetches)
        operations = (c_void_p * len(targets))(*map(self.graph.operation, targets))
        fed, fetched = (c_void_p * len(feeds))(), (c_void_p * len(fetches))()
        try:
            for i, (name, value) in enumerate(feeds.items()):
                fed[i] = to_tensor(name, np.asarray(value), library().TF_OperationOutputType(inputs[i]))
            sides = inputs, fed, len(feeds), outputs, fetched, len(fetches), operations, len(targets)
            with buffer(options) as content:
                checked("TF_SessionRun", self._handle, content if options else None, *sides, None)
            return [to_array(name, tensor) for tensor, name in zip(fetched, fetches, strict=True)]
        finally:
            for tensor in filter(None, [*fed, *fetched]):
                library().TF_DeleteTensor(tensor)

    def share(self, other: "Session", values: Sequence[tuple[str, str]], operations: Sequence[str]) -> None:
        """Run operations in another session of the graph, fed with values of this one: not copies, but the same memory.

        Args:
            values: ``(tensor whose value is taken here, tensor that is fed there)``.
            operations: names of operations to run there.

        Raises:
            StatusError: TensorFlow reports an error, or a name is not in the graph.
        """
        taken, fed = self._outputs([here for here, _ in values]), self._outputs([there for _, there in values])
        targets = (c_void_p * len(operations))(*map(self.graph.operation, operations))
        tensors, size = (c_void_p * len(values))(), len(values)
        try:
            if size:
                checked("TF_SessionRun", self._handle, None, None, None, 0, taken, tensors, size, None, 0, None)
            checked("TF_SessionRun", other._handle, None, fed, tensors, size, None, None, 0, targets, len(operations), None)
        finally:
            for tensor in filter(None, tensors):
                library().TF_DeleteTensor(tensor)

    def _outputs(self, names: Sequence[str]) -> Array:
        return (Output * len(names))(*map(self.graph.output, names))


@contextmanager
def _options(config: bytes) -> Iterator[int]:
    options = library().TF_NewSessionOptions()
    try:
        checked("TF_SetConfig", options, config, len(config))
        yield options
    finally:
        library().TF_DeleteSessionOptions(options)


def split(name: str) -> tuple[str, int]:
    """Return a tensor's operation and the number of its output."""
    operation, _, index = name.partition(":")
    return operation, int(index) if index.isdecimal() else 0


def _encoded(name: str) -> tuple[bytes, int]:
    operation, index = split(name)
    return operation.encode(), index


def _missing(results: int) -> list[str]:
    count, names, indices = c_int(), POINTER(c_char_p)(), POINTER(c_int)()
    library().TF_ImportGraphDefResultsMissingUnusedInputMappings(results, byref(count), byref(names), byref(indices))
    return [f"{names[i].decode()}:{indices[i]}" for i in range(count.value)]
