"""New nodes in a GraphDef: attributes are encoded as the op's definition says, dtypes follow from the inputs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from exportkit.checkpoint.tensorproto import constant
from exportkit.errors import BindingError, Problem
from exportkit.metagraph.tensors import Shape, output_types, split
from exportkit.metagraph.wellformed import COPY_THE_GRAPH
from exportkit.protos import (
    DTYPE_NAMES,
    AttrValue,
    FunctionDef,
    GraphDef,
    NodeDef,
    OpDef,
    TensorShapeProto,
    dtype_name,
    types_pb2,
)


class GraphBuilder:
    """Adds nodes to a GraphDef.

    Tensors have their usual names, ``op:0``. A name that is taken gets a number, as in TensorFlow: ``Const_1``.

    Args:
        graph: the GraphDef; its nodes and functions are known, and new nodes are appended.
        ops: op → its definition, those of the installed TensorFlow.

    Attributes:
        initializers: the operations that fill the tables which were added.
        assets: the constants that hold the paths of files which were added.
    """

    def __init__(self, graph: GraphDef, ops: Mapping[str, OpDef]):
        self.graph, self.ops, self._scope = graph, ops, ""
        self.initializers: list[str] = []
        self.assets: list[str] = []
        self._functions = {function.signature.name: function.signature for function in graph.library.function}
        self._nodes: dict[str, NodeDef] = {}
        self._taken: set[str] = set()
        self._index(graph.node)

    def extend(self, nodes: Iterable[NodeDef]) -> None:
        """Append nodes with names of their own; they keep them."""
        before = len(self.graph.node)
        self.graph.node.extend(nodes)
        self._index(self.graph.node[before:])

    def _index(self, nodes: Iterable[NodeDef]) -> None:
        self._nodes |= {node.name: node for node in nodes}
        self._taken |= {node.name.lower() for node in nodes}

    @contextmanager
    def scope(self, name: str) -> Iterator[str]:
        """Put ``name/`` before the names of the nodes that are added in this context."""
        outer, self._scope = self._scope, f"{self._scope}{name}/"
        try:
            yield self._scope
        finally:
            self._scope = outer

    def free_scope(self, name: str, numbered: bool = True) -> str:
        """Return a scope that no node is in: `name`, else ``name_1`` …, or ``serving_name`` if it is not to be numbered."""
        tops = {taken.split("/", 1)[0] for taken in self._taken}
        if numbered:
            return next(n for n in _numbered(name) if n.lower() not in tops)
        while name.lower() in tops:
            name = f"serving_{name}"
        return name

    def dtype(self, tensor: str) -> str:
        """Return a tensor's dtype without the mark of a reference.

        Raises:
            KeyError: there is no such node.
            BindingError: the node has no such output, or lacks the attribute that gives its dtype.
        """
        op, index = split(tensor)
        node = self._nodes[op]
        types = list(output_types(node, self._functions.get(node.op) or self.ops[node.op]))
        if not 0 <= index < len(types):
            raise BindingError(Problem(f"{op} ({node.op})", f"has no output {index}", COPY_THE_GRAPH))
        if types[index] == types_pb2.DT_INVALID:
            raise BindingError(Problem(f"{op} ({node.op})", "does not give the dtype of its output", COPY_THE_GRAPH))
        return dtype_name(types[index])

    def constant(self, value: Any, dtype: str, shape: Sequence[int] | None = None, name: str = "Const") -> str:
        """Add a Const and return its tensor.

        Args:
            value: a number, text or bytes, or nested lists of one kind; one value fills every shape.
            shape: default: the value's own.

        Raises:
            ValueError: the value does not fit the dtype or the shape.
        """
        return self.add("Const", name=name, value=constant(value, dtype, shape), dtype=dtype)[0]

    def asset(self, path: str) -> str:
        """Add the constant of a file that travels with the model, and return its tensor."""
        self.assets.append(self.constant(path, "string", name="asset_path"))
        return self.assets[-1]

    def default(self, placeholder: str, value: str) -> None:
        """Let a Placeholder have the tensor `value` where it is not fed."""
        node = self._nodes[operation(placeholder)]
        node.op = "PlaceholderWithDefault"
        node.input[:] = [value]

    def cast(self, tensor: str, dtype: str) -> str:
        """Return `tensor` as `dtype`; a node is added only where it has another."""
        return tensor if self.dtype(tensor) == dtype else self.add("Cast", [tensor], DstT=dtype)[0]

    def add(
        self, op: str, inputs: Sequence[str | Sequence[str]] = (), name: str = "", control: Iterable[str] = (), **attrs: Any
    ) -> list[str]:
        """Add a node as `add_operation` does, and return its output tensors."""
        node = self._nodes[self.add_operation(op, inputs, name, control, **attrs)]
        return [f"{node.name}:{i}" for i, _ in enumerate(output_types(node, self.ops[op]))]

    def add_operation(
        self, op: str, inputs: Sequence[str | Sequence[str]] = (), name: str = "", control: Iterable[str] = (), **attrs: Any
    ) -> str:
        """Add a node and return its name.

        Args:
            op: an op that the installed TensorFlow has.
            inputs: a tensor for each argument of the op, and a list of tensors for one that takes several.
            name: default: the op's.
            control: operations that run before it.
            attrs: attributes as Python values: dtypes by their names, shapes as tuples; those that follow from the inputs,
                and those that have a default, can be left out. `_class` holds the operations to be colocated with.
        """
        definition = self.ops[op]
        node = self.graph.node.add(name=self._unique(self._scope + (name or op)), op=op)
        given = _inferred(definition, [_listed(argument) for argument in inputs], self.dtype) | attrs
        for argument in inputs:
            node.input.extend(map(_edge, _listed(argument)))
        node.input.extend(f"^{operation}" for operation in control)
        for attribute in definition.attr:
            if attribute.name in given:
                _encode(node.attr[attribute.name], attribute.type, given.pop(attribute.name))
        if "_class" in given:
            _encode(node.attr["_class"], "list(string)", given.pop("_class"))
        if given:
            raise TypeError(f"{op} has no attribute {', '.join(given)}")
        self._index([node])
        return node.name

    def add_function(self, name: str, function: FunctionDef) -> str:
        """Append a function to the library under `name`, or that with a number, and return its name."""
        taken = {known.lower() for known in (*self._functions, *self.ops)}
        function.signature.name = next(found for found in _numbered(name) if found.lower() not in taken)
        self.graph.library.function.append(function)
        self._functions[function.signature.name] = function.signature
        return function.signature.name

    def _unique(self, name: str) -> str:
        return next(found for found in _numbered(name) if found.lower() not in self._taken)


def operation(tensor: str) -> str:
    """Return the name of the operation that a tensor comes from."""
    return split(tensor)[0]


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 0
    while True:
        number += 1
        yield f"{name}_{number}"


def _listed(argument: str | Sequence[str]) -> list[str]:
    return [argument] if isinstance(argument, str) else list(argument)


def _edge(tensor: str) -> str:
    return tensor.removesuffix(":0")


def _inferred(definition: OpDef, inputs: Sequence[Sequence[str]], dtype: Any) -> dict[str, Any]:
    """Return the attributes that follow from the inputs: their dtypes and numbers (op_def.proto, OpDef.ArgDef)."""
    found: dict[str, Any] = {}
    for argument, tensors in zip(definition.input_arg, inputs, strict=True):
        if argument.number_attr:
            found[argument.number_attr] = len(tensors)
        if argument.type_list_attr:
            found[argument.type_list_attr] = [dtype(tensor) for tensor in tensors]
        elif argument.type_attr:
            found[argument.type_attr] = dtype(tensors[0])
    return found


def _encode(target: AttrValue, kind: str, value: Any) -> None:
    """Write a Python value into an attribute of the type `kind` (op_def.proto, OpDef.AttrDef.type)."""
    if kind.startswith("list("):
        target.list.SetInParent()
        getattr(target.list, _FIELDS[kind[5:-1]]).extend(_encoded(kind[5:-1], item) for item in value)
    elif kind == "func":
        target.func.name = value
    elif kind in ("shape", "tensor"):
        getattr(target, kind).CopyFrom(_encoded(kind, value))
    else:
        setattr(target, _FIELDS[kind], _encoded(kind, value))


_FIELDS = {"type": "type", "shape": "shape", "int": "i", "float": "f", "bool": "b", "string": "s"}


def _encoded(kind: str, value: Any) -> Any:
    if kind == "type":
        return DTYPE_NAMES[value]
    if kind == "string":
        return value if isinstance(value, bytes) else value.encode()
    return shape_proto(value) if kind == "shape" else value


def shape_proto(shape: Shape) -> TensorShapeProto:
    """Return a shape as a proto; -1 stands for an unknown dimension."""
    proto = TensorShapeProto(unknown_rank=shape is None)
    for size in shape or ():
        proto.dim.add(size=-1 if size is None else size)
    return proto
