"""SavedModels as others export them: of TensorFlow 2 from a tf.Module, of TensorFlow 1 by the Builder."""

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 8
BIAS = np.array([0.5, -0.5, 0.0], np.float32)


class Module(tf.Module):
    """Variables, one of them unused; a table from a file and one from constants; loops and branches; a training step."""

    def __init__(self, vocabulary):
        super().__init__()
        lines = tf.lookup.TextFileIndex
        file = tf.lookup.TextFileInitializer(vocabulary, tf.string, lines.WHOLE_LINE, tf.int64, lines.LINE_NUMBER)
        keys = tf.constant([0, 1, 2], tf.int64)
        self.w, self.b = tf.Variable(WEIGHTS, name="w"), tf.Variable(BIAS, name="b")
        self.unused, self.step = tf.Variable(tf.ones([1000]), name="unused"), tf.Variable(0)
        self.ids = tf.lookup.StaticHashTable(file, -1)
        self.colours = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, ["warm", "mild", "cold"]), "none")

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def score(self, x):
        logits = tf.matmul(x, self.w) + self.b
        return {"logits": logits, "probs": tf.nn.softmax(logits)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
    def lookup(self, words):
        ids = self.ids.lookup(words)
        return {"ids": ids, "feel": self.colours.lookup(ids)}

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.int64, name="n"), tf.TensorSpec([], tf.bool, name="double")],
    )
    def repeat(self, n, double):
        total = tf.zeros_like(n)
        for _ in tf.range(3):
            total += n
        return {"total": tf.cond(double, lambda: total * 2, lambda: total)}

    @tf.function(input_signature=[])
    def bias(self):
        return {"b": self.b.read_value()}

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def train(self, x):
        self.step.assign_add(1)
        self.w.assign_add(tf.ones([4, 3]) * tf.reduce_sum(x))
        return {"step": self.step.read_value()}


def module(directory):
    """Save `Module` with all its signatures; its vocabulary is gone afterwards."""
    vocabulary = directory.parent / "words.txt"
    vocabulary.write_text("red\ngreen\nblue\n")
    made = Module(str(vocabulary))
    signatures = {"serving_default": made.score, **{key: getattr(made, key) for key in ("lookup", "repeat", "bias", "train")}}
    tf.saved_model.save(made, str(directory), signatures=signatures)
    vocabulary.unlink()
    return directory


class Python(tf.Module):
    """A signature that runs Python, and one that does not."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def call(self, x):
        return {"y": tf.py_function(lambda value: value * 2, [x], tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def triple(self, x):
        return {"y": x * 3}


def python(directory):
    """Save `Python`."""
    made = Python()
    tf.saved_model.save(made, str(directory), signatures={"serving_default": made.call, "triple": made.triple})
    return directory


class Mutable(tf.Module):
    """A mutable table, whose content is in the checkpoint."""

    def __init__(self):
        super().__init__()
        self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        self.table.insert(tf.constant(["red", "blue"]), tf.constant([7, 8], tf.int64))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
    def find(self, words):
        return {"ids": self.table.lookup(words)}


def mutable(directory):
    """Save `Mutable`."""
    made = Mutable()
    tf.saved_model.save(made, str(directory), signatures={"serving_default": made.find})
    return directory


def session(directory, tags=("serve",)):
    """Save a graph of TensorFlow 1: reference variables, one of two parts, a table from a file, a variable with that file's
    path, a tensor that one signature feeds and another computes, and signatures that no server answers."""
    vocabulary = directory.parent / "animals.txt"
    vocabulary.write_text("cat\ndog\n")
    with tf.Graph().as_default(), v1.Session() as running:
        lines = tf.lookup.TextFileIndex
        file = tf.lookup.TextFileInitializer(str(vocabulary), tf.string, lines.WHOLE_LINE, tf.int64, lines.LINE_NUMBER)
        table = tf.lookup.StaticHashTable(file, 0)
        drawn = v1.random_uniform_initializer(seed=1)
        rows = v1.get_variable("rows", [4, 3], None, drawn, partitioner=v1.fixed_size_partitioner(2), use_resource=False)
        v1.get_variable("rows/Adam", [1000], use_resource=False)
        path = v1.get_variable("path", initializer=str(vocabulary), use_resource=False)
        asset = v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS)[0]
        examples, words = v1.placeholder(tf.string, [None], "examples"), v1.placeholder(tf.string, [None], "words")
        parsed = v1.io.parse_example(examples, {"x": v1.io.FixedLenFeature([1], tf.float32)})
        x, rate = tf.identity(parsed["x"], "x"), v1.placeholder_with_default(0.5, [], "rate")
        y = tf.multiply(x, rate, "y")
        row = v1.nn.embedding_lookup(rows, table.lookup(words), partition_strategy="div")
        sparse = v1.sparse_placeholder(tf.float32, [None, 3], "sparse")
        signatures = {
            "serving_default": _predict({"x": x}, {"y": y}),
            "rated": _predict({"x": x, "rate": rate}, {"y": y}),
            "regress": v1.saved_model.regression_signature_def(examples, y),
            "rows": _predict({"words": words}, {"row": row}),
            "file": _predict({"x": x}, {"file": tf.identity(path), "y": y}),
            "sparse": _predict({"s": sparse}, {"sum": v1.sparse.reduce_sum(sparse, 1)}),
            "odd": v1.saved_model.build_signature_def({}, {"y": _info(y)}, "mine/odd"),
            "floats": v1.saved_model.build_signature_def(
                {"inputs": _info(x)}, {"outputs": _info(y)}, "tensorflow/serving/regress"
            ),
        }
        running.run([v1.global_variables_initializer(), v1.tables_initializer()])
        assigned = path.assign(asset)
        builder = v1.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(
            running,
            list(tags),
            signatures,
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=tf.group(assigned.op, v1.tables_initializer()),
        )
        builder.save()
    vocabulary.unlink()
    return directory


def constant(directory):
    """Save a graph of TensorFlow 1 without variables, under the tags serve and gpu."""
    with tf.Graph().as_default(), v1.Session() as running:
        x = v1.placeholder(tf.float32, [None, 2], "x")
        builder = v1.saved_model.Builder(str(directory))
        signatures = {"serving_default": _predict({"x": x}, {"y": x @ tf.constant([[1.0], [2.0]])})}
        builder.add_meta_graph_and_variables(running, ["serve", "gpu"], signatures)
        builder.save()
    return directory


def _predict(inputs, outputs):
    return v1.saved_model.predict_signature_def(inputs, outputs)


def _info(tensor):
    return v1.saved_model.build_tensor_info(tensor)
