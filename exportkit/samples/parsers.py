"""The dense features that a graph's own parsers of tf.Example demand, with a value for one row of each."""

from collections.abc import Iterator, Mapping

import numpy as np

from exportkit.checkpoint.encoding import numpy_dtype, objects
from exportkit.metagraph.tensors import dims
from exportkit.protos import NodeDef, dtype_name
from exportkit.samples.constants import attribute

PARSERS = ("ParseExample", "ParseExampleV2", "ParseSingleExample")
_MOST = 1 << 20  # elements of a feature


def features(nodes: Mapping[str, NodeDef], node: NodeDef) -> Iterator[tuple[str, np.ndarray]]:
    """Yield key → zeros or empty texts [1, …] of each dense feature of the parser `node`; `nodes` are those of its graph."""
    types, shapes = attribute(node, "Tdense").list.type, attribute(node, "dense_shapes").list.shape
    for key, dtype, shape in zip(_dense_keys(nodes, node), types, shapes, strict=False):
        size = [1, *(1 if d is None else d for d in dims(shape) or ())]
        if np.prod(size, dtype=float) > _MOST:
            continue
        empty = objects([b""] * int(np.prod(size))).reshape(size)
        yield key, empty if dtype_name(dtype) == "string" else np.zeros(size, numpy_dtype(dtype_name(dtype)))


def _dense_keys(nodes: Mapping[str, NodeDef], node: NodeDef) -> list[str]:
    """Return the names of the dense features: an attribute, one vector in V2, an input each before."""
    if node.op == "ParseSingleExample":
        return [key.decode() for key in attribute(node, "dense_keys").list.s]
    if node.op == "ParseExampleV2":
        return _strings(nodes, node.input[3])
    first = 2 + attribute(node, "Nsparse").i
    return [key for name in node.input[first : first + attribute(node, "Ndense").i] for key in _strings(nodes, name)]


def _strings(nodes: Mapping[str, NodeDef], name: str) -> list[str]:
    node = nodes.get(name.split(":")[0])
    return (
        [text.decode() for text in attribute(node, "value").tensor.string_val]
        if node is not None and node.op == "Const"
        else []
    )
