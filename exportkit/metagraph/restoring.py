"""Which checkpoint key each variable of a TensorFlow 2 SavedModel takes, as its restore function says.

Such a graph has no collection of variables. `saver_def.restore_op_name` is a call of a function of the checkpoint's prefix and
of the variables: RestoreV2 → Identity → AssignVariableOp(argument i), and operand i of the call is the variable
(tensorflow/python/saved_model/save.py, checkpoint/functional_saver.py). Nothing else in the graph maps all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exportkit.metagraph.tensors import VARIABLE_OPS, split
from exportkit.protos import NodeDef, SaveSliceInfoDef

if TYPE_CHECKING:
    from exportkit.metagraph.graph import Graph

_CALLS = ("StatefulPartitionedCall", "PartitionedCall")
_PASSES = ("Identity", "Cast")
_FAR = 100  # nodes between a restored value and its assignment


@dataclass(frozen=True)
class Restored:
    """The place of a variable's value in a checkpoint.

    Attributes:
        key: the checkpoint key.
        slice: the part of that value which the variable is, or None for all of it.
    """

    key: str
    slice: SaveSliceInfoDef | None = None


def restored(graph: Graph) -> dict[str, Restored]:
    """Return variable op → the place of its value; nothing where the graph is not restored by a function.

    Where a file made by hand gives two variables one key, or one variable two keys, the first pair counts.
    """
    found: dict[str, Restored] = {}
    taken: set[tuple[str, bytes]] = set()
    for variable, (place,) in _given(graph, "AssignVariableOp", 1):
        identity = place.key, b"" if place.slice is None else place.slice.SerializeToString()
        if graph.types[variable] in VARIABLE_OPS and variable not in found and identity not in taken:
            taken.add(identity)
            found[variable] = place
    return found


def restored_tables(graph: Graph) -> dict[str, tuple[str, str]]:
    """Return the op of a mutable table → the checkpoint keys of its keys and its values."""
    given = _given(graph, "LookupTableImportV2", 2)
    return {table: (keys.key, values.key) for table, (keys, values) in given if keys.slice is None and values.slice is None}


def _given(graph: Graph, op: str, values: int) -> Iterator[tuple[str, list[Restored]]]:
    """Yield each node of the graph to which an op in the restore function gives restored values → the places of these."""
    call = graph.nodes.get(split(graph.meta.saver_def.restore_op_name)[0])
    function = graph.functions.get(call.attr["f"].func.name) if call is not None and call.op in _CALLS else None
    if call is None or function is None:
        return
    nodes = {node.name: node for node in function.node_def}
    operands = dict(zip((argument.name for argument in function.signature.input_arg), call.input, strict=False))
    for node in function.node_def:
        if node.op == op and len(node.input) > values and node.input[0] in operands:
            target = split(operands[node.input[0]])[0]
            places = [place for value in node.input[1 : values + 1] if (place := _place(value, nodes)) is not None]
            if target in graph.nodes and len(places) == values:
                yield target, places


def _place(value: str, nodes: Mapping[str, NodeDef]) -> Restored | None:
    """Return the place that a value of a function is restored from; None if it comes from elsewhere."""
    for _ in range(_FAR):
        name, _, output = value.partition(":")
        node = nodes.get(name)
        if node is None or not node.input:
            return None
        if node.op == "RestoreV2":
            return _entry(node, output.rpartition(":")[2], nodes)
        if node.op not in _PASSES:
            return None
        value = node.input[0]
    return None


def _entry(restore: NodeDef, index: str, nodes: Mapping[str, NodeDef]) -> Restored | None:
    if len(restore.input) < 3 or not index.isdecimal() or len(index) > 9:
        return None
    key, part = (_text(nodes.get(name.partition(":")[0]), int(index)) for name in restore.input[1:3])
    return None if not key else Restored(key, slice_info(key, part) if part else None)


def _text(node: NodeDef | None, index: int) -> str:
    """Return an entry of a constant of texts, of which equal ones at the end may be left out; empty where there is none."""
    values = node.attr["value"].tensor.string_val if node is not None and node.op == "Const" else ()
    return values[min(index, len(values) - 1)].decode(errors="replace") if values else ""


def slice_info(name: str, text: str) -> SaveSliceInfoDef | None:
    """Return what ``4 7 0,2:0,7`` says: the whole shape, then start and length in each dimension; None for any other text.

    Source: TensorSlice in tensorflow/core/framework/tensor_slice.h.
    """
    *shape, extents = text.split(" ")
    parts = [extent.split(",") for extent in extents.split(":")]
    numbers = [*shape, *(number for part in parts for number in part if part != ["-"])]
    if len(parts) != len(shape) or not all(number.isdecimal() and len(number) < 19 for number in numbers):
        return None
    sizes = list(map(int, shape))
    ranges = [(0, size) if part == ["-"] else tuple(map(int, part)) for part, size in zip(parts, sizes, strict=True)]
    if any(len(extent) != 2 for extent in ranges):
        return None
    starts, lengths = zip(*ranges, strict=True)
    return SaveSliceInfoDef(full_name=name, full_shape=sizes, var_offset=starts, var_shape=lengths)
