"""The nodes with which a loader restores a SavedModel's variables, as tf.compat.v1.train.Saver makes them (saver.py)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from exportkit.metagraph import Variable, saved_variables
from exportkit.metagraph.building import GraphBuilder
from exportkit.protos import SaverDef


@dataclass(frozen=True)
class _Saved:
    """One variable op, or slice of a variable, as a checkpoint holds it."""

    key: str
    slice: str
    variable: Variable


def add_saver(graph: GraphBuilder, variables: Mapping[str, Variable], snapshots: Mapping[str, str]) -> SaverDef | None:
    """Add the nodes that save and restore variables, and return the SaverDef that names them; None without variables.

    Args:
        variables: name → variable op in `graph`.
        snapshots: variable op → the tensor with its value, for resource variables.
    """
    saved = list(_saved(variables))
    if not saved:
        return None
    with graph.scope(graph.free_scope("save")):
        (filename,) = graph.add("PlaceholderWithDefault", [_filename(graph)], name="Const", shape=())
        save = graph.add_operation("SaveV2", [filename, *_keys(graph, "SaveV2", saved), _values(saved, snapshots)])
        (done,) = graph.add("Identity", [filename], name="control_dependency", control=[save])
        restored = graph.add(
            "RestoreV2", [filename, *_keys(graph, "RestoreV2", saved)], dtypes=[one.variable.dtype for one in saved]
        )
        assigned = [_assign(graph, one.variable, value) for one, value in zip(saved, restored, strict=True)]
        restore = graph.add_operation("NoOp", name="restore_all", control=assigned)
    return SaverDef(
        filename_tensor_name=filename,
        save_tensor_name=done,
        restore_op_name=restore,
        max_to_keep=5,
        keep_checkpoint_every_n_hours=10000.0,
        version=SaverDef.V2,
    )


def _saved(variables: Mapping[str, Variable]) -> Iterator[_Saved]:
    for name, variable in sorted(saved_variables(variables.values()).items()):
        yield from (_Saved(name, _slice(part), part) for part in variable.parts)


def _slice(variable: Variable) -> str:
    """Return ``4 7 0,2:0,7``: the whole shape, then start and length in each dimension (TensorSlice in tensor_slice.h)."""
    if variable.slice is None:
        return ""
    extents = (f"{o},{n}" for o, n in zip(variable.slice.var_offset, variable.slice.var_shape, strict=True))
    return " ".join([*map(str, variable.slice.full_shape), ":".join(extents)])


def _filename(graph: GraphBuilder) -> str:
    with graph.scope("filename"):
        default = graph.constant("model", "string", name="input")
    return graph.add("PlaceholderWithDefault", [default], name="filename", shape=())[0]


def _keys(graph: GraphBuilder, op: str, saved: list[_Saved]) -> list[str]:
    with graph.scope(op):
        return [
            graph.constant([one.key for one in saved], "string", name="tensor_names"),
            graph.constant([one.slice for one in saved], "string", name="shape_and_slices"),
        ]


def _values(saved: list[_Saved], snapshots: Mapping[str, str]) -> list[str]:
    names = (one.variable.op_name for one in saved)
    return [snapshots[name] if one.variable.resource else f"{name}:0" for name, one in zip(names, saved, strict=True)]


def _assign(graph: GraphBuilder, variable: Variable, value: str) -> str:
    """Add the assignment of a restored value, and return its operation."""
    handle = f"{variable.op_name}:0"
    if variable.resource:
        return graph.add_operation("AssignVariableOp", [handle, graph.add("Identity", [value])[0]])
    known = variable.shape is not None and None not in variable.shape
    return graph.add_operation("Assign", [handle, value], validate_shape=known, _class=[f"loc:@{variable.op_name}"])
