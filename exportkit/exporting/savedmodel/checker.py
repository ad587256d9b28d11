"""TensorFlow's C++ core in a process of its own, as the judge of graphs: what it does not import is not exported."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from google.protobuf.message import EncodeError

from exportkit.core import worker as core_worker
from exportkit.core.host import Host
from exportkit.errors import EnvironmentFailed, Problem
from exportkit.metagraph.tensors import Facts
from exportkit.processes import WorkerDied
from exportkit.processes.death import Cause
from exportkit.protos import GraphDef, OpDef, OpList, dtype_name


class Refused(Exception):
    """TensorFlow's own text about a graph that it does not import or run, on one line."""


class Checker:
    """The core: what it knows of ops, and what it says about graphs."""

    def __init__(self, host: Host):
        self._host = host
        self._devices: dict[str, set[str]] = {}

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
        version, ops = self._asked(core_worker.DESCRIBE)
        return version, {op.name: op for op in OpList.FromString(ops).op}

    def devices(self, ops: Iterable[str]) -> dict[str, set[str]]:
        """Return op → the kinds of devices that it has a kernel for: ``CPU``, ``GPU``, ``DEFAULT`` …"""
        ops = set(ops)
        if missing := sorted(ops - self._devices.keys()):
            self._devices |= self._asked(core_worker.DEVICES, missing)
        return {op: self._devices[op] for op in ops}

    def facts(self, graph: GraphDef, tensors: Sequence[str]) -> dict[str, Facts]:
        """Import a graph; return the dtypes and shapes of `tensors`.

        Raises:
            Refused: TensorFlow does not import it.
            EnvironmentFailed: the core was killed from outside, or could not start.
        """
        found = self._call(core_worker.INFER, _serialized(graph), list(tensors))
        return {tensor: Facts(dtype_name(number), shape) for tensor, (number, shape) in found.items()}

    def _asked(self, name: str, *arguments: Any) -> Any:
        """Return what TensorFlow says about itself; where it cannot, its installation is to blame, and no graph."""
        try:
            return self._call(name, *arguments)
        except Refused as refused:
            raise EnvironmentFailed(Problem("tensorflow", f"its C library fails: {refused}", "install it again")) from None

    def _call(self, name: str, *arguments: Any) -> Any:
        return _called(self._host, name, *arguments)


def values_after(host: Host, graph: GraphDef, operations: Sequence[str], tensors: Sequence[str]) -> list[np.ndarray]:
    """Run operations one after the other, in one session, and return the values that tensors have then.

    Raises what `Checker.facts` raises.
    """
    host.holder = None
    _called(host, core_worker.IMPORT, _serialized(graph), [[operation] for operation in operations], b"")
    return _called(host, core_worker.RUN, {}, list(tensors))


def _serialized(graph: GraphDef) -> bytes:
    try:
        return graph.SerializeToString()
    except (EncodeError, ValueError):
        raise Refused("it is larger than 2 GiB, the most that a protobuf can be: keep its constants in variables") from None


def _called(host: Host, name: str, *arguments: Any) -> Any:
    try:
        value, _, error = host.call(name, *arguments)
    except WorkerDied as died:
        if died.death.cause is Cause.CRASHED:
            raise Refused(f"its process {died.death}") from None
        raise died.death.error("tensorflow", "the process that imports graphs") from None
    if error is not None:
        raise Refused(" ".join(error[1].split()))
    return value
