"""Problems that prevent a subgraph from being served, and warnings about what may surprise whoever serves it."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from exportkit.errors import Problem, some
from exportkit.metagraph.contexts import MERGES, SWITCHES
from exportkit.metagraph.dropout import dropouts
from exportkit.metagraph.feeds import constant_for
from exportkit.metagraph.fetching import valueless
from exportkit.metagraph.folding import FOLDED, Folding
from exportkit.metagraph.graph import Graph
from exportkit.metagraph.kinds import RANDOM, UPDATES, obstacle, op_class
from exportkit.metagraph.tables import blocker, holds_table, table_initializers
from exportkit.metagraph.tensors import VARIABLE_OPS, canonical, shared_name
from exportkit.protos import NodeDef

_NOTHING: Mapping[str, object] = MappingProxyType({})
_REASONS = {
    "queue": "belongs to the training input queue",
    "iterator": "belongs to the training input pipeline",
    "reader": "reads files of the training machine",
    "python": "runs Python of the training program, which no server has",
    "mutable table": "is a mutable table, whose content no variable holds",
    "TPU": "runs on TPUs only",
    "restore": "reads a checkpoint of the training machine at every request",
    "tf.contrib": "was an op of tf.contrib, which TensorFlow 2 does not have",
}


def problems(
    graph: Graph, fetches: Iterable[str], stops: Iterable[str], where: str, constants: Mapping[str, object] = _NOTHING
) -> list[Problem]:
    """Return everything that `fetches` reach and a model server cannot run, the nearest to the fetches first.

    The inputs of a node that is reported are not followed: cutting that node off removes them too.

    Args:
        graph: the whole graph.
        fetches: tensors (``op:0``) or operations (``op``).
        stops: the tensors that are fed or baked.
        where: the place that each Problem names, such as ``signatures.serving_default``.
        constants: those of the stops that are baked → their values, which decide branches of tf.cond.
    """
    fetches, stops = tuple(fetches), tuple(map(canonical, stops))
    via = graph.walk(fetches, stops, lambda name: obstacle(graph, name) is not None)
    blocked = [name for name in via if _blocks(graph, name)]
    used = _used(graph, via) if blocked else {}
    found = [_obstacle_problem(graph, graph.nodes[name], via[name], used) for name in blocked]
    found += _in_functions(graph, via)
    found += [_unfilled(graph, name, stops) for name in via if holds_table(graph, name)]
    found += valueless(graph, fetches, stops, constants)
    return [Problem(where, *one) for one in found if one]


def _used(graph: Graph, reached: Iterable[str]) -> dict[str, list[str]]:
    """Return node → those of its tensors that a reached node takes."""
    used: dict[str, set[int]] = {}
    for name in reached:
        for op, index in graph.inputs(name):
            if index >= 0:
                used.setdefault(op, set()).add(index)
    return {op: [f"{op}:{index}" for index in sorted(indices)] for op, indices in used.items()}


def _blocks(graph: Graph, name: str) -> bool:
    op = graph.types[name]
    unknown = bool(graph.ops) and op not in graph.ops and op not in graph.functions
    return unknown or obstacle(graph, name) is not None


def _obstacle_problem(graph: Graph, node: NodeDef, user: str | None, used: dict[str, list[str]]) -> tuple[str, str] | None:
    found = obstacle(graph, node.name)
    needed = f"{node.name} ({node.op})" + (f", which {user} needs," if user else "")
    if found == "placeholder":
        return _unfed(graph, node, user)
    if found:
        return f"{needed} {_REASONS[found]}", _way_out(graph, node, user, used)
    if graph.ops and node.op not in graph.ops and node.op not in graph.functions:
        return f"{needed} is of an op that the meta graph does not describe", _way_out(graph, node, user, used)
    return None


def _way_out(graph: Graph, node: NodeDef, user: str | None, used: dict[str, list[str]]) -> str:
    if graph.num_outputs(node.name) == 0:
        return (
            f"only control edges lead there: cut before them, as with {{placeholder: {user}:0}}" if user else "do not name it"
        )
    return _cut(used.get(node.name, [f"{node.name}:0"]))


def _unfed(graph: Graph, node: NodeDef, user: str | None) -> tuple[str, str]:
    tensor = f"{node.name}:0"
    return (
        f"nothing feeds the placeholder {tensor} ({graph.dtype(tensor)})" + (f", which {user} needs" if user else ""),
        f"put it among the inputs, or {_baked(tensor, constant_for(graph, tensor))}",
    )


def _baked(tensor: str, value: bool | float | None = None) -> str:
    return f"bake it: {{constant: {'…' if value is None else str(value).lower()}, replaces: {tensor}}}"


def _cut(tensors: list[str]) -> str:
    if len(tensors) == 1:
        return f"write {{placeholder: {tensors[0]}}} in bindings"
    return f"write {{placeholder: TENSOR}} in bindings for each of {', '.join(tensors)}"


def _in_functions(graph: Graph, reached: Iterable[str]) -> Iterator[tuple[str, str]]:
    if not graph.functions:
        return
    nodes = [graph.nodes[name] for name in reached if not obstacle(graph, name)]
    outer = {shared_name(node) for node in graph.nodes.values() if node.op in VARIABLE_OPS}
    for function, caller in graph.called(nodes).items():
        for node in graph.functions[function].node_def:
            inside = f"{node.name} ({node.op}) in the function {function}, which {caller} calls,"
            if why := _REASONS.get(op_class(node.op) or ""):
                yield f"{inside} {why}", f"bind a tensor behind {caller} with {{placeholder: TENSOR}}"
            elif node.op == "VarHandleOp" and shared_name(node) not in outer:
                yield f"{inside} is a variable that the graph itself does not have", "build it outside the function"


def _unfilled(graph: Graph, table: str, stops: Iterable[str]) -> tuple[str, str] | None:
    """Report a table that nothing fills, or nothing that a server can run."""
    ops = table_initializers(graph, table)
    if not ops:
        return f"nothing fills the table {table}", "build the graph with the table's initializer, or bind the tensor behind it"
    blocked = [(op, found) for op in ops if (found := blocker(graph, op, stops))]
    if len(blocked) < len(ops):
        return None
    op, found = blocked[0]
    return f"the table {table} is filled by {op}, which needs {found} ({graph.nodes[found].op})", _baked(f"{found}:0")


def warnings(
    graph: Graph, fetches: Iterable[str], cuts: Iterable[str], where: str, constants: Mapping[str, object] = _NOTHING
) -> list[Problem]:
    """Return what is allowed and may surprise: randomness, updates of variables, device pins.

    Args:
        graph: the whole graph.
        fetches: tensors (``op:0``) or operations (``op``).
        cuts: the tensors that are fed or baked.
        where: the place that each Problem names.
        constants: those of the cuts that are baked → their values. Branches of tf.cond that they exclude are not checked.
    """
    return Running(graph, fetches, cuts, constants).warnings(where)


class Running:
    """The nodes that run for an answer once constants are baked: none in a branch that is not taken or behind a known value.

    Takes the arguments of `warnings`.
    """

    def __init__(self, graph: Graph, fetches: Iterable[str], cuts: Iterable[str], constants: Mapping[str, object] = _NOTHING):
        values = {canonical(tensor): value for tensor, value in constants.items()}
        cuts = [*map(canonical, cuts), *values]
        folding = Folding(graph, values, frozenset(cuts))
        reached = graph.walk(
            fetches, cuts, barrier=lambda name: graph.types[name] in FOLDED and folding.value((name, 0)) is not None
        )
        self.graph, self._folding = graph, folding
        self.names = sorted(set(reached) - left_out(graph, reached, folding))

    @property
    def dropout(self) -> dict[str, str]:
        """Output of a dropout that is on whatever is fed → its input."""
        return {given: taken for taken, given in dropouts(self.graph, self.names).values()}

    @property
    def keeps_state(self) -> bool:
        """Whether an answer may depend on those before it: something is drawn, or a variable is changed."""
        return any(RANDOM.fullmatch(node.op) or UPDATES.fullmatch(node.op) for node in self._nodes())

    def warnings(self, where: str) -> list[Problem]:
        """Return what is allowed and may surprise, at the place `where`."""
        nodes = self._nodes()
        return [Problem(where, *one) for one in (*_random(self.graph, nodes), *_updating(nodes), *_pinned(nodes))]

    def _nodes(self) -> list[NodeDef]:
        """Return the nodes that run, those of functions too."""
        graph = self.graph
        nodes = [graph.nodes[name] for name in self.names]
        called = graph.called(_decided(graph, nodes, self._folding))
        return nodes + [node for name in called for node in graph.functions[name].node_def]


def _decided(graph: Graph, nodes: Iterable[NodeDef], folding: Folding) -> Iterator[NodeDef]:
    """Yield the nodes; an If that a constant decides is yielded without the branch that is not taken."""
    for node in nodes:
        value = folding.value(graph.inputs(node.name)[0]) if node.op in ("If", "StatelessIf") else None
        if value is None:
            yield node
            continue
        taken = NodeDef()
        taken.CopyFrom(node)
        del taken.attr["else_branch" if value else "then_branch"]
        yield taken


def left_out(graph: Graph, reached: Iterable[str], folding: Folding) -> set[str]:
    """Return the nodes that never run, as a known predicate of a tf.cond (Switch, Merge) selects the other branch."""
    switches = [name for name in reached if graph.types[name] in SWITCHES]
    values = {name: folding.value(graph.inputs(name)[1]) for name in switches}
    closed = {(name, 0 if value else 1) for name, value in values.items() if value is not None}
    if not closed:
        return set()
    run = set(reached)
    dead: set[str] = set()
    todo = [user for op, _ in closed for user in graph.users(op)]
    while todo:
        name = todo.pop()
        if name not in run:
            continue
        lost = [op in dead or (op, index) in closed for op, index in graph.inputs(name)]
        if name not in dead and (all(lost) if graph.types[name] in MERGES else any(lost)):
            dead.add(name)
            todo.extend(graph.users(name))
    return dead


def _random(graph: Graph, nodes: Sequence[NodeDef]) -> Iterator[tuple[str, str]]:
    found = [node for node in nodes if RANDOM.fullmatch(node.op)]
    if not found:
        return
    ways = list(dict.fromkeys(dropouts(graph, (node.name for node in found)).values()))
    names = ["no_dropout", *(f"no_dropout_{i}" for i in range(1, len(ways)))]
    written = [f"{name}: {{tensor: {taken}, replaces: {given}}}" for name, (taken, given) in zip(names, ways, strict=False)]
    do = "is dropout left on? bake its rate or is_training"
    do += f", or leave it out: {some(written, 8)} in bindings" if written else ""
    yield f"may be random: {some([f'{node.name} ({node.op})' for node in found], 3)}", do


def _updating(nodes: Iterable[NodeDef]) -> Iterator[tuple[str, str]]:
    if found := [f"{node.name} ({node.op})" for node in nodes if UPDATES.fullmatch(node.op)]:
        yield f"requests may change variables: {some(found, 3)}", "is training mode left on? bake is_training"


def _pinned(nodes: Iterable[NodeDef]) -> Iterator[tuple[str, str]]:
    devices = [node.device for node in nodes if re.search("[GT]PU", node.device, re.I)]
    if devices:
        yield f"pins of {len(devices)} nodes to {some(sorted(set(devices)), 3)} are cleared", ""
