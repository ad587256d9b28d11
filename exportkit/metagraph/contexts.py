"""Nodes that run in a while frame or in one branch of a tf.cond, in the control flow of TensorFlow 1.

A tensor in a frame has a value per iteration and one in a branch may have none, so a server can fetch neither.
Source of the rules: TensorFlow's ``core/common_runtime/executor.cc`` (Enter, Exit, Switch, Merge).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exportkit.errors import BindingError, Problem

if TYPE_CHECKING:
    from exportkit.metagraph.graph import Graph

ENTERS = frozenset({"Enter", "RefEnter"})
EXITS = frozenset({"Exit", "RefExit"})
SWITCHES = frozenset({"Switch", "RefSwitch"})
_DEEP = 64  # loops and branches within each other; each node in them has a list of all
_FAR = 100  # nodes in a row that only pass a predicate on
MERGES = frozenset({"Merge", "RefMerge"})


@dataclass(frozen=True)
class Within:
    """A while frame or a branch of a tf.cond.

    Attributes:
        frame: the frame's name; empty for a branch.
        predicate: the edge (op, output index) that decides the branch.
        taken: the value of the predicate with which the branch runs.
    """

    frame: str = ""
    predicate: tuple[str, int] = ("", 0)
    taken: bool = True


Context = tuple[Within, ...]


def contexts_of(graph: Graph) -> Mapping[str, Context]:
    """Return node → the frames and branches that it runs in, outermost first; nodes that always run once are left out."""
    return _Contexts(graph).found


class _Contexts:
    def __init__(self, graph: Graph):
        self.graph: Graph = graph
        self.found: dict[str, Context] = {}
        starts = [name for name, op in graph.types.items() if op in ENTERS or op in SWITCHES]
        todo = deque([*starts, *(user for name in starts for user in graph.users(name))])
        while todo:
            name = todo.popleft()
            context = self._of(name)
            if len(context) > _DEEP:
                raise BindingError(Problem(name, f"lies in more than {_DEEP} nested loops and branches", "export a part of it"))
            if len(context) > len(self.found.get(name, ())):
                self.found[name] = context
                todo.extend(graph.users(name))

    def _of(self, name: str) -> Context:
        op, nodes = self.graph.types[name], self.graph.nodes
        edges = [edge for edge in dict.fromkeys(self.graph.inputs(name)) if edge[0] in nodes]
        incoming = [self._edge(*edge) for edge in edges]
        longest = max(incoming, key=len, default=())
        if op in ENTERS:
            within = Within(frame=nodes[name].attr["frame_name"].s.decode(errors="replace"))
            return longest if within in longest else (*longest, within)
        if op in EXITS:
            return _outside(longest)
        return self._merged(edges, incoming) if op in MERGES else longest

    def _edge(self, op: str, index: int) -> Context:
        """Return the context that the consumer of an edge runs in."""
        types, context = self.graph.types, self.found.get(op, ())
        if types[op] not in SWITCHES or index < 0:
            return context
        (predicate,) = self.graph.inputs(op)[1:2] or [("", 0)]
        if types.get(predicate[0], "LoopCond") == "LoopCond":
            return context
        within = Within(predicate=seen_through(self.graph, predicate), taken=index == 1)
        return context if within in context else (*context, within)

    def _merged(self, edges: list[tuple[str, int]], incoming: list[Context]) -> Context:
        """Return the context of a Merge: a loop's runs in the frame that is entered, a condition's where its branches begin."""
        pairs = zip(edges, incoming, strict=True)
        entered = [context for (op, _), context in pairs if self.graph.types[op] in ENTERS]
        if entered:
            return entered[0]
        common = [a for a, *others in zip(*incoming, strict=False) if all(a == other for other in others)]
        return tuple(common)


def _outside(context: Context) -> Context:
    """Return a context without its innermost frame."""
    last = max((i for i, within in enumerate(context) if within.frame), default=0)
    return context[:last]


def seen_through(graph: Graph, edge: tuple[str, int]) -> tuple[str, int]:
    """Return the edge whose value is passed on, through identities and switches."""
    for _ in range(_FAR):
        node = graph.nodes.get(edge[0])
        if node is None or not (node.op == "Identity" or node.op in SWITCHES) or not node.input:
            break
        edge = graph.inputs(edge[0])[0]
    return edge
