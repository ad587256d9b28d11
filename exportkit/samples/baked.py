"""Batch sizes that are baked into a graph."""

import re
from collections.abc import Iterable

from exportkit.metagraph import Graph
from exportkit.metagraph.tensors import split
from exportkit.samples.constants import integers

_WEIGHTS = re.compile("Variable(V2)?|AutoReloadVariable|VarHandleOp|Const|Identity|Enter|ReadVariableOp")


def first_sizes(graph: Graph, fetches: Iterable[str], stops: Iterable[str]) -> list[int]:
    """Return the first dimensions above 1 of the tensors between `stops` and `fetches`, the most frequent first."""
    counts: dict[int, int] = {}
    stopped = {split(tensor)[0] for tensor in stops}
    for name in graph.reach(fetches, stops):
        node = graph.nodes[name]
        if name not in stopped and not _WEIGHTS.fullmatch(node.op):
            reshaped = integers(graph, node.input[1]) if node.op == "Reshape" else None
            first, *_ = reshaped or graph.shape(f"{name}:0") or (None,)
            if first is not None and first > 1:
                counts[first] = counts.get(first, 0) + 1
    return sorted(counts, key=lambda size: (-counts[size], size))
