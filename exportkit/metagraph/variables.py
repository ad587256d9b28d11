"""The variables of a graph, with their names in its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exportkit.metagraph.restoring import restored
from exportkit.metagraph.tensors import VARIABLE_OPS, Shape, dims, split
from exportkit.protos import NodeDef, SaveSliceInfoDef, VariableDef, dtype_name

if TYPE_CHECKING:
    from exportkit.metagraph.graph import Graph

VARIABLE_COLLECTIONS = (
    "variables",
    "trainable_variables",
    "local_variables",
    "model_variables",
    "moving_average_variables",
    "metric_variables",
    "global_step",
)
RESTORE_OPS = frozenset({"RestoreV2", "Restore", "RestoreSlice"})
_SAVE_OPS = {"SaveV2": 3, "SaveSlices": 3, "Save": 2}  # op → index of its first saved tensor
_Definitions = dict[str, tuple[VariableDef, set[str]]]


@dataclass(frozen=True)
class Variable:
    """A variable op of a graph.

    Attributes:
        name: its key in checkpoints of the graph's own Saver; otherwise the name of its op. A slice of a partitioned
            variable keeps its op's name: its key is `full_name`, and `slice` gives its place there.
        op_name: the name of its VariableV2, Variable, AutoReloadVariable or VarHandleOp.
        dtype: ``float32`` …, without the suffix of a reference.
        shape: of this op (of this slice); None for an unknown rank.
        resource: whether it is a VarHandleOp.
        slice: SaveSliceInfoDef of a slice (full_name, full_shape, var_offset, var_shape), or None.
        full_name: `name`, or the name of the variable that this is a slice of.
        full_shape: `shape`, or the shape of the variable that this is a slice of.
        initializer: the op that assigns its initial value, or None.
        trainable: whether its VariableDef says so or it is in the collection trainable_variables.
        collections: the names of the variable collections that hold it, sorted.
        definition: its VariableDef; None if it is in no collection.
    """

    name: str
    op_name: str
    dtype: str
    shape: Shape
    resource: bool
    slice: SaveSliceInfoDef | None
    full_name: str
    full_shape: Shape
    initializer: str | None
    trainable: bool
    collections: tuple[str, ...]
    definition: VariableDef | None


def variables_of(graph: Graph) -> dict[str, Variable]:
    """Return all variable ops of the graph by `Variable.name`, in the graph's order."""
    definitions, places = _definitions(graph), restored(graph)
    parts = {op: place.slice for op, place in places.items() if place.slice is not None}
    whole = {op: place.key for op, place in places.items() if place.slice is None}
    keys = _own_keys(graph, whole) if places else _keys(graph)
    nodes = (graph.nodes[name] for name, op in graph.types.items() if op in VARIABLE_OPS)
    found = (_variable(graph, node, definitions, keys, parts) for node in nodes)
    return {variable.name: variable for variable in found}


def _variable(
    graph: Graph,
    node: NodeDef,
    definitions: _Definitions,
    keys: Mapping[str, str],
    parts: Mapping[str, SaveSliceInfoDef],
) -> Variable:
    definition, collections = definitions.get(node.name, (None, ()))
    part = definition.save_slice_info_def if definition and definition.HasField("save_slice_info_def") else None
    part = part or parts.get(node.name)
    name, shape = keys.get(node.name, node.name), _shape(node)
    return Variable(
        name=name,
        op_name=node.name,
        dtype=dtype_name(node.attr["dtype"].type),
        shape=shape,
        resource=node.op == "VarHandleOp",
        slice=part,
        full_name=part.full_name if part else name,
        full_shape=tuple(part.full_shape) if part else shape,
        initializer=split(definition.initializer_name)[0] if definition else _assignment(graph, node.name),
        trainable="trainable_variables" in collections or bool(definition and definition.trainable),
        collections=tuple(sorted(collections)),
        definition=definition,
    )


def _shape(node: NodeDef) -> Shape:
    if node.op != "VarHandleOp" and (inferred := node.attr.get("_output_shapes")) and inferred.list.shape:
        return dims(inferred.list.shape[0])
    shape = dims(node.attr["shape"].shape)
    return None if node.op == "Variable" and shape == () else shape  # state_ops.cc: the legacy op's [] means unknown


def _definitions(graph: Graph) -> _Definitions:
    """Return variable op → its VariableDef and the collections that hold it."""
    found: _Definitions = {}
    for collection in VARIABLE_COLLECTIONS:
        for definition in graph.members(collection):
            found.setdefault(split(definition.variable_name)[0], (definition, set()))[1].add(collection)
    return found


def _assignment(graph: Graph, variable: str) -> str | None:
    """Return the op that most likely initialises a variable without a VariableDef, or None."""
    assigns = [name for name in graph.consumers.get(variable, ()) if _assigns(graph, graph.nodes[name], variable)]
    own = [name for name in assigns if name == f"{variable}/Assign"]
    return next(iter(own or assigns), None)


def _assigns(graph: Graph, node: NodeDef, variable: str) -> bool:
    """Return whether a node assigns a variable a value that is not read from a checkpoint."""
    if node.op not in ("Assign", "AssignVariableOp") or split(node.input[0])[0] != variable:
        return False
    value = graph.origin(node.input[1])
    return value is not None and value.op not in RESTORE_OPS


def _keys(graph: Graph) -> dict[str, str]:
    """Return variable op → the checkpoint key under which the graph's Saver writes it."""
    saver = graph.meta.saver_def.save_tensor_name
    if split(saver)[0] not in graph.nodes:
        return {}
    saves = (graph.nodes[name] for name in graph.walk([saver]) if graph.types[name] in _SAVE_OPS)
    return _own_keys(graph, dict(pair for save in saves for pair in _saved(graph, save)))


def _own_keys(graph: Graph, keys: Mapping[str, str]) -> dict[str, str]:
    """Return `keys` without those that are the name of another variable op: two variables would have the same name."""
    taken = {name for name, op in graph.types.items() if op in VARIABLE_OPS}
    return {op: key for op, key in keys.items() if key not in taken}


def _saved(graph: Graph, save: NodeDef) -> Iterator[tuple[str, str]]:
    """Yield variable op and checkpoint key for each variable that a save op writes as a whole."""
    first = _SAVE_OPS[save.op]
    keys = graph.strings(save.input[1])
    slices = graph.strings(save.input[2]) if first == 3 else [""] * len(keys)
    tensors = [tensor for tensor in save.input[first:] if tensor[0] != "^"]
    for key, part, tensor in zip(keys, slices, tensors, strict=False):
        source = graph.origin(tensor)
        if source is not None and source.op in VARIABLE_OPS and not part:
            yield source.name, key


@dataclass(frozen=True)
class SavedVariable:
    """A variable as it is saved: with all parts of a partitioned one.

    Attributes:
        name: its name in the export.
        dtype: ``float32`` …
        shape: the full shape; None for an unknown rank.
        parts: its variable ops, one unless it is partitioned.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    parts: tuple[Variable, ...]

    @property
    def trainable(self) -> bool:
        return any(part.trainable for part in self.parts)


def saved_variables(variables: Iterable[Variable]) -> dict[str, SavedVariable]:
    """Group variables by the names that they are saved under: the parts of a partitioned variable become one."""
    groups: dict[str, list[Variable]] = {}
    for variable in variables:
        groups.setdefault(variable.full_name, []).append(variable)
    return {name: SavedVariable(name, parts[0].dtype, parts[0].full_shape, tuple(parts)) for name, parts in groups.items()}
