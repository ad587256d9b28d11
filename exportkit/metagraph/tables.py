"""Lookup tables of a graph, the ops that fill them, and the files that they are filled from."""

from collections.abc import Iterable

from exportkit.metagraph.graph import Graph
from exportkit.metagraph.kinds import TABLES, assets, node_list, obstacle, path_constant
from exportkit.metagraph.tensors import shared_name, split


def holds_table(graph: Graph, name: str) -> bool:
    """Return whether a node is a table, or calls a function that makes a table and does not fill it."""
    if graph.is_plain(name):
        return graph.types[name] in TABLES
    ops = _ops_within(graph, name)
    return not ops.isdisjoint(TABLES) and not any(map(_fills, ops))


def table_initializers(graph: Graph, table: str) -> list[str]:
    """Return the ops that fill a table.

    These consume it, or a table with the same shared name; otherwise, the ops in table_initializer that reach it.
    """
    shared = shared_name(graph.nodes[table])
    same = (name for name, op in graph.types.items() if op in TABLES and shared_name(graph.nodes[name]) == shared)
    for handle in [table, *same]:
        if found := [name for name in graph.consumers.get(handle, ()) if any(map(_fills, _ops_within(graph, name)))]:
            return found
    listed = (split(name)[0] for name in node_list(graph, "table_initializer"))
    return [op for op in listed if op in graph.nodes and table in graph.reach([op])]


def _fills(op: str) -> bool:
    return op.startswith(("InitializeTable", "LookupTableImport"))


def _ops_within(graph: Graph, name: str) -> set[str]:
    """Return a node's op type and those in the functions that it calls."""
    node = graph.nodes[name]
    return {node.op}.union(*((inner.op for inner in graph.functions[f].node_def) for f in graph.called([node])))


def blocker(graph: Graph, op: str, cuts: Iterable[str] = ()) -> str | None:
    """Return the first node that `op` needs and a server cannot run (a queue, an iterator, a placeholder …), or None."""
    reached = graph.walk([op], cuts, lambda name: obstacle(graph, name) is not None)
    return next((name for name in reached if obstacle(graph, name)), None)


def asset_paths(graph: Graph, kept: set[str]) -> dict[str, str]:
    """Return kept Const op with a file's path → the path, for the files in asset_filepaths and those that fill tables."""
    fillers = [
        graph.nodes[name] for name in graph.nodes if graph.types[name].startswith("InitializeTableFromText") and name in kept
    ]
    origins = [*assets(graph), *(path_constant(graph, node.input[1]) for node in fillers)]
    names = (node.name for node in origins if node is not None and node.name in kept)
    return {name: graph.strings(name)[0] for name in names if graph.strings(name)}
