"""Reference for the ops that an export adds to the training graph, without TensorFlow: tf.Examples are parsed with protobuf
and NumPy, top_k is computed by sorting, labels are read from the vocabulary. It shares the config with them, and no code.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from exportkit import files
from exportkit.checkpoint.encoding import numpy_dtype, objects
from exportkit.operations.argmax import ArgMax
from exportkit.operations.base import Feeder, Operation
from exportkit.operations.bindings import Bindings, ask, fed_values, offered_by, targets_of
from exportkit.operations.cast import Cast
from exportkit.operations.concat import Concat
from exportkit.operations.decode_image import DecodeImage
from exportkit.operations.lookup import Lookup
from exportkit.operations.parse_example import ParseExample
from exportkit.operations.reshape import Reshape
from exportkit.operations.scale import Scale
from exportkit.operations.sigmoid import Sigmoid
from exportkit.operations.softmax import Softmax
from exportkit.operations.split import Split
from exportkit.operations.threshold import Threshold
from exportkit.operations.top_k import TopK
from exportkit.samples import tfexample
from exportkit.spec import Signature
from exportkit.verifying.parity import decoding


def fed(
    signature: Signature, bindings: Bindings, dtypes: Mapping[str, str], inputs: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return the values that the inputs of a signature feed, by binding, directly or through feeders.

    Args:
        dtypes: binding → dtype, to which a feeder's value is cast.
        inputs: alias → value.

    Raises:
        ValueError: a tf.Example lacks a feature, or has one of another dtype or size, an image cannot be decoded, or a
            plugin's feeder refuses what it is given.
        EnvironmentFailed: images are to be decoded, and a decoder is not installed.
    """
    values: dict[str, np.ndarray] = {ref: inputs[alias] for alias, ref in signature.inputs.items()}
    for name, feeder in bindings.feeders([signature]).items():
        taken, twin = values.pop(name), FEEDER_TWINS.get(type(feeder))
        computed = twin(feeder, taken) if twin else fed_values(name, feeder, "recompute", taken)
        for value, target in targets_of(name, feeder).items():
            values[target] = _cast(computed[value], dtypes[target])
    return values


def _cast(value: np.ndarray, dtype: str) -> np.ndarray:
    return value if dtype == "string" else np.asarray(value).astype(numpy_dtype(dtype))


def leaves(ref: str, bindings: Bindings) -> tuple[str, ...]:
    """Return the tensor bindings that the binding reference `ref` is computed from.

    Raises:
        KeyError: there is none, which a plan without problems does not have.
    """
    found = bindings.leaves(ref)
    if found is None:
        raise KeyError(ref)
    return found


def computed(ref: str, bindings: Bindings, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the value of the binding reference `ref`, computed from the values of tensor bindings."""
    name = bindings.offers()[ref]
    spec = bindings[name]
    if not isinstance(spec, Operation):
        return tensors[name]
    inputs = [computed(one, bindings, tensors) for one in spec.refs()]
    values = TWINS[type(spec)](spec, *inputs) if type(spec) in TWINS else ask(name, spec, "recompute", inputs)
    return dict(zip(offered_by(name, spec), values, strict=True))[ref]


def rounding(ref: str, bindings: Bindings) -> int:
    """Return how many units in the last place what an export computes for `ref` may differ by from what is recomputed here."""
    spec = bindings[bindings.offers()[ref]]
    return spec.rounding + max(rounding(one, bindings) for one in spec.refs()) if isinstance(spec, Operation) else 0


# The twins: operation and values of its references → its values


def _top_k(spec: TopK, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` largest values of the last axis and their indices; of equal ones the lower index first (tf.math.top_k)."""
    ascending = np.argsort(scores[..., ::-1], axis=-1, kind="stable")
    indices = scores.shape[-1] - 1 - ascending[..., ::-1][..., : spec.k]
    return np.take_along_axis(scores, indices, axis=-1), indices.astype(np.int32)


def _lookup(spec: Lookup, indices: np.ndarray) -> list[np.ndarray]:
    lines, default = _lines(spec.vocabulary), spec.default.encode()
    labels = [lines[i] if 0 <= i < len(lines) else default for i in indices.ravel().tolist()]
    return [objects(labels).reshape(indices.shape)]


def _argmax(spec: ArgMax, values: np.ndarray) -> list[np.ndarray]:
    """Return the first index of the largest entry; NaN is the largest of none (Eigen's ArgMaxTupleReducer)."""
    if values.dtype.kind in "fV":
        values = values.astype(np.float64)
        values = np.where(np.isnan(values), -np.inf, values)
    return [np.argmax(values, axis=spec.axis).astype(spec.dtype)]


def _softmax(_: Softmax, logits: np.ndarray) -> list[np.ndarray]:
    powers = np.exp((logits - logits.max(axis=-1, keepdims=True)).astype(np.float64))
    return [(powers / powers.sum(axis=-1, keepdims=True)).astype(logits.dtype)]


def _sigmoid(_: Sigmoid, logits: np.ndarray) -> list[np.ndarray]:
    with np.errstate(over="ignore"):
        return [(1 / (1 + np.exp(-logits.astype(np.float64)))).astype(logits.dtype)]


def _scale(spec: Scale, values: np.ndarray) -> list[np.ndarray]:
    factor, offset = (np.asarray(number, values.dtype) for number in (spec.factor, spec.offset))
    return [values * factor + offset]


def _threshold(spec: Threshold, values: np.ndarray) -> list[np.ndarray]:
    return [values >= np.asarray(spec.at, values.dtype)]


TWINS: Mapping[type[Operation], Callable[..., Sequence[np.ndarray]]] = {
    TopK: _top_k,
    Lookup: _lookup,
    ArgMax: _argmax,
    Softmax: _softmax,
    Sigmoid: _sigmoid,
    Cast: lambda spec, values: [values.astype(numpy_dtype(spec.dtype))],
    Reshape: lambda spec, values: [values.reshape([-1 if size is None else size for size in spec.shape])],
    Scale: _scale,
    Threshold: _threshold,
    Concat: lambda spec, *values: [np.concatenate(values, axis=spec.axis)],
    Split: lambda spec, values: np.split(values, spec.num, axis=spec.axis),
}


FEEDER_TWINS: Mapping[type[Feeder], Callable[[Any, Any], Mapping[str, np.ndarray]]] = {
    DecodeImage: lambda spec, images: {"pixels": decoding.decoded(spec, images)},
    ParseExample: lambda spec, examples: tfexample.decode(examples, spec.parse_example),
}
"""Feeder and what a request sends → its values, by the names of `Feeder.targets`."""


@cache
def _lines(vocabulary: Path) -> list[bytes]:
    """Return the lines of a file as TensorFlow reads them: without any carriage return (io::InputBuffer::ReadLine)."""
    lines = files.read(vocabulary, files.ARRAYS).replace(b"\r", b"").split(b"\n")
    return lines[:-1] if not lines[-1] else lines
