"""Which tensors of an unknown training graph are likely to be its inputs, its outputs and its training switches.

Nothing here decides anything: `inspect` shows it, and a person chooses. The outputs come first. They depend on the weights
and on what is fed, and the loss compares them with something; the inputs are then what the likeliest output needs.
"""

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exportkit.metagraph.graph import Graph
from exportkit.metagraph.kinds import op_class
from exportkit.metagraph.tensors import Shape, canonical, split

_LOSS_OPS = re.compile(r"(Sparse)?SoftmaxCrossEntropyWithLogits|CTCLoss(V2)?")
_DIFFERENCES = frozenset({"Sub", "SquaredDifference"})
_LOSS_NAMES = re.compile(
    r"loss|cost|cross_?entropy|error|mse|rmse|accuracy|metrics|regulariz|precision|recall|auc|l2norm", re.I
)
_TRAINING = re.compile(
    r"gradients\w*|save(_\d+)?|report_uninitialized|init|train_op|.*(optimi[sz]er|adam|rmsprop|momentum|adagrad).*", re.I
)
_OUTPUT_NAMES = re.compile(
    r"prob|softmax|predict|pred\b|logit|output|sigmoid|score|top_?k|arg_?max|classes|embeddings?$|vectors?$", re.I
)
_HIDDEN_NAMES = re.compile(r"rnn|lstm|gru|cell|while|attention|dropout|batch_?norm|bn|hidden|encoder|decoder|summar", re.I)
_INPUT_NAMES = re.compile(r"\bx\b|input|image|feature|data|token|ids|text|batch_x", re.I)
_LABEL_NAMES = re.compile(r"label|target|truth|\by\b|y_|expected|answer|weights?$|reward|action", re.I)
_ENDS = {
    "Softmax": 4,
    "Sigmoid": 3,
    "TopKV2": 3,
    "TopK": 3,
    "ArgMax": 2,
    "BiasAdd": 1,
    "Add": 1,
    "AddV2": 1,
    "MatMul": 1,
    "Tanh": 1,
}
_PASSES = frozenset({"Identity", "Reshape", "Squeeze", "ExpandDims", "Cast", "StopGradient"})
_ENDLESS = frozenset({"Shape", "ShapeN", "Size", "Rank", "Assert", "Print", "CheckNumerics"})
_SIDE = re.compile(
    r"(Assign|Apply|ResourceApply|Scatter|Sparse?Apply)\w*|\w*Summary(V2)?|NoOp|Switch|Merge|Enter|Exit|NextIteration"
)


@dataclass(frozen=True)
class Candidate:
    """A tensor that is likely to be an input or an output.

    Attributes:
        tensor: ``op:0``.
        dtype: ``float32`` …, None where it cannot be told.
        shape: static shape, None for an unknown rank.
        op: the op that it comes from, ``Placeholder``.
        score: higher is likelier; only the order means something.
        why: the reasons, for people.
    """

    tensor: str
    dtype: str | None
    shape: Shape
    op: str
    score: float
    why: str


# Outputs


def rank_outputs(graph: Graph, most: int = 20) -> list[Candidate]:
    """The likeliest outputs, best first: forward tensors that depend on the weights, if there are any, and on what is fed."""
    forward = _forward(graph)
    compared = _compared(graph, forward)
    ranked = sorted((_output(graph, name, forward, compared) for name in forward), key=lambda c: (-c.score, c.tensor))
    return [candidate for candidate in ranked[:most] if candidate.score > 0]


def _forward(graph: Graph) -> dict[str, int]:
    """Nodes of the forward pass that depend on the weights and on a source → their place in the graph's order."""
    weights = [v.op_name for v in graph.variables.values() if v.trainable] or [v.op_name for v in graph.variables.values()]
    weighted, fed = _downstream(graph, weights), _downstream(graph, sources(graph))
    both = (name for name in graph.nodes if name in fed and (name in weighted or not weights))
    return {name: place for place, name in enumerate(both)}


def _downstream(graph: Graph, ops: Iterable[str]) -> set[str]:
    """What depends on `ops` by data edges, without the gradients, the Saver and updates of variables."""
    todo, found = deque(ops), set()
    while todo:
        for name in graph.consumers.get(todo.popleft(), ()):
            if name not in found and not _trains(graph, name):
                found.add(name)
                todo.append(name)
    return found


def _trains(graph: Graph, name: str) -> bool:
    op = graph.nodes[name].op
    return (
        op in _ENDLESS or op.startswith(("Assign", "Apply", "ResourceApply")) or any(map(_TRAINING.fullmatch, name.split("/")))
    )


def _compared(graph: Graph, forward: Mapping[str, int]) -> dict[str, str]:
    """Nodes that a loss compares with something, seen through reshapes → the node of the loss."""
    found = {}
    for name in graph.nodes:
        op = graph.nodes[name].op
        if _LOSS_OPS.fullmatch(op) or (op in _DIFFERENCES and _labelled(graph, name, forward)):
            for op, index in graph.inputs(name):
                while index >= 0 and op in forward:
                    found.setdefault(op, name)
                    if graph.nodes[op].op not in _PASSES:
                        break
                    op, index = graph.inputs(op)[0]
    return found


def _labelled(graph: Graph, name: str, forward: Mapping[str, int]) -> bool:
    """Whether exactly one of the two sides of a difference is predicted, and the other comes straight from a source."""
    ops = [op for op, index in graph.inputs(name) if index >= 0]
    others = [op for op in ops if op not in forward]
    return len(others) == 1 and len(ops) == 2 and _is_source(graph, _seen_through(graph, others[0]))


def _seen_through(graph: Graph, op: str) -> str:
    while graph.nodes[op].op in _PASSES:
        op = graph.inputs(op)[0][0]
    return op


def _output(graph: Graph, name: str, forward: Mapping[str, int], compared: Mapping[str, str]) -> Candidate:
    node, tensor = graph.nodes[name], f"{name}:0"
    shape, dtype = graph.shape(tensor), graph.dtype(tensor)
    users = [user for user in graph.consumers.get(name, ()) if user in forward and not _loses(graph, user)]
    parts = name.split("/")
    said = [
        (_ENDS.get(node.op, 0), node.op),
        (5, f"compared by {compared.get(name)}") if name in compared else (0, ""),
        (3, "named like an output") if _OUTPUT_NAMES.search(parts[-1]) else (0, ""),
        (1, "in a scope named like an output") if any(map(_OUTPUT_NAMES.search, parts[:-1])) else (0, ""),
        (2, "nothing in the forward pass consumes it") if not users else (0, ""),
        (-6, "part of a loss or metric") if _loses(graph, name) else (0, ""),
        (-6, "a scalar") if shape == () else (0, ""),
        (-3, "inside a layer") if any(map(_HIDDEN_NAMES.search, parts)) else (0, ""),
        (-6, "not a value") if _SIDE.fullmatch(node.op) or dtype in (None, "bool", "resource", "variant") else (0, ""),
        (forward[name] / len(forward), ""),
    ]
    why = ", ".join(text for points, text in said if points > 0 and text)
    return Candidate(tensor, dtype, shape, node.op, round(sum(points for points, _ in said), 3), why)


def _loses(graph: Graph, name: str) -> bool:
    return bool(_LOSS_OPS.fullmatch(graph.nodes[name].op) or any(map(_LOSS_NAMES.search, name.split("/"))))


# Inputs


def rank_inputs(graph: Graph) -> list[Candidate]:
    """The likeliest inputs, best first: sources that the likeliest outputs need, without labels and training switches."""
    wanted = [candidate.tensor for candidate in rank_outputs(graph, most=3)]
    first, others = _needed(graph, wanted[:1]), _needed(graph, wanted[1:])
    tensors = [f"{op}:{index}" for op in sources(graph) for index in range(graph.num_outputs(op) or 1)]
    switches = constants_suggested(graph)
    ranked = (
        _input(graph, tensor, split(tensor) in first, split(tensor) in others) for tensor in tensors if tensor not in switches
    )
    return sorted((c for c in ranked if c.score > 0), key=lambda c: (-c.score, tensors.index(c.tensor)))


def _needed(graph: Graph, fetches: Iterable[str]) -> set[tuple[str, int]]:
    """The edges that `fetches` depend on, up to queues and iterators."""
    reached = graph.walk(fetches, barrier=lambda node: op_class(node.op) is not None)
    return {edge for name in reached for edge in graph.inputs(name)}


def sources(graph: Graph) -> list[str]:
    """Placeholders and what comes out of input queues and iterators, in the graph's order."""
    return [name for name in graph.nodes if _is_source(graph, name)]


def _is_source(graph: Graph, name: str) -> bool:
    op = graph.nodes[name].op
    values = op.startswith("QueueDequeue") or "GetNext" in op or "Unstage" in op
    return (op.startswith("Placeholder") and not name.startswith("save/")) or (values and op_class(op) in ("queue", "iterator"))


def _input(graph: Graph, tensor: str, first: bool, others: bool) -> Candidate:
    op, name = graph.nodes[split(tensor)[0]].op, split(tensor)[0]
    shape, dtype = graph.shape(tensor), graph.dtype(tensor)
    said = [
        (5, "the likeliest output needs it") if first else (2, "a likely output needs it") if others else (-5, ""),
        (2, f"{dtype} {_written(shape)}") if shape != () else (-1, ""),
        (2, "named like an input") if _INPUT_NAMES.search(name) else (0, ""),
        (-3, "named like a label") if _LABEL_NAMES.search(name) else (0, ""),
        (-2, "has a default") if op == "PlaceholderWithDefault" else (0, ""),
    ]
    why = ", ".join(text for points, text in said if points > 0 and text)
    return Candidate(tensor, dtype, shape, op, sum(points for points, _ in said), why)


def _written(shape: Shape) -> str:
    return "of unknown rank" if shape is None else "[" + ", ".join("null" if d is None else str(d) for d in shape) + "]"


# Training switches


def constants_suggested(graph: Graph) -> dict[str, bool | float]:
    """Placeholders that only training feeds → the value they have when the model serves."""
    tensors = (canonical(name) for name, node in graph.nodes.items() if node.op.startswith("Placeholder"))
    found = {tensor: constant_for(graph, tensor) for tensor in tensors}
    return {tensor: value for tensor, value in found.items() if value is not None}


def constant_for(graph: Graph, tensor: str) -> bool | float | None:
    """The serving value of a placeholder that switches training on or sets dropout, by its name or by who takes it; or None."""
    dtype, name = graph.dtype(tensor), split(tensor)[0]
    if graph.shape(tensor):
        return None
    if dtype == "bool":
        return _switch(graph, name)
    return _dropout(graph, name) if dtype in ("float32", "float64", "float16", "bfloat16") else None


def _switch(graph: Graph, name: str) -> bool | None:
    leaf = name.rsplit("/", 1)[-1].lower()
    if re.search(r"test|eval|infer|predict|serving", leaf):
        return True
    users = {graph.nodes[user].op for user in _users(graph, name)}
    chooses = users & {
        "Switch",
        "RefSwitch",
        "If",
        "StatelessIf",
        "Select",
        "SelectV2",
        "LogicalAnd",
        "LogicalOr",
        "LogicalNot",
    }
    return False if chooses or re.search(r"train|phase|learning", leaf) else None


def _dropout(graph: Graph, name: str) -> float | None:
    leaf = name.rsplit("/", 1)[-1].lower()
    if re.search(r"keep", leaf):
        return 1.0
    if re.search(r"drop", leaf):
        return 0.0
    inside = {graph.nodes[user].op for user in _users(graph, name) if re.search(r"dropout", user, re.I)}
    if inside & {"Add", "AddV2", "Div", "RealDiv"}:
        return 1.0
    return 0.0 if inside & {"Sub", "GreaterEqual"} else None


def _users(graph: Graph, name: str) -> list[str]:
    """Who takes a placeholder, seen through identities and the switches of a condition."""
    todo, found = [name], []
    for op in todo:
        for user in graph.consumers.get(op, ()):
            passes = graph.nodes[user].op in ("Identity", "Switch", "Enter") and user not in todo
            todo.extend([user] if passes else [])
            found.append(user)
    return found
