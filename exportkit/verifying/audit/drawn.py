"""Input for a signature of which nothing is known but its dtypes and shapes."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from exportkit.checkpoint.encoding import numpy_dtype, objects
from exportkit.metagraph import Graph
from exportkit.metagraph.tensors import dims, split
from exportkit.protos import NodeDef, dtype_name
from exportkit.samples import tfexample
from exportkit.verifying.audit.graphs import shape_of

ROWS = 2
SIZE = 8  # of every other dimension that is left open
PARSERS = ("ParseExample", "ParseExampleV2")


def inputs(graph: Graph, definition: Any) -> dict[str, np.ndarray]:
    """Alias → a value: numbers from [0, 1), integers 0; for strings the tf.Example that is parsed (an empty text is one)."""
    columns = _columns(graph, definition)
    return {alias: _value(info, columns) for alias, info in sorted(definition.inputs.items())}


def _value(info: Any, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    shape = shape_of(info)
    known = (None,) if shape is None else shape
    size = [(SIZE if axis else ROWS) if d is None else d for axis, d in enumerate(known)]
    dtype = dtype_name(info.dtype)
    if dtype == "string":
        text = tfexample.encode(columns)[0] if columns else b""
        return objects([text] * int(np.prod(size))).reshape(size)
    if "float" in dtype or "complex" in dtype:
        return np.random.default_rng(0).uniform(size=size).astype(numpy_dtype(dtype))
    return np.zeros(size, numpy_dtype(dtype))


def _columns(graph: Graph, definition: Any) -> dict[str, np.ndarray]:
    """One row of each feature that the parsers behind the signature's outputs require."""
    fetches = [info.name for info in definition.outputs.values() if split(info.name)[0] in graph.nodes]
    reached = [graph.nodes[name] for name in graph.reach(fetches)]
    scopes = [reached, *(graph.functions[name].node_def for name in graph.called(reached))]
    return {key: value for nodes in scopes for key, value in _features({node.name: node for node in nodes})}


def _features(nodes: Mapping[str, NodeDef]) -> Iterator[tuple[str, np.ndarray]]:
    for node in nodes.values():
        if node.op in PARSERS:
            types, shapes = node.attr["Tdense"].list.type, node.attr["dense_shapes"].list.shape
            for key, dtype, shape in zip(_dense_keys(nodes, node), types, shapes, strict=False):
                size = [1, *(1 if d is None else d for d in dims(shape) or ())]
                empty = objects([b""] * int(np.prod(size))).reshape(size)
                yield key, empty if dtype_name(dtype) == "string" else np.zeros(size, numpy_dtype(dtype_name(dtype)))


def _dense_keys(nodes: Mapping[str, NodeDef], node: NodeDef) -> list[str]:
    """The names of the dense features: one vector in V2, an input each before."""
    if node.op == "ParseExampleV2":
        return _strings(nodes, node.input[3])
    first = 2 + node.attr["Nsparse"].i
    return [key for name in node.input[first : first + node.attr["Ndense"].i] for key in _strings(nodes, name)]


def _strings(nodes: Mapping[str, NodeDef], name: str) -> list[str]:
    node = nodes.get(name.split(":")[0])
    return [text.decode() for text in node.attr["value"].tensor.string_val] if node is not None and node.op == "Const" else []
