"""The operation `top_k`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exportkit.errors import Problem
from exportkit.metagraph.tensors import Facts
from exportkit.operations.base import Operation

if TYPE_CHECKING:
    from exportkit.metagraph.building import GraphBuilder


@dataclass(kw_only=True)
class TopK(Operation):
    """The `k` largest entries along the last axis of binding `top_k`; offers ``NAME.values`` and ``NAME.indices``, int32."""

    kind = "top_k"

    top_k: str
    k: int

    def parts(self) -> Sequence[str]:
        return ("values", "indices")

    def check(self) -> Iterator[Problem]:
        if self.k < 1:
            yield Problem("k", f"is {self.k}", "write 1 or more")

    def problems(self, inputs: Sequence[Facts]) -> Iterator[Problem]:
        shape = inputs[0].shape
        if shape == ():
            yield Problem("k", f"is {self.k}, but '{self.top_k}' is a scalar", "name a binding of rank 1 or more")
        elif shape and shape[-1] is not None and self.k > shape[-1]:
            what = f"is {self.k}, but '{self.top_k}' has {shape[-1]} entries in its last axis"
            yield Problem("k", what, f"write {shape[-1]} or less")

    def facts(self, inputs: Sequence[Facts]) -> Sequence[Facts]:
        (of,) = inputs
        shape = (*of.shape[:-1], self.k) if of.shape else None
        return Facts(of.dtype, shape), Facts("int32", shape)

    def add(self, graph: GraphBuilder, name: str, inputs: Sequence[str]) -> Sequence[str]:
        return graph.add("TopKV2", [*inputs, graph.constant(self.k, "int32", name=f"{name}/k")], name=name)
