"""Seeds for graphs, so that they draw the same random numbers in every process."""

import zlib
from collections.abc import Iterator
from typing import Any

from exportkit.protos import MetaGraphDef


def nodes(meta: MetaGraphDef) -> Iterator[Any]:
    """Yield the nodes of a meta graph and of its functions."""
    yield from meta.graph_def.node
    yield from (node for function in meta.graph_def.library.function for node in function.node_def)


def seed(meta: MetaGraphDef) -> None:
    """Give each random op without a seed one that depends on its name, and let loops run one iteration at a time.

    An op whose attributes `seed` and `seed2` are both zero, or left out, gets a random seed at the start of a session
    (guarded_philox_random.cc). Parallel iterations of a loop would draw in any order.
    """
    attributes = {op.name: {attr.name for attr in op.attr} for op in meta.meta_info_def.stripped_op_list.op}
    for node in nodes(meta):
        known = attributes.get(node.op, set())
        if {"seed", "seed2"} <= known and not (node.attr["seed"].i or node.attr["seed2"].i):
            node.attr["seed"].i, node.attr["seed2"].i = 1, zlib.crc32(node.name.encode())
        if "parallel_iterations" in known:
            node.attr["parallel_iterations"].i = 1
