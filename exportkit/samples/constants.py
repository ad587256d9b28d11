"""What nodes hold: attributes, small integers such as shapes and depths, and the shapes of weights."""

import re
from typing import Any

from exportkit.checkpoint import tensorproto
from exportkit.metagraph import Graph
from exportkit.metagraph.tensors import VARIABLE_OPS, Shape, canonical, dims
from exportkit.protos import NodeDef, attr_value_pb2

AttrValue = attr_value_pb2.AttrValue
MOST = 64  # elements
SHAPE_KEEPING = re.compile(  # ops whose output has the shape of their first input
    "Identity|StopGradient|Cast|EnsureShape|(Ref)?(Enter|Switch)|Merge|Print(V2)?|CheckNumerics|Snapshot|Tanh|Relu6?|Sigmoid|Neg|"
    "Abs|Exp|Log(1p)?|R?[Ss]qrt|Square|Sign|Floor|Round|Elu|PlaceholderWithDefault|PreventGradient|String(Strip|Lower)"
)


def attribute(node: NodeDef, name: str) -> Any:
    """Return an attribute of a node; an empty one where it has none: to look one up in its map would put it there."""
    return node.attr[name] if name in node.attr else AttrValue()


def integers(graph: Graph, tensor: str) -> list[int | None] | None:
    """Return a vector or scalar of integers as a list, with None for each that is computed; None where all of it is."""
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


def known_integers(graph: Graph, tensor: str) -> list[int]:
    """Return a vector or scalar of integers as a list; an empty one where any of them is computed."""
    found = integers(graph, tensor) or []
    known = [one for one in found if one is not None]
    return known if len(known) == len(found) else []


def weight_shape(graph: Graph, tensor: str) -> Shape:
    """Return the static shape of a tensor; where it is read from a variable or a constant, the shape of that."""
    origin = graph.origin(tensor)
    while origin is not None and origin.op in ("Enter", "RefEnter"):
        origin = graph.origin(origin.input[0])
    if origin is None:
        return graph.shape(tensor)
    if origin.op in VARIABLE_OPS:
        shape = dims(attribute(origin, "shape").shape)
        return shape or graph.shape(canonical(origin.name))
    if origin.op == "Const":
        return dims(attribute(origin, "value").tensor.tensor_shape)
    return graph.shape(tensor)
