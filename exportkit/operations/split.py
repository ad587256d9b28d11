"""The operation `split`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exportkit.errors import Problem
from exportkit.metagraph.tensors import Facts
from exportkit.operations.base import Operation, axis_of, axis_problems

if TYPE_CHECKING:
    from exportkit.metagraph.building import GraphBuilder


@dataclass(kw_only=True)
class Split(Operation):
    """Binding `split` in `num` parts of one size along `axis`; offers ``NAME.0``, ``NAME.1`` and so on."""

    kind = "split"

    split: str
    num: int
    axis: int = -1

    def parts(self) -> Sequence[str]:
        return [str(i) for i in range(self.num)]

    def check(self) -> Iterable[Problem]:
        if not 2 <= self.num <= 1000:
            yield Problem("num", f"is {self.num}", "write 2 to 1000")

    def problems(self, inputs: Sequence[Facts]) -> Iterable[Problem]:
        yield from axis_problems(self, self.axis, inputs)
        size = self._size(inputs[0])
        if size is not None and self.num > 1 and size % self.num:
            yield Problem("num", f"is {self.num}, but '{self.split}' has {size} entries in that axis", "write a divisor of it")

    def facts(self, inputs: Sequence[Facts]) -> Sequence[Facts]:
        position, size, shape = axis_of(self.axis, inputs[0]), self._size(inputs[0]), inputs[0].shape
        if position is not None and shape is not None:
            shape = (*shape[:position], None if size is None else size // self.num, *shape[position + 1 :])
        return [Facts(inputs[0].dtype, shape)] * self.num

    def _size(self, known: Facts) -> int | None:
        position = axis_of(self.axis, known)
        return None if position is None or known.shape is None else known.shape[position]

    def add(self, graph: GraphBuilder, name: str, inputs: Sequence[str]) -> Sequence[str]:
        axis = graph.constant(self.axis, "int32", name=f"{name}/axis")
        return graph.add("Split", [axis, *inputs], name=name, num_split=self.num)
