"""Tensors that a server cannot fetch or feed: those in a while frame or in one branch of a tf.cond, and handles."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

from exportkit.errors import some
from exportkit.metagraph.contexts import ENTERS, EXITS, MERGES, Context, Within, seen_through
from exportkit.metagraph.folding import Folding
from exportkit.metagraph.graph import Graph
from exportkit.metagraph.tensors import canonical, split
from exportkit.metagraph.words import trains
from exportkit.protos import NodeDef

_HANDLES = frozenset({"resource", "variant"})
_HANDLE_OPS = ("HashTable", "QueueV2", "Queue", "TensorArrayV3", "Iterator", "ReaderV2", "Reader")
_FAR = 10_000  # nodes


def valueless(
    graph: Graph, fetches: Iterable[str], stops: Iterable[str], constants: Mapping[str, object]
) -> Iterator[tuple[str, str]]:
    """Report tensors that do not have exactly one value per request, with what to take instead.

    Args:
        stops: the tensors that are fed or baked.
        constants: those of them that are baked → their values.
    """
    stops, fetches = set(map(canonical, stops)), [f for f in fetches if ":" in f]
    folding = Folding(graph, {canonical(tensor): value for tensor, value in constants.items()}, frozenset(stops))
    for fetch in fetches:
        if fetch not in stops:
            yield from _fetched(graph, fetch, folding)
    for stop in sorted(stops):
        frames = [within for within in graph.contexts.get(split(stop)[0], ()) if within.frame]
        if frames:
            do = f"cut before the loop: {some(_entering(graph, stop, frames[0].frame), 3)}"
            yield f"{stop} lies inside the while loop {frames[0].frame}, where nothing can be fed", do


def _fetched(graph: Graph, tensor: str, folding: Folding) -> Iterator[tuple[str, str]]:
    op, _ = split(tensor)
    if graph.dtype(tensor) in _HANDLES or _is_handle(graph.nodes[op]):
        yield f"{tensor} ({graph.nodes[op].op}) is a handle, not a value", _read_instead(graph, op)
        return
    for within in edge_context(graph, tensor):
        if within.frame:
            yield (
                f"{tensor} lies inside the while loop {within.frame}, where it has a value per step and none can be fetched",
                _instead(graph, op, lambda node: node.op in EXITS, "an output of the loop"),
            )
            return
        taken = folding.value(within.predicate)
        if taken is not None and bool(taken) == within.taken:
            continue
        never = "never has a value, as" if taken is not None else "has a value only while"
        predicate = "{}:{}".format(*within.predicate)
        yield (
            f"{tensor} lies inside one branch of a tf.cond and {never} {_when(predicate, within, taken)}",
            _instead(graph, op, lambda node: node.op in MERGES, "what joins the branches"),
        )
        return


def edge_context(graph: Graph, tensor: str) -> Context:
    """Return the context of a tensor: its node's frames and branches, and the branch that begins if the node is a Switch."""
    op, index = split(tensor)
    context = graph.contexts.get(op, ())
    if graph.nodes[op].op in ("Switch", "RefSwitch"):
        (predicate,) = graph.inputs(op)[1:2] or [("", 0)]
        decides = graph.nodes.get(predicate[0])
        if decides is not None and decides.op != "LoopCond":
            within = Within(predicate=seen_through(graph, predicate), taken=index == 1)
            return context if within in context else (*context, within)
    return context


def _when(predicate: str, within: Within, taken: float | None) -> str:
    return f"{predicate} is {str(within.taken if taken is None else bool(taken)).lower()}"


def _is_handle(node: NodeDef) -> bool:
    return any(node.op == op or node.op == f"{op}V2" for op in _HANDLE_OPS)


def _read_instead(graph: Graph, op: str) -> str:
    readers = [user for user in graph.consumers.get(op, ()) if graph.nodes[user].op == "ReadVariableOp"]
    return f"take what is read from it: {readers[0]}:0" if readers else "name a tensor that is computed from it"


def _instead(graph: Graph, op: str, wanted: Callable[[NodeDef], bool], noun: str) -> str:
    """Return the advice to take one of the nearest nodes after `op` that are `wanted` and outside every frame and branch."""
    todo, seen = deque([op]), {op}
    found: list[str] = []
    while todo and len(seen) < _FAR and len(found) < 3:
        for user in graph.consumers.get(todo.popleft(), ()):
            if user not in seen and not trains(user):
                seen.add(user)
                outside = user not in graph.contexts
                if outside and wanted(graph.nodes[user]):
                    found.append(f"{user}:0")
                elif not outside:
                    todo.append(user)
    return f"take {' or '.join(found)}, {noun}" if found else "name a tensor outside of it"


def _entering(graph: Graph, tensor: str, frame: str) -> list[str]:
    """Return the tensors that enter a frame and from which `tensor` is computed; those that vary if there are any."""
    reached = graph.walk([tensor], barrier=lambda name: graph.types[name] in ENTERS)
    enters = [graph.nodes[name] for name in reached if graph.nodes[name].op in ENTERS and graph.inputs(name)]
    named = [canonical(node.input[0]) for node in enters if node.attr["frame_name"].s.decode(errors="replace") == frame]
    variable = [
        t for t in named if (origin := graph.origin(t)) is not None and origin.op not in ("Const", "Variable", "VariableV2")
    ]
    return sorted(variable or named) or ["an input of the loop"]
