"""What is fed to a training graph: data, and the switches and rates that have one value when the model serves."""

import re
import struct
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

from exportkit.metagraph.forward import Edge
from exportkit.metagraph.graph import Graph
from exportkit.metagraph.tensors import split
from exportkit.protos import NodeDef, dtype_name

_PASSES = frozenset({"Identity", "Switch", "Enter", "Cast", "Reshape", "Merge", "Exit"})
_CHOOSES = frozenset(
    {"Switch", "RefSwitch", "If", "StatelessIf", "Select", "SelectV2", "LogicalAnd", "LogicalOr", "LogicalNot"}
)
_FLOATS = frozenset({"float32", "float64", "float16", "bfloat16"})
_RATES = {"keep": 1.0, "drop": 0.0}
_SHAPE = re.compile(r"Shape(_\d+)?")
_MOST_DIMENSIONS = 16  # of a shape
_MOST = 400  # nodes that are followed; a rate is used once per layer


def constants_suggested(graph: Graph) -> dict[str, bool | float]:
    """Return placeholder that only training feeds → its value when the model serves."""
    tensors = (f"{name}:0" for name, op in graph.types.items() if op.startswith("Placeholder"))
    found = {tensor: constant_for(graph, tensor) for tensor in tensors}
    return {tensor: value for tensor, value in found.items() if value is not None}


def constant_for(graph: Graph, tensor: str) -> bool | float | None:
    """Return the serving value of a placeholder that switches training or sets dropout, by its name or its use; else None."""
    dtype, name = graph.dtype(tensor), split(tensor)[0]
    if graph.shape(tensor):
        return None
    if dtype == "bool":
        return _switch_value(graph, name)
    if dtype not in _FLOATS:
        return None
    leaf = name.rsplit("/", 1)[-1].lower()
    named = re.search("|".join(_RATES), leaf) if graph.shape(tensor) == () or _unranked_rate(graph, name) else None
    used = _dropout_value(graph, name)
    return used if used is not None else _RATES[named[0]] if named else None


def _switch_value(graph: Graph, name: str) -> bool | None:
    leaf = name.rsplit("/", 1)[-1].lower()
    if re.search(r"test|eval|infer|predict|serving", leaf):
        return True
    users = {graph.types[user] for user in _users(graph, name)}
    return False if users & _CHOOSES or re.search(r"train|phase|learning", leaf) else None


def _unranked_rate(graph: Graph, name: str) -> bool:
    """Return whether a placeholder of unknown rank is no data: nothing multiplies it with a matrix."""
    users = {graph.types[user] for user in _users(graph, name)}
    return not any("MatMul" in op or "Conv" in op or op.startswith("Gather") for op in users)


def _dropout_value(graph: Graph, name: str) -> float | None:
    """Return the value of a rate at which dropout keeps everything, from the arithmetic that uses it; else None.

    ``floor(keep + uniform)`` keeps all at 1, ``uniform >= rate`` at 0 and ``uniform < keep`` at 1; each ``1 - rate`` inverts
    that.
    """
    todo, seen = [(name, False)], {name}
    while todo:
        op, inverted = todo.pop(0)
        for user in graph.consumers.get(op, ()):
            kept = _keeping_rate(graph, user, op)
            if kept is not None:
                return 1.0 - kept if inverted else kept
            node = graph.nodes[user]
            inverts = node.op == "Sub" and split(node.input[1])[0] == op
            if user not in seen and len(seen) < _MOST and (node.op in _PASSES or inverts):
                seen.add(user)
                todo.append((user, inverted ^ inverts))
    return None


def _keeping_rate(graph: Graph, user: str, rate: str) -> float | None:
    """Return the `rate` at which the random choice of node `user` keeps everything; None if it makes no such choice."""
    op, operands = graph.types[user], [o for o, index in graph.inputs(user) if index >= 0]
    if len(operands) != 2 or not any(_is_random(graph, o) for o in operands if o != rate):
        return None
    if op in ("Add", "AddV2"):
        return 1.0
    first = operands[0] == rate
    return (
        {"GreaterEqual": 0.0, "Greater": 0.0, "Less": 1.0, "LessEqual": 1.0}.get(op)
        if not first
        else ({"GreaterEqual": 1.0, "Greater": 1.0, "Less": 0.0, "LessEqual": 0.0}.get(op))
    )


def _is_random(graph: Graph, op: str, depth: int = 4) -> bool:
    """Return whether a node is a random draw, also one that was scaled or shifted."""
    node = graph.nodes[op]
    if node.op == "RandomUniform":
        return True
    inner = (o for o, index in graph.inputs(op) if index >= 0) if node.op in ("Add", "AddV2", "Mul", "Sub") and depth else ()
    return any(_is_random(graph, o, depth - 1) for o in inner)


def _users(graph: Graph, name: str) -> Iterator[str]:
    """Yield the nodes that take a placeholder, also through identities and the switches of a condition."""
    todo, seen = [name], {name}
    for op in todo:
        for user in graph.consumers.get(op, ()):
            yield user
            if graph.types[user] in ("Identity", "Switch", "Enter") and user not in seen and len(seen) < _MOST:
                seen.add(user)
                todo.append(user)


def bakes_size(graph: Graph, reached: Iterable[str], size: int) -> bool:
    """Return whether constants among the nodes `reached` fix a batch of `size` rows, so that no other size can be fed."""
    return any(_holds_size(graph.nodes[name], size) for name in reached if graph.types[name] == "Const")


def _holds_size(node: NodeDef, size: int) -> bool:
    """Return whether a Const has `size` rows, or is a shape that begins with `size`.

    A Const named as tf.shape names its node is the whole shape of a tensor, whose batch may have been moved behind the time.
    """
    tensor = node.attr["value"].tensor
    dims = [dim.size for dim in tensor.tensor_shape.dim]
    if dims and dims[0] == size:
        return True
    if len(dims) > 1 or dtype_name(tensor.dtype) not in ("int32", "int64"):
        return False
    width, letter = (4, "i") if dtype_name(tensor.dtype) == "int32" else (8, "q")
    packed = tensor.tensor_content[: _MOST_DIMENSIONS * width]
    values = list(tensor.int_val or tensor.int64_val)
    values = values or [value for (value,) in struct.iter_unpack(f"<{letter}", packed[: len(packed) // width * width])]
    whole = _SHAPE.fullmatch(node.name.rsplit("/", 1)[-1])
    return size in (values if whole else values[:1])


def needed(
    graph: Graph, outputs: Sequence[str], constants: Mapping[str, bool | float], known: Container[str] = ()
) -> list[Edge]:
    """Return the edges out of sources that `outputs` depend on, in graph order, without `known` nodes and what those need."""
    sources, stops = graph.sources, set(map(split, constants))
    reached = graph.walk(outputs, constants, barrier=lambda name: name in known or name in sources)
    users = {user for source in sources for user in graph.consumers.get(source, ()) if user in reached}
    edges = {edge for name in users if name not in known and name not in sources for edge in graph.inputs(name)}
    found = [edge for edge in edges | set(map(split, outputs)) if edge[1] >= 0 and edge not in stops]
    found = [edge for edge in found if edge[0] not in known and edge[0] in sources]
    ops = {op for op, _ in found}
    order = {name: place for place, name in enumerate(graph.nodes) if name in ops}
    return sorted(found, key=lambda edge: (order[edge[0]], edge[1]))
