"""Arrays → bodies of REST answers, laid out as RapidJSON's PrettyWriter does in json_tensor.cc."""

import base64
import json
from collections.abc import Mapping, Sequence

import numpy as np

from exportkit.checkpoint.tensorproto import dtype_of
from exportkit.server.json_request import tensorflow_name
from exportkit.server.status import invalid

DTYPES = {"bool", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64", "string"}
_INDENT = "    "


def predictions(outputs: Mapping[str, np.ndarray], by_rows: bool) -> bytes:
    """Return the answer to a predict request: by rows as ``predictions``, else as ``outputs``. Raises Status."""
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    texts = {alias: _texts(alias, outputs[alias]) for alias in sorted(outputs)}
    text = _row_form(outputs, texts) if by_rows else _column_form(outputs, texts)
    return text.encode("utf-8", "surrogateescape")


def _row_form(outputs: Mapping[str, np.ndarray], texts: Mapping[str, list[str]]) -> str:
    rows = 0
    for alias in texts:
        shape = outputs[alias].shape
        if not shape:
            raise invalid(f"Tensor name: {alias} has no shape information ")
        if shape[0] < 1:
            raise invalid(f"Tensor name: {alias} has invalid batch size: {shape[0]}")
        if rows and shape[0] != rows:
            raise invalid(f"Tensor name: {alias} has inconsistent batch size: {shape[0]} expecting: {rows}")
        rows = shape[0]
    columns = {alias: _split(texts[alias], outputs[alias].shape) for alias in texts}
    if len(texts) == 1:
        lines = ", ".join(next(iter(columns.values())))
        return f'{{\n    "predictions": [{lines}\n    ]\n}}'
    names = {alias: json.dumps(alias, ensure_ascii=False) for alias in columns}
    objects = []
    for row in range(rows):
        members = ",\n".join(f"{_INDENT * 3}{names[alias]}: {column[row]}" for alias, column in columns.items())
        objects.append(f"{_INDENT * 2}{{\n{members}\n{_INDENT * 2}}}")
    return '{\n    "predictions": [\n' + ",\n".join(objects) + "\n    ]\n}"


def _split(texts: list[str], shape: Sequence[int]) -> list[str]:
    """Return each row of a tensor on one line."""
    size = len(texts) // shape[0]
    return [_line(texts[row * size : (row + 1) * size], shape[1:]) for row in range(shape[0])]


def _line(texts: list[str], shape: Sequence[int]) -> str:
    if not shape:
        return texts[0]
    if len(shape) == 1 or not shape[0]:
        return f"[{', '.join(texts)}]"
    return f"[{', '.join(_split(texts, shape))}]"


def _column_form(outputs: Mapping[str, np.ndarray], texts: Mapping[str, list[str]]) -> str:
    if len(texts) == 1:
        alias = next(iter(texts))
        return f'{{\n    "outputs": {_block(texts[alias], outputs[alias].shape, 1)}\n}}'
    names = {alias: json.dumps(alias, ensure_ascii=False) for alias in texts}
    members = (f"{_INDENT * 2}{names[alias]}: {_block(texts[alias], outputs[alias].shape, 2)}" for alias in texts)
    return '{\n    "outputs": {\n' + ",\n".join(members) + "\n    }\n}"


def _block(texts: list[str], shape: Sequence[int], level: int) -> str:
    """Return a tensor with each value on a line of its own; `level` lists and objects are open around it."""
    if not shape:
        return texts[0]
    if not shape[0]:
        return "[]"
    size, indent = len(texts) // shape[0], _INDENT * (level + 1)
    rows = (_block(texts[row * size : (row + 1) * size], shape[1:], level + 1) for row in range(shape[0]))
    return "[\n" + ",\n".join(indent + row for row in rows) + f"\n{_INDENT * level}]"


def _texts(alias: str, array: np.ndarray) -> list[str]:
    """Return the values as JSON. Raises Status."""
    dtype = dtype_of(array)
    if dtype not in DTYPES:
        raise invalid(f"Failed to write JSON value for tensor type: {tensorflow_name(dtype)}")
    if dtype == "string":
        values: list[bytes] = [item if isinstance(item, bytes) else str(item).encode() for item in array.flat]
        return [_base64(value) for value in values] if alias.endswith("_bytes") else list(map(_text, values))
    if dtype == "bool":
        return ["true" if value else "false" for value in array.ravel().tolist()]
    return decimals(array) if dtype in ("float32", "float64") else list(map(str, array.ravel().tolist()))


def _base64(value: bytes) -> str:
    return json.dumps({"b64": base64.b64encode(value).decode()})


def _text(value: bytes) -> str:
    return json.dumps(value.decode("utf-8", "surrogateescape"), ensure_ascii=False)


def decimals(array: np.ndarray) -> list[str]:
    """Return floats with six digits, or, where these are not the value, with all of 9 (float32) or 17 (WriteDecimal)."""
    values, dtype = array.ravel(), array.dtype
    texts = [f"{value:.6g}" for value in values.tolist()]
    with np.errstate(over="ignore"):
        differ = np.nonzero(np.array(texts, np.float64).astype(dtype) != values)[0] if texts else ()
    digits = 9 if dtype == np.float32 else 17
    for i in differ:
        texts[i] = f"{values[i]:.{digits}g}"
    return [text if "." in text or "e" in text else _whole(text) for text in texts]


def _whole(text: str) -> str:
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text) or f"{text}.0"


def classifications(result: Sequence[Sequence[tuple[bytes, float]]]) -> bytes:
    """Return the answer to a classify request: for each example its labels with their scores. Raises Status."""
    if not result:
        raise invalid("Cannot convert empty ClassificationResults to JSON")
    rows = []
    for classes in result:
        scores = decimals(np.array([score for _, score in classes], np.float32))
        pairs = (f"[{_text(label)}, {score}]" for (label, _), score in zip(classes, scores, strict=True))
        rows.append(f"[{', '.join(pairs)}]")
    return f'{{\n    "results": [{", ".join(rows)}\n    ]\n}}'.encode("utf-8", "surrogateescape")


def regressions(values: Sequence[float]) -> bytes:
    """Return the answer to a regress request. Raises Status."""
    if not values:
        raise invalid("Cannot convert empty RegressionResults to JSON")
    return f'{{\n    "results": [{", ".join(decimals(np.array(values, np.float32)))}]\n}}'.encode()
