"""Graphs made to draw the same random numbers in every process."""

import zlib
from collections.abc import Iterator
from typing import Any

from exportkit.protos import MetaGraphDef


def nodes(meta: MetaGraphDef) -> Iterator[Any]:
    """The nodes of a meta graph and of its functions."""
    yield from meta.graph_def.node
    yield from (node for function in meta.graph_def.library.function for node in function.node_def)


def seed(meta: MetaGraphDef) -> None:
    """Give each op that draws its seed at the start of a session one that its name decides, and loops one iteration at a time.

    An op with the attributes `seed` and `seed2` both zero, or left out, is such a one (guarded_philox_random.cc). Iterations
    of a loop that run side by side would draw in any order.
    """
    attributes = {op.name: {attr.name for attr in op.attr} for op in meta.meta_info_def.stripped_op_list.op}
    for node in nodes(meta):
        known = attributes.get(node.op, set())
        if {"seed", "seed2"} <= known and not (node.attr["seed"].i or node.attr["seed2"].i):
            node.attr["seed"].i, node.attr["seed2"].i = 1, zlib.crc32(node.name.encode())
        if "parallel_iterations" in known:
            node.attr["parallel_iterations"].i = 1
