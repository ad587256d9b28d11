"""Where a tensor of a graph comes from: back through identities, arguments of functions and variables that hold a path."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from exportkit.capabilities.bodies import MAIN, Bodies, Body, data_inputs, op_of
from exportkit.capabilities.embedded import strings_of
from exportkit.protos import AttrValue, NodeDef, types_pb2

_PASSING = {"Identity", "PlaceholderWithDefault", "StopGradient", "Snapshot"}
_BRANCHES = {"If", "StatelessIf", "_If", "Case", "StatelessCase"}  # their first input selects; the others are the arguments
_CALLS = {"PartitionedCall", "StatefulPartitionedCall", "While", "StatelessWhile", "_While"}
_MOST_STEPS = 200_000  # in one graph; what is not found by then counts as not to be seen
_VARIABLES = {"VarHandleOp", "VariableV2", "Variable"}


@dataclass(frozen=True)
class Origin:
    """A node that a tensor comes from; None where that cannot be seen."""

    body: Body
    node: NodeDef | None


class Origins:
    """Finds the origins of tensors.

    Args:
        bodies: the graph.
        ends: the nodes of the main body that a client or a loader feeds: their own inputs say nothing.
    """

    def __init__(self, bodies: Bodies, ends: Collection[str] = ()):
        self._bodies, self._ends, self._steps = bodies, frozenset(ends), 0

    def of_input(self, body: Body, node: NodeDef, index: int, passing: Collection[str] = ()) -> list[Origin]:
        """Return the origins of input `index` of a node.

        Args:
            passing: more ops whose first input decides, as that of ShardedFilename does.
        """
        return list(self._of_input(body, node, index, frozenset(passing)))

    def strings(self, body: Body, node: NodeDef, index: int) -> list[bytes] | None:
        """Return the constant strings that an input can have; None where one of its origins is no constant."""
        found: list[bytes] = []
        for origin in self.of_input(body, node, index):
            if origin.node is None or origin.node.op != "Const":
                return None
            found += strings_of(origin.node.attr["value"].tensor)
        return found

    def _of_input(
        self, body: Body, node: NodeDef, index: int, passing: frozenset[str], *, through_variables: bool = True
    ) -> Iterator[Origin]:
        edges = list(data_inputs(node))
        if index < len(edges):
            yield from self._of_edge(body, edges[index], passing, through_variables)
        else:
            yield Origin(body, None)

    def _of_edge(self, body: Body, edge: str, passing: frozenset[str], through_variables: bool) -> Iterator[Origin]:
        todo = [(body, edge)]
        seen: set[tuple[str, str]] = set()
        while todo:
            self._steps += 1
            body, edge = todo.pop()
            if self._steps > _MOST_STEPS:
                yield Origin(body, None)
                return
            name = op_of(edge)
            if (body.name, name) in seen:
                continue
            seen.add((body.name, name))
            node = body.nodes.get(name)
            if name in body.arguments and node is None:
                passed = self._passed(body, body.arguments[name])
                todo += passed
                if not passed:
                    yield Origin(body, None)
            elif node is None:
                yield Origin(body, None)
            elif node.op == "ReadVariableOp" and through_variables:
                assigned = self._assigned(body, node)
                todo += assigned
                if not assigned:
                    yield Origin(body, node)
            elif (node.op in _PASSING or node.op in passing) and not (body.name == MAIN and name in self._ends):
                todo += [(body, first) for first in list(data_inputs(node))[:1]]
            else:
                yield Origin(body, node)

    def _passed(self, function: Body, position: int) -> list[tuple[Body, str]]:
        """Return what the callers of a function pass as an argument; nothing where one of them hides it."""
        found = []
        for body, caller in self._bodies.callers.get(function.name, ()):
            first = 1 if caller.op in _BRANCHES else 0
            edges = list(data_inputs(caller))
            known = caller.op in _CALLS or caller.op in _BRANCHES or caller.op == function.name
            if not known or position + first >= len(edges):
                return []
            found.append((body, edges[position + first]))
        return found

    def _assigned(self, body: Body, read: NodeDef) -> list[tuple[Body, str]]:
        """Return the values assigned to the variable of strings that a node reads; nothing where that cannot be seen."""
        if read.attr["dtype"].type != types_pb2.DT_STRING:
            return []
        variables, found = self._variables(body, read), []
        for other, value, targets in self._assignments:
            if not variables or not targets:
                return []
            if variables & targets:
                found.append((other, value))
        return found

    @cached_property
    def _assignments(self) -> list[tuple[Body, str, set[bytes]]]:
        """The assignments to variables of strings: the body, the edge of the value, and the variables that it can be for."""
        nodes = [
            (body, node)
            for body in self._bodies.by_name.values()
            for node in body.all
            if node.op == "AssignVariableOp" and node.attr["dtype"].type == types_pb2.DT_STRING
        ]
        return [
            (body, edges[1], self._variables(body, node)) for body, node in nodes if len(edges := list(data_inputs(node))) > 1
        ]

    def _variables(self, body: Body, node: NodeDef) -> set[bytes]:
        """Return the shared names of the variables that input 0 of a node can be; nothing where that cannot be seen."""
        origins = list(self._of_input(body, node, 0, frozenset(), through_variables=False))
        if any(origin.node is None or origin.node.op not in _VARIABLES for origin in origins):
            return set()
        nodes = [origin.node for origin in origins if origin.node is not None]
        return {_shared(one.attr) or one.name.encode() for one in nodes}


def _shared(attributes: Mapping[str, AttrValue]) -> bytes:
    return attributes["shared_name"].s if "shared_name" in attributes else b""
