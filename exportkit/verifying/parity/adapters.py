"""Reference for the ops that an export adds to the training graph, without TensorFlow: tf.Examples are parsed with protobuf and
NumPy, top_k is computed by sorting, labels are read from the vocabulary.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from exportkit import files
from exportkit.checkpoint.encoding import numpy_dtype, objects
from exportkit.operations.bindings import Bindings
from exportkit.samples import tfexample
from exportkit.spec import Lookup, ParseExample, Signature, TopK


def fed(
    signature: Signature, bindings: Bindings, dtypes: Mapping[str, str], inputs: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return the values that the inputs of a signature feed, by binding; tf.Examples are parsed.

    Args:
        dtypes: binding → dtype, to which a parsed feature is cast.
        inputs: alias → value.

    Raises:
        ValueError: a tf.Example lacks a feature, or has one of another dtype or size.
    """
    values: dict[str, np.ndarray] = {}
    for alias, ref in signature.inputs.items():
        spec = bindings[ref]
        if not isinstance(spec, ParseExample):
            values[ref] = inputs[alias]
            continue
        columns = tfexample.decode(inputs[alias], spec.parse_example)
        for feature, target in spec.targets().items():
            values[target] = _cast(columns[feature], dtypes[target])
    return values


def _cast(column: np.ndarray, dtype: str) -> np.ndarray:
    return column if dtype == "string" else column.astype(numpy_dtype(dtype))


def leaf(ref: str, bindings: Bindings) -> str:
    """Return the tensor binding that the binding reference `ref` is computed from.

    Raises:
        KeyError: there is none, which a plan without problems does not have.
    """
    found = bindings.leaf(ref)
    if found is None:
        raise KeyError(ref)
    return found


def computed(ref: str, bindings: Bindings, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the value of the binding reference `ref`, computed from the values of tensor bindings."""
    name = bindings.offers()[ref]
    spec = bindings[name]
    if isinstance(spec, TopK):
        return _top_k(computed(spec.top_k, bindings, tensors), spec.k)[0 if ref == f"{name}.values" else 1]
    if isinstance(spec, Lookup):
        return _labels(computed(spec.lookup, bindings, tensors), spec)
    return tensors[name]


def _top_k(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` largest values of the last axis and their indices; of equal ones the lower index first (tf.math.top_k)."""
    ascending = np.argsort(scores[..., ::-1], axis=-1, kind="stable")
    indices = scores.shape[-1] - 1 - ascending[..., ::-1][..., :k]
    return np.take_along_axis(scores, indices, axis=-1), indices.astype(np.int32)


def _labels(indices: np.ndarray, spec: Lookup) -> np.ndarray:
    lines, default = _lines(spec.vocabulary), spec.default.encode()
    labels = [lines[i] if 0 <= i < len(lines) else default for i in indices.ravel().tolist()]
    return objects(labels).reshape(indices.shape)


@cache
def _lines(vocabulary: Path) -> list[bytes]:
    """Return the lines of a file as TensorFlow reads them: without any carriage return (io::InputBuffer::ReadLine)."""
    lines = files.read(vocabulary, files.ARRAYS).replace(b"\r", b"").split(b"\n")
    return lines[:-1] if not lines[-1] else lines
