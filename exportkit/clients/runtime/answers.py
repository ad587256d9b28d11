"""Requests as tf.Examples, and the answers to any request."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from exportkit.clients.runtime.messages import MESSAGES, ContractChanged, ServerError
from exportkit.clients.runtime.tensors import Answer, Array, Signature, Tensor, as_array, numpy_dtype, objects


def encode_examples(columns: Mapping[str, ArrayLike], features: Mapping[str, Tensor]) -> list[bytes]:
    """Return serialized tf.Examples, one for each row of the columns.

    Args:
        columns: feature → value of each example, [N, …] with the feature's shape.
        features: the features of an example.
    """
    arrays = _columns(columns, features)
    rows = max(map(len, arrays.values()), default=1)
    return [_example({name: array[row : row + 1] for name, array in arrays.items()}) for row in range(rows)]


def _columns(columns: Mapping[str, Any], features: Mapping[str, Tensor]) -> dict[str, Array]:
    given = {name: value for name, value in columns.items() if value is not None}
    wanted = {name: Tensor(one.dtype, None if one.shape is None else (None, *one.shape)) for name, one in features.items()}
    arrays = {name: as_array(name, value, wanted[name]) for name, value in given.items()}
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"the features have different numbers of rows: {rows}")
    return arrays


def _example(row: Mapping[str, Array]) -> bytes:
    example = MESSAGES["Example"]()
    for name, array in row.items():
        entry = example.features.feature.add(key=name)
        kind = {"f": entry.value.float_list, "i": entry.value.int64_list}.get(array.dtype.kind, entry.value.bytes_list)
        kind.SetInParent()
        kind.value.extend(array.ravel().tolist())
    return bytes(example.SerializeToString(deterministic=True))


def serialized_examples(signature: Signature, inputs: Mapping[str, Any]) -> list[bytes]:
    """Return the tf.Examples of a request: made of its features, or given as ``inputs`` where those are not known."""
    if signature.features:
        return encode_examples(inputs, signature.features)
    return list(as_array("inputs", inputs["inputs"], Tensor("string", (None,))))


def classified(signature: Signature, rows: Sequence[Any], version: int | None) -> Answer:
    """Return labels (bytes) and scores, [N, k] both, those of the two that the signature has."""
    count = len(rows[0]) if rows else 0
    if any(len(row) != count for row in rows):
        raise ServerError("INTERNAL", "the answer's examples have different numbers of classes")
    labels = objects([label for row in rows for label, _ in row]).reshape(len(rows), count)
    scores = np.array([score for row in rows for _, score in row], np.float32).reshape(len(rows), count)
    return checked(signature, {"classes": labels, "scores": scores}, version)


def regressed(signature: Signature, values: Sequence[float], version: int | None) -> Answer:
    shape = signature.outputs["outputs"].shape
    wanted = (len(values),) if shape is None or len(shape) == 1 else (len(values), 1)
    return checked(signature, {"outputs": np.array(values, np.float32).reshape(wanted)}, version)


def checked(signature: Signature, outputs: Mapping[str, Array], version: int | None) -> Answer:
    """Return an answer with the signature's outputs.

    Raises:
        ContractChanged: the server's model has other outputs than the client was generated for.
    """
    missing = [f"the answer has no output {alias}" for alias in signature.outputs if alias not in outputs]
    changed = [
        f"the output {alias} is {outputs[alias].dtype}, not {tensor.dtype}"
        for alias, tensor in signature.outputs.items()
        if alias in outputs and outputs[alias].dtype != numpy_dtype(tensor.dtype)
    ]
    if missing or changed:
        raise ContractChanged([*missing, *changed])
    return Answer({alias: outputs[alias] for alias in signature.outputs}, version)
