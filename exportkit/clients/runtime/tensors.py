"""Arrays as tensors of messages, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exportkit.clients.runtime.messages import MESSAGES, ServerError

Array = NDArray[Any]
Shape = tuple[int | None, ...] | None  # None: a size, or the rank, that may vary


@dataclass(frozen=True)
class Tensor:
    """An input, an output, or a feature of a tf.Example (whose shape is that of one example)."""

    dtype: str
    shape: Shape
    required: bool = True


@dataclass(frozen=True)
class Signature:
    """A signature by the contract; `features` are those of its tf.Examples, where it takes them and they are known."""

    method: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    features: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """Outputs by alias, strings as bytes, and the version that answered (REST does not say which)."""

    outputs: Mapping[str, Array]
    version: int | None


# dtype → its number in tensorflow/core/framework/types.proto, and the field of a TensorProto that may hold its values
DTYPES = {
    "float32": (1, "float_val"),
    "float64": (2, "double_val"),
    "int32": (3, "int_val"),
    "uint8": (4, "int_val"),
    "int16": (5, "int_val"),
    "int8": (6, "int_val"),
    "string": (7, "string_val"),
    "complex64": (8, "scomplex_val"),
    "int64": (9, "int64_val"),
    "bool": (10, "bool_val"),
    "bfloat16": (14, "half_val"),
    "uint16": (17, "int_val"),
    "complex128": (18, "dcomplex_val"),
    "float16": (19, "half_val"),
    "uint32": (22, "uint32_val"),
    "uint64": (23, "uint64_val"),
}
NAMES = {number: name for name, (number, _) in DTYPES.items()}


def numpy_dtype(name: str) -> np.dtype[Any]:
    if name == "string":
        return np.dtype(object)
    if name == "bfloat16":
        import ml_dtypes  # type: ignore[import-not-found,import-untyped,unused-ignore]

        name = ml_dtypes.bfloat16
    return np.dtype(name)


def as_array(alias: str, value: ArrayLike, tensor: Tensor) -> Array:
    """Return a value as an array of a tensor's dtype and shape; strings become bytes.

    Raises:
        TypeError: it is of another kind, as floats where integers are needed.
        ValueError: it has another shape, or integers that do not fit the dtype.
    """
    dtype = numpy_dtype(tensor.dtype)
    if tensor.dtype == "string":
        given = np.asarray(value, object)
        array = objects([_bytes(alias, item) for item in given.flat]).reshape(given.shape)
    else:
        given = np.asarray(value)
        whole = given.dtype.kind in "iu" and dtype.kind in "iu"
        if given.size and not whole and not np.can_cast(given.dtype, dtype, "same_kind"):
            raise TypeError(f"{alias} is {given.dtype}, not {tensor.dtype}")
        array = given.astype(dtype, copy=False)
        if whole and not np.array_equal(array, given):
            raise ValueError(f"{alias} has integers that {tensor.dtype} cannot hold")
    if not _fits(array.shape, tensor.shape):
        raise ValueError(f"{alias} has the shape {shape_text(array.shape)}, not {shape_text(tensor.shape)}")
    return array


def _fits(shape: Sequence[int], wanted: Shape) -> bool:
    return wanted is None or (len(shape) == len(wanted) and all(w in (None, s) for s, w in zip(shape, wanted, strict=True)))


def shape_text(shape: Shape) -> str:
    return "of any rank" if shape is None else f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _bytes(alias: str, item: Any) -> bytes:
    if not isinstance(item, str | bytes):
        raise TypeError(f"{alias} has {item!r}, which is neither str nor bytes")
    return item.encode() if isinstance(item, str) else item


def objects(items: Sequence[Any]) -> Array:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def tensor_pieces(alias: str, array: Array, dtype: str) -> list[Any]:
    """Return the pieces of a serialized TensorProto; the values of an array are not copied."""
    proto = MESSAGES["TensorProto"](dtype=DTYPES[dtype][0])
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if dtype == "string":
        proto.string_val.extend(array.flat)
        return [proto.SerializeToString()]
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return [proto.SerializeToString(), *field_pieces(4, [little.reshape(-1).view(np.uint8).data])]


def field_pieces(number: int, pieces: Sequence[Any]) -> list[Any]:
    """Return pieces as a length-delimited field (https://protobuf.dev/programming-guides/encoding/)."""
    length, prefix = sum(map(len, pieces)), bytearray([number << 3 | 2])
    while length > 127:
        prefix.append(length & 127 | 128)
        length >>= 7
    return [bytes([*prefix, length]), *pieces]


def to_array(alias: str, proto: Any) -> Array:
    """Return the array in a TensorProto; of one with `tensor_content` it is read-only, and the values are not copied."""
    if proto.dtype not in NAMES:
        raise ServerError("INTERNAL", f"{alias} has the dtype number {proto.dtype}, which a client cannot read")
    name = NAMES[proto.dtype]
    dtype, shape = numpy_dtype(name), tuple(dim.size for dim in proto.tensor_shape.dim)
    values = getattr(proto, DTYPES[name][1])
    if name == "string":
        array = objects(list(values))
    elif proto.tensor_content:
        array = np.frombuffer(proto.tensor_content, dtype.newbyteorder("<"))
    elif name.startswith("complex"):
        array = np.array(values, f"f{dtype.itemsize // 2}").view(dtype)
    elif name in ("float16", "bfloat16"):
        array = np.array(values, np.uint16).view(dtype)
    else:
        array = np.array(values, dtype)
    if 0 < len(array) < prod(shape):  # TensorFlow leaves out values that repeat the last one
        array = np.concatenate([array, np.repeat(array[-1:], prod(shape) - len(array))])
    if len(array) != prod(shape):
        raise ServerError("INTERNAL", f"{alias} has {len(array)} values for the shape {list(shape)}")
    return array.reshape(shape)
