"""Called functions, expanded: their nodes stand in the graph as if they were written there, for walks that go through them."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from exportkit.metagraph import Graph
from exportkit.metagraph.tensors import output_counts, split
from exportkit.protos import FunctionDef, MetaGraphDef, NodeDef

_MOST = 20_000  # nodes of bodies; functions may call themselves
_MOST_BYTES = 1 << 26  # of these nodes
_DEEP = 64  # calls within calls
_CHOOSES = frozenset({"If", "StatelessIf", "Case", "StatelessCase"})  # their first input decides, and is passed to no function
_LOOPS = frozenset({"While", "StatelessWhile"})


def expanded(graph: Graph) -> Graph:
    """Return the graph with the nodes of the functions that it calls; the graph itself where it calls none.

    What takes an output of a call takes the tensor of the body that it is. Of a branch or a loop, whose outputs are those of
    one function or another, nothing takes the nodes: they only show who reads the inputs.
    """
    calls = [node for name, node in graph.nodes.items() if not graph.is_plain(name) and _bodies(graph, node)]
    return _Expansion(graph, calls).graph() if calls else graph


def _bodies(graph: Graph, node: NodeDef) -> list[FunctionDef]:
    values = [value for _, value in sorted(node.attr.items())]
    names = [node.op, *(value.func.name for value in values), *(func.name for value in values for func in value.list.func)]
    return [graph.functions[name] for name in names if name in graph.functions]


class _Expansion:
    def __init__(self, graph: Graph, calls: Sequence[NodeDef]):
        self._graph, self._nodes, self._bytes = graph, 0, 0
        self._meta = MetaGraphDef()
        self._meta.CopyFrom(graph.meta)
        self._outputs: dict[tuple[str, int], str] = {}
        todo = deque(calls)
        while todo:
            node = todo.popleft()
            for body in _bodies(graph, node):
                todo += [inner for inner in self._add(node, body) if _bodies(graph, inner)]

    def graph(self) -> Graph:
        return Graph(self._meta).rewired({"{}:{}".format(*edge): self._final(given) for edge, given in self._outputs.items()})

    def _final(self, tensor: str) -> str:
        """Return the tensor of a body that is the value of `tensor`, which may be the output of a further call."""
        for _ in range(_DEEP):
            if split(tensor) not in self._outputs:
                break
            tensor = self._outputs[split(tensor)]
        return tensor

    def _add(self, call: NodeDef, body: FunctionDef) -> Iterator[NodeDef]:
        """Add the nodes of a body, and yield them."""
        self._nodes += len(body.node_def)
        self._bytes += body.ByteSize()
        if self._nodes > _MOST or self._bytes > _MOST_BYTES:
            return
        scope, given = f"{call.name}/{body.signature.name}", [text for text in call.input if text[:1] != "^"]
        taken = given[1:] if call.op in _CHOOSES else given
        names = dict(zip((argument.name for argument in body.signature.input_arg), taken, strict=False))
        nodes = {node.name: node for node in body.node_def}
        for node in body.node_def:
            new = self._meta.graph_def.node.add()
            new.CopyFrom(node)
            new.name = f"{scope}/{node.name}"
            new.input[:] = [self._edge(text, scope, names, nodes) for text in node.input if text[:1] != "^"]
            yield new
        if call.op not in _CHOOSES and call.op not in _LOOPS:
            for index, argument in enumerate(body.signature.output_arg):
                if argument.name in body.ret:
                    self._outputs[call.name, index] = self._edge(body.ret[argument.name], scope, names, nodes)

    def _edge(self, text: str, scope: str, names: Mapping[str, str], nodes: Mapping[str, NodeDef]) -> str:
        """Return an input as graphs write it, from ``argument`` or ``node:output:index`` (function.proto, FunctionDef)."""
        name, _, rest = text.partition(":")
        if name in names or name not in nodes:
            return names.get(name, f"{scope}/{name}")
        output, _, index = rest.partition(":")
        node = nodes[name]
        signature = (
            self._graph.functions[node.op].signature if node.op in self._graph.functions else self._graph.ops.get(node.op)
        )
        before = 0
        for argument, count in output_counts(node, signature) if signature is not None else ():
            if argument == output:
                break
            before += count
        return f"{scope}/{name}:{before + (int(index) if index.isdecimal() else 0)}"
