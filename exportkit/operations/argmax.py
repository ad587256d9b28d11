"""The operation `argmax`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from exportkit.errors import Problem
from exportkit.metagraph.tensors import Facts
from exportkit.operations.base import Operation, axis_of, axis_problems

if TYPE_CHECKING:
    from exportkit.metagraph.building import GraphBuilder


@dataclass(kw_only=True)
class ArgMax(Operation):
    """The index of the largest entry of binding `argmax` along `axis`, which goes; of equal ones the first."""

    kind = "argmax"

    argmax: str
    axis: int = -1
    dtype: Literal["int64", "int32"] = "int64"

    def problems(self, inputs: Sequence[Facts]) -> Iterable[Problem]:
        if inputs[0].dtype == "string":
            yield Problem("argmax", f"'{self.argmax}' is string, not numbers", "name a binding of numbers")
        yield from axis_problems(self, self.axis, inputs)

    def facts(self, inputs: Sequence[Facts]) -> Sequence[Facts]:
        position = axis_of(self.axis, inputs[0])
        shape = inputs[0].shape
        known = None if position is None or shape is None else (*shape[:position], *shape[position + 1 :])
        return (Facts(self.dtype, known),)

    def add(self, graph: GraphBuilder, name: str, inputs: Sequence[str]) -> Sequence[str]:
        axis = graph.constant(self.axis, "int32", name=f"{name}/axis")
        return graph.add("ArgMax", [*inputs, axis], name=name, output_type=self.dtype)
