"""Checks of a graph that was read from a file, before anything walks through it: it may have been made by anyone.

Refused is what TensorFlow's own importer refuses (``core/graph/graph_constructor.cc``, ``ValidateNodeDef`` in
``core/framework/node_def_util.cc``), and what it would follow without end or expand without bound.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cache
from itertools import chain, dropwhile, islice
from typing import Any

from google.protobuf.message import DecodeError

from exportkit.checkpoint.encoding import item_size
from exportkit.errors import Problem, shortened
from exportkit.metagraph.tensors import VARIABLE_OPS, split
from exportkit.metagraph.variables import VARIABLE_COLLECTIONS
from exportkit.protos import (
    DTYPE_NAMES,
    AttrValue,
    FunctionDef,
    MetaGraphDef,
    NodeDef,
    OpDef,
    VariableDef,
    dtype_name,
    types_pb2,
)

MOST_OUTPUTS = 1 << 16  # of a node
_MOST = 20  # problems that are reported
_MOST_NAME = 4096  # characters
_MOST_ATTRIBUTES = 1000  # of a node: TensorFlow's optimizers copy them again and again
_MOST_DIMENSIONS = 254  # TensorShape::MaxDimensions (tensor_shape.h)
_MOST_BYTES = 1 << 31  # of a constant: as many as a file can hold
_NAME = re.compile(r"[A-Za-z0-9._][\w.\\/>-]*", re.ASCII)  # IsValidNodeName and its internal names
_BACK_EDGES = frozenset({"NextIteration", "RefNextIteration"})
_REFERENCE = 100  # DT_FLOAT_REF is DT_FLOAT + 100
COPY_THE_GRAPH = "the file is damaged or was made by hand: copy it again"
_DTYPES = frozenset(types_pb2.DataType.values())
_USABLE = frozenset(DTYPE_NAMES.values())
_TYPED = VARIABLE_OPS | {"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"}
_INPUTS = {  # op → data inputs that it has at least; of the ops whose inputs are looked at by their position
    **dict.fromkeys(("Identity", "ReadVariableOp", "Enter", "RefEnter", "Exit", "RefExit", "NextIteration", "LoopCond"), 1),
    **dict.fromkeys(("PlaceholderWithDefault", "ReadFile", "StopGradient", "Squeeze", "Cast", "If", "StatelessIf", "Floor"), 1),
    **dict.fromkeys(
        ("Switch", "RefSwitch", "Assign", "AssignVariableOp", "Reshape", "ExpandDims", "Sub", "Save", "Restore"), 2
    ),
    **dict.fromkeys(("InitializeTableFromTextFile", "InitializeTableFromTextFileV2", "Gather", "ResourceGather"), 2),
    **dict.fromkeys(("InitializeTable", "InitializeTableV2", "LookupTableImport", "LookupTableImportV2"), 3),
    **dict.fromkeys(("SaveV2", "SaveSlices", "RestoreV2", "RestoreSlice"), 3),
}
Found = Iterator[tuple[str, str]]  # where in the graph, what is wrong there


def problems(meta: MetaGraphDef, path: str) -> list[Problem]:
    """Return what is wrong with a meta graph of the file `path`, each with the name of its node; nothing for a sound one."""
    library = meta.graph_def.library.function
    functions = {function.signature.name for function in library}
    found = chain(
        _op_problems([*meta.meta_info_def.stripped_op_list.op, *(function.signature for function in library)]),
        _node_problems(meta.graph_def.node, functions),
        _edge_problems(meta.graph_def.node),
        _function_problems(library, functions),
        _collection_problems(meta),
        _signature_problems(meta),
    )
    listed = [Problem(path, f"{shortened(where, 200)} {what}", COPY_THE_GRAPH) for where, what in islice(found, _MOST + 1)]
    return [*listed[:_MOST], Problem(path, "there are more such problems", COPY_THE_GRAPH)] if len(listed) > _MOST else listed


def _node_problems(nodes: Iterable[NodeDef], functions: Set[str], inside: str = "") -> Found:
    names: set[str] = set()
    for node in nodes:
        name = node.name
        if what := _node_problem(node, name, names, functions):
            yield f"{_quoted(name) or 'a node'} ({shortened(node.op, 80) or '?'}){inside}", what
        names.add(name)


def _node_problem(node: NodeDef, name: str, names: Set[str], functions: Set[str]) -> str:
    """Return what is wrong with a node of that name, `names` being those before it; empty if nothing is."""
    op = node.op
    if not _NAME.fullmatch(name) or len(name) > _MOST_NAME:
        return "has a name that no node can have" if name else "has no name"
    if name in names:
        return "has the name of another node"
    if not op or len(op) > _MOST_NAME:
        return "has no op" if not op else "is of an op whose name has no end"
    return _attribute_problem(node, functions)


def _attribute_problem(node: NodeDef, functions: Set[str]) -> str:
    """Return what is wrong with the attributes of a node; empty if nothing is."""
    if len(node.attr) > _MOST_ATTRIBUTES:
        return f"has {len(node.attr):,} attributes"
    attributes, op = node.attr, node.op
    for value in map(attributes.__getitem__, attributes):  # in half the time of `values`, whose loop is Python's
        if (check := _CHECKS.get(value.WhichOneof("value"))) and (what := check(value, functions)):
            return what
    if op == "Const" and node.attr["value"].WhichOneof("value") != "tensor":
        return "has no value"
    if op in _TYPED and node.attr["dtype"].type % _REFERENCE not in _USABLE:
        return "has no dtype"
    return ""


def _type_problem(value: AttrValue, _: Set[str]) -> str:
    return "" if value.type in _DTYPES else f"has an attribute of dtype {value.type}, which is none"


def _shape_problem(value: AttrValue, _: Set[str]) -> str:
    dimensions = len(value.shape.dim)
    return f"has a shape of {dimensions} dimensions" if dimensions > _MOST_DIMENSIONS else ""


def _call_problem(value: AttrValue, functions: Set[str]) -> str:
    return _describe_missing("" if value.func.name in functions else value.func.name)


def _describe_missing(function: str) -> str:
    return f"calls {_quoted(shortened(function, 200))}, which is not in the function library" if function else ""


def _list_problem(value: AttrValue, functions: Set[str]) -> str:
    held = value.list
    if wrong := [dtype for dtype in held.type if dtype not in _DTYPES]:
        return f"has an attribute of dtype {wrong[0]}, which is none"
    missing = (function.name for function in held.func if function.name not in functions)
    return _describe_missing(next(missing, ""))


def _tensor_problem(tensor: Any) -> str:
    """Return why a TensorProto is no tensor, or one that expands to more than a file can hold; empty if it is sound."""
    if tensor.dtype not in _DTYPES:
        return f"holds a tensor of dtype {tensor.dtype}, which is none"
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if len(shape) > _MOST_DIMENSIONS:
        return f"holds a tensor of {len(shape)} dimensions"
    if tensor.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        return "holds a tensor whose shape is not known"
    count, size = math.prod(shape), _item_size(tensor.dtype)
    if count * max(size, 1) > _MOST_BYTES:
        return f"declares a tensor of {count:,} elements, more than a file can hold"
    if tensor.tensor_content and size and len(tensor.tensor_content) != count * size:
        return f"holds {len(tensor.tensor_content):,} bytes for {count:,} elements of {dtype_name(tensor.dtype)}"
    return ""


_CHECKS: Mapping[str, Callable[[AttrValue, Set[str]], str]] = {
    "type": _type_problem,
    "shape": _shape_problem,
    "tensor": lambda value, _: _tensor_problem(value.tensor),
    "func": _call_problem,
    "list": _list_problem,
}


@cache
def _item_size(dtype: int) -> int:
    """Return the bytes of an element; 0 for those of no fixed size."""
    name = dtype_name(dtype)
    if name in ("invalid", "string", "resource", "variant") or name not in DTYPE_NAMES:
        return 0
    try:
        return item_size(name)
    except ValueError:
        return 0


def _edge_problems(nodes: Sequence[NodeDef]) -> Found:
    """Yield inputs of nodes that do not exist or are too few, and a cycle that is not that of a while loop."""
    ops = {node.name: node.op for node in nodes}
    before: set[str] = set()
    ordered = True
    for node in nodes:
        name, op, data, control = node.name, node.op, 0, False
        for taken in node.input:
            if taken in before and not control:  # nearly all
                data += 1
                continue
            source, index = split(taken)
            if what := _input_problem(taken, index, source in ops, control):
                yield f"{_quoted(name)} ({shortened(op, 80)})", what
            control, data = control or index < 0, data + (index >= 0)
            ordered = ordered and (source in before or ops.get(source) in _BACK_EDGES)
        if op in _INPUTS and data < _INPUTS[op]:
            yield f"{_quoted(name)} ({shortened(op, 80)})", f"has {data} inputs, and needs {_INPUTS[op]}"
        before.add(name)
    if not ordered and (cycle := _cycle(_edges(nodes, ops))):
        computed = [cycle[0], *cycle[:0:-1]]
        yield f"{_quoted(cycle[0])} ({ops[cycle[0]]})", f"is computed from itself: {_round(computed)}"


def _input_problem(taken: str, index: int, known: bool, control: bool) -> str:
    """Return what is wrong with an input of a node; `control`: whether a control input came before it."""
    shown = _quoted(shortened(taken, 200)) or "an input without a name"
    if not known:
        return f"takes {shown}, which the graph does not have"
    if index >= MOST_OUTPUTS:
        return f"takes {shown}, and no node has so many outputs"
    return f"takes {shown} behind a control input" if control and index >= 0 else ""


def _edges(nodes: Iterable[NodeDef], ops: Mapping[str, str]) -> dict[str, set[str]]:
    """Return node → the nodes that must run before it; a while loop's back edge is none of them."""
    taken = {node.name: {split(name)[0] for name in node.input} for node in nodes}
    return {name: {op for op in sources if ops.get(op) not in _BACK_EDGES} for name, sources in taken.items()}


def _cycle(edges: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the names on one cycle, each before one that it takes; nothing where there is none."""
    waiting = {name: len(set(into) & edges.keys()) for name, into in edges.items()}
    users: dict[str, list[str]] = {}
    for name, into in edges.items():
        for op in into:
            users.setdefault(op, []).append(name)
    todo = [name for name, count in waiting.items() if not count]
    for name in todo:
        for user in users.get(name, ()):
            waiting[user] -= 1
            if not waiting[user]:
                todo.append(user)
    left = edges.keys() - todo
    if not left:
        return []
    name = next(name for name in edges if name in left)
    path: dict[str, None] = {}
    while name not in path:
        path[name] = None
        name = min(op for op in edges[name] if op in left)
    return [*dropwhile(lambda one: one != name, path)]


def _round(cycle: Sequence[str]) -> str:
    shown = [_quoted(shortened(name, 80)) for name in cycle[:4]]
    return " → ".join([*shown, *["…"] * (len(cycle) > 4), shown[0]])


def _function_problems(library: Iterable[FunctionDef], functions: Set[str]) -> Found:
    """Yield functions of one name, those that call themselves, and what is wrong with their nodes."""
    calls: dict[str, set[str]] = {}
    for function in library:
        name = function.signature.name
        if not name or name in calls:
            yield f"the function {_quoted(name)}".rstrip(), "has the name of another one" if name else "has no name"
        yield from _node_problems(function.node_def, functions, f" in the function {_quoted(shortened(name, 200))}")
        calls[name] = {used for node in function.node_def for used in _called(node, functions)} & functions
    if cycle := _cycle(calls):
        yield f"the function {_quoted(cycle[0])}", f"calls itself: {_round(cycle)}"


def _called(node: NodeDef, functions: Set[str]) -> Iterator[str]:
    """Yield the functions that a node names: as its op, or in its attributes."""
    if node.op in functions:
        yield node.op
    for value in node.attr.values():
        kind = value.WhichOneof("value")
        if kind == "func":
            yield value.func.name
        elif kind == "list":
            yield from (function.name for function in value.list.func)


def _op_problems(ops: Iterable[OpDef]) -> Found:
    for op in ops:
        attributes = {attribute.name for attribute in op.attr}
        for arg in chain(op.input_arg, op.output_arg):
            used = {arg.type_attr, arg.type_list_attr, arg.number_attr} - {""}
            if arg.type not in _DTYPES:
                yield f"the op {_quoted(op.name)}", f"has {_quoted(arg.name)} of dtype {arg.type}, which is none"
            elif not used <= attributes:
                yield (
                    f"the op {_quoted(op.name)}",
                    f"has no attribute {_quoted(min(used - attributes))}, which {arg.name} needs",
                )


def _collection_problems(meta: MetaGraphDef) -> Found:
    collections = meta.collection_def
    for name in VARIABLE_COLLECTIONS:
        for number, value in enumerate(collections[name].bytes_list.value if name in collections else ()):
            try:
                definition = VariableDef.FromString(value)
            except DecodeError:
                yield f"the collection {name}", f"holds something else than a VariableDef ({number})"
                break
            part = definition.save_slice_info_def
            if definition.HasField("save_slice_info_def") and (
                not part.full_name or not len(part.full_shape) == len(part.var_offset) == len(part.var_shape)
            ):
                yield f"the collection {name}", f"has no sound slice for {_quoted(shortened(definition.variable_name, 200))}"


def _signature_problems(meta: MetaGraphDef) -> Found:
    for key, signature in meta.signature_def.items():
        for alias, info in chain(signature.inputs.items(), signature.outputs.items()):
            if info.dtype not in _DTYPES:
                yield f"signature {_quoted(key)}", f"has {_quoted(alias)} of dtype {info.dtype}, which is none"


def _quoted(name: str) -> str:
    """Return a name as it is where a node can have it, and as a Python string otherwise; nothing for none."""
    return name if not name or _NAME.fullmatch(name) else repr(shortened(name, 200))
