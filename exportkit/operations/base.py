"""What an export adds to the training graph: an operation on the values of other bindings, or a feeder of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from exportkit.metagraph.tensors import Facts

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from exportkit.errors import Problem
    from exportkit.metagraph.building import GraphBuilder

FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(kw_only=True)
class Operation(ABC):
    """A binding that is computed from others. The class is its key in a config, its schema, its docs and its behaviour.

    Fields are config keys. The field that is named as `kind` holds the references that the operation is computed from: one
    text, or a list of them. Every `where` of a problem is relative to the binding: ``k``, not ``bindings.top.k``.
    """

    kind: ClassVar[str]
    """The key that makes a binding this operation: ``{top_k: probs, k: 3}``."""

    rounding: ClassVar[int] = 0
    """How many units in the last place another way of computing it may differ by; 0: by none."""

    def refs(self) -> list[str]:
        """Return the references to the bindings that it is computed from."""
        named = getattr(self, self.kind)
        return [named] if isinstance(named, str) else list(named)

    def parts(self) -> Sequence[str]:
        """Return the names of its values where it has several: ``values`` is offered as ``NAME.values``."""
        return ()

    def check(self) -> Iterable[Problem]:
        """Return what is wrong with its keys, whatever it is computed from."""
        return ()

    def problems(self, inputs: Sequence[Facts]) -> Iterable[Problem]:
        """Return what is wrong with the tensors that it is computed from, as far as they are known.

        Args:
            inputs: dtype and shape of each reference; either may be unknown.
        """
        return ()

    def files(self) -> Mapping[str, Path]:
        """Return its fields that name files which it reads: field → path. They are part of the export's identity."""
        return {}

    @abstractmethod
    def facts(self, inputs: Sequence[Facts]) -> Sequence[Facts]:
        """Return dtype and shape of each of its values, as far as they follow from those of its references."""

    @abstractmethod
    def add(self, graph: GraphBuilder, name: str, inputs: Sequence[str]) -> Sequence[str]:
        """Add its nodes to a graph, and return the tensor of each of its values.

        Args:
            name: the binding's.
            inputs: the tensor of each reference.
        """

    def recompute(self, inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Return its values by NumPy, without what `add` uses: the step `verify` compares the export with them.

        Those of exportkit's own operations stand apart, in ``verifying/parity/adapters.py``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no recompute()")


@dataclass(kw_only=True)
class Feeder(ABC):
    """A binding that signatures take as an input, and whose values feed tensor and placeholder bindings.

    It is the other direction of an `Operation`. Fields are config keys here too, and every `where` of a problem is relative
    to the binding: ``parse_example.age.dtype``, not ``bindings.example.parse_example.age.dtype``.
    """

    kind: ClassVar[str]
    """The key that makes a binding this feeder: ``{parse_example: …}``."""

    taken: ClassVar[Facts]
    """Dtype and shape of what a request sends for it."""

    made: ClassVar[str]
    """How its values are made, in a report: ``parsed from the tf.Example``."""

    feedable: ClassVar[bool] = False
    """Whether a feeder that is not feedable itself may compute what it takes, instead of a request."""

    @abstractmethod
    def targets(self) -> Mapping[str, str]:
        """Return the name of each of its values → the binding that this value feeds."""

    def place(self, value: str) -> str:
        """Return the key that names the binding which one of its values feeds."""
        return self.kind

    def files(self) -> Mapping[str, Path]:
        """Return its fields that name files which it reads: field → path. They are part of the export's identity."""
        return {}

    def unsound(self) -> Iterable[Problem]:
        """Return what is wrong with its keys one by one. A binding with such problems is not used further."""
        return ()

    def check(self) -> Iterable[Problem]:
        """Return what is wrong with its keys together, whatever it feeds."""
        return ()

    def problems(self, fed: Mapping[str, Facts]) -> Iterable[Problem]:
        """Return what is wrong with the tensors that it feeds, as far as they are known.

        Args:
            fed: binding → dtype and shape; one of which nothing is known may be absent.
        """
        return ()

    @abstractmethod
    def add(self, graph: GraphBuilder, name: str, taken: str) -> Mapping[str, str]:
        """Add its nodes to a graph, and return the binding that each value feeds → the value's tensor.

        Args:
            name: the binding's.
            taken: the tensor of what a request sends.
        """

    def recompute(self, taken: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return its values by their names, by NumPy, without what `add` uses: `verify` feeds the training graph with them.

        Those of exportkit's own feeders stand apart, in ``verifying/parity/adapters.py``.

        Raises:
            ValueError: what a request sends is refused by the nodes that `add` adds.
        """
        raise NotImplementedError(f"{type(self).__name__} has no recompute()")

    def draw(self, rows: int, generator: np.random.Generator) -> Sequence[object] | np.ndarray | None:
        """Return values that it takes, for trials where the config gives no samples; None: any of `taken` will do.

        Args:
            rows: the size of the first dimension.
            generator: where randomness comes from: the same one for the same config.
        """
        return None


def floats_only(operation: Operation, inputs: Sequence[Facts]) -> Iterable[Problem]:
    """Report a reference whose values are no floating-point numbers."""
    from exportkit.errors import Problem

    for ref, known in zip(operation.refs(), inputs, strict=True):
        if known.dtype not in (None, *FLOATS):
            yield Problem(operation.kind, f"'{ref}' is {known.dtype}, not floating-point numbers", "cast it first")


def axis_of(axis: int, known: Facts) -> int | None:
    """Return the position of an axis that may count from the end; None where the rank is unknown or the axis is not there."""
    if known.shape is None or not -len(known.shape) <= axis < len(known.shape):
        return None
    return axis % len(known.shape)


def axis_problems(operation: Operation, axis: int, inputs: Sequence[Facts]) -> Iterable[Problem]:
    """Report a reference that has no such axis."""
    from exportkit.errors import Problem

    for ref, known in zip(operation.refs(), inputs, strict=True):
        if known.shape is not None and axis_of(axis, known) is None:
            rank = len(known.shape)
            do = f"write {-rank} to {rank - 1}" if rank else "name a binding of rank 1 or more"
            yield Problem("axis", f"is {axis}, but '{ref}' is {known}", do)
