"""What stands before and behind an imported graph: tf.Example parsing, fed placeholders, top_k, labels."""

from typing import Any

import numpy as np
import tensorflow as tf

from exportkit.errors import BindingError, Problem
from exportkit.metagraph.tensors import Facts
from exportkit.spec import Lookup, ParseExample, TopK

v1 = tf.compat.v1


def parse(name: str, example: ParseExample, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    features = {
        key: tf.io.FixedLenFeature(feature.shape, feature.dtype, _default(feature))
        for key, feature in example.parse_example.items()
    }
    values = tf.io.parse_example(serialized, features, name=f"{name}_parsed")
    return {target: values[key] for key, target in example.targets().items()}


def _default(feature: Any) -> Any:
    """A feature's default in the feature's shape; a scalar stands for every element."""
    if feature.default is None:
        return None
    return np.broadcast_to(np.array(feature.default, tf.dtypes.as_dtype(feature.dtype).as_numpy_dtype), feature.shape)


def placeholder(name: str, known: Facts, parsed: tf.Tensor | None) -> tf.Tensor:
    if parsed is None:
        return v1.placeholder(known.dtype, known.shape, name)
    try:
        value = tf.cast(parsed, known.dtype) if parsed.dtype.name != known.dtype else parsed
        return v1.placeholder_with_default(value, known.shape, name)
    except (ValueError, TypeError, tf.errors.OpError):
        shape = Facts(parsed.dtype.name, dims(parsed))
        raise BindingError(
            Problem(
                f"bindings.{name}", f"is {known}, which the parsed feature {shape} does not fit", "mend the feature's shape"
            )
        ) from None


def checked(tensor: tf.Tensor, known: Facts, ensure: bool) -> tf.Tensor:
    if not ensure or known.shape is None:
        return tf.identity(tensor)  # a server refuses to be fed and asked for one tensor
    return tf.ensure_shape(tensor, known.shape, name=f"{tensor.op.name.rsplit('/', 1)[-1]}_checked")


def top_k(name: str, spec: TopK, scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    size = None if scores.shape.rank is None or scores.shape.rank == 0 else scores.shape[-1]
    if scores.shape.rank == 0 or (size is not None and spec.k > size):
        what = "is a scalar" if scores.shape.rank == 0 else f"has {size} entries in its last axis"
        raise BindingError(
            Problem(f"bindings.{name}.k", f"is {spec.k}, but '{spec.top_k}' {what}", f"write {size or 1} or less")
        )
    return tf.math.top_k(scores, spec.k, name=name)


def labels(name: str, spec: Lookup, indices: tf.Tensor) -> tf.Tensor:
    if not indices.dtype.is_integer:
        what = f"'{spec.lookup}' is {indices.dtype.name}, not integers"
        raise BindingError(Problem(f"bindings.{name}.lookup", what, "look up the indices of a top_k"))
    lines = tf.lookup.TextFileInitializer(
        str(spec.vocabulary), tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE
    )
    table = tf.lookup.StaticHashTable(lines, spec.default, name=f"{name}_table")
    return table.lookup(tf.cast(indices, tf.int64), name=name)


def dims(tensor: tf.Tensor) -> tuple[int | None, ...] | None:
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
