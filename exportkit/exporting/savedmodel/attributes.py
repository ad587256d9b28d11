"""Attributes of nodes and the defaults of their ops: what may be left out, and what has to be there.

Source of the rules: tensorflow/python/framework/importer.py (`_RemoveDefaultAttrs`) and meta_graph.py
(`strip_graph_default_valued_attrs`).
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from exportkit.protos import AttrValue, GraphDef, NodeDef, OpDef

Defaults = Mapping[str, AttrValue]


def remove_unknown(nodes: Iterable[NodeDef], producers: Iterable[OpDef], ops: Mapping[str, OpDef]) -> None:
    """Remove attributes that TensorFlow does not know from nodes, where their value is the default of the graph's writer.

    Args:
        nodes: they are changed.
        producers: the ops as the graph's writer knew them (``stripped_op_list``).
        ops: op → its definition in the installed TensorFlow.
    """
    unknown = {op.name: _unknown(op, ops[op.name]) for op in producers if op.name in ops}
    for node in nodes:
        for name, default in unknown.get(node.op, {}).items():
            if name in node.attr and node.attr[name] == default:
                del node.attr[name]


def _unknown(producer: OpDef, consumer: OpDef) -> dict[str, AttrValue]:
    known = {attribute.name for attribute in consumer.attr}
    return {name: value for name, value in _defaults(producer).items() if name not in known}


def strip_defaults(graph: GraphDef, ops: Mapping[str, OpDef]) -> None:
    """Remove attributes that have their default, so that an older server which lacks them can read the graph."""
    bodies = (function.node_def for function in graph.library.function)
    for node, defaults in _with_defaults(chain(graph.node, *bodies), ops):
        for name in [name for name, value in defaults.items() if name in node.attr and node.attr[name] == value]:
            del node.attr[name]


def add_defaults(graph: GraphDef, ops: Mapping[str, OpDef]) -> None:
    """Add the attributes that nodes of the graph itself lack, with their defaults."""
    for node, defaults in _with_defaults(graph.node, ops):
        for name, value in defaults.items():
            if name not in node.attr:
                node.attr[name].CopyFrom(value)


def _with_defaults(nodes: Iterable[NodeDef], ops: Mapping[str, OpDef]) -> Iterator[tuple[NodeDef, Defaults]]:
    """Yield each node of a known op, and the defaults of its attributes."""
    known: dict[str, Defaults] = {}
    for node in nodes:
        if node.op in ops:
            if node.op not in known:
                known[node.op] = _defaults(ops[node.op])
            yield node, known[node.op]


def _defaults(op: OpDef) -> dict[str, AttrValue]:
    return {attribute.name: attribute.default_value for attribute in op.attr if attribute.HasField("default_value")}
