"""Small models with what converters find hard, and configs that export and convert them."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import exportkit
import numpy as np
import pytest
import tensorflow as tf
from exportkit.testing import toys
from exportkit.testing.graphs import ramp, variable

v1 = tf.compat.v1
PLUGINS = exportkit.load_plugins()
FORMATS = ("tflite", "onnx", "openvino")


def words(vocabulary: str) -> None:
    """Words to vectors by a vocabulary: text in, a table, and an embedding behind it."""
    text = v1.placeholder(tf.string, [None], "words")
    lines = tf.lookup.TextFileInitializer(
        vocabulary, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    ids = tf.identity(tf.lookup.StaticHashTable(lines, 0).lookup(text), "ids")
    tf.nn.embedding_lookup(variable("vectors", ramp(4, 2)), ids, name="embedded")


def table_of_numbers() -> None:
    x = v1.placeholder(tf.int64, [None], "x")
    table = tf.lookup.KeyValueTensorInitializer([1, 2], [10.0, 20.0], tf.int64, tf.float32)
    tf.multiply(tf.lookup.StaticHashTable(table, -1.0).lookup(x), variable("scale", np.float32(2)), name="y")


def loop(old: bool) -> Callable[[], None]:
    """Powers of a matrix by a loop: of Enter and Exit, as TF 1 wrote them, or functional."""

    def build() -> None:
        with _control_flow(old):
            x = v1.placeholder(tf.float32, [None, 3], "x")
            kernel = variable("kernel", ramp(3, 3, step=0.0625))
            steps = lambda i, y: (i + 1, tf.tanh(y @ kernel))  # noqa: E731 - as users write it
            _, y = v1.while_loop(lambda i, _: i < 4, steps, (0, x))
            tf.identity(y, "y")

    return build


@contextmanager
def _control_flow(old: bool):
    switch = v1.disable_control_flow_v2 if old else v1.enable_control_flow_v2
    before = v1.control_flow_v2_enabled()
    switch()
    yield
    (v1.enable_control_flow_v2 if before else v1.disable_control_flow_v2)()


def eigenvalues() -> None:
    """An op that no converter carries."""
    x = v1.placeholder(tf.float32, [None, 2, 2], "x")
    tf.identity(tf.linalg.eigh(x * variable("scale", np.float32(2)))[0], "y")


def dropout() -> None:
    """Random, with nothing to switch it off."""
    x = v1.placeholder(tf.float32, [None, 64], "x")
    tf.identity(tf.nn.dropout(x * variable("scale", np.float32(2)), rate=0.5), "y")


def spoken() -> None:
    """A number, and the same as text."""
    x = v1.placeholder(tf.float32, [None], "x")
    y = tf.multiply(x, variable("scale", np.float32(2)), name="y")
    tf.strings.as_string(y, name="text")


def checked() -> None:
    """A library function that reads a variable, and an assertion about what is fed, with its text."""
    x = v1.placeholder(tf.float32, [None], "x")
    scale = variable("scale", np.float32(2), use_resource=True)
    scaled = tf.function(lambda value: tf.nn.relu(value * scale))(x)
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x < 100.0), ["too large", x])]):
        tf.identity(scaled, "y")


def any_rank() -> None:
    x = v1.placeholder(tf.float32, None, "x")
    tf.multiply(x, variable("scale", np.float32(2)), name="y")


def save(build: Callable[[], Any], directory: Path) -> str:
    """A checkpoint of a model with its .meta; returns its prefix."""
    return toys.save(build, directory).prefix


def config(prefix: str, base: Path, formats: Sequence[str] = FORMATS, **changes: Any) -> dict[str, Any]:
    """A config that exports x → y and converts it; `changes` replace top-level keys."""
    return {
        "name": "toy",
        "source": {"kind": "meta_graph", "checkpoint": prefix},
        "bindings": {"x": "x:0", "y": "y:0"},
        "signatures": {"serving_default": {"inputs": {"x": "x"}, "outputs": {"y": "y"}}},
        "export_dir": str(base / "exports"),
        "post": {kind: {"kind": kind} for kind in formats},
        **changes,
    }


def export(data: dict[str, Any]) -> exportkit.ExportReport:
    return exportkit.run(exportkit.plan(data, PLUGINS), PLUGINS)


def refusal(error: type[Exception], data: dict[str, Any]) -> list[str]:
    """The lines for which a config is refused."""
    with pytest.raises(error) as refused:
        export(data)
    return str(refused.value).splitlines()
