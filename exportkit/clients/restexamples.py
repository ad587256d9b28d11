"""The recorded examples of a version as the JSON of REST, for those who read it: one row where a request has rows."""

import base64
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from exportkit.clients.contract import Signature
from exportkit.clients.runtime.rest import NOT_BY_REST, rest_body
from exportkit.clients.runtime.tensors import Signature as Asked
from exportkit.clients.runtime.tensors import Tensor


def barred(signature: Signature) -> str:
    """Return why REST cannot ask a signature; empty where it can."""
    tensors = {**signature.inputs, **signature.outputs}
    if names := [f"{alias} is {one.dtype}" for alias, one in tensors.items() if one.dtype in NOT_BY_REST]:
        return f"REST cannot carry it ({', '.join(names)}): ask by gRPC"
    return "" if signature.inputs else "REST cannot ask a signature without inputs: ask by gRPC"


def request(key: str, signature: Signature) -> dict[str, Any] | None:
    """Return the body of a request for the example; None where there is none, or REST cannot ask it."""
    if signature.example is None or barred(signature):
        return None
    inputs = _cut(signature, signature.example.inputs)
    if signature.method == "predict":
        return {"signature_name": key, "inputs": {alias: _json(value, _readable) for alias, value in inputs.items()}}
    tensors = {"inputs": Tensor("string", None)}
    examples = rest_body(key, Asked(signature.method, tensors, {}), inputs)["examples"]
    return {"signature_name": key, "examples": [{name: _feature(value) for name, value in one.items()} for one in examples]}


def response(signature: Signature) -> dict[str, Any] | None:
    """Return the answer to `request`; None where it is not known."""
    if signature.example is None or signature.example.outputs is None or barred(signature):
        return None
    outputs = {alias: _json(value, _answered(alias)) for alias, value in _cut(signature, signature.example.outputs).items()}
    if signature.method == "predict":
        return {"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))}
    if signature.method == "regress":
        return {"results": [row[0] if isinstance(row, list) else row for row in outputs["outputs"]]}
    rows = len(next(iter(outputs.values())))
    labels = outputs.get("classes") or [[""] * len(row) for row in outputs["scores"]]
    scores = outputs.get("scores") or [[0.0] * len(row) for row in labels]
    return {"results": [[list(pair) for pair in zip(labels[row], scores[row], strict=True)] for row in range(rows)]}


def _cut(signature: Signature, arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Return the first row of arrays that have rows."""
    whole = signature.example.inputs if signature.example else {}
    by_rows = signature.by_rows and len({value.shape[:1] for value in [*whole.values(), *arrays.values()]}) == 1
    return {alias: value[:1] for alias, value in arrays.items()} if by_rows else arrays


def _json(array: np.ndarray, text: Callable[[bytes], Any]) -> Any:
    """Return an array as nested lists; numbers of float32 are as short as they can be."""
    if array.ndim:
        return [_json(one, text) if isinstance(one, np.ndarray) else _item(one, text) for one in array]
    return _item(array[()], text)


def _item(value: Any, text: Callable[[bytes], Any]) -> Any:
    if isinstance(value, bytes):
        return text(value)
    return float(str(value)) if isinstance(value, np.float32) else value.item()


def _readable(value: bytes) -> Any:
    """Return bytes as text where they are some, or else as base64."""
    text = value.decode("utf-8", "replace")
    return text if text.encode() == value and "\0" not in text else _encoded(value)


def _encoded(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def _answered(alias: str) -> Callable[[bytes], Any]:
    """Return how a server writes the bytes of an output: as base64 where its alias ends in ``_bytes``."""
    return _encoded if alias.endswith("_bytes") else lambda value: value.decode("utf-8", "replace")


def _feature(values: Any) -> Any:
    if isinstance(values, list):
        return [_feature(one) for one in values]
    if isinstance(values, dict):
        return _readable(base64.b64decode(values["b64"]))
    return float(str(np.float32(values))) if isinstance(values, float) else values
