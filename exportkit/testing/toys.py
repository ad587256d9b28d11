"""Toy checkpoints, configs that export them, and ways to run a version. Functions import TensorFlow when they need it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


_made: dict[str, tuple[dict[str, bytes], str, dict[str, np.ndarray]]] = {}


def checkpoint(name: str, directory: Path) -> Checkpoint:
    """Save the graph `name` of `exportkit.testing.graphs` in `directory`; the vocabulary of ``table`` is written there too.

    A process builds a graph once and then copies its files, but not ``table``, which has the path of its vocabulary.
    """
    from exportkit.testing import graphs

    if name == "table":
        (directory / "words.txt").write_text("red\ngreen\nblue\n")
        return save(lambda: graphs.table(str(directory / "words.txt")), directory)
    if name in _made:
        return _copied(*_made[name], directory)
    made = save(getattr(graphs, name), directory)
    files = {path.name: path.read_bytes() for path in directory.glob("model.ckpt-*")}
    _made[name] = files, Path(made.prefix).name, made.values
    return made


def _copied(files: Mapping[str, bytes], prefix: str, values: Mapping[str, np.ndarray], directory: Path) -> Checkpoint:
    """Write the files of a checkpoint, and the state file that names it, as a Saver does."""
    import tensorflow as tf

    for file, content in files.items():
        (directory / file).write_bytes(content)
    tf.compat.v1.train.update_checkpoint_state(str(directory), str(directory / prefix))
    return Checkpoint(str(directory / prefix), {variable: value.copy() for variable, value in values.items()})


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
