"""Suggested outputs of an unknown training graph, and the inputs and constants that these need.

The suggestions decide nothing: `inspect` shows them, and a person chooses. Outputs are found first, see
`exportkit.metagraph.outputs`; the inputs are what an output needs.
"""

from collections.abc import Callable

from exportkit.metagraph.candidates import Candidate, Ranking
from exportkit.metagraph.feeds import constants_suggested, needed
from exportkit.metagraph.forward import Edge, Forward
from exportkit.metagraph.graph import Graph
from exportkit.metagraph.outputs import Outputs
from exportkit.metagraph.tensors import Shape
from exportkit.metagraph.words import words


def rank(graph: Graph, lacks: Callable[[str], bool] = lambda _: False) -> Ranking:
    """Rank a graph's tensors.

    Args:
        graph: the whole graph.
        lacks: returns whether the checkpoint has no value for a variable, by its name there.

    Raises:
        BindingError: a node has an input that the graph does not have.
    """
    graph.check_edges()
    constants = constants_suggested(graph)
    forward = Forward(graph, constants, lacks)
    outputs = Outputs(forward).ranked()
    best, next_ = [c.tensor for c in outputs[:1]], [c.tensor for c in outputs[1:3]]
    inputs = [_input(graph, edge, True) for edge in needed(graph, best, constants)]
    others = needed(graph, next_, constants, set(graph.walk(best, constants))) if next_ else []
    return Ranking(outputs, inputs, [_input(graph, edge, False) for edge in others], constants)


def _input(graph: Graph, edge: Edge, first: bool) -> Candidate:
    tensor = "{}:{}".format(*edge)
    shape, dtype = graph.shape(tensor), graph.dtype(tensor)
    op, leaf = graph.nodes[edge[0]].op, edge[0].rsplit("/", 1)[-1]
    reasons = ["the likeliest output needs it" if first else "a likely output needs it", f"{dtype} {_format(shape)}"]
    reasons += ["named like an input"] if not _INPUT_WORDS.isdisjoint(words(leaf)) else []
    return Candidate(tensor, dtype, shape, op, 0.0, ", ".join(reasons))


_INPUT_WORDS = frozenset(
    ["x", "input", "inputs", "image", "images", "feature", "features", "data", "token", "tokens", "id", "ids", "text", "batch"]
)


def _format(shape: Shape) -> str:
    return "of unknown rank" if shape is None else "[" + ", ".join("null" if d is None else str(d) for d in shape) + "]"
