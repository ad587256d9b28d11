"""Names, dtypes and shapes of tensors, from nodes and their op definitions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exportkit.protos import AttrValue, NodeDef, OpDef, TensorShapeProto

REF_VARIABLES = frozenset({"Variable", "VariableV2", "AutoReloadVariable"})
VARIABLE_OPS = REF_VARIABLES | {"VarHandleOp"}

_DIGITS = 19  # of a number; Python refuses to convert thousands

Shape = tuple[int | None, ...] | None


@dataclass(frozen=True)
class Facts:
    """The dtype and shape of a tensor; None for what is not known."""

    dtype: str | None = None
    shape: Shape = None

    def __str__(self) -> str:
        shape = "of unknown rank" if self.shape is None else str(["?" if d is None else d for d in self.shape]).replace("'", "")
        return f"{self.dtype or 'of unknown dtype'} {shape}"


def compatible(a: Iterable[int | None], b: Iterable[int | None]) -> bool:
    """Return whether two shapes can be those of one tensor: of the same rank, and equal where both are known."""
    a, b = list(a), list(b)
    return len(a) == len(b) and all(x is None or y is None or x == y for x, y in zip(a, b, strict=True))


def split(name: str) -> tuple[str, int]:
    """Split a tensor name or a node's input: ``op:2`` → (op, 2), ``op`` → (op, 0), the control edge ``^op`` → (op, -1)."""
    if ":" not in name:
        return (name[1:], -1) if name[:1] == "^" else (name, 0)
    if name[:1] == "^":
        return name[1:], -1
    op, colon, index = name.rpartition(":")
    return (op, int(index)) if colon and index.isdecimal() and len(index) < _DIGITS else (name, 0)


def canonical(name: str) -> str:
    """Return the full name of a tensor: ``x`` → ``x:0``."""
    return "{}:{}".format(*split(name))


def dims(shape: TensorShapeProto) -> Shape:
    """Return a TensorShapeProto as a tuple, with None for an unknown dimension; None for an unknown rank."""
    return None if shape.unknown_rank else tuple(dim.size if dim.size >= 0 else None for dim in shape.dim)


def shared_name(node: NodeDef) -> str:
    """Return the name under which a session shares a resource: the attribute `shared_name`, else the op's name."""
    shared = node.attr.get("shared_name")
    return (shared.s.decode(errors="backslashreplace") if shared else "") or node.name


def output_types(node: NodeDef, signature: OpDef) -> Iterator[int]:
    """Yield the dtype enums of a node's outputs, from its OpDef (tensorflow/core/framework/op_def.proto, OpDef.ArgDef).

    A file may declare a number of outputs without end.
    """
    defaults = {a.name: a.default_value for a in signature.attr}

    def value(name: str) -> AttrValue:
        return node.attr[name] if name in node.attr else defaults[name]

    for arg in signature.output_arg:
        if arg.type_list_attr:
            yield from value(arg.type_list_attr).list.type
        else:
            dtype = value(arg.type_attr).type if arg.type_attr else arg.type
            yield from islice(repeat(dtype), max(0, value(arg.number_attr).i) if arg.number_attr else 1)


def output_counts(node: NodeDef, signature: OpDef) -> Iterator[tuple[str, int]]:
    """Yield each named output of a node and how many tensors it is, from its OpDef."""
    defaults = {a.name: a.default_value for a in signature.attr}
    for arg in signature.output_arg:
        listed, number = arg.type_list_attr, arg.number_attr
        value = node.attr[listed or number] if (listed or number) in node.attr else defaults.get(listed or number)
        count = 0 if value is None else len(value.list.type) if listed else value.i
        yield arg.name, count if listed or number else 1


def shapes(node: NodeDef, producer: int) -> list[Shape]:
    """Return the static shapes of a node's outputs as far as its attributes give them; an empty list if they do not."""
    for name in ("_output_shapes", "output_shapes", "shapes"):
        if (value := node.attr.get(name)) and value.HasField("list"):
            return [dims(shape) for shape in value.list.shape]
    if node.op not in REF_VARIABLES and not node.op.startswith("Placeholder"):
        return []
    shape = dims(node.attr["shape"].shape) if "shape" in node.attr else None
    unknown = shape == () and (node.op == "Variable" or (node.op == "Placeholder" and producer < 24))
    return [None if unknown else shape]
