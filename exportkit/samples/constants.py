"""Small integers that a graph holds: shapes and depths."""

from math import prod

from exportkit import tensorproto
from exportkit.metagraph import Graph
from exportkit.metagraph.tensors import dims

MOST = 64  # elements


def integers(graph: Graph, tensor: str) -> list[int | None] | None:
    """A vector or scalar of integers as a list, with None for each that is computed; None where all of it is."""
    node = graph.origin(tensor)
    if node is None:
        return None
    if node.op == "Const":
        proto = node.attr["value"].tensor
        shape = dims(proto.tensor_shape)
        if shape is None or None in shape or prod(shape) > MOST or len(shape) > 1:
            return None
        try:
            array = tensorproto.from_proto(proto.SerializeToString())
        except ValueError:
            return None
        return [int(one) for one in array.flat] if array.dtype.kind in "iu" else None
    if node.op == "Pack" and len(node.input) <= MOST:
        return [(integers(graph, one) or [None])[0] for one in node.input if one[0] != "^"]
    return None
