"""A MetaGraphDef read from disk, and an index over its graph that answers every question in O(1) or O(nodes).

Works on TensorFlow's protos alone; what an op returns is told from the op definitions that a MetaGraphDef carries with it
(``meta_info_def.stripped_op_list``), so a graph of any age can be judged by any TensorFlow.
"""

import difflib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from exportkit.errors import BindingError, Problem, did_you_mean
from exportkit.protos import GraphDef, MetaGraphDef, NodeDef, SavedModel, dtype_name, variable_pb2

REF_VARIABLES = frozenset({"Variable", "VariableV2", "AutoReloadVariable"})
VARIABLE_OPS = REF_VARIABLES | {"VarHandleOp"}
VARIABLE_COLLECTIONS = (
    "variables",
    "trainable_variables",
    "local_variables",
    "model_variables",
    "moving_average_variables",
    "metric_variables",
    "global_step",
)
RESTORE_OPS = frozenset({"RestoreV2", "Restore", "RestoreSlice"})
_SAVE_OPS = {"SaveV2": 3, "SaveSlices": 3, "Save": 2}  # op → index of its first saved tensor
_LFS = b"version https://git-lfs.github.com/spec/"

Shape = tuple[int | None, ...] | None


def read(path: str | os.PathLike) -> MetaGraphDef:
    """Reads a ``.meta``, binary or text.

    Raises:
        BindingError: with one Problem, where no MetaGraphDef can be had from `path`.
    """
    path, data = os.fspath(path), _content(path, "the .meta that tf.compat.v1.train.Saver writes beside a checkpoint")
    if data[:1] == b"\x08" or data.startswith(b"saved_model_schema_version"):
        raise _refusal(path, "is a SavedModel, not a .meta", "hand in the .meta of the training run, beside its checkpoint")
    meta = _parse(MetaGraphDef, path, data)
    if not meta.graph_def.node:
        raise _refusal(path, *_empty(data))
    return meta


def read_saved_model(path: str | os.PathLike) -> SavedModel:
    """Reads a ``saved_model.pb`` or ``saved_model.pbtxt``, or the one in the directory `path`.

    Raises:
        BindingError: with one Problem, where no SavedModel can be had from `path`.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        text = os.path.join(path, "saved_model.pbtxt")
        path = text if os.path.exists(text) else os.path.join(path, "saved_model.pb")
    data = _content(path, "the saved_model.pb of a SavedModel version")
    saved_model = _parse(SavedModel, path, data)
    if not saved_model.meta_graphs:
        raise _refusal(
            path, "is not a SavedModel: it holds no meta graph", "hand in the saved_model.pb of a SavedModel version"
        )
    return saved_model


def _refusal(path: str, what: str, do: str = "") -> BindingError:
    return BindingError(Problem(path, what, do))


def _content(path: str, wanted: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        beside = f"{path}.meta"
        do = f"did you mean {beside}?" if os.path.exists(beside) else f"hand in {wanted}"
        raise _refusal(path, "no such file", do) from None
    except OSError as error:
        raise _refusal(path, f"cannot be read: {error.strerror}", f"hand in {wanted}") from None
    if data.startswith(_LFS):
        raise _refusal(path, "is a Git LFS pointer, not the file itself", "run git lfs pull")
    if not data:
        raise _refusal(path, "is empty", f"hand in {wanted}")
    return data


def _parse(cls, path: str, data: bytes):
    try:
        return cls.FromString(data)
    except DecodeError:
        pass
    try:
        return text_format.Parse(data.decode(), cls())
    except (UnicodeDecodeError, text_format.ParseError):
        pass
    if missing := _missing_bytes(data):
        raise _refusal(path, f"is truncated: at least {missing:,} bytes are missing after {len(data):,}", "copy it again")
    raise _refusal(path, *_empty(data, f"is not a {cls.DESCRIPTOR.name}"))


def _empty(data: bytes, what: str = "is not a MetaGraphDef: it holds no graph") -> tuple[str, str]:
    """What `data` is instead of a MetaGraphDef, as far as can be told, and what to do."""
    try:
        if any(node.op for node in GraphDef.FromString(data).node):
            what = "is a bare GraphDef, which knows no variables"
    except DecodeError:
        pass
    return what, "hand in the .meta that tf.compat.v1.train.Saver writes beside a checkpoint"


def _missing_bytes(data: bytes) -> int:
    """How many bytes the last top-level field lacks; 0 where the bytes are no sequence of length-delimited fields and varints.

    https://protobuf.dev/programming-guides/encoding/
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        size, at = _varint(data, at)
        if not 0 < tag >> 3 < 10 or tag & 7 not in (0, 2):
            return 0
        at += size if tag & 7 == 2 else 0
    return at - len(data)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
    return value, at + 1


def split(name: str) -> tuple[str, int]:
    """A node's input, or a tensor name, in two: ``op:2`` → (op, 2), ``op`` → (op, 0), the control edge ``^op`` → (op, -1)."""
    if name[:1] == "^":
        return name[1:], -1
    op, colon, index = name.rpartition(":")
    return (op, int(index)) if colon and index.isdecimal() else (name, 0)


def canonical(name: str) -> str:
    """The full name of a tensor: ``x`` → ``x:0``."""
    return "{}:{}".format(*split(name))


def dims(shape) -> Shape:
    """A TensorShapeProto as a tuple; None for an unknown rank, and for an unknown dimension."""
    return None if shape.unknown_rank else tuple(dim.size if dim.size >= 0 else None for dim in shape.dim)


@dataclass(frozen=True)
class Variable:
    """A variable op of a graph.

    Attributes:
        name: as the graph's own Saver calls it in a checkpoint; otherwise the name of its op. A slice of a partitioned
            variable keeps its op's name: its key is `full_name`, at the place that `slice` tells.
        op_name: its VariableV2, Variable, AutoReloadVariable or VarHandleOp.
        dtype: ``float32`` …, without the mark of a reference.
        shape: of this op (of this slice); None for an unknown rank.
        resource: whether it is a VarHandleOp.
        slice: SaveSliceInfoDef of a slice (full_name, full_shape, var_offset, var_shape), or None.
        full_name: `name`, or that of the variable that this is a slice of.
        full_shape: `shape`, or that of the variable that this is a slice of.
        initializer: the op that assigns its initial value, or None.
        trainable: its VariableDef says so, or it is in the collection trainable_variables.
        collections: names of the variable collections that hold it, sorted.
        definition: its VariableDef; None where it is in no collection.
    """

    name: str
    op_name: str
    dtype: str
    shape: Shape
    resource: bool
    slice: variable_pb2.SaveSliceInfoDef | None
    full_name: str
    full_shape: Shape
    initializer: str | None
    trainable: bool
    collections: tuple[str, ...]
    definition: variable_pb2.VariableDef | None


class Graph:
    """An index over the graph of a MetaGraphDef. Nothing in it is copied, and nothing of it is changed.

    Attributes:
        meta: the MetaGraphDef.
        nodes: name → NodeDef, in the graph's order.
        ops: op → OpDef, of the ops that the graph uses.
        functions: name → FunctionDef.
    """

    def __init__(self, meta: MetaGraphDef):
        self.meta = meta
        self.nodes: Mapping[str, NodeDef] = {node.name: node for node in meta.graph_def.node}
        self.ops = {op.name: op for op in meta.meta_info_def.stripped_op_list.op}
        self.functions = {function.signature.name: function for function in meta.graph_def.library.function}
        self._outputs: dict[str, tuple[str, ...] | None] = {}
        self._inputs: dict[str, tuple[tuple[str, int], ...]] = {}

    # Tensors

    def num_outputs(self, op: str) -> int | None:
        """How many tensors the node `op` returns; None where its op is not described."""
        outputs = self._dtypes(op)
        return None if outputs is None else len(outputs)

    def dtype(self, tensor: str) -> str | None:
        """The dtype of a tensor, ``float32`` …, reference or not; None where it cannot be told."""
        op, index = split(tensor)
        outputs = self._dtypes(op) if op in self.nodes else None
        return outputs[index] if outputs and 0 <= index < len(outputs) else None

    def _dtypes(self, op: str) -> tuple[str, ...] | None:
        if op not in self._outputs:
            node = self.nodes[op]
            signature = self.functions[node.op].signature if node.op in self.functions else self.ops.get(node.op)
            self._outputs[op] = None if signature is None else tuple(map(dtype_name, _output_types(node, signature)))
        return self._outputs[op]

    def shape(self, tensor: str) -> Shape:
        """The static shape of a tensor as the graph's writer inferred it, with None for each unknown dimension.

        Read from the attribute ``_output_shapes`` (``add_shapes``), or else from the op's own. None for an unknown rank.
        """
        op, index = split(tensor)
        node = self.nodes.get(op)
        shapes = None if node is None else _shapes(node, self.meta.graph_def.versions.producer)
        return shapes[index] if shapes and 0 <= index < len(shapes) else None

    def find(self, name: str) -> str | Problem:
        """The full name of the tensor that `name` means (``x`` → ``x:0``), or what is wrong with it and its nearest names.

        The Problem stands nowhere yet: give it its place with ``.under("bindings.images.tensor")``.
        """
        op, index = split(name.strip())
        if index >= 0 and op in self.nodes:
            outputs = self.num_outputs(op)
            if outputs is None or index < outputs:
                return f"{op}:{index}"
            return Problem("", f"{name} is not a tensor: {_counted(op, self.nodes[op].op, outputs)}", _valid(op, outputs))
        return Problem("", f"the graph has no tensor {name}", self.nearest(op, ":0"))

    def nearest(self, name: str, suffix: str = "") -> str:
        """What to do about an unknown node name: the names in this graph that are nearest to it, or end nearly as it does."""
        known = list(self.nodes) if len(self.nodes) <= 8 else _likely(name, self.nodes)
        leaves = difflib.get_close_matches(_leaf(name), [_leaf(k) for k in known], n=1, cutoff=0.75)
        names = [f"{k}{suffix}" for k in known]
        return did_you_mean(f"{name}{suffix}", names) or did_you_mean("".join(leaves), names)

    # Edges

    def inputs(self, op: str) -> tuple[tuple[str, int], ...]:
        """The edges into a node: (op, output index), with -1 for a control edge."""
        found = self._inputs.get(op)
        if found is None:
            found = self._inputs[op] = tuple(map(split, self.nodes[op].input))
        return found

    @cached_property
    def consumers(self) -> Mapping[str, list[str]]:
        """Node name → the nodes that take a tensor of it, in the graph's order. Control edges do not count."""
        consumers: dict[str, list[str]] = {}
        for name in self.nodes:
            for op in dict.fromkeys(op for op, index in self.inputs(name) if index >= 0):
                consumers.setdefault(op, []).append(name)
        return consumers

    def reach(self, fetches: Iterable[str], stops: Iterable[str] = ()) -> set[str]:
        """Names of the nodes that `fetches` need: backwards over data and control edges, and into functions' resources.

        Args:
            fetches: tensors (``op:0``) and operations (``op``).
            stops: tensors whose edges are not followed; nor is a control edge to their op. An edge to another output of
                the same op is.

        Raises:
            BindingError: a name that the graph does not have.
        """
        return set(self.walk(fetches, stops))

    def walk(
        self, fetches: Iterable[str], stops: Iterable[str] = (), barrier: Callable[[NodeDef], bool] = lambda _: False
    ) -> dict[str, str | None]:
        """As reach(), breadth first: node name → the node through which it was reached, None for a fetch.

        What stands behind a node that is a `barrier` is not followed.
        """
        stopped = set(map(split, stops))
        stopped |= {(op, -1) for op, _ in stopped}
        todo = deque((split(fetch)[0], None) for fetch in fetches if ":" not in fetch or split(fetch) not in stopped)
        via: dict[str, str | None] = {}
        while todo:
            name, user = todo.popleft()
            if name in via:
                continue
            via[name] = user
            if not barrier(self._node(name, user)):
                todo.extend((edge[0], name) for edge in self.inputs(name) if edge not in stopped and edge[0] not in via)
                todo.extend((op, name) for op in self._hidden(name))
        return via

    def _node(self, name: str, user: str | None) -> NodeDef:
        if name in self.nodes:
            return self.nodes[name]
        if user is None:
            raise BindingError(Problem(name, "the graph has no such node", self.nearest(name)))
        raise BindingError(
            Problem(user, f"takes {name}, which the graph does not have", "the file is not whole: copy it again")
        )

    # Functions

    def called(self, nodes: Iterable[NodeDef]) -> dict[str, str]:
        """Library functions that `nodes` call, directly or not, → the node that calls them, in the order of discovery."""
        if not self.functions:
            return {}
        found: dict[str, str] = {}
        todo = deque((name, node.name) for node in nodes for name in self._functions_of(node))
        while todo:
            name, caller = todo.popleft()
            if name in found or name not in self.functions:
                continue
            found[name] = caller
            todo.extend((used, caller) for node in self.functions[name].node_def for used in self._functions_of(node))
            todo.extend((gradient, caller) for gradient in self._gradients.get(name, ()))
        return found

    def _functions_of(self, node: NodeDef) -> Iterator[str]:
        if node.op in self.functions:
            yield node.op
        for name in self._function_attrs(node.op, node.attr):
            value = node.attr[name]
            yield from [value.func.name] if value.HasField("func") else (func.name for func in value.list.func)

    def _function_attrs(self, op: str, given: Mapping) -> list[str]:
        if op not in self.ops:
            return sorted(name for name in given if given[name].HasField("func") or given[name].list.func)
        if op not in self._function_attrs_of:
            self._function_attrs_of[op] = [a.name for a in self.ops[op].attr if a.type in ("func", "list(func)")]
        return [name for name in self._function_attrs_of[op] if name in given]

    @cached_property
    def _function_attrs_of(self) -> dict[str, list[str]]:
        return {}

    @cached_property
    def _gradients(self) -> dict[str, list[str]]:
        gradients: dict[str, list[str]] = {}
        for entry in self.meta.graph_def.library.gradient:
            gradients.setdefault(entry.function_name, []).append(entry.gradient_func)
        return gradients

    def _hidden(self, name: str) -> list[str]:
        """Variables and tables of the graph that the functions called by a node name by shared_name, not by an edge."""
        if not self.functions:
            return []
        shared = self._shared_names
        bodies = (self.functions[function] for function in self.called([self.nodes[name]]))
        keys = ((node.op, shared_name(node)) for body in bodies for node in body.node_def if node.attr.get("shared_name"))
        return [shared[key] for key in keys if key in shared]

    @cached_property
    def _shared_names(self) -> dict[tuple[str, str], str]:
        named = (node for node in self.nodes.values() if "shared_name" in node.attr)
        return {(node.op, shared_name(node)): node.name for node in named}

    # Variables

    @cached_property
    def variables(self) -> Mapping[str, Variable]:
        """Every variable op of the graph by its `Variable.name`, in the graph's order."""
        found = (self._variable(node) for node in self.nodes.values() if node.op in VARIABLE_OPS)
        return {variable.name: variable for variable in found}

    def _variable(self, node: NodeDef) -> Variable:
        definition, collections = self._definitions.get(node.name, (None, ()))
        part = definition.save_slice_info_def if definition and definition.HasField("save_slice_info_def") else None
        name, shape = self._keys.get(node.name, node.name), self._variable_shape(node)
        return Variable(
            name=name,
            op_name=node.name,
            dtype=dtype_name(node.attr["dtype"].type),
            shape=shape,
            resource=node.op == "VarHandleOp",
            slice=part,
            full_name=part.full_name if part else name,
            full_shape=tuple(part.full_shape) if part else shape,
            initializer=split(definition.initializer_name)[0] if definition else self._assignment(node.name),
            trainable="trainable_variables" in collections or bool(definition and definition.trainable),
            collections=tuple(sorted(collections)),
            definition=definition,
        )

    def _variable_shape(self, node: NodeDef) -> Shape:
        if node.op != "VarHandleOp" and (inferred := node.attr.get("_output_shapes")):
            return dims(inferred.list.shape[0])
        shape = dims(node.attr["shape"].shape)
        return None if node.op == "Variable" and shape == () else shape  # array_ops.cc: legacy `Variable` with [] is unknown

    @cached_property
    def _definitions(self) -> dict[str, tuple[variable_pb2.VariableDef, set[str]]]:
        """Variable op → its VariableDef and the collections that hold it."""
        found: dict[str, tuple[variable_pb2.VariableDef, set[str]]] = {}
        for collection in VARIABLE_COLLECTIONS:
            if collection in self.meta.collection_def:
                for data in self.meta.collection_def[collection].bytes_list.value:
                    definition = variable_pb2.VariableDef.FromString(data)
                    op = split(definition.variable_name)[0]
                    found.setdefault(op, (definition, set()))[1].add(collection)
        return found

    def _assignment(self, variable: str) -> str | None:
        """The op that most likely initialises a variable without a VariableDef."""
        assigns = [
            name
            for name in self.consumers.get(variable, ())
            if self.nodes[name].op in ("Assign", "AssignVariableOp")
            and self.inputs(name)[0][0] == variable
            and self.nodes[self.origin(self.nodes[name].input[1])].op not in RESTORE_OPS
        ]
        own = [name for name in assigns if name == f"{variable}/Assign"]
        return (own or assigns or [None])[0]

    def origin(self, tensor: str) -> str:
        """The op that `tensor` comes from, seen through reads and identities."""
        op = split(tensor)[0]
        while self.nodes[op].op in ("Identity", "ReadVariableOp"):
            op = self.inputs(op)[0][0]
        return op

    @cached_property
    def _keys(self) -> dict[str, str]:
        """Variable op → the checkpoint key under which the graph's Saver writes it, where that is not the op's name.

        A key that is the name of another variable op is left alone: `variables` would lose one of the two.
        """
        saver = self.meta.saver_def.save_tensor_name
        if split(saver)[0] not in self.nodes:
            return {}
        saves = (self.nodes[name] for name in self.walk([saver]) if self.nodes[name].op in _SAVE_OPS)
        keys = dict(pair for save in saves for pair in self._saved(save))
        taken = {node.name for node in self.nodes.values() if node.op in VARIABLE_OPS}
        return {op: key for op, key in keys.items() if key not in taken}

    def _saved(self, save: NodeDef) -> Iterator[tuple[str, str]]:
        first = _SAVE_OPS[save.op]
        keys = self.strings(save.input[1])
        slices = self.strings(save.input[2]) if first == 3 else [""] * len(keys)
        tensors = [tensor for tensor in save.input[first:] if tensor[0] != "^"]
        for key, part, tensor in zip(keys, slices, tensors, strict=False):
            op = self.origin(tensor)
            if self.nodes[op].op in VARIABLE_OPS and not part:
                yield op, key

    def strings(self, tensor: str) -> list[str]:
        """The values of a string Const; empty for anything else."""
        node = self.nodes[self.origin(tensor)]
        return [v.decode(errors="replace") for v in node.attr["value"].tensor.string_val] if node.op == "Const" else []


def shared_name(node: NodeDef) -> str:
    """The name under which a resource is shared in a session: its attribute, or the name of the op."""
    shared = node.attr.get("shared_name")
    return (shared.s.decode() if shared else "") or node.name


def _output_types(node: NodeDef, signature) -> Iterator[int]:
    """The dtype enums that a node returns, by its OpDef (tensorflow/core/framework/op_def.proto, OpDef.ArgDef)."""
    defaults = {a.name: a.default_value for a in signature.attr}

    def value(name: str):
        return node.attr[name] if name in node.attr else defaults[name]

    for arg in signature.output_arg:
        if arg.type_list_attr:
            yield from value(arg.type_list_attr).list.type
        else:
            dtype = value(arg.type_attr).type if arg.type_attr else arg.type
            yield from [dtype] * (value(arg.number_attr).i if arg.number_attr else 1)


def _shapes(node: NodeDef, producer: int) -> list[Shape]:
    """The static shapes of a node's outputs, as far as its attributes tell."""
    for name in ("_output_shapes", "output_shapes", "shapes"):
        if (value := node.attr.get(name)) and value.HasField("list"):
            return [dims(shape) for shape in value.list.shape]
    if node.op not in REF_VARIABLES and not node.op.startswith("Placeholder"):
        return []
    shape = dims(node.attr["shape"].shape) if "shape" in node.attr else None
    unknown = shape == () and (node.op == "Variable" or (node.op == "Placeholder" and producer < 24))
    return [None if unknown else shape]


def _counted(op: str, kind: str, outputs: int) -> str:
    return f"{op} ({kind}) returns {outputs or 'no'} tensor{'' if outputs == 1 else 's'}"


def _valid(op: str, outputs: int) -> str:
    if outputs < 2:
        return f"write {op}:0" if outputs else "name an op that returns one"
    return f"write {op}:0 to {op}:{outputs - 1}"


def _likely(name: str, known: Iterable[str], most: int = 200) -> list[str]:
    """Those of `known` that share most trigrams with `name`: difflib alone takes seconds over 50,000 names."""
    grams = {name[i : i + 3] for i in range(len(name) - 2)} or {name}
    forward = [k for k in known if not k.startswith(("gradients/", "save/")) or k[:5] == name[:5]]
    score = Counter({k: sum(gram in k for gram in grams) - abs(len(k) - len(name)) / 1000 for k in forward})
    return [k for k, _ in score.most_common(most)]


def _leaf(name: str) -> str:
    return name.rsplit("/", 1)[-1]
