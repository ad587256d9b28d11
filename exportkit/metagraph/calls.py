"""Which functions of a graph's library its nodes call."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from exportkit.protos import FunctionDef, FunctionDefLibrary, NodeDef, OpDef


class Calls:
    """The calls of library functions.

    Args:
        library: the graph's library, for its gradients.
        functions: its functions by name.
        ops: op → OpDef, of the ops that the graph uses.
    """

    def __init__(self, library: FunctionDefLibrary, functions: Mapping[str, FunctionDef], ops: Mapping[str, OpDef]):
        self._library, self._functions, self._ops = library, functions, ops

    def called(self, nodes: Iterable[NodeDef]) -> dict[str, str]:
        """Return library function that `nodes` call, directly or not → the node that calls it, in the order of discovery."""
        if not self._functions:
            return {}
        found: dict[str, str] = {}
        todo = deque((name, node.name) for node in nodes if node.op not in self._plain for name in self._functions_of(node))
        while todo:
            name, caller = todo.popleft()
            if name in found or name not in self._functions:
                continue
            found[name] = caller
            todo.extend((used, caller) for node in self._functions[name].node_def for used in self._functions_of(node))
            todo.extend((gradient, caller) for gradient in self._gradients.get(name, ()))
        return found

    def is_plain(self, op: str) -> bool:
        """Return whether nodes of an op certainly call no function."""
        return not self._functions or op in self._plain

    def _functions_of(self, node: NodeDef) -> Iterator[str]:
        if node.op in self._functions:
            yield node.op
        for name in self._function_attrs(node):
            value = node.attr[name]
            yield from [value.func.name] if value.HasField("func") else (func.name for func in value.list.func)

    def _function_attrs(self, node: NodeDef) -> list[str]:
        """Return the names of a node's attributes that hold functions; an op that is not described is searched for them."""
        if node.op in self._ops:
            return [name for name in self._described[node.op] if name in node.attr]
        return sorted(name for name, value in node.attr.items() if value.HasField("func") or value.list.func)

    @cached_property
    def _described(self) -> dict[str, list[str]]:
        return {op: [a.name for a in spec.attr if a.type in ("func", "list(func)")] for op, spec in self._ops.items()}

    @cached_property
    def _plain(self) -> set[str]:
        """Ops that are described and call no function: nearly all."""
        return {op for op, attributes in self._described.items() if not attributes and op not in self._functions}

    @cached_property
    def _gradients(self) -> dict[str, list[str]]:
        gradients: dict[str, list[str]] = {}
        for entry in self._library.gradient:
            gradients.setdefault(entry.function_name, []).append(entry.gradient_func)
        return gradients
