"""Bodies of REST requests → arrays, by the rules of json_tensor.cc, with its messages.

A list of numbers is converted by NumPy as a whole; where anything is wrong with it, its values are looked at one by one,
for the message.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exportkit.checkpoint.encoding import objects
from exportkit.protos import DTYPE_NAMES, TensorInfo, dtype_name, types_pb2
from exportkit.server.json_text import is_number, misformed, shown, text_bytes, too_big, too_deep, type_name
from exportkit.server.status import Status, invalid

Infos = Mapping[str, TensorInfo]

_INTEGERS = {  # dtype → the range that JSON is checked for; narrower types wrap (Tensor::FromProto casts)
    **dict.fromkeys(("int32", "int16", "int8", "uint8"), (-(1 << 31), 1 << 31)),
    "int64": (-(1 << 63), 1 << 63),
    "uint32": (0, 1 << 32),
    "uint64": (0, 1 << 64),
}
_SEVERAL = "as multiple input tensors required as per tensorinfo_map"
_MOST_DIMENSIONS = 31  # of an array in NumPy 1, without that of the rows
_FLOATS = ("float32", "float64")


def signature_of(body: Mapping[str, Any]) -> str:
    """Return the signature that a request names; empty where it names none. Raises Status."""
    name = body.get("signature_name", "")
    if not isinstance(name, str):
        raise misformed(body, "not formatted correctly. 'signature_name' key must be a string value.")
    return name


def inputs_of(body: Mapping[str, Any], signature: str, infos: Infos) -> tuple[dict[str, np.ndarray], bool]:
    """Return the inputs of a predict request, alias → array, and whether it has them by rows (``instances``).

    Raises:
        Status: they do not fit `infos`, the signature's inputs.
    """
    if not infos:
        raise invalid(f"Failed to get input map for signature: {signature or 'DEFAULT'}")
    if "instances" not in body:
        if "inputs" not in body:
            raise invalid("Missing 'inputs' or 'instances' key")
        return _columns(body["inputs"], infos), False
    rows = body["instances"]
    if "inputs" in body:
        what = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        raise misformed(body, what)
    if not isinstance(rows, list):
        raise misformed(body, "Expecting 'instances' to be an list/array")
    if not rows:
        raise misformed(body, "No values in 'instances' array")
    return _rows(rows, infos), True


def _columns(value: Any, infos: Infos) -> dict[str, np.ndarray]:
    if not isinstance(value, dict) or is_base64(value):
        if len(infos) > 1:
            raise invalid(f"inputs is a plain value/list, but expecting an object {_SEVERAL}")
        value = {next(iter(infos)): value}
    found = {}
    for alias, info in infos.items():
        if alias not in value:
            raise invalid(f"Missing named input: {alias} in 'inputs' object.")
        found[alias] = _array(value[alias], dtype_name(info.dtype))
    return found


def _rows(rows: list[Any], infos: Infos) -> dict[str, np.ndarray]:
    if not isinstance(rows[0], dict) and len(infos) > 1:
        raise invalid(f"instances is a plain list, but expecting list of objects {_SEVERAL}")
    named = _is_named(rows[0])
    quick = _quick_rows(rows, infos, named)
    return quick or _checked_rows(rows, infos, named)


def _is_named(row: Any) -> bool:
    return isinstance(row, dict) and not is_base64(row)


def _quick_rows(rows: list[Any], infos: Infos, named: bool) -> dict[str, np.ndarray] | None:
    """Return the arrays where all rows are numbers of one shape; None elsewhere."""
    if named:
        if not all(isinstance(row, dict) and row.keys() == infos.keys() for row in rows):
            return None
        columns = {alias: [row[alias] for row in rows] for alias in infos}
    else:
        columns = {next(iter(infos)): rows}
    found = {alias: _numbers(column, dtype_name(infos[alias].dtype)) for alias, column in columns.items()}
    return None if any(array is None for array in found.values()) else found  # type: ignore[return-value]  # none is None


def _checked_rows(rows: list[Any], infos: Infos, named: bool) -> dict[str, np.ndarray]:
    columns: dict[str, list[np.ndarray]] = {alias: [] for alias in infos}
    for number, row in enumerate(rows):
        if named != _is_named(row):
            what = "Expecting object but got list" if named else "Expecting value/list but got object"
            raise invalid(f"{what} at item {number} of input list")
        for alias, value in row.items() if named else [(next(iter(infos)), row)]:
            try:
                _append(columns, alias, value, infos)
            except Status as status:
                key = f" key: {alias}" if named else ""
                what = f"Failed to process element: {number}{key} of 'instances' list. Error: {status}"
                raise Status(status.code, what) from None
        if named and row.keys() != infos.keys():
            what = f"JSON object: {shown(row)} keys must be equal to: {','.join(sorted(infos))}"
            raise invalid(f"Failed to process element: {number} of 'instances' list. {what}")
    return {alias: np.stack(column) for alias, column in columns.items()}


def _append(columns: Mapping[str, list[np.ndarray]], alias: str, value: Any, infos: Infos) -> None:
    if alias not in infos:
        raise invalid(f"JSON object: does not have named input: {alias}")
    array, before = _array(value, dtype_name(infos[alias].dtype)), columns[alias]
    if before and before[0].size != array.size:
        raise invalid(f"Expecting tensor size: {before[0].size} but got: {array.size}")
    if before and before[0].shape != array.shape:
        raise invalid(f"Expecting shape {shape_text(before[0].shape)} but got: {shape_text(array.shape)}")
    before.append(array)


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as TensorFlow prints it: ``[2,3]``."""
    return f"[{','.join(map(str, shape))}]"


def _numbers(value: Any, dtype: str) -> np.ndarray | None:
    """Return nested lists of numbers as an array; None where a value may not be one, or the lists differ in length."""
    if (dtype not in _FLOATS and dtype not in _INTEGERS) or not _are_numbers(value):
        return None
    try:
        array = np.array(value)
    except (ValueError, OverflowError):
        return None
    kinds = "if" if dtype in _FLOATS else "i"
    if array.dtype.kind not in kinds:
        return None
    if dtype in _FLOATS:
        with np.errstate(over="ignore"):
            return array.astype(dtype)
    low, end = _INTEGERS[dtype]
    if array.size and not (low <= int(array.min()) and int(array.max()) < end):
        return None
    return array.astype(dtype)


def _are_numbers(value: Any) -> bool:
    """Return whether nested lists hold numbers alone.

    NumPy takes a bool for a number, and makes each text of an array as long as the longest one.
    """
    if not isinstance(value, list):
        return is_number(value)
    if value and isinstance(value[0], list):
        return all(map(_are_numbers, value))
    return {int, float}.issuperset(map(type, value))


def _array(value: Any, dtype: str) -> np.ndarray:
    """Return a JSON value as an array. Raises Status."""
    if (quick := _numbers(value, dtype)) is not None:
        return quick
    shape, inner = [], value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    if len(shape) > _MOST_DIMENSIONS:
        raise too_deep()
    flat: list[Any] = []
    _fill(value, 0, shape, dtype, flat)
    if dtype == "string":
        return objects(flat).reshape(shape)
    if dtype in _INTEGERS:
        return np.array(flat, np.uint64 if dtype == "uint64" else np.int64).astype(dtype).reshape(shape)
    if dtype not in _FLOATS and dtype != "bool":  # an empty list of a dtype that JSON has not
        raise _unimplemented(value, dtype)
    with np.errstate(over="ignore"):
        return np.array(flat, dtype).reshape(shape)


def _fill(value: Any, level: int, shape: Sequence[int], dtype: str, flat: list[Any]) -> None:
    rank = len(shape)
    if not isinstance(value, list):
        if level != rank:
            what = f"found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {rank}"
            raise misformed(value, what)
        flat.append(_element(value, dtype))
        return
    if level >= rank:
        raise invalid(f"Encountered list at unexpected level: {level} expected < {rank}")
    if len(value) != shape[level]:
        what = f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        raise invalid(what)
    for inner in value:
        _fill(inner, level + 1, shape, dtype, flat)


def _element(value: Any, dtype: str) -> Any:
    if isinstance(value, dict):
        if dtype != "string":
            raise _wrong_type(value, dtype)
        return decoded(value)
    if dtype == "string":
        if not isinstance(value, str):
            raise _wrong_type(value, dtype)
        return text_bytes(value)
    if dtype in _FLOATS:
        if not is_number(value):
            raise _wrong_type(value, dtype)
        return as_double(value)
    if dtype == "bool":
        if not isinstance(value, bool):
            raise _wrong_type(value, dtype)
        return value
    if dtype in _INTEGERS:
        low, end = _INTEGERS[dtype]
        if not is_number(value) or isinstance(value, float) or not low <= value < end:
            raise _wrong_type(value, dtype)
        return value
    raise _unimplemented(value, dtype)


def as_double(value: float) -> float:
    """Return a JSON number as a float. Raises Status where it is too large."""
    try:
        return float(value)
    except OverflowError:
        raise too_big() from None


def _wrong_type(value: Any, dtype: str) -> Status:
    return misformed(value, f"Type: {type_name(value)} is not of expected type: {tensorflow_name(dtype)}")


def _unimplemented(value: Any, dtype: str) -> Status:
    return Status("UNIMPLEMENTED", f"Conversion of JSON Value: {shown(value)} to type: {tensorflow_name(dtype)}")


def tensorflow_name(dtype: str) -> str:
    """Return a dtype as TensorFlow's messages name it: ``float``, ``double``, ``half``; the others as everywhere."""
    return {"float32": "float", "float64": "double", "float16": "half"}.get(dtype, dtype)


def dtype_enum_name(dtype: str) -> str:
    """Return the name of a dtype in types.proto: ``DT_FLOAT``."""
    return types_pb2.DataType.Name(DTYPE_NAMES[dtype])


def is_base64(value: Any) -> bool:
    """Return whether a JSON value is ``{"b64": TEXT}``, which stands for bytes."""
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def decoded(value: Any) -> bytes:
    """Return the bytes of ``{"b64": TEXT}``; blanks and a missing padding do not matter. Raises Status."""
    if not is_base64(value):
        raise misformed(value, "not formatted correctly for base64 data")
    text = "".join(value["b64"].split()).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Unable to base64 decode") from None
