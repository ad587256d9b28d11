"""The operation `concat`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exportkit.errors import Problem
from exportkit.metagraph.tensors import Facts, Shape, compatible
from exportkit.operations.base import Operation, axis_of, axis_problems

if TYPE_CHECKING:
    from exportkit.metagraph.building import GraphBuilder


@dataclass(kw_only=True)
class Concat(Operation):
    """The bindings in the list `concat`, of one dtype and rank, one after the other along `axis`."""

    kind = "concat"

    concat: list[str]
    axis: int = -1

    def check(self) -> Iterable[Problem]:
        if len(self.concat) < 2:
            yield Problem("concat", f"has {len(self.concat)} entries", "name two bindings or more")

    def problems(self, inputs: Sequence[Facts]) -> Iterable[Problem]:
        yield from axis_problems(self, self.axis, inputs)
        first = inputs[0]
        for ref, known in zip(self.concat[1:], inputs[1:], strict=True):
            if None not in (first.dtype, known.dtype) and first.dtype != known.dtype:
                what = f"'{self.concat[0]}' is {first.dtype} and '{ref}' {known.dtype}"
                yield Problem("concat", what, "name bindings of one dtype, or cast one")
            elif not _fit(_without(first, self.axis), _without(known, self.axis)):
                yield Problem("concat", f"'{self.concat[0]}' is {first} and '{ref}' {known}", "name bindings that fit")

    def facts(self, inputs: Sequence[Facts]) -> Sequence[Facts]:
        dtype, position = inputs[0].dtype, axis_of(self.axis, inputs[0])
        shapes = [known.shape for known in inputs if known.shape is not None]
        if position is None or len(shapes) < len(inputs) or len(set(map(len, shapes))) > 1:
            return (Facts(dtype),)
        columns = list(zip(*shapes, strict=True))
        sizes = [next((size for size in column if size is not None), None) for column in columns]
        sizes[position] = None if None in columns[position] else sum(columns[position])
        return (Facts(dtype, tuple(sizes)),)

    def add(self, graph: GraphBuilder, name: str, inputs: Sequence[str]) -> Sequence[str]:
        return graph.add("ConcatV2", [list(inputs), graph.constant(self.axis, "int32", name=f"{name}/axis")], name=name)


def _without(known: Facts, axis: int) -> Shape:
    position = axis_of(axis, known)
    return None if position is None or known.shape is None else (*known.shape[:position], *known.shape[position + 1 :])


def _fit(one: Shape, other: Shape) -> bool:
    return one is None or other is None or compatible(one, other)
