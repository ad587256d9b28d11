"""Bounds of tensors' elements once constants are baked, as far as they follow from the graph.

They show without a run that dropout keeps everything (``floor(1 + uniform)`` is 1), or that a branch is never taken.
"""

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from exportkit.metagraph.graph import Graph
from exportkit.protos import NodeDef, dtype_name

_DEEP = 60  # nodes; a rate or a predicate is computed from far fewer
_PACKED = {"float32": "f", "float64": "d", "int32": "i", "int64": "q", "bool": "?"}
_SAME = frozenset({"Identity", "Reshape", "StopGradient", "Squeeze", "ExpandDims", "Enter", "Switch", "ReadVariableOp", "Cast"})


@dataclass(frozen=True)
class Bounds:
    """Bounds of a tensor's elements: `low` and `high`, both included; `high` is excluded if `open`."""

    low: float
    high: float
    open: bool = False

    @property
    def value(self) -> float | None:
        """The value that all elements have; None if there may be several."""
        return self.low if self.low == self.high and not self.open else None


class Folding:
    """Bounds of tensors, computed on demand.

    Args:
        graph: the whole graph.
        constants: tensor (``op:0``) → the value that is baked there.
        fed: tensors whose value comes with a request.
    """

    def __init__(self, graph: Graph, constants: Mapping[str, Any], fed: frozenset[str] = frozenset()):
        self._graph, self._constants, self._fed = graph, constants, fed
        self._known: dict[tuple[str, int], Bounds | None] = {}

    def value(self, edge: tuple[str, int]) -> float | None:
        """Return the only value that a tensor's elements can have; None if there may be several."""
        bounds = self.bounds(edge)
        return None if bounds is None else bounds.value

    def bounds(self, edge: tuple[str, int], depth: int = 0) -> Bounds | None:
        """Return the bounds of a tensor's elements; None if they are not known."""
        if edge not in self._known:
            self._known[edge] = None  # ends the recursion where the graph has a loop
            if depth < _DEEP:
                self._known[edge] = self._folded(edge, depth)
        return self._known[edge]

    def _folded(self, edge: tuple[str, int], depth: int) -> Bounds | None:
        tensor, node = "{}:{}".format(*edge), self._graph.nodes.get(edge[0])
        if tensor in self._constants:
            return _exactly(self._constants[tensor])
        if node is None or tensor in self._fed or edge[1] < 0:
            return None
        if node.op == "Const":
            return _content(node)
        if node.op == "RandomUniform":
            return Bounds(0.0, 1.0, open=True)
        if node.op == "PlaceholderWithDefault" or (node.op in _SAME and not self._truncates(node)):
            return self.bounds(self._graph.inputs(edge[0])[0], depth + 1)
        if node.op not in _RULES:
            return None
        operands = [self.bounds(e, depth + 1) for e in self._graph.inputs(edge[0]) if e[1] >= 0]
        return _RULES[node.op](*operands) if len(operands) == (1 if node.op in _UNARY else 2) else None

    def _truncates(self, node: NodeDef) -> bool:
        source, target = self._graph.dtype(node.input[0]) or "", self._graph.dtype(node.name) or ""
        return node.op == "Cast" and source.startswith("float") and not target.startswith("float")


def _exactly(value: Any) -> Bounds | None:
    return Bounds(float(value), float(value)) if isinstance(value, bool | int | float) else None


def _content(node: NodeDef) -> Bounds | None:
    """Return the bounds of a small Const; None for one of more than 16 values (or 128 bytes)."""
    tensor = node.attr["value"].tensor
    for field in ("float_val", "double_val", "int_val", "int64_val", "bool_val"):
        if values := getattr(tensor, field):
            return Bounds(float(min(values)), float(max(values))) if len(values) <= 16 else None
    return _packed(tensor)


def _packed(tensor: Any) -> Bounds | None:
    """Return the bounds of the values in `tensor_content`, which are little-endian (tensorflow/core/framework/tensor.proto)."""
    data, letter = tensor.tensor_content, _PACKED.get(dtype_name(tensor.dtype))
    if not data or letter is None or len(data) > 128 or len(data) % struct.calcsize(letter):
        return None
    values = struct.unpack(f"<{len(data) // struct.calcsize(letter)}{letter}", data)
    return Bounds(float(min(values)), float(max(values)))


Rule = Callable[..., Bounds | None]


def _both(rule: Callable[[Bounds, Bounds], Bounds | None]) -> Rule:
    return lambda a, b: None if a is None or b is None else rule(a, b)


def _add(a: Bounds, b: Bounds) -> Bounds:
    return Bounds(a.low + b.low, a.high + b.high, a.open or b.open)


def _subtract(a: Bounds, b: Bounds) -> Bounds | None:
    return None if b.open else Bounds(a.low - b.high, a.high - b.low, a.open)


def _multiply(a: Bounds, b: Bounds) -> Bounds | None:
    if 0.0 in (a.value, b.value):
        return Bounds(0.0, 0.0)
    if min(a.low, b.low) < 0:
        return None if a.value is None or b.value is None else _exactly(a.value * b.value)
    return Bounds(a.low * b.low, a.high * b.high, a.open or b.open)


def _divide(a: Bounds, b: Bounds) -> Bounds | None:
    return None if not b.value or b.value < 0 else Bounds(a.low / b.value, a.high / b.value, a.open)


def _floor(a: Bounds | None) -> Bounds | None:
    if a is None or math.isinf(a.low) or math.isinf(a.high):
        return None
    high = math.ceil(a.high) - 1 if a.open else math.floor(a.high)
    return Bounds(float(math.floor(a.low)), float(high))


def _truth(yes: bool, no: bool) -> Bounds | None:
    return Bounds(1.0, 1.0) if yes else Bounds(0.0, 0.0) if no else None


def _less(a: Bounds, b: Bounds) -> Bounds | None:
    return _truth(a.high < b.low or (a.open and a.high <= b.low), a.low >= b.high)


def _less_equal(a: Bounds, b: Bounds) -> Bounds | None:
    return _truth(a.high <= b.low, a.low > b.high or (b.open and a.low >= b.high))


def _equal(a: Bounds, b: Bounds) -> Bounds | None:
    same = a.value is not None and a.value == b.value
    return _truth(same, a.high < b.low or b.high < a.low)


def _not(a: Bounds | None) -> Bounds | None:
    return None if a is None or a.value is None else _truth(a.value == 0, a.value != 0)


def _and(a: Bounds | None, b: Bounds | None) -> Bounds | None:
    values = [bounds.value if bounds else None for bounds in (a, b)]
    return _truth(None not in values and all(values), 0 in values)


def _or(a: Bounds | None, b: Bounds | None) -> Bounds | None:
    values = [bounds.value if bounds else None for bounds in (a, b)]
    return _truth(any(values), values == [0, 0])


_RULES: Mapping[str, Rule] = {
    "Add": _both(_add),
    "AddV2": _both(_add),
    "Sub": _both(_subtract),
    "Mul": _both(_multiply),
    "Div": _both(_divide),
    "RealDiv": _both(_divide),
    "Floor": _floor,
    "Less": _both(_less),
    "LessEqual": _both(_less_equal),
    "Greater": _both(lambda a, b: _less(b, a)),
    "GreaterEqual": _both(lambda a, b: _less_equal(b, a)),
    "Equal": _both(_equal),
    "NotEqual": _both(lambda a, b: _not(_equal(a, b))),
    "LogicalNot": _not,
    "LogicalAnd": _and,
    "LogicalOr": _or,
}
_UNARY = ("Floor", "LogicalNot")
FOLDED = frozenset(_RULES)
