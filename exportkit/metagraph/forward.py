"""The forward pass of a training graph: its layers, its labels and losses, and the nodes between the two.

The tensors that are worth serving lie in the *tail*: after the last layer that multiplies or looks up weights, and before
anything that depends on a label or on a loss. A net whose output is another net's input has a tail of its own (a generator).
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property

from exportkit.metagraph.graph import Graph
from exportkit.metagraph.words import like_label, like_loss, trains, words

Edge = tuple[str, int]

_MULTIPLIES = re.compile(
    r"(Batch|Sparse)?MatMul(V2|V3)?|(Sparse|SparseTensorDense)MatMul|(Depthwise)?Conv[123]D\w*|Einsum|\w*(LSTM|GRU|CudnnRNN)\w*|"
    r"(Stateful)?PartitionedCall|Sparse(Segment)\w+|XwPlusB"
)
_LOOKS_UP = re.compile(r"(Resource)?Gather(V2|Nd)?")
_LOSS_OPS = re.compile(r"(Sparse)?SoftmaxCrossEntropyWithLogits|CTCLoss(V2)?|\w*CandidateSampler|InTopK(V2)?")
DIFFERENCES = frozenset({"Sub", "SquaredDifference"})
_COUNTS = frozenset({"Equal", "NotEqual", "Cast"})  # how an accuracy begins
_ARITHMETIC = frozenset({"Log", "Log1p", "Neg", "Maximum", "Minimum", "Square", "Abs"})  # of losses
_SUMS = frozenset({"Add", "AddV2", "Sub"})
FAR = 100  # nodes in a row that pass a value on: a limit, as a malformed graph may have a cycle of them
PASSES = frozenset({"Identity", "Reshape", "Squeeze", "ExpandDims", "StopGradient"})
_USELESS = re.compile(
    r"Shape|ShapeN|Size|Rank|Assert|Print|CheckNumerics|\w*Summary(V2)?|NoOp|Assign\w*|(Resource)?(Sparse)?Apply\w+|Scatter\w+|"
    r"ZerosLike|OnesLike|BroadcastGradientArgs|Queue\w*Enqueue\w*"
)
_CRF = re.compile(r"(^|/)(crf|transitions?)\b|transition_(params|matrix)", re.I)


class Forward:
    """The part of a graph that computes answers, before its losses.

    Args:
        graph: the whole graph.
        constants: tensors that are baked: neither data nor labels.
        lacks: returns whether a variable's value is missing, by its name in a checkpoint.
    """

    def __init__(self, graph: Graph, constants: Iterable[str] = (), lacks: Callable[[str], bool] = lambda _: False):
        self.graph = graph
        self.sources = frozenset(name for name in graph.sources if f"{name}:0" not in constants)
        self.nodes = self._forward_nodes()
        self.users = self._users()
        self.variables = self._weights()
        self.fed = self.downstream(self.sources)
        self.weighted = self.downstream(self.variables)
        self._arranges: dict[str, bool] = {}
        self.lacking = self.downstream(v.op_name for v in graph.variables.values() if lacks(v.full_name))

    def _forward_nodes(self) -> dict[str, int]:
        """Return the nodes that neither train nor save nor report → their place in the graph, in order."""
        useless: dict[str, bool] = {}
        found: dict[str, int] = {}
        for place, (name, op) in enumerate(self.graph.types.items()):
            if op not in useless:
                useless[op] = _USELESS.fullmatch(op) is not None
            if not useless[op] and not trains(name):
                found[name] = place
        return found

    def _users(self) -> dict[str, list[str]]:
        users: defaultdict[str, list[str]] = defaultdict(list)
        edges = self.graph.edges
        for name in self.nodes:
            for op, index in edges[name]:
                if index >= 0:
                    users[op].append(name)
        return dict(users)

    def _weights(self) -> list[str]:
        variables = [v for v in self.graph.variables.values() if not _CRF.search(v.op_name)]
        return [v.op_name for v in variables if v.trainable] or [v.op_name for v in variables if "float" in v.dtype]

    def downstream(self, ops: Iterable[str], within: Callable[[str], bool] = lambda _: True) -> set[str]:
        """Return the nodes that depend on `ops` by data edges, without `ops`."""
        todo, found, users = list(ops), set(), self.users
        for op in todo:
            for name in users.get(op, ()):
                if name not in found and within(name):
                    found.add(name)
                    todo.append(name)
        return found

    def upstream(self, ops: Iterable[str]) -> set[str]:
        """Return the nodes that `ops` depend on by data edges, without `ops`."""
        todo, found, edges = list(ops), set(), self.graph.edges
        for name in todo:
            for op, index in edges[name]:
                if index >= 0 and op not in found and op in edges:
                    found.add(op)
                    todo.append(op)
        return found

    # Layers

    @cached_property
    def layers(self) -> dict[str, str]:
        """Node that multiplies data with weights, or looks weights up → the node that the weights come from."""
        found = {name: weights for name in self.nodes if name in self.fed and (weights := self._layer(name))}
        return found or {name: "" for name in self.nodes if name in self.fed and self._mixes(name)}

    def _layer(self, name: str) -> str:
        op = self.graph.types[name]
        edges = [op for op, index in self.graph.inputs(name) if index >= 0]
        if _LOOKS_UP.fullmatch(op):
            edges = edges[:1]
        elif not _MULTIPLIES.fullmatch(op):
            return ""
        free = [edge for edge in edges if edge not in self.fed and edge not in self.sources and self._is_weight(edge)]
        return self._root(free[0]) if free else ""

    def _is_weight(self, op: str) -> bool:
        """Return whether a node is a variable, is computed from one, or holds a frozen value."""
        if op in self.weighted or op in self._variable_set:
            return True
        return op in self.graph.nodes and self.graph.types[op] in ("Const", "Enter", "Identity")

    @cached_property
    def _variable_set(self) -> frozenset[str]:
        return frozenset(v.op_name for v in self.graph.variables.values())

    def _root(self, op: str) -> str:
        return self.back(op, lambda node: node in ("Identity", "ReadVariableOp", "Enter", "Cast", "Reshape"))

    def back(self, op: str, passes: Callable[[str], bool]) -> str:
        """Return the first node, from `op` backwards over first inputs, whose op does not satisfy `passes`."""
        for _ in range(FAR):
            if not passes(self.graph.types[op]) or not self.graph.inputs(op):
                break
            op = self.graph.inputs(op)[0][0]
        return op

    def _mixes(self, name: str) -> bool:
        """Return whether a node combines data with weights in any way."""
        edges = [op for op, index in self.graph.inputs(name) if index >= 0]
        return self.graph.types[name] not in ("Merge", "Switch", "Enter") and any(
            op not in self.fed and (op in self.weighted or op in self._variable_set) for op in edges
        )

    # Labels and losses

    @cached_property
    def _before_losses(self) -> list[str]:
        lossy = self._loss_op_region
        return [name for name in self.layers if name not in lossy]

    @cached_property
    def loss_ops(self) -> list[str]:
        types = self.graph.types
        losses = {op for op in set(types.values()) if _LOSS_OPS.fullmatch(op)}
        return [name for name in self.nodes if types[name] in losses]

    @cached_property
    def _loss_op_region(self) -> set[str]:
        return self.downstream(self.loss_ops) | set(self.loss_ops)

    @cached_property
    def _into_layers(self) -> set[str]:
        """The nodes that a layer's result depends on, with every layer that another one follows."""
        return self.upstream(self._before_losses)

    @cached_property
    def data(self) -> set[Edge]:
        """The tensors of sources that the result of a layer or of a softmax depends on; a label goes through neither."""
        types, edges, sources = self.graph.types, self.graph.edges, self.sources
        softmax = [name for name in self.nodes if types[name] == "Softmax" and name not in self._loss_op_region]
        reading = {*self._into_layers, *self._before_losses, *self.upstream(softmax), *softmax}
        users = {user for source in sources for user in self.graph.consumers.get(source, ())}
        return {edge for name in users & reading for edge in edges[name] if edge[0] in sources}

    @cached_property
    def labels(self) -> set[Edge]:
        """The tensors of sources that join the forward pass only after its last layer, as labels do."""
        if not self._before_losses:
            return set()
        taken = {e for s in self.sources for user in self.users.get(s, ()) for e in self.graph.inputs(user) if e[0] == s}
        return {edge for edge in taken - self.data if not self._is_no_label(edge)}

    def _is_no_label(self, edge: Edge) -> bool:
        """Return whether a late tensor is no label: a scalar, a length of the data, a mask, or a temperature."""
        tensor = "{}:{}".format(*edge)
        found = words(edge[0].rsplit("/", 1)[-1])
        if self.graph.shape(tensor) == () or found & {"len", "length", "lengths", "lens", "size", "mask", "seq", "temperature"}:
            return True
        return {self.graph.types[user] for user in self.users.get(edge[0], ())} >= {"CTCLoss", "CTCGreedyDecoder"}

    @cached_property
    def losses(self) -> set[str]:
        """The nodes that depend on a label, or on a loss."""
        labelled = [user for op in {op for op, _ in self.labels} for user in self.users.get(op, ()) if self._takes_label(user)]
        starts = [*labelled, *self._self_compared()]
        return self._loss_op_region | set(starts) | self.downstream(starts)

    def _takes_label(self, name: str) -> bool:
        return any(edge in self.labels for edge in self.graph.inputs(name))

    def _self_compared(self) -> Iterator[str]:
        """Yield differences between a prediction and the data that it was computed from, as autoencoders have."""
        for name in self.nodes:
            if self.graph.types[name] in DIFFERENCES and name in self.weighted and name in self.fed:
                ops = [self.seen_through(op) for op, index in self.graph.inputs(name) if index >= 0]
                if len(ops) == 2 and sum(op in self.sources for op in ops) == 1 and name not in self._into_layers:
                    yield name

    def seen_through(self, op: str) -> str:
        """Return the node whose value `op` passes on, through identities, reshapes and casts."""
        return self.back(op, lambda node: node in PASSES or node == "Cast")

    # The tail

    @cached_property
    def tail(self) -> dict[str, int]:
        """Node after the last layer and before the losses → its place in the graph."""
        if not self.variables:
            return {name: place for name, place in self.nodes.items() if name in self.fed and name not in self.losses}
        found = (name for name in self.nodes if name in self.weighted and name in self.fed and name not in self.losses)
        return {name: self.nodes[name] for name in found if name not in self._into_layers}

    @cached_property
    def compared(self) -> dict[str, str]:
        """Node that a loss takes, through the loss's own reshapes → the node of the loss."""
        found: dict[str, str] = {}
        for name in self.nodes:
            if name in self.losses and self.graph.types[name] not in _COUNTS:
                for op, index in self.graph.inputs(name):
                    if index >= 0 and op in self.weighted and op in self.fed and op not in self.losses:
                        found.setdefault(self.before_reshapes(op), name)
        return found

    def before_reshapes(self, op: str) -> str:
        """Return the node that a loss compares, before a Reshape or a logarithm that belongs to the loss."""
        before = op
        for _ in range(FAR):
            if not self.only_for_loss(op) and self.graph.types[op] not in _ARITHMETIC and not self._guards_logarithm(op):
                break
            op = next((o for o in self._operands(op) if o in self.weighted), "")
            if op in self.losses or op not in self.tail:
                return before
            before = op
        return op

    def _guards_logarithm(self, op: str, depth: int = 3) -> bool:
        """Return whether a node only adds a constant, or subtracts from one, before a logarithm, as ``log(p + 1e-7)`` does."""
        users = self.users.get(op, ())
        if self.graph.types[op] not in _SUMS or not users or not depth:
            return False
        free = [o for o, index in self.graph.inputs(op) if index >= 0 and o not in self.fed and o not in self.weighted]
        logs = all(self.graph.types[user] == "Log" or self._guards_logarithm(user, depth - 1) for user in users)
        return logs and any(self.graph.types.get(o) == "Const" for o in free)

    def only_for_loss(self, op: str) -> bool:
        """Return whether a node only arranges a tensor for a loss: a Reshape, or a slice in a loss's scope."""
        if op not in self._arranges:
            node = self.graph.types[op]
            sliced = node in ("StridedSlice", "Slice") and any(map(like_loss, op.split("/")[:-1]))
            users = self.users.get(op, ()) if sliced or node in ("Reshape", "StopGradient") else ()
            self._arranges[op] = False
            self._arranges[op] = bool(users) and all(u in self._loss_op_set or self.only_for_loss(u) for u in users)
        return self._arranges[op]

    @cached_property
    def _loss_op_set(self) -> frozenset[str]:
        return frozenset(self.loss_ops)

    @cached_property
    def generated(self) -> dict[str, str]:
        """Node that one net computes and another takes in place of data → the weights of the other net."""
        found: dict[str, str] = {}
        for weights, uses in self._shared().items():
            plain = [name for name in uses if not any(op in self.weighted for op in self._operands(name))]
            made = [name for name in uses if name not in plain]
            if not plain or not made or not weights:
                continue
            for name in made[:4]:
                operand = next(op for op in self._operands(name) if op in self.weighted)
                if weights not in self.upstream([operand]):
                    found |= dict.fromkeys(self._generated_nodes(operand), weights)
        return found

    def _shared(self) -> Mapping[str, list[str]]:
        uses: dict[str, list[str]] = {}
        for name in self._before_losses:
            uses.setdefault(self.layers[name], []).append(name)
        return {weights: names for weights, names in uses.items() if len(names) > 1}

    def _operands(self, name: str) -> list[str]:
        return [op for op, index in self.graph.inputs(name) if index >= 0 and op in self.fed]

    def _generated_nodes(self, op: str) -> Iterator[str]:
        """Yield the generated nodes that `op` reshapes or concatenates."""
        todo = [op]
        for op in todo:
            node = self.graph.nodes[op]
            if node.op in ("Concat", "ConcatV2", "Pack"):
                todo += [o for o, index in self.graph.inputs(op) if index >= 0 and o in self.weighted and o in self.fed]
            elif op in self.weighted and op in self.fed:
                yield op


def like_labels(edges: Iterable[Edge]) -> bool:
    """Return whether one of the edges is named like a label."""
    return any(like_label(op.rsplit("/", 1)[-1]) for op, _ in edges)
