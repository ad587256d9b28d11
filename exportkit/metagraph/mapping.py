"""A computation of one entry, applied to each entry of a tensor's first axis: a function of the library and a MapDefun."""

import re
from collections.abc import Callable, Iterator, Mapping

from exportkit.metagraph.building import GraphBuilder
from exportkit.metagraph.tensors import Shape, split
from exportkit.protos import DTYPE_NAMES, FunctionDef, GraphDef, NodeDef, OpDef


def mapped(graph: GraphBuilder, tensor: str, compute: Callable[[GraphBuilder, str], str], shape: Shape, name: str) -> str:
    """Apply `compute` to each entry of `tensor` along its first axis, and return the results, stacked along it.

    MapDefun (tensorflow/core/kernels/data/map_defun_op.cc) runs the entries in parallel; unlike a while loop it always ends.

    Args:
        compute: adds the nodes for one entry to a graph of their own, and returns the tensor of the result.
        shape: of one result.
        name: of the node, and of the function.
    """
    body = GraphBuilder(GraphDef(), graph.ops)
    argument = body.add("Placeholder", name="entry", dtype=graph.dtype(tensor))[0]
    result = compute(body, argument)
    function = _function(body, argument, result)
    called = graph.add_function(re.sub("[^A-Za-z0-9_]", "_", name), function)
    dtype = body.dtype(result)
    return graph.add("MapDefun", [[tensor], []], name, f=called, output_types=[dtype], output_shapes=[shape])[0]


def _function(body: GraphBuilder, argument: str, result: str) -> FunctionDef:
    """Return the nodes of a graph as a function of the placeholder `argument`."""
    function = FunctionDef()
    function.signature.input_arg.add(name="entry", type=DTYPE_NAMES[body.dtype(argument)])
    function.signature.output_arg.add(name="result", type=DTYPE_NAMES[body.dtype(result)])
    named = dict(_names_within(body.graph.node, body.ops)) | {argument: "entry"}
    for node in body.graph.node:
        if node.name != split(argument)[0]:
            added = function.node_def.add()
            added.CopyFrom(node)
            added.input[:] = [named["{}:{}".format(*split(edge))] for edge in node.input]
    function.ret["result"] = named[result]
    return function


def _names_within(nodes: "list[NodeDef]", ops: Mapping[str, OpDef]) -> Iterator[tuple[str, str]]:
    """Yield each tensor → its name in a function, ``node:output_arg:index`` (function.proto); an output is one tensor here."""
    for node in nodes:
        for index, output in enumerate(ops[node.op].output_arg):
            yield f"{node.name}:{index}", f"{node.name}:{output.name}:0"
