"""What makes a second session of a loaded SavedModel: the first one's variables, and what a loader runs after the restore."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exportkit.metagraph import Graph, split
from exportkit.metagraph.adopting import INIT_SIGNATURE, asset_files
from exportkit.metagraph.kinds import node_list
from exportkit.metagraph.tensors import VARIABLE_OPS

_SAVER = {"NoOp", "RestoreV2", "Identity", "Const", "PlaceholderWithDefault"}  # what else a saver of exportkit restores with


@dataclass(frozen=True)
class SecondSession:
    """The arguments of `exportkit.core.worker.second`.

    Attributes:
        values: ``(tensor with a variable's value, tensor that is assigned to it)``.
        restore: operations that assign them.
        initialize: operations to run then.
        assets: tensor → path, which `initialize` is fed.
    """

    values: Sequence[tuple[str, str]]
    restore: Sequence[str]
    initialize: Sequence[str]
    assets: Mapping[str, np.ndarray]


def second_session(graph: Graph, directory: str | os.PathLike) -> SecondSession | None:
    """Return what makes a second session of a model that exportkit has written; None where its graph is not as expected.

    Each variable gets the value that the same variable has in the first session, whatever name it is saved by.

    Args:
        directory: the SavedModel.

    Raises:
        BindingError: an asset's name leads out of its directory.
    """
    meta = graph.meta
    if "legacy_init_op" in meta.collection_def or INIT_SIGNATURE in meta.signature_def:
        return None
    restore = [split(meta.saver_def.restore_op_name)[0]] if meta.saver_def.restore_op_name else []
    values = list(_values(graph, restore)) if restore else []
    if None in values or len({fed for _, fed in filter(None, values)}) < len(values):
        return None
    assets = {node: np.array(os.fsencode(path), object) for node, path in asset_files(meta, Path(directory)).items()}
    initialize = [split(name)[0] for name in node_list(graph, "saved_model_main_op")]
    return SecondSession([value for value in values if value], restore, initialize, assets)


def _values(graph: Graph, restore: Sequence[str]) -> Iterator[tuple[str, str] | None]:
    """Yield for each assignment of a restored value the tensors `SecondSession.values`; None where one is not as expected."""
    saving = graph.reach([graph.meta.saver_def.save_tensor_name])
    reads = {graph.inputs(name)[0][0]: f"{name}:0" for name in saving if graph.nodes[name].op == "ReadVariableOp"}
    for name in sorted(graph.reach(restore)):
        op = graph.nodes[name].op
        if op in ("AssignVariableOp", "Assign"):
            (variable, _), (value, index) = graph.inputs(name)[:2]
            read = reads.get(variable) if op == "AssignVariableOp" else f"{variable}:0"
            yield (read, f"{value}:{index}") if read else None
        elif op not in _SAVER and op not in VARIABLE_OPS:
            yield None
