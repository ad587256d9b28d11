"""Arrays as TensorProtos and as JSON, exactly, without TensorFlow; strings are bytes in object arrays."""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from exportkit import files
from exportkit.checkpoint.encoding import numpy_dtype, objects
from exportkit.protos import DTYPE_NAMES, TensorProto, dtype_name

INLINE = 1 << 16  # bytes of a TensorProto; a manifest holds only the digest of a larger array

_MOST_TEXTS = 1 << 20  # elements, each of which becomes an object

_FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "int64": "int64_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "bool": "bool_val",
    "string": "string_val",
    **dict.fromkeys(("int32", "int16", "int8", "uint16", "uint8"), "int_val"),
    **dict.fromkeys(("float16", "bfloat16"), "half_val"),
}


def dtype_of(array: np.ndarray) -> str:
    """Return the name of an array's dtype, in the spelling of `exportkit.protos.dtype_name`."""
    return "string" if array.dtype.kind in "OSUT" else array.dtype.name


def to_proto(array: np.ndarray) -> bytes:
    """Serialize an array as a TensorProto: strings in ``string_val``, everything else in ``tensor_content``."""
    proto = TensorProto(dtype=DTYPE_NAMES[dtype_of(array)])
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if dtype_of(array) == "string":
        proto.string_val.extend(_bytes(item) for item in array.flat)
    else:
        proto.tensor_content = _little(array).tobytes()
    return proto.SerializeToString(deterministic=True)


def constant(value: Any, dtype: str, shape: Sequence[int] | None = None) -> TensorProto:
    """Return a value as the TensorProto of a Const; one value fills the whole shape and is stored once.

    Args:
        value: a number, text or bytes, or nested lists of one kind.
        dtype: ``float32`` …
        shape: default: the value's own.

    Raises:
        ValueError, TypeError: the value does not fit the dtype or the shape.
    """
    array = _array(value, dtype)
    shape = array.shape if shape is None else tuple(shape)
    size = math.prod(shape)
    if array.size not in (1, size):
        raise ValueError(f"{array.size} values for {size} elements")
    proto = TensorProto(dtype=DTYPE_NAMES[dtype])
    proto.tensor_shape.SetInParent()
    for length in shape:
        proto.tensor_shape.dim.add(size=length)
    if dtype == "string":
        proto.string_val.extend(_bytes(item) for item in array.flat)
    elif array.size == 1 and dtype in _FIELDS:
        stored = array.view(np.uint16) if _FIELDS[dtype] == "half_val" else array
        getattr(proto, _FIELDS[dtype]).extend(stored.ravel().tolist())
    elif size:
        proto.tensor_content = _little(np.broadcast_to(array, shape) if array.size == 1 else array).tobytes()
    return proto


def _array(value: Any, dtype: str) -> np.ndarray:
    if dtype != "string":
        return np.array(value, _numpy(dtype))
    array = np.array(value, object)
    if not all(isinstance(item, str | bytes) for item in array.flat):
        raise TypeError("it is not text")
    return array


def from_proto(data: bytes) -> np.ndarray:
    """Return the array in a serialized TensorProto, whichever of its fields holds the values.

    Raises:
        ValueError: `data` is not a TensorProto, has a dtype or shape without an array, too many or too few values for its
            shape, or a shape that expands to more than `exportkit.files.ARRAYS` bytes.
    """
    try:
        return np.require(from_message(TensorProto.FromString(data)), requirements="W")
    except DecodeError:
        raise ValueError("is no TensorProto") from None


def from_message(proto: TensorProto) -> np.ndarray:
    """Return the array in a TensorProto; where the message holds its bytes, the array is read-only and shares them.

    Raises:
        ValueError: as of `from_proto`.
    """
    name, shape = dtype_name(proto.dtype), tuple(dim.size for dim in proto.tensor_shape.dim)
    if name not in {*_FIELDS, "complex64", "complex128"} or proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise ValueError(f"is a TensorProto of dtype {name} and shape {list(shape)}")
    count, size = math.prod(shape), 1 if name == "string" else _numpy(name).itemsize
    if count * size > files.ARRAYS or (name == "string" and count > _MOST_TEXTS):
        raise ValueError(f"is a TensorProto that declares {count:,} elements, too many to be read")
    if proto.tensor_content or name.startswith("complex"):
        return (
            np.frombuffer(proto.tensor_content, _numpy(name).newbyteorder("<")).astype(_numpy(name), copy=False).reshape(shape)
        )
    return _filled(getattr(proto, _FIELDS[name]), name, count).reshape(shape)


def _filled(values: Any, name: str, size: int) -> np.ndarray:
    """Return `size` values; as in TensorFlow's tensor.cc, the last value given is repeated for those that are missing."""
    if len(values) > size:
        raise ValueError(f"has {len(values)} values for {size} elements")
    if name == "string":
        given, nothing = objects(list(values)), objects([b""])
    elif name in ("float16", "bfloat16"):
        given, nothing = np.array(values, np.uint16).view(_numpy(name)), np.zeros(1, _numpy(name))
    else:
        given, nothing = np.array(values, _numpy(name)), np.zeros(1, _numpy(name))
    return np.concatenate([given, np.repeat(given[-1:] if len(given) else nothing, size - len(given))])


def _numpy(name: str) -> np.dtype:
    return np.dtype(object) if name == "string" else numpy_dtype(name)


def _little(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)


def _bytes(item: Any) -> bytes:
    return item.encode() if isinstance(item, str) else bytes(item)


def digest(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's elements: of their little-endian bytes; a string comes after its length (8 bytes)."""
    if dtype_of(array) != "string":
        return hashlib.sha256(_little(array).tobytes()).hexdigest()
    items = [item if type(item) is bytes else _bytes(item) for item in array.ravel().tolist()]
    return hashlib.sha256(b"".join([piece for item in items for piece in (len(item).to_bytes(8, "little"), item)])).hexdigest()


def to_json(array: np.ndarray) -> dict[str, Any]:
    """Return an array as a manifest records it: with its values, or only their digest where they take more than 64 KiB.

    Returns:
        ``dtype`` and ``shape``, and one of ``values`` (nested lists), ``tensor`` (a TensorProto in base64, for what JSON cannot
        express: bytes that are not UTF-8, NaN and infinity, complex numbers) and ``sha256`` (see `digest`).
    """
    array = np.asarray(array)
    facts = {"dtype": dtype_of(array), "shape": list(array.shape)}
    proto = to_proto(array)
    if len(proto) > INLINE:
        return {**facts, "sha256": digest(array)}
    values = _values(array)
    return {**facts, "tensor": base64.b64encode(proto).decode()} if values is None else {**facts, "values": values}


def _values(array: np.ndarray) -> Any:
    """Return nested lists that JSON reproduces exactly; None where the array has values that JSON cannot express."""
    if dtype_of(array) == "string":
        try:
            return objects([_bytes(item).decode() for item in array.flat]).reshape(array.shape).tolist()
        except UnicodeDecodeError:
            return None
    if array.dtype.kind in "biu":
        return array.tolist()
    if array.dtype.kind == "c" or not np.isfinite(array.astype(np.float64)).all():
        return None
    return array.astype(np.float64).tolist()


def from_json(recorded: Mapping[str, Any]) -> np.ndarray | None:
    """Return the array that `to_json` recorded; None where it kept only the digest."""
    if "tensor" in recorded:
        return from_proto(base64.b64decode(recorded["tensor"]))
    if "values" not in recorded:
        return None
    if recorded["dtype"] != "string":
        return np.array(recorded["values"], _numpy(recorded["dtype"])).reshape(recorded["shape"])
    return objects([text.encode() for text in _flat(recorded["values"])]).reshape(recorded["shape"])


def to_numpy(array: np.ndarray) -> np.ndarray:
    """Return an array that an .npy file can hold: `array`, or the bytes (uint8) of its TensorProto if NumPy lacks the dtype."""
    return array if array.dtype.kind in "biufc" and array.dtype.isbuiltin == 1 else np.frombuffer(to_proto(array), np.uint8)


def from_numpy(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Return the array of `dtype` that `to_numpy` converted to `stored`.

    Raises:
        ValueError: `stored` is not such an array.
    """
    return stored if stored.dtype.name == dtype else from_proto(stored.tobytes())


def _flat(value: Any) -> list[str]:
    return [text for inner in value for text in _flat(inner)] if isinstance(value, list) else [value]
