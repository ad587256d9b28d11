"""The operation `scale`."""

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
class Scale(Operation):
    """Binding `scale` times `factor` plus `offset`, in its own floating-point dtype."""

    kind = "scale"

    scale: str
    factor: float = 1.0
    offset: float = 0.0

    def problems(self, inputs: Sequence[Facts]) -> Iterable[Problem]:
        return floats_only(self, inputs)

    def facts(self, inputs: Sequence[Facts]) -> Sequence[Facts]:
        return inputs

    def add(self, graph: GraphBuilder, name: str, inputs: Sequence[str]) -> Sequence[str]:
        dtype = graph.dtype(inputs[0])
        with graph.scope(name):
            scaled = graph.add("Mul", [*inputs, graph.constant(self.factor, dtype, name="factor")])
            return graph.add("AddV2", [*scaled, graph.constant(self.offset, dtype, name="offset")])
