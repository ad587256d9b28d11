"""The nodes that bring data into a graph: placeholders, and outputs of queues, iterators and files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from exportkit.metagraph.kinds import op_class

if TYPE_CHECKING:
    from exportkit.metagraph.graph import Graph


def sources_of(graph: Graph) -> Iterator[str]:
    """Yield the sources of a graph, in its order.

    Placeholders of the Saver bring no data, nor does a PlaceholderWithDefault that is a scalar: it is a rate or a size.
    """
    for name, op in graph.types.items():
        if _is_source_op(op) and not (op.startswith("Placeholder") and _is_setting(graph, name, op)):
            yield name


def _is_setting(graph: Graph, name: str, op: str) -> bool:
    return name.startswith("save/") or (op == "PlaceholderWithDefault" and graph.shape(f"{name}:0") == ())


@cache
def _is_source_op(op: str) -> bool:
    found = op_class(op)
    values = op.startswith("QueueDequeue") or "GetNext" in op or "Unstage" in op or "FunctionBuffering" in op
    reads = found == "python" or op.startswith("Placeholder") or op in ("ReadFile", "ReaderRead", "ReaderReadV2")
    return reads or (values and found in ("queue", "iterator"))
