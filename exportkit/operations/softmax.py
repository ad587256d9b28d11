"""The operation `softmax`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exportkit.errors import Problem
from exportkit.metagraph.tensors import Facts
from exportkit.operations.base import Operation, floats_only

if TYPE_CHECKING:
    from exportkit.metagraph.building import GraphBuilder


@dataclass(kw_only=True)
class Softmax(Operation):
    """The softmax of binding `softmax` along its last axis: numbers that add up to 1."""

    kind = "softmax"
    rounding = 32

    softmax: str

    def problems(self, inputs: Sequence[Facts]) -> Iterable[Problem]:
        yield from floats_only(self, inputs)
        if inputs[0].shape == ():
            yield Problem("softmax", f"'{self.softmax}' is a scalar", "name a binding of rank 1 or more")

    def facts(self, inputs: Sequence[Facts]) -> Sequence[Facts]:
        return inputs

    def add(self, graph: GraphBuilder, name: str, inputs: Sequence[str]) -> Sequence[str]:
        return graph.add("Softmax", inputs, name=name)
