"""The operation `sigmoid`."""

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
class Sigmoid(Operation):
    """The sigmoid of binding `sigmoid`: numbers between 0 and 1, each for itself."""

    kind = "sigmoid"
    rounding = 32

    sigmoid: str

    def problems(self, inputs: Sequence[Facts]) -> Iterable[Problem]:
        return floats_only(self, inputs)

    def facts(self, inputs: Sequence[Facts]) -> Sequence[Facts]:
        return inputs

    def add(self, graph: GraphBuilder, name: str, inputs: Sequence[str]) -> Sequence[str]:
        return graph.add("Sigmoid", inputs, name=name)
