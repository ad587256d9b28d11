"""A graph of the ops that serving graphs are usually made of, for the session that is made before others are needed.

oneDNN's layout pass searches all kernels for each op and dtype that a thread first meets, for 0.5 ms or more, and remembers
what it found. It meets what is in a graph, run or not: so few ops here are run, and the others stand in the branch of a Switch
that is not taken, where they take values of any shape.

The graph is written without protobuf, which no worker imports.
"""

from collections.abc import Iterator, Mapping

import numpy as np


def _field(number: int, content: bytes | int) -> bytes:
    """Return a field of a proto: a number as a varint, bytes after their length."""
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    return (bytes([value & 0x7F | 0x80]) + _varint(value >> 7)) if value > 0x7F else bytes([value])


def _node(name: str, op: str, *inputs: str, **attributes: bytes) -> bytes:
    """Return a node of a GraphDef (node_def.proto); attributes are serialized AttrValues."""
    attrs = (_field(1, key.encode()) + _field(2, value) for key, value in attributes.items())
    fields = [
        (1, name.encode()),
        (2, op.encode()),
        *((3, tensor.encode()) for tensor in inputs),
        *((5, attr) for attr in attrs),
    ]
    return _field(1, b"".join(_field(*field) for field in fields))


# AttrValues (attr_value.proto); f: float, i: int32, s: string, l: int64, b: bool
_TYPES = {"f": _field(6, 1), "i": _field(6, 3), "s": _field(6, 7), "l": _field(6, 9), "b": _field(6, 10)}
_ONE, _TWO = _field(3, 1), _field(3, 2)
_SIZES = _field(1, 4 * _field(3, 1))  # a list of four ones
_SAME = _field(2, b"SAME")
_ANY = _field(7, _field(3, 1))  # a shape of unknown rank

_DTYPES = {"f": np.float32, "i": np.int32, "s": object, "l": np.int64, "b": bool}
_RUN = (
    ("Identity", "Relu", "Sigmoid", "Tanh", "Exp", "Log", "Neg", "Square", "Sqrt", "Rsqrt", "Softmax", "Shape"),
    ("MatMul", "Mul", "AddV2", "Sub", "RealDiv", "Maximum", "Minimum", "SquaredDifference", "GreaterEqual"),
)  # of one and of two float tensors
_LOOKED_UP: tuple[tuple[str, Mapping[str, bytes], Mapping[str, str]], ...] = (
    # inputs, a dtype each (T: the op's own); attributes; dtype → ops
    ("T", {}, {"f": "Abs Floor Relu6 Squeeze ZerosLike", "i": "Identity", "l": "Identity Shape Squeeze"}),
    ("T", {}, {"s": "Identity Shape", "b": "Identity Where"}),
    ("TT", {}, {"f": "Add BiasAdd Equal Greater Less Pow", "i": "Add AddV2 Equal FloorDiv FloorMod Maximum Mul Sub"}),
    ("TT", {}, {"l": "Add AddV2 Equal Less Sub"}),
    ("Ti", {}, {"f": "ArgMax ExpandDims Max Mean Pad Reshape Sum Tile TopKV2 Transpose", "i": "ExpandDims Prod Reshape"}),
    ("Ti", {}, {"l": "ExpandDims Reshape Sum", "s": "ExpandDims Reshape", "b": "Reshape"}),
    ("iT", {}, {"f": "Fill", "i": "Fill"}),
    ("bTT", {}, {"f": "Select SelectV2", "s": "Select", "l": "SelectV2"}),
    ("T", {"N": _ONE}, {"f": "AddN Merge Pack", "i": "Pack", "l": "Pack", "s": "Pack", "b": "Merge"}),
    ("TTi", {"N": _TWO}, dict.fromkeys("fis", "ConcatV2")),
    ("Tii", {"Index": _TYPES["i"]}, dict.fromkeys("fi", "Slice")),
    ("Tiii", {"Index": _TYPES["i"]}, dict.fromkeys("fil", "StridedSlice")),
    ("T", {"shape": _ANY}, {"f": "EnsureShape", "l": "EnsureShape"}),
    ("T", {"dtype": _TYPES["f"]}, {"i": "RandomUniform"}),
    ("TT", {"strides": _SIZES, "padding": _SAME}, {"f": "Conv2D"}),
    ("T", {"ksize": _SIZES, "strides": _SIZES, "padding": _SAME}, {"f": "MaxPool"}),
    ("TTTTT", {"U": _TYPES["f"]}, {"f": "FusedBatchNormV3"}),
)


def _nodes() -> Iterator[bytes]:
    """Yield what is fed, what is run, and the switches."""
    yield _node("taken", "Placeholder", dtype=_TYPES["b"])
    for letter, dtype in _TYPES.items():
        yield _node(letter, "Placeholder", dtype=dtype)
        yield _node(f"switch_{letter}", "Switch", letter, "taken", T=dtype)
    for number, ops in enumerate(_RUN, 1):
        yield from (_node(op, op, *["f"] * number, T=_TYPES["f"]) for op in ops)


def _skipped() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the node of each op that is looked up and not run."""
    for inputs, attributes, ops in _LOOKED_UP:
        for letter, names in ops.items():
            tensors = [f"switch_{own}:1" for own in inputs.replace("T", letter)]
            for op in names.split():
                name = f"{op}_{letter}"
                yield name, _node(name, op, *tensors, T=_TYPES[letter], **attributes)


_SKIPPED = dict(_skipped())
_FUNCTION = _field(2, _field(1, _field(1, _field(1, b"function"))))  # libraries of functions have tables of their own

GRAPH = b"".join([*_nodes(), *_SKIPPED.values(), _FUNCTION])  # a serialized GraphDef
FEEDS = {
    "taken": np.zeros((), bool),
    **{letter: np.full(1, b"" if letter == "s" else 0, dtype) for letter, dtype in _DTYPES.items()},
    "f": np.ones((256, 256), np.float32),  # more than one thread's share
}
FETCHES = [
    *(op for ops in _RUN for op in ops),
    *(f"switch_{letter}" for letter in _TYPES),
]  # the first output of a Switch is the branch that is taken
SKIPPED = list(_SKIPPED)  # operations
