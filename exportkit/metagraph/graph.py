"""An index over a MetaGraphDef's graph, with lookups in O(1) or O(nodes).

It works on TensorFlow's protos alone. The outputs of an op are those of the op definitions in the MetaGraphDef itself
(``meta_info_def.stripped_op_list``), so any TensorFlow can check a graph of any age.
"""

import difflib
import gc
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import islice

from exportkit.errors import BindingError, Problem, did_you_mean
from exportkit.metagraph.calls import Calls
from exportkit.metagraph.contexts import Context, contexts_of
from exportkit.metagraph.sources import sources_of
from exportkit.metagraph.tensors import REF_VARIABLES, Shape, output_types, shapes, shared_name, split
from exportkit.metagraph.variables import Variable, variables_of
from exportkit.metagraph.wellformed import MOST_OUTPUTS
from exportkit.protos import MetaGraphDef, NodeDef, OpDef, VariableDef, dtype_name

Edges = tuple[tuple[str, int], ...]
_SPARSE = ("indices", "values", "dense_shape", "shape")  # names of the parts of a tf.sparse_placeholder
_OF_THEIR_DTYPE = REF_VARIABLES | {"Const", "Placeholder", "PlaceholderV2", "PlaceholderWithDefault", "ReadVariableOp"}


@contextmanager
def many_objects() -> Iterator[None]:
    """Pause the collection of cyclic garbage, which visits every node again and again while a large graph is read."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


class _Parsed(dict[str, tuple[str, int]]):
    """A node's input, as it is written → its edge: most stand in a graph several times."""

    def __missing__(self, text: str) -> tuple[str, int]:
        found = self[text] = split(text)
        return found


class Graph:
    """An index over the graph of a MetaGraphDef. It copies nothing and changes nothing.

    Attributes:
        meta: the MetaGraphDef.
        nodes: name → NodeDef, in the graph's order.
        types: name → the node's op, such as ``MatMul``; asking the NodeDef makes a new string each time.
        ops: op → OpDef, of the ops that the graph uses.
        functions: name → FunctionDef.
    """

    def __init__(self, meta: MetaGraphDef):
        self.meta = meta
        self.nodes: Mapping[str, NodeDef] = {node.name: node for node in meta.graph_def.node}
        self.types: Mapping[str, str] = {name: sys.intern(node.op) for name, node in self.nodes.items()}
        self.ops = {op.name: op for op in meta.meta_info_def.stripped_op_list.op}
        self.functions = {function.signature.name: function for function in meta.graph_def.library.function}
        self._outputs: dict[str, tuple[str, ...] | None] = {}
        self._members: dict[str, list[VariableDef]] = {}

    # Tensors

    def num_outputs(self, op: str) -> int | None:
        """Return the number of tensors that the node `op` returns; None if its op is not described."""
        outputs = self._dtypes(op)
        return None if outputs is None else len(outputs)

    def dtype(self, tensor: str) -> str | None:
        """Return the dtype of a tensor, ``float32`` …, without the suffix of a reference; None if it is not known."""
        op, index = split(tensor)
        outputs = self._dtypes(op)
        return outputs[index] if outputs and 0 <= index < len(outputs) else None

    def _dtypes(self, op: str) -> tuple[str, ...] | None:
        if op not in self._outputs:
            node = self.nodes.get(op)
            signature = None if node is None else self._signature(node.op)
            types = [] if node is None or signature is None else list(islice(output_types(node, signature), MOST_OUTPUTS + 1))
            if len(types) > MOST_OUTPUTS:
                raise BindingError(Problem(op, f"has more than {MOST_OUTPUTS:,} outputs", "it cannot be used"))
            self._outputs[op] = self._undescribed(node) if signature is None else tuple(map(dtype_name, types))
        return self._outputs[op]

    @staticmethod
    def _undescribed(node: NodeDef | None) -> tuple[str, ...] | None:
        """Return the dtypes of a node whose op the meta graph does not describe, if its attribute is all there is to know."""
        dtype = node.attr.get("dtype") if node is not None and node.op in _OF_THEIR_DTYPE else None
        return (dtype_name(dtype.type),) if dtype is not None and dtype.type else None

    def _signature(self, op: str) -> OpDef | None:
        return self.functions[op].signature if op in self.functions else self.ops.get(op)

    def shape(self, tensor: str) -> Shape:
        """Return the static shape of a tensor as the graph's writer inferred it, with None for each unknown dimension.

        It is read from the attribute ``_output_shapes`` (``add_shapes``), or else from the op's own; None for an unknown rank.
        """
        op, index = split(tensor)
        node = self.nodes.get(op)
        known = [] if node is None else shapes(node, self.meta.graph_def.versions.producer)
        return known[index] if 0 <= index < len(known) else None

    def find(self, name: str) -> str | Problem:
        """Return the full name of the tensor `name` (``x`` → ``x:0``), or what is wrong with it, with the nearest names.

        The Problem has no place yet: set it with ``.under("bindings.images.tensor")``.
        """
        op, index = split(name.strip())
        if index >= 0 and op in self.nodes:
            outputs = self.num_outputs(op)
            if outputs is None or index < outputs:
                return f"{op}:{index}"
            return Problem(
                "", f"{name} is not a tensor: {_describe_outputs(op, self.nodes[op].op, outputs)}", _describe_valid(op, outputs)
            )
        parts = [f"{op}/{part}:0" for part in _SPARSE if f"{op}/{part}" in self.nodes]
        if len(parts) > 2:
            return Problem("", f"{name} is a sparse tensor, not one tensor", f"bind its parts: {', '.join(parts)}")
        return Problem("", f"the graph has no tensor {name}", self.nearest(op, ":0"))

    def is_dense_shape(self, tensor: str) -> bool:
        """Return whether a tensor is the dense shape of a tf.sparse_placeholder, by the names of its parts."""
        scope, _, leaf = split(tensor)[0].rpartition("/")
        return leaf == "shape" and all(f"{scope}/{part}" in self.nodes for part in ("indices", "values"))

    def nearest(self, name: str, suffix: str = "") -> str:
        """Return what to do about an unknown node name: the names nearest to it, or those whose last part is."""
        known = list(self.nodes) if len(self.nodes) <= 8 else _likely(name, self.nodes)
        leaves = difflib.get_close_matches(_leaf(name), [_leaf(k) for k in known], n=1, cutoff=0.75)
        names = [f"{k}{suffix}" for k in known]
        return did_you_mean(f"{name}{suffix}", names) or did_you_mean("".join(leaves), names)

    # Edges

    def inputs(self, op: str) -> Edges:
        """Return the edges into a node: (op, output index), with -1 for a control edge."""
        return self.edges[op]

    @cached_property
    def edges(self) -> Mapping[str, Edges]:
        """Node → the edges into it, in order, as `inputs` returns them. Equal edges are one object."""
        parsed = _Parsed()
        return {name: tuple([parsed[text] for text in node.input]) for name, node in self.nodes.items()}

    @cached_property
    def consumers(self) -> Mapping[str, list[str]]:
        """Node → the nodes that take one of its tensors, in the graph's order, without control edges."""
        return self._users[0]

    def users(self, op: str) -> list[str]:
        """Return the nodes that take one of a node's tensors, or have a control edge from it."""
        consumers, followers = self._users
        return [*consumers.get(op, ()), *followers.get(op, ())]

    @cached_property
    def _users(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        consumers: defaultdict[str, list[str]] = defaultdict(list)
        followers: defaultdict[str, list[str]] = defaultdict(list)
        for name, edges in self.edges.items():
            for op, index in edges:
                users = consumers[op] if index >= 0 else followers[op]
                if not users or users[-1] is not name:
                    users.append(name)
        return dict(consumers), dict(followers)

    def takes(self, nodes: Container[str], tensor: str) -> bool:
        """Return whether one of `nodes` takes a tensor."""
        edge = split(tensor)
        return any(user in nodes and edge in self.edges[user] for user in self.consumers.get(edge[0], ()))

    @cached_property
    def sources(self) -> frozenset[str]:
        """The nodes that bring data into the graph, see `exportkit.metagraph.sources`."""
        return frozenset(sources_of(self))

    def check_edges(self) -> None:
        """Check that the graph has every node that one of its nodes takes.

        Raises:
            BindingError: it does not.
        """
        for users in self._users:
            for op, names in users.items():
                if op not in self.nodes:
                    self._node(op, names[0])

    @cached_property
    def contexts(self) -> Mapping[str, Context]:
        """Node → the while frames and branches of tf.cond that it runs in; nodes that run in none are left out."""
        return contexts_of(self)

    def reach(self, fetches: Iterable[str], stops: Iterable[str] = ()) -> set[str]:
        """Return the nodes that `fetches` need: backwards over data and control edges, and the resources that functions use.

        Args:
            fetches: tensors (``op:0``) and operations (``op``).
            stops: tensors whose edges are not followed; nor is a control edge to their op. An edge to another output of
                the same op is.

        Raises:
            BindingError: the graph does not have a name.
        """
        return set(self.walk(fetches, stops))

    def walk(
        self, fetches: Iterable[str], stops: Iterable[str] = (), barrier: Callable[[str], bool] | None = None
    ) -> dict[str, str | None]:
        """Like `reach`, breadth first: return node → the node through which it was reached, None for a fetch.

        The inputs of a node for whose name `barrier` returns True are not followed.
        """
        stopped = set(map(split, stops))
        stopped |= {(op, -1) for op, _ in stopped}
        starts = [split(fetch)[0] for fetch in fetches if ":" not in fetch or split(fetch) not in stopped]
        via: dict[str, str | None] = dict.fromkeys(starts)
        todo, inputs = list(via), self.edges
        for name in todo:
            edges = inputs.get(name)
            if edges is None:
                self._node(name, via[name])
            if barrier is not None and barrier(name):
                continue
            for edge in edges or ():
                if edge[0] not in via and edge not in stopped:
                    via[edge[0]] = name
                    todo.append(edge[0])
            for op in self._hidden(name) if self.functions else ():
                if op not in via:
                    via[op] = name
                    todo.append(op)
        return via

    def _node(self, name: str, user: str | None) -> NodeDef:
        if name in self.nodes:
            return self.nodes[name]
        if user is None:
            raise BindingError(Problem(name, "the graph has no such node", self.nearest(name)))
        raise BindingError(
            Problem(user, f"takes {name}, which the graph does not have", "the file is not whole: copy it again")
        )

    def rewired(self, replaced: Mapping[str, str]) -> "Graph":
        """Return the graph with some tensors replaced: tensor (``op:0``) → the one that its consumers take instead."""
        if not replaced:
            return self
        edges = {split(old): new for old, new in replaced.items()}
        meta = MetaGraphDef()
        meta.CopyFrom(self.meta)
        for node in meta.graph_def.node:
            taken = self.inputs(node.name)
            if any(edge in edges for edge in taken):
                node.input[:] = [edges.get(edge, name) for name, edge in zip(node.input, taken, strict=True)]
        return Graph(meta)

    # Functions

    def called(self, nodes: Iterable[NodeDef]) -> dict[str, str]:
        """Return library function that `nodes` call, directly or not → the node that calls it, in the order of discovery."""
        return self._calls.called(nodes)

    def is_plain(self, name: str) -> bool:
        """Return whether a node certainly calls no function."""
        return self._calls.is_plain(self.types[name])

    @cached_property
    def _calls(self) -> Calls:
        return Calls(self.meta.graph_def.library, self.functions, self.ops)

    def _hidden(self, name: str) -> list[str]:
        """Return the graph's variables and tables that the functions called by a node use by shared_name, without an edge."""
        if self.is_plain(name):
            return []
        shared = self._shared_names
        bodies = (self.functions[function] for function in self.called([self.nodes[name]]))
        keys = ((node.op, shared_name(node)) for body in bodies for node in body.node_def if node.attr.get("shared_name"))
        return [shared[key] for key in keys if key in shared]

    @cached_property
    def _shared_names(self) -> dict[tuple[str, str], str]:
        named = (node for node in self.nodes.values() if "shared_name" in node.attr)
        return {(node.op, shared_name(node)): node.name for node in named}

    # Variables and constants

    def members(self, collection: str) -> list[VariableDef]:
        """Return the VariableDefs in a collection; none if there is no such collection."""
        if collection not in self._members:
            collections = self.meta.collection_def
            values = collections[collection].bytes_list.value if collection in collections else ()
            self._members[collection] = [VariableDef.FromString(value) for value in values]
        return self._members[collection]

    @cached_property
    def variables(self) -> Mapping[str, Variable]:
        """All variable ops of the graph by `Variable.name`, in the graph's order."""
        return variables_of(self)

    def origin(self, tensor: str) -> NodeDef | None:
        """Return the node that `tensor` comes from, through reads and identities; None if it was cut off."""
        name = split(tensor)[0]
        while self.types.get(name) in ("Identity", "ReadVariableOp"):
            name = self.edges[name][0][0]
        return self.nodes.get(name)

    def strings(self, tensor: str) -> list[str]:
        """Return the values of a string Const; an empty list for anything else."""
        node = self.origin(tensor)
        found = node.attr["value"].tensor.string_val if node is not None and node.op == "Const" else ()
        return [value.decode(errors="replace") for value in found]


def _describe_outputs(op: str, op_type: str, outputs: int) -> str:
    return f"{op} ({op_type}) returns {outputs or 'no'} tensor{'' if outputs == 1 else 's'}"


def _describe_valid(op: str, outputs: int) -> str:
    if outputs < 2:
        return f"write {op}:0" if outputs else "name an op that returns one"
    return f"write {op}:0 to {op}:{outputs - 1}"


def _likely(name: str, known: Iterable[str], most: int = 200) -> list[str]:
    """Return those of `known` that share most trigrams with `name`: difflib alone takes seconds for 50,000 names."""
    grams = {name[i : i + 3] for i in range(len(name) - 2)} or {name}
    forward = [k for k in known if not k.startswith(("gradients/", "save/")) or k[:5] == name[:5]]
    score = Counter({k: sum(gram in k for gram in grams) - abs(len(k) - len(name)) / 1000 for k in forward})
    return [k for k, _ in score.most_common(most)]


def _leaf(name: str) -> str:
    return name.rsplit("/", 1)[-1]
