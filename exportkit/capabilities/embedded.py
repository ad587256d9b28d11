"""Graphs and functions that are serialized inside other values: in string constants, attributes and collections."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from exportkit.capabilities.oplist import is_listed
from exportkit.protos import (
    FunctionDef,
    FunctionDefLibrary,
    GraphDef,
    MetaGraphDef,
    NodeDef,
    SavedModel,
    TensorProto,
    types_pb2,
)

_TEXT = re.compile(rb"[ -~]*")  # every serialized message has a control character: the tag of a field, or a length
_OP = re.compile(r"[A-Za-z_][A-Za-z0-9_.>]*")
_HOLDING = ("s", "tensor", "list", "func")  # kinds of attributes that can hold bytes or name functions
_SHORTEST = 9  # bytes of a GraphDef of one node with a name of one letter and an op of three


def graphs_in(data: bytes) -> Iterator[GraphDef]:
    """Yield the graphs in `data`, read as each message of TensorFlow that holds a graph or functions."""
    if not can_be_graph(data):
        return
    for read in (_graph, _meta_graph, _saved_model, _function, _library):
        try:
            found = [graph for graph in read(data) if _is_plausible(graph)]
        except DecodeError:
            continue
        yield from found


def can_be_graph(data: bytes) -> bool:
    """Return whether `data` is long enough for a graph, and not text."""
    return len(data) >= _SHORTEST and not _TEXT.fullmatch(data)


def _graph(data: bytes) -> Iterator[GraphDef]:
    yield GraphDef.FromString(data)


def _meta_graph(data: bytes) -> Iterator[GraphDef]:
    yield MetaGraphDef.FromString(data).graph_def


def _saved_model(data: bytes) -> Iterator[GraphDef]:
    yield from (meta.graph_def for meta in SavedModel.FromString(data).meta_graphs)


def _function(data: bytes) -> Iterator[GraphDef]:
    yield GraphDef(library=FunctionDefLibrary(function=[FunctionDef.FromString(data)]))


def _library(data: bytes) -> Iterator[GraphDef]:
    yield GraphDef(library=FunctionDefLibrary.FromString(data))


def _is_plausible(graph: GraphDef) -> bool:
    """Return whether `graph` is a graph and not other bytes that happen to parse as one."""
    nodes: list[NodeDef] = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    if any(is_listed(node.op) for node in nodes):
        return True
    return bool(nodes) and all(node.name and _OP.fullmatch(node.op) for node in nodes)


def strings_of(tensor: TensorProto) -> list[bytes]:
    """Return the strings of a TensorProto, in either of its two forms, and those inside its variants."""
    found = list(tensor.string_val)
    if tensor.tensor_content and tensor.dtype == types_pb2.DT_STRING:
        found += _string_list(tensor)
    for variant in tensor.variant_val:
        found += [variant.metadata, *(text for inner in variant.tensors for text in strings_of(inner))]
    return found


def _string_list(tensor: TensorProto) -> Iterator[bytes]:
    """Yield the strings in `tensor_content`: the length of each as a varint, then the bytes of all.

    Source: core/lib/strings/coding.cc of TensorFlow, DecodeStringList.
    """
    data, at = tensor.tensor_content, 0
    lengths: list[int] = []
    wanted = math.prod(max(dim.size, 0) for dim in tensor.tensor_shape.dim)
    while len(lengths) < wanted and at < len(data):
        value = shift = 0
        while at < len(data):
            byte = data[at]
            value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
            if byte < 128 or shift > 63:
                break
        lengths.append(value)
    for length in lengths:
        yield data[at : at + length]
        at += length


def holding(attributes: Mapping[str, Any]) -> list[Any]:
    """Return the AttrValues that can hold bytes or name functions."""
    return [value for value in map(attributes.__getitem__, attributes) if value.WhichOneof("value") in _HOLDING]


def bytes_in(value: Any) -> Iterator[bytes]:
    """Yield the strings in an AttrValue, those of nested function attributes too."""
    kind = value.WhichOneof("value")
    if kind == "s":
        yield value.s
    elif kind == "tensor":
        yield from strings_of(value.tensor)
    elif kind == "list":
        yield from value.list.s
        for tensor in value.list.tensor:
            yield from strings_of(tensor)
        for function in value.list.func:
            yield from (data for inner in function.attr.values() for data in bytes_in(inner))
    elif kind == "func":
        yield from (data for inner in value.func.attr.values() for data in bytes_in(inner))


def functions_in(value: Any) -> Iterator[str]:
    """Yield the names of functions in an AttrValue, nested ones too; some ops name functions in strings."""
    kind = value.WhichOneof("value")
    if kind == "s":
        yield value.s.decode(errors="replace")
    elif kind == "func":
        yield value.func.name
        yield from (name for inner in value.func.attr.values() for name in functions_in(inner))
    elif kind == "list":
        yield from (text.decode(errors="replace") for text in value.list.s)
        for function in value.list.func:
            yield function.name
            yield from (name for inner in function.attr.values() for name in functions_in(inner))
