"""Small tf.compat.v1 graphs with the traits of real ones, trained a little and saved, and configs that export them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import exportkit
from exportkit.registry import load_plugins

v1 = tf.compat.v1
PLUGINS = load_plugins()


def saved(directory: Path, build: Callable[[], Any], *, seed: int = 7) -> str:
    """Build a graph, give its variables random values and save them; returns the checkpoint's prefix."""
    prefix = str(directory / "run" / "model.ckpt-1")
    with tf.Graph().as_default() as graph:
        v1.set_random_seed(seed)
        build()
        with v1.Session(graph=graph) as session:
            session.run([v1.global_variables_initializer(), v1.local_variables_initializer()])
            v1.train.Saver().save(session, prefix)
    return prefix


def dense(inputs: int = 4, outputs: int = 3) -> None:
    """A dense softmax layer with an Adam optimizer: x → probs, and placeholders that only training feeds."""
    x = v1.placeholder(tf.float32, [None, inputs], "x")
    labels = v1.placeholder(tf.int64, [None], "labels")
    kernel = v1.get_variable("dense/kernel", [inputs, outputs], initializer=v1.random_normal_initializer())
    bias = v1.get_variable("dense/bias", [outputs], initializer=v1.random_normal_initializer())
    logits = tf.nn.bias_add(tf.matmul(x, kernel), bias, name="logits")
    tf.nn.softmax(logits, name="probs")
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits), name="loss")
    v1.train.AdamOptimizer().minimize(loss, name="train_op")


def config(prefix: str, base: Path, **changes: Any) -> dict[str, Any]:
    """A config that exports `dense` through its .meta; `changes` replace top-level keys."""
    return {
        "name": "toy",
        "source": {"kind": "meta_graph", "checkpoint": prefix},
        "bindings": {"x": "x:0", "probs": "probs:0"},
        "signatures": {"serving_default": {"inputs": {"x": "x"}, "outputs": {"probs": "probs"}}},
        "export_dir": str(base / "exports" / "toy"),
        **changes,
    }


def export(data: Mapping[str, Any]) -> exportkit.ExportReport:
    """Plan and run."""
    return exportkit.run(exportkit.plan(data, PLUGINS), PLUGINS)


def restored(prefix: str, fetches: Any, feeds: Mapping[str, Any]) -> Any:
    """What the whole training graph answers with the checkpoint's values: the reference."""
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        v1.train.import_meta_graph(prefix + ".meta").restore(session, prefix)
        return session.run(fetches, feeds)


def served(directory: str, signature: str, inputs: Mapping[str, Any], tags: tuple[str, ...] = ("serve",)) -> dict[str, Any]:
    """What the compat.v1 loader answers to a signature."""
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        definition = v1.saved_model.load(session, list(tags), directory).signature_def[signature]
        feeds = {definition.inputs[alias].name: value for alias, value in inputs.items()}
        return session.run({alias: info.name for alias, info in definition.outputs.items()}, feeds)


def served_eagerly(
    directory: str, signature: str, inputs: Mapping[str, Any], tags: tuple[str, ...] = ("serve",)
) -> dict[str, Any]:
    """What tf.saved_model.load answers to a signature."""
    function = tf.saved_model.load(directory, tags=list(tags)).signatures[signature]
    dtypes = {name: spec.dtype for name, spec in function.structured_input_signature[1].items()}
    return {k: v.numpy() for k, v in function(**{k: tf.constant(v, dtypes[k]) for k, v in inputs.items()}).items()}


def example(**features: Any) -> bytes:
    """A serialized tf.Example."""
    return tf.train.Example(
        features=tf.train.Features(feature={k: _feature(v) for k, v in features.items()})
    ).SerializeToString()


def _feature(values: Any) -> tf.train.Feature:
    array = np.ravel(values)
    if array.dtype.kind in "OSU":
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[v if isinstance(v, bytes) else v.encode() for v in array]))
    if array.dtype.kind == "f":
        return tf.train.Feature(float_list=tf.train.FloatList(value=array))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=array))
