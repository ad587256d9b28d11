"""The operation `reshape`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exportkit.errors import Problem
from exportkit.metagraph.tensors import Facts
from exportkit.operations.base import Operation

if TYPE_CHECKING:
    from exportkit.metagraph.building import GraphBuilder


@dataclass(kw_only=True)
class Reshape(Operation):
    """The elements of binding `reshape` in another `shape`; null for one size that follows from the others."""

    kind = "reshape"

    reshape: str
    shape: list[int | None]

    def check(self) -> Iterable[Problem]:
        if self.shape.count(None) > 1:
            yield Problem("shape", f"has {self.shape.count(None)} sizes that are not known", "write null for one at most")
        for i, size in enumerate(self.shape):
            if size is not None and size < 0:
                yield Problem(f"shape[{i}]", f"is {size}", "write null for the size that follows from the others")

    def problems(self, inputs: Sequence[Facts]) -> Iterable[Problem]:
        known = inputs[0].shape
        if known is None or None in known:
            return
        own, size = math.prod(size for size in self.shape if size is not None), math.prod(s for s in known if s is not None)
        if (own != size) if None not in self.shape else (not own or size % own):
            yield Problem("shape", f"does not hold the {size} elements of '{self.reshape}' ({inputs[0]})", "correct its sizes")

    def facts(self, inputs: Sequence[Facts]) -> Sequence[Facts]:
        return (Facts(inputs[0].dtype, tuple(self.shape)),)

    def add(self, graph: GraphBuilder, name: str, inputs: Sequence[str]) -> Sequence[str]:
        sizes = [-1 if size is None else size for size in self.shape]
        shape = graph.constant(sizes, "int64", [len(sizes)], name=f"{name}/shape")
        return graph.add("Reshape", [*inputs, shape], name=name)
