"""Requests and answers of REST, as JSON."""

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from exportkit.clients.runtime.answers import checked, classified, regressed, serialized_examples
from exportkit.clients.runtime.messages import ServerError, parse
from exportkit.clients.runtime.tensors import Answer, Array, Signature, Tensor, as_array, numpy_dtype, objects

NOT_BY_REST = ("bfloat16", "complex64", "complex128", "float16", "uint16")  # json_tensor.cc of TensorFlow Serving


def rest_body(key: str, signature: Signature, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON of a REST request, in column form; bytes are base64.

    Raises:
        TypeError: TensorFlow Serving's REST has no such dtype.
    """
    for alias, tensor in {**signature.inputs, **signature.outputs}.items():
        if tensor.dtype in NOT_BY_REST:
            raise TypeError(f"{alias} is {tensor.dtype}, which REST cannot carry: ask by gRPC")
    if signature.method == "predict":
        arrays = {alias: as_array(alias, inputs[alias], tensor) for alias, tensor in signature.inputs.items()}
        return {"signature_name": key, "inputs": {alias: _json(array) for alias, array in arrays.items()}}
    examples = [parse("Example", data) for data in serialized_examples(signature, inputs)]
    rows = [{entry.key: _feature_json(entry.value) for entry in example.features.feature} for example in examples]
    return {"signature_name": key, "examples": rows}


def _json(array: Array) -> Any:
    return _text_json(array.tolist()) if array.dtype == object else array.tolist()


def _text_json(value: Any) -> Any:
    return [_text_json(item) for item in value] if isinstance(value, list) else {"b64": base64.b64encode(value).decode()}


def _feature_json(feature: Any) -> list[Any]:
    texts = [_text_json(value) for value in feature.bytes_list.value]
    return texts or [*feature.float_list.value] or [*feature.int64_list.value]


def read_rest(signature: Signature, content: Mapping[str, Any]) -> Answer:
    """Return the outputs in the JSON of a REST answer."""
    try:
        if signature.method == "classify":
            return classified(signature, [[(_text(c[0]), c[1]) for c in row] for row in content["results"]], None)
        if signature.method == "regress":
            return regressed(signature, content["results"], None)
        found = content["outputs"]
        named = found if len(signature.outputs) > 1 else dict.fromkeys(signature.outputs, found)
        return checked(signature, {alias: _from_json(named[alias], one) for alias, one in signature.outputs.items()}, None)
    except (KeyError, IndexError, TypeError, ValueError) as cause:
        raise ServerError("INTERNAL", f"the answer is not that of a {signature.method}: {cause!r}") from None


def _from_json(value: Any, tensor: Tensor) -> Array:
    if tensor.dtype != "string":
        array = np.array(value, numpy_dtype(tensor.dtype))
    else:
        shape: list[int] = []
        inner = value
        while isinstance(inner, list):
            shape.append(len(inner))
            inner = inner[0] if inner else None
        array = objects([_text(item) for item in _flat(value)]).reshape(shape)
    if not array.size and tensor.shape is not None:  # JSON has no shape for an array without elements
        array = array.reshape([size or 0 for size in tensor.shape])
    return array


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _text(item: Any) -> bytes:
    return base64.b64decode(item["b64"]) if isinstance(item, dict) else str(item).encode()
