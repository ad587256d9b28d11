"""Ops added before and after an imported graph: tf.Example parsing, placeholders, shape checks, top_k, labels."""

from typing import Any

import numpy as np
import tensorflow as tf

from exportkit.errors import BindingError, Problem
from exportkit.metagraph.tensors import Facts
from exportkit.spec import Lookup, ParseExample, TopK

v1 = tf.compat.v1


def parse(name: str, example: ParseExample, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parse `serialized`, string [batch] of tf.Examples, and return the values by the bindings that they feed."""
    features = {
        key: tf.io.FixedLenFeature(feature.shape, feature.dtype, _broadcast_default(feature))
        for key, feature in example.parse_example.items()
    }
    values = tf.io.parse_example(serialized, features, name=f"{name}_parsed")
    return {target: values[key] for key, target in example.targets().items()}


def _broadcast_default(feature: Any) -> Any:
    """Return a feature's default, broadcast to the feature's shape; None where the feature is required."""
    if feature.default is None:
        return None
    return np.broadcast_to(np.array(feature.default, tf.dtypes.as_dtype(feature.dtype).as_numpy_dtype), feature.shape)


def placeholder(name: str, known: Facts, parsed: tf.Tensor | None) -> tf.Tensor:
    """Make the placeholder of a binding; its default is the parsed feature, cast to the binding's dtype, if there is one.

    Raises:
        BindingError: the feature cannot be cast or has another shape.
    """
    if parsed is None:
        return v1.placeholder(known.dtype, known.shape, name)
    try:
        value = tf.cast(parsed, known.dtype) if parsed.dtype.name != known.dtype else parsed
        return v1.placeholder_with_default(value, known.shape, name)
    except (ValueError, TypeError, tf.errors.OpError):
        shape = Facts(parsed.dtype.name, dims(parsed))
        raise BindingError(
            Problem(f"bindings.{name}", f"is {known}, which the parsed feature {shape} does not fit", "fix the feature's shape")
        ) from None


def checked(tensor: tf.Tensor, known: Facts, ensure: bool) -> tf.Tensor:
    """Return `tensor` behind `tf.ensure_shape`, or behind an identity if there is nothing to check."""
    if not ensure or known.shape is None:
        return tf.identity(tensor)  # a server refuses a signature that feeds and fetches the same tensor
    return tf.ensure_shape(tensor, known.shape, name=f"{tensor.op.name.rsplit('/', 1)[-1]}_checked")


def top_k(name: str, spec: TopK, scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the `spec.k` largest values along the last axis, and their indices, int32; both [..., k].

    Raises:
        BindingError: the last axis is shorter than `spec.k`, or `scores` is a scalar.
    """
    size = None if scores.shape.rank is None or scores.shape.rank == 0 else scores.shape[-1]
    if scores.shape.rank == 0 or (size is not None and spec.k > size):
        what = "is a scalar" if scores.shape.rank == 0 else f"has {size} entries in its last axis"
        raise BindingError(
            Problem(f"bindings.{name}.k", f"is {spec.k}, but '{spec.top_k}' {what}", f"write {size or 1} or less")
        )
    return tf.math.top_k(scores, spec.k, name=name)


def labels(name: str, spec: Lookup, indices: tf.Tensor) -> tf.Tensor:
    """Return the vocabulary lines at `indices`, string of the same shape; `spec.default` outside of the vocabulary.

    Raises:
        BindingError: `indices` are not integers.
    """
    if not indices.dtype.is_integer:
        what = f"'{spec.lookup}' is {indices.dtype.name}, not integers"
        raise BindingError(Problem(f"bindings.{name}.lookup", what, "look up the indices of a top_k"))
    lines = tf.lookup.TextFileInitializer(
        str(spec.vocabulary), tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE
    )
    table = tf.lookup.StaticHashTable(lines, spec.default, name=f"{name}_table")
    return table.lookup(tf.cast(indices, tf.int64), name=name)


def dims(tensor: tf.Tensor) -> tuple[int | None, ...] | None:
    """Return a tensor's static shape; None for an unknown rank."""
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
