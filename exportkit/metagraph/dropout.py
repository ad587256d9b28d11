"""Dropout in a graph: its input and its output tensors."""

from collections.abc import Iterable

from exportkit.metagraph.graph import Graph
from exportkit.metagraph.kinds import RANDOM
from exportkit.metagraph.tensors import canonical, split
from exportkit.metagraph.words import trains

_ARITHMETIC = frozenset({"Add", "AddV2", "Sub", "Floor", "GreaterEqual", "Greater", "Less", "LessEqual", "Cast", "Reshape"})
_FAR = 10  # nodes from a random draw to the product with the dropped tensor


def dropouts(graph: Graph, nodes: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return random op → (input, output) of its dropout, for those `nodes` that belong to dropout."""
    draws = [name for name in nodes if RANDOM.fullmatch(graph.types.get(name, ""))]
    return {name: found for name in draws if (found := _dropout(graph, name))}


def _dropout(graph: Graph, draw: str) -> tuple[str, str] | None:
    """Follow a random draw to the product or selection that it decides, as in ``x / keep * floor(keep + uniform)``."""
    name, decided = draw, False
    for _ in range(_FAR):
        users = graph.consumers.get(name, ())
        users = [user for user in users if not trains(user)]
        if len(users) != 1:
            return None
        (user,) = users
        op = graph.nodes[user].op
        others = [edge for edge in graph.inputs(user) if edge[1] >= 0 and edge[0] != name]
        if decided and op in ("Mul", "Select", "SelectV2") and others:
            taken = _unscaled(graph, others[0])
            return (taken, f"{user}:0") if graph.dtype(taken) == graph.dtype(f"{user}:0") else None
        if op not in _ARITHMETIC and op != "Mul":
            return None
        decided = decided or op in ("Floor", "GreaterEqual", "Greater", "Less", "LessEqual")
        name = user
    return None


def _unscaled(graph: Graph, edge: tuple[str, int]) -> str:
    """Return the input of dropout, before it is divided by the share that is kept."""
    node = graph.nodes[edge[0]]
    if node.op in ("RealDiv", "Div", "Mul") and len(node.input) >= 2:
        shapes = [graph.shape(canonical(i)) for i in node.input[:2]]
        if node.op != "Mul" or () in shapes:
            scaled = 1 if node.op == "Mul" and shapes[0] == () and shapes[1] != () else 0
            return "{}:{}".format(*split(node.input[scaled]))
    return "{}:{}".format(*edge)
