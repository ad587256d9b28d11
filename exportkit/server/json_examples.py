"""Bodies of classify and regress requests → tf.Examples, by the rules of json_tensor.cc, with its messages."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from exportkit.checkpoint.encoding import objects
from exportkit.protos import example_pb2
from exportkit.server.json_request import as_double, decoded, is_base64
from exportkit.server.json_text import is_double, is_number, misformed, text_bytes, type_name
from exportkit.server.status import invalid


def examples_of(body: Mapping[str, Any]) -> np.ndarray:
    """Return the serialized tf.Examples of a classify or regress request, each with the context. Raises Status."""
    context = _example(body["context"]) if "context" in body else b""
    if "examples" not in body:
        raise misformed(body, "When method is classify, key 'examples' is expected and was not found")
    if not isinstance(body["examples"], list):
        raise misformed(body, "Expecting 'examples' value to be an list/array")
    if not body["examples"]:
        raise misformed(body, "'examples' value is an empty array")
    return objects([context + _example(example) for example in body["examples"]])


def _example(value: Any) -> bytes:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {type_name(value)}")
    example = example_pb2.Example()
    for name, content in value.items():
        feature = example.features.feature[name]
        if isinstance(content, list) and set(map(type, content)) == {float}:
            with np.errstate(over="ignore"):  # many at once: one by one they take ten times as long
                feature.float_list.value.extend(np.array(content).astype(np.float32).tolist())
            continue
        for item in content if isinstance(content, list) else [content]:
            _add(feature, name, item)
    return example.SerializeToString()


def _add(feature: Any, name: str, value: Any) -> None:
    """Add a value to a feature, whose first value decides its type."""
    if isinstance(value, bool):
        _values(feature, name, "int64_list").append(int(value))
    elif isinstance(value, str):
        _values(feature, name, "bytes_list").append(text_bytes(value))
    elif is_base64(value):
        _values(feature, name, "bytes_list").append(decoded(value))
    elif is_number(value) and is_double(value):
        with np.errstate(over="ignore"):
            _values(feature, name, "float_list").append(float(np.float32(as_double(value))))
    elif is_number(value):
        values = _values(feature, name, "int64_list")
        if value >= 1 << 63:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
        values.append(value)
    else:
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")


def _values(feature: Any, name: str, kind: str) -> Any:
    if feature.WhichOneof("kind") not in (None, kind):
        held = feature.WhichOneof("kind").removesuffix("_list")
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {held}")
    return getattr(feature, kind).value
