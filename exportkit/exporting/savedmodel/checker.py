"""TensorFlow's C++ core in a process of its own, as the judge of graphs: what it does not import is not exported."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import EncodeError

from exportkit.core import import_worker
from exportkit.core import worker as core_worker
from exportkit.errors import EnvironmentFailed, Problem
from exportkit.metagraph.tensors import Facts
from exportkit.processes import Sandbox, WorkerDied, conversation
from exportkit.processes.death import Cause
from exportkit.protos import GraphDef, KernelList, OpDef, OpList, dtype_name

if TYPE_CHECKING:
    from exportkit.processes.workers import Conversation


class Refused(Exception):
    """TensorFlow's own text about a graph that it does not import or run, on one line."""


@contextmanager
def checker() -> Iterator["Checker"]:
    """Start the core; its process ends with the context."""
    with conversation(import_worker, Sandbox([])) as worker:
        yield Checker(worker)


class Checker:
    """The core: what it knows of ops, and what it says about graphs. `checker` starts one."""

    def __init__(self, worker: "Conversation"):
        self._worker = worker

    @property
    def version(self) -> str:
        """TensorFlow's version, such as ``2.21.0``."""
        return self._described[0]

    @property
    def ops(self) -> Mapping[str, OpDef]:
        """Op → its definition, of all ops that TensorFlow has."""
        return self._described[1]

    @cached_property
    def _described(self) -> tuple[str, dict[str, OpDef]]:
        version, ops = self._asked("describe")
        return version, {op.name: op for op in OpList.FromString(ops).op}

    def devices(self, ops: Iterable[str]) -> dict[str, set[str]]:
        """Return op → the kinds of devices that it has a kernel for: ``CPU``, ``GPU``, ``DEFAULT`` …"""
        return {op: self._devices.get(op, set()) for op in ops}

    @cached_property
    def _devices(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for kernel in KernelList.FromString(self._asked("kernels")).kernel:
            found.setdefault(kernel.op, set()).add(kernel.device_type)
        return found

    def facts(self, graph: GraphDef, tensors: Sequence[str]) -> dict[str, Facts]:
        """Import a graph; return the dtypes and shapes of `tensors`.

        Raises:
            Refused: TensorFlow does not import it.
            EnvironmentFailed: the core was killed from outside, or could not start.
        """
        found = self._call("import_graph", _serialized(graph), list(tensors))
        return {tensor: Facts(dtype_name(number), shape) for tensor, (number, shape) in found.items()}

    def _asked(self, name: str, *arguments: Any) -> Any:
        """Return what TensorFlow says about itself; where it cannot, its installation is to blame, and no graph."""
        try:
            return self._call(name, *arguments)
        except Refused as refused:
            raise EnvironmentFailed(Problem("tensorflow", f"its C library fails: {refused}", "install it again")) from None

    def _call(self, name: str, *arguments: Any) -> Any:
        value, error = _exchange(self._worker, (name, arguments))
        if error is not None:
            raise Refused(" ".join(error.split()))
        return value


def values_after(graph: GraphDef, operations: Sequence[str], tensors: Sequence[str]) -> list[np.ndarray]:
    """Run operations one after the other, in one session, and return the values that tensors have then.

    Raises what `Checker.facts` raises.
    """
    with conversation(core_worker, Sandbox([])) as worker:
        stages = [[operation] for operation in operations]
        messages: list[Any] = [(core_worker.IMPORT, (_serialized(graph), stages, b"")), ({}, list(tensors))]
        for message in messages:
            values, _, error = _exchange(worker, message)
            if error is not None:
                raise Refused(" ".join(error[1].split()))
    return values


def _serialized(graph: GraphDef) -> bytes:
    try:
        return graph.SerializeToString()
    except (EncodeError, ValueError):
        raise Refused("it is larger than 2 GiB, the most that a protobuf can be: keep its constants in variables") from None


def _exchange(worker: "Conversation", message: Any) -> Any:
    worker.send(message)
    try:
        return worker.receive()
    except WorkerDied as died:
        if died.death.cause is Cause.CRASHED:
            raise Refused(f"its process {died.death}") from None
        raise died.death.error("tensorflow", "the process that imports graphs") from None
