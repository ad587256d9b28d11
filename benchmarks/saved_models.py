"""Make SavedModels as others export them, small ones of many kinds: ``python benchmarks/saved_models.py DIRECTORY [KIND …]``.

What takes them in is measured by ``adopt.py``.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from exportkit.plugin import import_tensorflow

import_tensorflow()  # without Keras: a third of the time

import tensorflow as tf  # noqa: E402

v1 = tf.compat.v1
MAKERS: dict[str, Callable[[Path], None]] = {}


def made(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Add a function that writes one SavedModel."""
    MAKERS[make.__name__] = make
    return make


def ramp(*shape: int) -> np.ndarray:
    """Return float32 values between -1 and 1, the same at each run."""
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def spec(*shape: int | None, dtype: tf.DType = tf.float32, name: str | None = None) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype, name)


def save(module: tf.Module, place: Path, **signatures: tf.types.experimental.ConcreteFunction) -> None:
    tf.saved_model.save(module, str(place), signatures=signatures)


@made
def module_dense(place: Path) -> None:
    module = tf.Module()
    module.kernel, module.bias = tf.Variable(ramp(4, 3), name="kernel"), tf.Variable(ramp(3), name="bias")

    @tf.function(input_signature=[spec(None, 4, name="x")])
    def serve(x):
        return {"probs": tf.nn.softmax(x @ module.kernel + module.bias)}

    save(module, place, serving_default=serve)


@made
def module_trained(place: Path) -> None:
    """Write a model with its optimizer's state and its training as a signature."""
    module = tf.Module()
    module.kernel = tf.Variable(ramp(8, 2), name="kernel")
    module.optimizer = tf.keras.optimizers.Adam()
    module.optimizer.build([module.kernel])

    @tf.function(input_signature=[spec(None, 8, name="x")])
    def serve(x):
        return {"logits": x @ module.kernel}

    @tf.function(input_signature=[spec(None, 8, name="x"), spec(None, 2, name="y")])
    def train(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(x @ module.kernel - y))
        module.optimizer.apply_gradients([(tape.gradient(loss, module.kernel), module.kernel)])
        return {"loss": loss[tf.newaxis]}

    save(module, place, serving_default=serve, train=train)


@made
def module_regression(place: Path) -> None:
    module = tf.Module()
    module.a, module.b = tf.Variable(0.5), tf.Variable(2.0)

    @tf.function(input_signature=[spec(None, name="x")])
    def serve(x):
        return {"y": module.a * x + module.b}

    save(module, place, serving_default=serve)


@made
def module_table_of_file(place: Path) -> None:
    """Write a model with a vocabulary as an asset, which takes words."""
    words = place.parent / "words.txt"
    words.write_text("red\ngreen\nblue\n")
    lines = tf.lookup.TextFileInitializer(
        str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    module = tf.Module()
    module.table = tf.lookup.StaticVocabularyTable(lines, 2)
    module.embedding = tf.Variable(ramp(5, 4), name="embedding")

    @tf.function(input_signature=[spec(None, dtype=tf.string, name="word")])
    def serve(word):
        return {"scores": tf.nn.softmax(tf.gather(module.embedding, module.table.lookup(word)))}

    save(module, place, serving_default=serve)
    words.unlink()


@made
def module_table_of_values(place: Path) -> None:
    pairs = tf.lookup.KeyValueTensorInitializer(["a", "b", "c"], [3, 5, 7], tf.string, tf.int64)
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(pairs, -1)
    module.weight = tf.Variable(ramp(1), name="weight")

    @tf.function(input_signature=[spec(None, dtype=tf.string, name="key")])
    def serve(key):
        return {"value": tf.cast(module.table.lookup(key), tf.float32) * module.weight}

    save(module, place, serving_default=serve)


@made
def module_signatures(place: Path) -> None:
    """Write three signatures over shared variables."""
    module = tf.Module()
    module.first, module.second = tf.Variable(ramp(6, 5), name="first"), tf.Variable(ramp(5, 3), name="second")

    def function(compute):
        return tf.function(compute, input_signature=[spec(None, 6, name="x")])

    save(
        module,
        place,
        serving_default=function(lambda x: {"probs": tf.nn.softmax(tf.tanh(x @ module.first) @ module.second)}),
        hidden=function(lambda x: {"hidden": tf.tanh(x @ module.first)}),
        classes=function(lambda x: {"classes": tf.argmax(tf.tanh(x @ module.first) @ module.second, -1)}),
    )


@made
def module_control_flow(place: Path) -> None:
    """Write a while loop, a branch and a map."""
    module = tf.Module()
    module.kernel = tf.Variable(ramp(4, 4) / 4, name="kernel")

    @tf.function(input_signature=[spec(None, 4, name="x"), spec(None, dtype=tf.int64, name="steps")])
    def serve(x, steps):
        for _ in tf.range(tf.reduce_max(steps)):
            x = tf.tanh(x @ module.kernel)
        x = x + 1.0 if tf.reduce_sum(x) > 0.0 else x - 1.0
        return {"state": tf.map_fn(lambda row: row / (1.0 + tf.norm(row)), x)}

    save(module, place, serving_default=serve)


@made
def module_partitioned(place: Path) -> None:
    """Write an embedding in slices, and one of bfloat16."""
    module = tf.Module()
    module.slices = [tf.Variable(part, name=f"part_{n}") for n, part in enumerate(np.split(ramp(12, 4), 3))]
    module.half = tf.Variable(tf.cast(ramp(4, 2), tf.bfloat16), name="half")

    @tf.function(input_signature=[spec(None, 3, dtype=tf.int64, name="ids")])
    def serve(ids):
        found = tf.reduce_mean(tf.nn.embedding_lookup(module.slices, ids), 1)
        return {"scores": tf.cast(tf.cast(found, tf.bfloat16) @ module.half, tf.float32)}

    save(module, place, serving_default=serve)


@made
def module_texts(place: Path) -> None:
    """Write a model that takes sentences apart."""
    module = tf.Module()
    module.embedding = tf.Variable(ramp(50, 3), name="embedding")

    @tf.function(input_signature=[spec(None, dtype=tf.string, name="text")])
    def serve(text):
        words = tf.strings.split(tf.strings.lower(text))
        ids = tf.strings.to_hash_bucket_fast(words, 50)
        return {"probs": tf.nn.softmax(tf.reduce_mean(tf.gather(module.embedding, ids.to_tensor()), 1))}

    save(module, place, serving_default=serve)


@made
def module_images(place: Path) -> None:
    module = tf.Module()
    module.filters = tf.Variable(ramp(3, 3, 1, 4), name="filters")

    @tf.function(input_signature=[spec(None, 8, 8, 1, name="image")])
    def serve(image):
        found = tf.nn.relu(tf.nn.conv2d(image, module.filters, 1, "SAME"))
        return {"probs": tf.nn.softmax(tf.reduce_mean(found, [1, 2]))}

    save(module, place, serving_default=serve)


def by_builder(place: Path, build: Callable[[], dict]) -> None:
    """Write a model as TensorFlow 1 does."""
    with tf.Graph().as_default(), v1.Session() as session:
        arguments = build()
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder = v1.saved_model.Builder(str(place))
        builder.add_meta_graph_and_variables(session, ["serve"], **arguments)
        builder.save()


def predict(inputs: dict, outputs: dict) -> dict:
    return {"serving_default": v1.saved_model.predict_signature_def(inputs, outputs)}


@made
def builder_partitioned(place: Path) -> None:
    """Write a partitioned embedding and reference variables."""

    def build():
        ids = v1.placeholder(tf.int64, [None, 2], "ids")
        cut = v1.fixed_size_partitioner(3)
        table = v1.get_variable("table", initializer=lambda shape, **_: tf.zeros(shape) + 0.25, shape=[9, 4], partitioner=cut)
        kernel = v1.get_variable("kernel", initializer=ramp(4, 3), use_resource=False)
        found = tf.reduce_mean(tf.nn.embedding_lookup(table, ids), 1)
        return {"signature_def_map": predict({"ids": ids}, {"probs": tf.nn.softmax(found @ kernel)})}

    by_builder(place, build)


@made
def builder_classify(place: Path) -> None:
    """Write a classify signature with tf.Examples and a table of labels, as TensorFlow Serving's own examples do."""

    def build():
        serialized = v1.placeholder(tf.string, [None], "tf_example")
        x = tf.identity(v1.parse_example(serialized, {"x": tf.io.FixedLenFeature([4], tf.float32)})["x"], "x")
        kernel = v1.get_variable("kernel", initializer=ramp(4, 3))
        values, indices = tf.nn.top_k(tf.nn.softmax(x @ kernel), 3)
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.range(3, dtype=tf.int64), tf.constant(["a", "b", "c"])), "?"
        )
        classes = table.lookup(tf.cast(indices, tf.int64))
        signature = v1.saved_model.classification_signature_def(serialized, classes, values)
        return {"signature_def_map": {"serving_default": signature}, "main_op": v1.tables_initializer()}

    by_builder(place, build)


def with_keras(build: Callable) -> Callable[[Path], None]:
    """Add a maker of what `build` returns: a model of Keras, exported by its own method."""

    def make(place: Path) -> None:
        tf.keras.utils.set_random_seed(7)
        build(tf.keras).export(str(place), verbose=False)

    make.__name__, make.__doc__ = build.__name__, build.__doc__
    return made(make)


@with_keras
def keras_sequential(keras):
    """Return a trained model: Keras exports every weight twice."""
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((16,), name="features"), layers.Dense(32, "relu"), layers.Dropout(0.5), layers.Dense(4, "softmax")]
    )
    model.compile("adam", "categorical_crossentropy")
    model.fit(ramp(8, 16), np.eye(4, dtype=np.float32)[[0, 1, 2, 3] * 2], verbose=0)
    return model


@with_keras
def keras_functional(keras):
    """Return a model of two inputs and two outputs."""
    layers = keras.layers
    first, second = keras.Input((5,), name="first"), keras.Input((3,), name="second")
    joined = layers.Concatenate()([layers.Dense(4, "tanh")(first), second])
    outputs = {"probs": layers.Dense(3, "softmax")(joined), "value": layers.Dense(1)(joined)}
    return keras.Model({"first": first, "second": second}, outputs)


@with_keras
def keras_convolutions(keras):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.Conv2D(6, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, "softmax"),
        ]
    )


@with_keras
def keras_recurrent(keras):
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((6,), dtype="int64", name="ids"), layers.Embedding(20, 8), layers.LSTM(8), layers.Dense(3, "softmax")]
    )


@with_keras
def keras_words(keras):
    """Return a model whose vocabulary is a table."""
    layers = keras.layers
    lookup = layers.StringLookup(vocabulary=["red", "green", "blue"])
    return keras.Sequential(
        [keras.Input((2,), dtype="string", name="words"), lookup, layers.Embedding(4, 4), layers.Flatten(), layers.Dense(2)]
    )


@made
def keras_saved(place: Path) -> None:
    """Write a model of Keras with tf.saved_model.save."""
    keras = tf.keras
    keras.utils.set_random_seed(7)
    tf.saved_model.save(keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3, "softmax")]), str(place))


@made
def legacy_keras(place: Path) -> None:
    """Write a model of Keras 2, where tf_keras is installed, in Keras's own SavedModel format."""
    import tf_keras

    layers = tf_keras.layers
    model = tf_keras.Sequential([layers.Input((4,), name="x"), layers.Dense(6, "relu"), layers.Dense(2, "softmax")])
    model.compile("adam", "categorical_crossentropy")
    model.fit(ramp(4, 4), np.eye(2, dtype=np.float32)[[0, 1, 0, 1]], verbose=0)
    model.save(str(place), save_format="tf")


def main() -> None:
    directory, *kinds = sys.argv[1:]
    for name in kinds or MAKERS:
        make, place = MAKERS[name], Path(directory, name)
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                make(place)
            except ModuleNotFoundError as missing:
                print(f"{name}: left out, {missing.name} is not installed")


if __name__ == "__main__":
    main()
