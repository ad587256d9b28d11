"""The features that a graph's own parsers of tf.Example take: dtypes, shapes, and for dense ones a value for one row."""

from collections.abc import Iterator, Mapping

import numpy as np

from exportkit.checkpoint.encoding import numpy_dtype, objects
from exportkit.metagraph import Graph
from exportkit.metagraph.tensors import Facts, dims
from exportkit.protos import NodeDef, dtype_name
from exportkit.samples.constants import attribute

PARSERS = ("ParseExample", "ParseExampleV2", "ParseSingleExample")
_MOST = 1 << 20  # elements of a feature


def features(nodes: Mapping[str, NodeDef], node: NodeDef) -> Iterator[tuple[str, np.ndarray]]:
    """Yield key → zeros or empty texts [1, …] of each dense feature of the parser `node`; `nodes` are those of its graph."""
    for key, facts in dense(nodes, node):
        size = [1, *(1 if d is None else d for d in (facts.shape or ())[1:])]
        if np.prod(size, dtype=float) > _MOST:
            continue
        empty = objects([b""] * int(np.prod(size))).reshape(size)
        yield key, empty if facts.dtype == "string" else np.zeros(size, numpy_dtype(facts.dtype or ""))


def dense(nodes: Mapping[str, NodeDef], node: NodeDef) -> Iterator[tuple[str, Facts]]:
    """Yield key → dtype and shape [N, …] of each dense feature of the parser `node`; `nodes` are those of its graph."""
    types, shapes = attribute(node, "Tdense").list.type, attribute(node, "dense_shapes").list.shape
    for key, dtype, shape in zip(_dense_keys(nodes, node), types, shapes, strict=False):
        yield key, Facts(dtype_name(dtype), (None, *(dims(shape) or ())))


def parsed(graph: Graph) -> dict[str, Facts] | None:
    """Return every feature that the graph or its functions parse → dtype and shape [N, …]; None where there is no parser.

    The shape is None for sparse and ragged features. A feature that is parsed in two ways has neither dtype nor shape.
    """
    bodies = [graph.nodes, *({node.name: node for node in body.node_def} for body in graph.functions.values())]
    parsers = [(nodes, node) for nodes in bodies for node in nodes.values() if node.op in PARSERS]
    found: dict[str, Facts] = {}
    for nodes, node in parsers:
        for key, facts in (*dense(nodes, node), *_others(nodes, node)):
            found[key] = facts if found.get(key, facts) == facts else Facts()
    return found if parsers else None


def _others(nodes: Mapping[str, NodeDef], node: NodeDef) -> Iterator[tuple[str, Facts]]:
    """Yield key → dtype of each sparse or ragged feature."""
    if node.op == "ParseSingleExample":
        keys = [key.decode(errors="backslashreplace") for key in attribute(node, "sparse_keys").list.s]
        groups = [(keys, "sparse_types")]
    elif node.op == "ParseExampleV2":
        groups = [(_strings(nodes, _input(node, 2)), "sparse_types"), (_strings(nodes, _input(node, 4)), "ragged_value_types")]
    else:
        names = node.input[2 : 2 + attribute(node, "Nsparse").i]
        groups = [([key for name in names for key in _strings(nodes, name)], "sparse_types")]
    for keys, types in groups:
        for key, dtype in zip(keys, attribute(node, types).list.type, strict=False):
            yield key, Facts(dtype_name(dtype))


def _dense_keys(nodes: Mapping[str, NodeDef], node: NodeDef) -> list[str]:
    """Return the names of the dense features: an attribute, one vector in V2, an input each before."""
    if node.op == "ParseSingleExample":
        return [key.decode(errors="backslashreplace") for key in attribute(node, "dense_keys").list.s]
    if node.op == "ParseExampleV2":
        return _strings(nodes, _input(node, 3))
    first = 2 + attribute(node, "Nsparse").i
    return [key for name in node.input[first : first + attribute(node, "Ndense").i] for key in _strings(nodes, name)]


def _input(node: NodeDef, index: int) -> str:
    """Return an input of a node; no name where a file gives it fewer."""
    return node.input[index] if index < len(node.input) else ""


def _strings(nodes: Mapping[str, NodeDef], name: str) -> list[str]:
    node = nodes.get(name.split(":")[0])
    return (
        [text.decode(errors="backslashreplace") for text in attribute(node, "value").tensor.string_val]
        if node is not None and node.op == "Const"
        else []
    )
