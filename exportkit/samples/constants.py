"""What nodes hold: their attributes, and small integers such as shapes and depths."""

from typing import Any

from exportkit.checkpoint import tensorproto
from exportkit.metagraph import Graph
from exportkit.metagraph.tensors import dims
from exportkit.protos import NodeDef, attr_value_pb2

AttrValue = attr_value_pb2.AttrValue
MOST = 64  # elements


def attribute(node: NodeDef, name: str) -> Any:
    """An attribute of a node; an empty one where it has none: to look one up in its map would put it there."""
    return node.attr[name] if name in node.attr else AttrValue()


def integers(graph: Graph, tensor: str) -> list[int | None] | None:
    """A vector or scalar of integers as a list, with None for each that is computed; None where all of it is."""
    node = graph.origin(tensor)
    if node is None:
        return None
    if node.op == "Const":
        proto = attribute(node, "value").tensor
        shape = dims(proto.tensor_shape)
        if shape is None or len(shape) > 1 or any(size is None or size > MOST for size in shape):
            return None
        try:
            array = tensorproto.from_proto(proto.SerializeToString())
        except ValueError:
            return None
        return [int(one) for one in array.flat] if array.dtype.kind in "iu" else None
    if node.op == "Pack" and len(node.input) <= MOST:
        return [(integers(graph, one) or [None])[0] for one in node.input if one[0] != "^"]
    return None
