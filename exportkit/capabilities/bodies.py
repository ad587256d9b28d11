"""A graph as bodies of nodes: the graph's own, and one for each function of its library."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from exportkit.capabilities.embedded import functions_in, holding
from exportkit.capabilities.oplist import is_listed
from exportkit.protos import FunctionDef, GraphDef, NodeDef

MAIN = ""
"""The name of the body that is the graph itself."""


class Body:
    """The nodes of a graph or of one function.

    Attributes:
        name: the function's; `MAIN` for the graph itself.
        all: every node, those too that repeat a name.
        nodes: name → its first node.
        arguments: argument of the function → its position.
    """

    def __init__(self, name: str, nodes: Iterable[NodeDef], arguments: Mapping[str, int]):
        self.name, self.arguments = name, arguments
        self.all: list[NodeDef] = list(nodes)
        self.nodes: dict[str, NodeDef] = {}
        for node in self.all:
            self.nodes.setdefault(node.name, node)


class Bodies:
    """The bodies of a GraphDef, and which function is called where.

    Of functions with one name, all nodes are in one body: a loader refuses such a library, and nothing of it is left out here.
    """

    def __init__(self, graph: GraphDef):
        self.by_name = {MAIN: Body(MAIN, graph.node, {})}
        for function in graph.library.function:
            name = function.signature.name
            known = self.by_name.get(name) if name != MAIN else None
            nodes = [*(known.all if known else ()), *function.node_def]
            self.by_name[name or _UNNAMED] = Body(name or _UNNAMED, nodes, _arguments(function))
        self._called: dict[int, list[str]] = {}
        self._holding: dict[int, list[Any]] = {}
        self._gradients: dict[str, list[str]] = {}
        for entry in graph.library.gradient:
            self._gradients.setdefault(entry.function_name, []).append(entry.gradient_func)

    @property
    def main(self) -> Body:
        return self.by_name[MAIN]

    def holding(self, node: NodeDef) -> list[Any]:
        """Return a node's AttrValues that can hold bytes or name functions; most nodes have none."""
        if (known := self._holding.get(id(node))) is None:
            known = self._holding[id(node)] = holding(node.attr)
        return known

    def called_by(self, node: NodeDef) -> list[str]:
        """Return the functions that a node calls or names in its attributes, and their gradient functions."""
        if len(self.by_name) == 1:
            return []
        if (known := self._called.get(id(node))) is None:
            known = self._called[id(node)] = self._find_called(node)
        return known

    def _find_called(self, node: NodeDef) -> list[str]:
        named = [node.op, *(name for value in self.holding(node) for name in functions_in(value))]
        found = [name for name in named if name != MAIN and name in self.by_name]
        return [*found, *(g for name in found for g in self._gradients.get(name, ()) if g in self.by_name and g != MAIN)]

    @cached_property
    def callers(self) -> Mapping[str, list[tuple[Body, NodeDef]]]:
        """Function → the nodes that call it, each with its body."""
        found: dict[str, list[tuple[Body, NodeDef]]] = {}
        for body in self.by_name.values():
            for node in body.all:
                for name in self.called_by(node):
                    found.setdefault(name, []).append((body, node))
        return found

    def repeated(self) -> set[int]:
        """Return the ids of the nodes that repeat the name of another: no edge says which of them is meant."""
        return {id(node) for body in self.by_name.values() for node in body.all if body.nodes[node.name] is not node}

    def is_call(self, node: NodeDef) -> bool:
        """Return whether a node's op is a function of the library; no function can have the name of one of TensorFlow's ops."""
        return node.op != MAIN and node.op in self.by_name and not is_listed(node.op)

    def recursive(self) -> list[str]:
        """Return the functions that call themselves, directly or through others, and those between two such."""
        functions = (body for name, body in self.by_name.items() if name != MAIN)
        calls = {body.name: {f for node in body.all for f in self.called_by(node)} for body in functions}
        callers: dict[str, set[str]] = {name: set() for name in calls}
        for name, called in calls.items():
            for inner in called:
                callers[inner].add(name)
        left = set(calls)
        for ahead, behind in ((calls, callers), (callers, calls)):  # first those that call nothing go, then the uncalled
            todo = [name for name in left if not ahead[name] & left]
            while todo:
                name = todo.pop()
                left.discard(name)
                for other in behind[name]:
                    ahead[other].discard(name)
                    if other in left and not ahead[other] & left:
                        todo.append(other)
        return sorted(left)

    def reach(self, nodes: Iterable[str], functions: Iterable[str] = (), stops: Collection[str] = ()) -> set[int]:
        """Return the ids of the NodeDefs that run for some nodes of the main body and some functions.

        Followed are data and control edges, and the bodies of functions whole: what has a side effect in one runs.

        Args:
            nodes: nodes and tensors of the main body.
            functions: functions that are called from outside.
            stops: tensors (``op:0``) of the main body that are fed: edges from them are not followed.
        """
        reached: set[int] = set()
        entered: set[str] = set()
        main = self.main.nodes
        todo: list[tuple[Body, NodeDef]] = [(self.main, main[name]) for name in map(op_of, nodes) if name in main]
        names = [name for name in functions if name in self.by_name and name != MAIN]
        while todo or names:
            while names:
                name = names.pop()
                if name not in entered:
                    entered.add(name)
                    todo += [(self.by_name[name], node) for node in self.by_name[name].all]
            if not todo:
                break
            body, node = todo.pop()
            if id(node) in reached:
                continue
            reached.add(id(node))
            edges = [edge for edge in node.input if body.name != MAIN or _tensor(edge) not in stops] if stops else node.input
            todo += [(body, body.nodes[op]) for op in map(op_of, edges) if op in body.nodes]
            names += self.called_by(node)
        return reached


_UNNAMED = "(a function without a name)"


def _arguments(function: FunctionDef) -> dict[str, int]:
    return {argument.name: position for position, argument in enumerate(function.signature.input_arg)}


def op_of(edge: str) -> str:
    """Return the node of an edge or tensor: of ``^op``, ``op:1`` in a graph and ``op:output:1`` in a function."""
    return edge.removeprefix("^").partition(":")[0]


def _tensor(edge: str) -> str:
    """Return an edge as the full name of its tensor: ``op`` → ``op:0``; a control edge as it is."""
    return edge if ":" in edge or edge.startswith("^") else f"{edge}:0"


def data_inputs(node: NodeDef) -> Iterator[str]:
    """Yield the edges into a node that carry tensors."""
    return (edge for edge in node.input if not edge.startswith("^"))
