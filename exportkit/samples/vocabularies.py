"""Some keys of a lookup table, from the constants or the file that fill it."""

import os
from collections.abc import Collection
from pathlib import Path

from exportkit.files import opened
from exportkit.metagraph import Graph
from exportkit.metagraph.tables import table_initializers
from exportkit.metagraph.tensors import split
from exportkit.samples.constants import attribute

MOST = 8
_BYTES = 1 << 16  # of a file, from its start


def keys(graph: Graph, table: str, files: Collection[Path]) -> list[bytes]:
    """Return some texts that the table (the tensor of its handle) has as keys; none where they are no texts or unreadable.

    Args:
        files: those that may be read: samples are written down, so a graph must not choose what comes into them.
    """
    origin = graph.origin(table)
    for name in table_initializers(graph, origin.name) if origin is not None else ():
        node = graph.nodes[name]
        if node.op.startswith("InitializeTableFromText"):
            paths = graph.strings(node.input[1])
            may = paths and Path(os.path.abspath(paths[0])) in files
            return _lines(paths[0], attribute(node, "key_index").i, attribute(node, "delimiter").s or b"\t") if may else []
        if node.op.startswith(("InitializeTable", "LookupTableImport")) and split(node.input[1])[0] in graph.nodes:
            return [text.encode() for text in graph.strings(node.input[1])[:MOST]]
    return []


def _lines(path: str, key: int, delimiter: bytes) -> list[bytes]:
    """Return lines of a file, or a column of them; a `key` of -1 is the line's number (lookup_table_init_op.cc)."""
    try:
        with opened(path) as file:
            lines = file.read(_BYTES).replace(b"\r", b"").split(b"\n")[:-1][:MOST]
    except (OSError, ValueError):  # ValueError: a zero byte in the path
        return []
    if key >= 0:
        lines = [columns[key] for columns in (line.split(delimiter) for line in lines) if len(columns) > key]
    return [] if key == -1 else lines
