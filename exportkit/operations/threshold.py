"""The operation `threshold`."""

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
class Threshold(Operation):
    """Whether each entry of binding `threshold` is `at` or more: bool."""

    kind = "threshold"

    threshold: str
    at: float

    def problems(self, inputs: Sequence[Facts]) -> Iterable[Problem]:
        return floats_only(self, inputs)

    def facts(self, inputs: Sequence[Facts]) -> Sequence[Facts]:
        return (Facts("bool", inputs[0].shape),)

    def add(self, graph: GraphBuilder, name: str, inputs: Sequence[str]) -> Sequence[str]:
        at = graph.constant(self.at, graph.dtype(inputs[0]), name=f"{name}/at")
        return graph.add("GreaterEqual", [*inputs, at], name=name)
