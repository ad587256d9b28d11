"""Toy checkpoints, configs that export them, and ways to run a version. Functions import TensorFlow when they need it."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import exportkit
from exportkit.registry import load_plugins


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk: its prefix, and the values of its variables by name; partitioned ones as a whole."""

    prefix: str
    values: dict[str, np.ndarray]

    @property
    def meta(self) -> str:
        return f"{self.prefix}.meta"


def checkpoint(name: str, directory: Path) -> Checkpoint:
    """Save the graph `name` of `exportkit.testing.graphs` in `directory`; the vocabulary of ``table`` is written there too.

    A process builds each graph once, and copies its files after that; that of ``table``, which has a path in it, each time.
    """
    if name == "table":
        (directory / "words.txt").write_text("red\ngreen\nblue\n")
        return _build(name, directory, str(directory / "words.txt"))
    files, last, values = _built(name)
    for file, content in files.items():
        (directory / file).write_bytes(content)
    prefix = str(directory / last)
    (directory / "checkpoint").write_text(f'model_checkpoint_path: "{prefix}"\nall_model_checkpoint_paths: "{prefix}"\n')
    return Checkpoint(prefix, {name: value.copy() for name, value in values.items()})


@cache
def _built(name: str) -> tuple[dict[str, bytes], str, dict[str, np.ndarray]]:
    """Return the files of a checkpoint without its state file, the name of its prefix, and the values of its variables."""
    with tempfile.TemporaryDirectory() as directory:
        made = _build(name, Path(directory))
        files = {path.name: path.read_bytes() for path in Path(directory).iterdir() if path.name != "checkpoint"}
    return files, Path(made.prefix).name, made.values


def _build(name: str, directory: Path, *arguments: str) -> Checkpoint:
    from exportkit.testing import graphs

    return save(lambda: getattr(graphs, name)(*arguments), directory)


def save(build: Callable[[], Any], directory: Path, seed: int = 7, step: int = 3) -> Checkpoint:
    """Build a graph, initialise it, and save it in `directory` with its .meta, as a training run does."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        v1.set_random_seed(seed)
        build()
        session.run([v1.global_variables_initializer(), v1.local_variables_initializer()])
        prefix = v1.train.Saver().save(session, str(directory / "model.ckpt"), global_step=step)
    reader = tf.train.load_checkpoint(prefix)
    return Checkpoint(prefix, {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()})


def config(prefix: str, base: Path, **changes: Any) -> dict[str, Any]:
    """Return a config that exports the graph `softmax` through its .meta; `changes` replace top-level keys."""
    return {
        "name": "toy",
        "source": {"kind": "meta_graph", "checkpoint": prefix},
        "bindings": {"x": "x:0", "probs": "probs:0"},
        "signatures": {"serving_default": {"inputs": {"x": "x"}, "outputs": {"probs": "probs"}}},
        "export_dir": str(base / "exports" / "toy"),
        **changes,
    }


def export(data: Mapping[str, Any]) -> exportkit.ExportReport:
    """Plan and run an export with the installed plugins."""
    plugins = load_plugins()
    return exportkit.run(exportkit.plan(data, plugins), plugins)


def restored(prefix: str, fetches: Any, feeds: Mapping[str, Any]) -> Any:
    """Run the whole training graph with the checkpoint's values, as a reference, and return the fetched values."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        v1.train.import_meta_graph(prefix + ".meta").restore(session, prefix)
        return session.run(fetches, feeds)


def served(directory: str, signature: str, inputs: Mapping[str, Any], tags: tuple[str, ...] = ("serve",)) -> dict[str, Any]:
    """Run a signature of a version loaded with tf.compat.v1.saved_model.load, and return alias → value."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        definition = v1.saved_model.load(session, list(tags), directory).signature_def[signature]
        feeds = {definition.inputs[alias].name: value for alias, value in inputs.items()}
        return session.run({alias: info.name for alias, info in definition.outputs.items()}, feeds)


def served_eagerly(
    directory: str, signature: str, inputs: Mapping[str, Any], tags: tuple[str, ...] = ("serve",)
) -> dict[str, Any]:
    """Run a signature of a version loaded with tf.saved_model.load, and return alias → value."""
    import tensorflow as tf

    function = tf.saved_model.load(directory, tags=list(tags)).signatures[signature]
    dtypes = {name: spec.dtype for name, spec in function.structured_input_signature[1].items()}
    return {k: v.numpy() for k, v in function(**{k: tf.constant(v, dtypes[k]) for k, v in inputs.items()}).items()}


def example(**features: Any) -> bytes:
    """Return a serialized tf.Example; lists, arrays and single values of strings, floats and integers are features."""
    import tensorflow as tf

    feature = {name: _feature(tf.train, values) for name, values in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def _feature(train: Any, values: Any) -> Any:
    array = np.ravel(values)
    if array.dtype.kind in "OSU":
        return train.Feature(bytes_list=train.BytesList(value=[v if isinstance(v, bytes) else v.encode() for v in array]))
    if array.dtype.kind == "f":
        return train.Feature(float_list=train.FloatList(value=array))
    return train.Feature(int64_list=train.Int64List(value=array))
