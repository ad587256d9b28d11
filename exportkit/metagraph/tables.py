"""Lookup tables of a graph, what fills them, and the files that they are filled from."""

from collections.abc import Iterable

from exportkit.metagraph.graph import Graph
from exportkit.metagraph.kinds import TABLES, assets, node_list, obstacle, path_constant
from exportkit.metagraph.tensors import shared_name, split


def holds_table(graph: Graph, name: str) -> bool:
    """Whether a node is a table, or calls a function that makes one and leaves it to others to fill it."""
    if graph.is_plain(name):
        return graph.nodes[name].op in TABLES
    ops = _ops_within(graph, name)
    return not ops.isdisjoint(TABLES) and not any(map(_fills, ops))


def table_initializers(graph: Graph, table: str) -> list[str]:
    """The ops that fill a table: they take it, or one that shares its name; or they stand in table_initializer and reach it."""
    shared = shared_name(graph.nodes[table])
    same = (name for name, node in graph.nodes.items() if node.op in TABLES and shared_name(node) == shared)
    for handle in [table, *same]:
        if found := [name for name in graph.consumers.get(handle, ()) if any(map(_fills, _ops_within(graph, name)))]:
            return found
    listed = (split(name)[0] for name in node_list(graph, "table_initializer"))
    return [op for op in listed if op in graph.nodes and table in graph.reach([op])]


def _fills(op: str) -> bool:
    return op.startswith("InitializeTable")


def _ops_within(graph: Graph, name: str) -> set[str]:
    """The op of a node and those of the functions that it calls."""
    node = graph.nodes[name]
    return {node.op}.union(*((inner.op for inner in graph.functions[f].node_def) for f in graph.called([node])))


def blocker(graph: Graph, op: str, cuts: Iterable[str] = ()) -> str | None:
    """The first node that `op` needs and a server cannot run: a queue, an iterator, a placeholder …"""
    reached = graph.walk([op], cuts, lambda node: obstacle(graph, node) is not None)
    return next((name for name in reached if obstacle(graph, graph.nodes[name])), None)


def asset_paths(graph: Graph, kept: set[str]) -> dict[str, str]:
    """Kept Const with a file's path → the path, of those in asset_filepaths and those that tables are filled from."""
    fillers = (node for name, node in graph.nodes.items() if name in kept and node.op.startswith("InitializeTableFromText"))
    origins = [*assets(graph), *(path_constant(graph, node.input[1]) for node in fillers)]
    names = (node.name for node in origins if node is not None and node.name in kept)
    return {name: graph.strings(name)[0] for name in names if graph.strings(name)}
