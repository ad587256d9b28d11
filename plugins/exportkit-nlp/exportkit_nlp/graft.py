"""Joins two meta graphs: a front, and a model whose inputs come from it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exportkit.plugin import MetaGraphDef


def grafted(front: "MetaGraphDef", model: "MetaGraphDef", feeds: Mapping[str, str]) -> "MetaGraphDef":
    """Return `model` with `front` before it.

    Args:
        front: its nodes share no name with the model's, and it has no variables.
        model: is not changed.
        feeds: tensor of the model → the tensor of the front that takes its place.
    """
    whole = type(model).FromString(model.SerializeToString())
    edges = {spelt: target for fed, given in feeds.items() for spelt, target in _spellings(fed, given)}
    for node in whole.graph_def.node:
        node.input[:] = [edges.get(edge, edge) for edge in node.input]
    whole.graph_def.node.extend(front.graph_def.node)
    known = {op.name for op in whole.meta_info_def.stripped_op_list.op}
    new = (op for op in front.meta_info_def.stripped_op_list.op if op.name not in known)
    whole.meta_info_def.stripped_op_list.op.extend(new)
    for collection in ("asset_filepaths", "table_initializer"):
        names = front.collection_def[collection].node_list.value
        whole.collection_def[collection].node_list.value.extend(names)
    return whole


def _spellings(fed: str, given: str) -> list[tuple[str, str]]:
    """Return the ways in which a GraphDef writes an edge to `fed`, each with its replacement; output 0 needs no number."""
    op, _, index = fed.rpartition(":")
    source = given.removesuffix(":0")
    control = [(f"^{op}", f"^{source}")] if index == "0" else []
    return [(fed, source), *([(op, source)] if index == "0" else []), *control]


def free_scope(model: "MetaGraphDef", name: str) -> str:
    """Return a scope that no node of `model` is in."""
    taken = {node.name.split("/", 1)[0] for node in model.graph_def.node}
    while name in taken:
        name = f"{name}_"
    return name
