"""Which axes are a batch, and which random values a model takes: one export with a signature for each trait, proved at once."""

import json
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
import toys

from exportkit.evidence import verify_version
from exportkit.metagraph import Graph, read
from exportkit.samples.hints import first_sizes, hints

v1 = tf.compat.v1
BATCH, NOT = "batch", "not a batch"
TRAITS = {}


@dataclass
class Trait:
    """A small graph: its inputs and outputs, what is said of its axes, and why a server cannot batch it."""

    build: object
    axes: dict
    unbatched: str
    samples: dict | None = None
    parts: dict = field(default_factory=dict)


def trait(axes, unbatched="", samples=None):
    def note(build):
        TRAITS[build.__name__] = Trait(build, axes, unbatched, samples)
        return build

    return note


def weight(name, *shape, **options):
    return v1.get_variable(name, shape, initializer=v1.random_normal_initializer(), **options)


def fed(dtype, shape, name):
    return v1.placeholder(dtype, shape, name)


@trait({"x": BATCH})
def width_is_said():
    x = fed(tf.float32, [None, 4], "x")
    return {"x": x}, {"y": tf.nn.softmax(tf.matmul(x, weight("w", 4, 3)))}


@trait({"x": BATCH})
def rank_and_width_follow_from_a_matmul():
    x = fed(tf.float32, None, "x")
    return {"x": x}, {"y": tf.matmul(tf.tanh(x), weight("w", 6, 3))}


@trait({"x": BATCH})
def width_follows_from_a_ref_variable():
    x = fed(tf.float32, [None, None], "x")
    return {"x": x}, {"y": tf.matmul(x * 2.0, weight("w", 11, 3, use_resource=False))}


@trait({"x": BATCH})
def channels_follow_from_a_convolution():
    x = fed(tf.float32, None, "x")
    return {"x": x}, {"y": tf.nn.conv2d(x, weight("w", 3, 3, 3, 2), 1, "VALID")}


@trait({"x": BATCH})
def width_follows_from_a_reshape():
    x = fed(tf.float32, [None, None], "x")
    return {"x": x}, {"y": tf.reduce_sum(tf.reshape(x, [-1, 5, 7]), 1)}


@trait({"x": BATCH})
def width_follows_from_a_bias():
    x = fed(tf.float32, [None, None], "x")
    return {"x": x}, {"y": tf.nn.relu(x + weight("b", 9))}


@trait({"ids": BATCH})
def ids_of_a_variable():
    ids = fed(tf.int32, [None, 3], "ids")
    rows = tf.gather(weight("rows", 50, 4), ids)
    return {"ids": ids}, {"y": tf.reduce_sum(rows, 1)}


@trait({"ids": BATCH})
def ids_of_a_partitioned_variable():
    ids = fed(tf.int64, [None], "ids")
    rows = weight("rows", 10, 4, partitioner=v1.fixed_size_partitioner(3), use_resource=False)
    return {"ids": ids}, {"y": v1.nn.embedding_lookup(rows, ids, partition_strategy="div")}


@trait({"action": BATCH})
def ids_of_a_one_hot():
    action = fed(tf.int32, [None], "action")
    return {"action": action}, {"y": tf.matmul(tf.one_hot(action, 5), weight("w", 5, 2))}


@trait({"x": BATCH, "length": BATCH})
def lengths_of_sequences():
    x, length = fed(tf.float32, [None, 5, 2], "x"), fed(tf.int32, [None], "length")
    return {"x": x, "length": length}, {"y": tf.reverse_sequence(x, length, seq_axis=1) * weight("w", 2)}


@trait({"x": BATCH, "length": BATCH})
def lengths_of_a_mask():
    x, length = fed(tf.float32, [None, None, 2], "x"), fed(tf.int32, [None], "length")
    mask = tf.sequence_mask(length, tf.shape(x)[1], dtype=tf.float32)
    checked = v1.assert_positive(length)
    with tf.control_dependencies([checked]):
        return {"x": x, "length": length}, {"y": tf.reduce_sum(x * mask[:, :, None], 1)}


@trait({"x": BATCH, "labels": BATCH})
def one_hot_labels():
    x, labels = fed(tf.float32, [None, 4], "x"), fed(tf.float32, [None, 3], "labels")
    with tf.control_dependencies([v1.assert_equal(tf.reduce_sum(labels, 1), 1.0)]):
        logits = tf.matmul(x, weight("w", 4, 3))
        return {"x": x, "labels": labels}, {"loss": tf.nn.softmax_cross_entropy_with_logits(labels, logits)}


@trait({"x": BATCH, "labels": BATCH})
def labels_as_ids():
    x, labels = fed(tf.float32, [None, 4], "x"), fed(tf.int64, [None], "labels")
    logits = tf.matmul(x, weight("w", 4, 3))
    return {"x": x, "labels": labels}, {"loss": tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)}


@trait({"word": BATCH})
def words_of_a_table():
    word = fed(tf.string, [None], "word")
    keys = tf.lookup.KeyValueTensorInitializer(["red", "green"], tf.constant([0, 1], tf.int64))
    return {"word": word}, {"y": tf.gather(weight("rows", 2, 3), tf.lookup.StaticHashTable(keys, -1).lookup(word))}


@trait({"number": BATCH})
def numbers_as_texts():
    number = fed(tf.string, [None], "number")
    return {"number": number}, {"y": tf.strings.to_number(number) * weight("w")}


@trait({"line": BATCH})
def lines_of_csv():
    line = fed(tf.string, [None], "line")
    return {"line": line}, {"y": tf.stack(tf.io.decode_csv(line, [[0.0]] * 3), 1) * weight("w", 3)}


@trait({"raw": BATCH})
def bytes_of_a_row():
    raw = fed(tf.string, [None], "raw")
    return {"raw": raw}, {"y": tf.cast(tf.reshape(tf.io.decode_raw(raw, tf.uint8), [-1, 6]), tf.float32) * weight("w", 6)}


@trait({"examples": BATCH})
def examples_that_the_graph_parses():
    examples = fed(tf.string, [None], "examples")
    parsed = v1.io.parse_example(
        examples, {"f": tf.io.FixedLenFeature([2], tf.float32), "n": tf.io.FixedLenFeature([], tf.int64)}
    )
    return {"examples": examples}, {"y": tf.matmul(parsed["f"], weight("w", 2, 2)) + tf.cast(parsed["n"], tf.float32)[:, None]}


@trait({"image": NOT}, "input 'image' is not a batch")
def one_image_in_bytes():
    image = fed(tf.string, [], "image")
    pixels = tf.cast(tf.io.decode_jpeg(image, channels=3), tf.float32)
    return {"image": image}, {"y": tf.reduce_mean(pixels, [0, 1]) * weight("w", 3)}


@trait({"image": BATCH})
def images_in_bytes():
    image = fed(tf.string, [None], "image")
    decode = lambda one: tf.reduce_mean(tf.cast(tf.io.decode_png(one, 3), tf.float32), [0, 1])  # noqa: E731
    return {"image": image}, {"y": tf.map_fn(decode, image, fn_output_signature=tf.float32) * weight("w", 3)}


@trait({"x": "batch fixed at 7"}, "the batch is fixed at 7 (x)")
def baked_in_the_placeholder():
    x = fed(tf.float32, [7, 5], "x")
    return {"x": x}, {"y": tf.matmul(x, weight("w", 5, 2))}


@trait({"x": "batch fixed at 32"}, "the batch is fixed at 32 (x)")
def baked_in_a_reshape():
    x = fed(tf.float32, [None, 6], "x")
    return {"x": x}, {"y": tf.matmul(tf.reshape(x, [32, 6]), weight("w", 6, 2))}


@trait({"x": "batch fixed at 3", "state": "batch fixed at 3"}, "the batch is fixed at 3 (x)")
def baked_in_a_state():
    x, state = fed(tf.float32, [None, 4], "x"), fed(tf.float32, [3, 4], "state")
    return {"x": x, "state": state}, {"y": tf.concat([x, state], 1) * weight("w", 8)}


@trait({"x": "batch fixed at 500"}, "the batch is fixed at 500 (x)")
def baked_at_500():
    x = fed(tf.float32, [None, 2], "x")
    return {"x": x}, {"y": tf.matmul(x, weight("w", 2, 2)) + tf.zeros([500, 2])}


@trait({"x": "batch fixed at 1", "length": "batch fixed at 1"}, "the batch is fixed at 1 (x)")
def baked_at_one():
    x, length = fed(tf.float32, [1, 64, None], "x"), fed(tf.int32, [None], "length")
    steps = tf.transpose(x, [2, 0, 1])
    (decoded,), scores = tf.nn.ctc_greedy_decoder(tf.tensordot(steps, weight("w", 64, 4), 1), length)
    return {"x": x, "length": length}, {"values": decoded.values, "score": scores}


@trait({"signal": NOT}, "input 'signal' is not a batch", {"signal": np.linspace(-1, 1, 40).tolist()})
def wavenet():
    signal = fed(tf.float32, [None], "signal")
    hidden = tf.nn.conv1d(signal[None, :, None], weight("w", 3, 1, 4), 1, "SAME")
    return {"signal": signal}, {"y": tf.nn.softmax(hidden[0])}


@trait({"signal": NOT}, "input 'signal' is not a batch")
def wavenet_of_many_steps():
    signal = fed(tf.float32, [None], "signal")
    hidden = tf.nn.conv1d(signal[None, :, None], weight("w", 600, 1, 2), 1, "VALID")
    return {"signal": signal}, {"y": hidden[0]}


@trait({"z": NOT, "x": NOT}, "input 'z' is not a batch", {"z": np.ones((6, 6, 3)).tolist(), "x": np.ones((9, 9, 3)).tolist()})
def siamfc():
    z, x = fed(tf.float32, [None, None, 3], "z"), fed(tf.float32, [None, None, 3], "x")
    kernel = weight("w", 3, 3, 3, 2)
    small, large = (tf.nn.conv2d(one[None], kernel, 1, "VALID") for one in (z, x))
    return {"z": z, "x": x}, {"score": tf.nn.conv2d(large, tf.transpose(small, [1, 2, 3, 0]), 1, "VALID")}


@trait({"z": NOT, "x": NOT}, "input 'z' is not a batch")
def siamfc_of_random_images():
    return siamfc()


@trait(dict.fromkeys(("features", "indices", "values", "shape"), NOT), "input 'features' is not a batch")
def gcn():
    features = fed(tf.float32, [None, 5], "features")
    indices, values = fed(tf.int64, [None, 2], "indices"), fed(tf.float32, [None], "values")
    shape = fed(tf.int64, [2], "shape")
    support = tf.SparseTensor(indices, values, shape)
    hidden = tf.sparse.sparse_dense_matmul(support, tf.matmul(features, weight("w", 5, 3)))
    return {"features": features, "indices": indices, "values": values, "shape": shape}, {"y": tf.nn.softmax(hidden)}


@trait(dict.fromkeys(("indices", "values", "shape"), NOT), "input 'indices' is not a batch")
def sparse_ids():
    ids = v1.sparse_placeholder(tf.int64, name="ids")
    rows = v1.nn.embedding_lookup_sparse(weight("rows", 20, 3, use_resource=False), ids, None, combiner="sum")
    return {"indices": ids.indices, "values": ids.values, "shape": ids.dense_shape}, {
        "y": rows + tf.cast(ids.dense_shape[1], "float32")
    }


@trait({"x": BATCH, "rate": NOT}, "input 'rate' is not a batch")
def a_scalar_beside_a_batch():
    x, rate = fed(tf.float32, [None, 4], "x"), fed(tf.float32, [], "rate")
    return {"x": x, "rate": rate}, {"y": tf.matmul(x, weight("w", 4, 3)) * rate}


@trait({"x": BATCH, "rows": NOT}, "input 'rows' is not a batch")
def the_number_of_rows_beside_them():
    x, rows = fed(tf.float32, [None, 4], "x"), fed(tf.int32, [], "rows")
    return {"x": x, "rows": rows}, {"y": tf.reshape(tf.matmul(x, weight("w", 4, 3)), [-1, 3]) + tf.zeros([rows, 1])[:1]}


@trait({"x": NOT}, "input 'x' is not a batch")
def rows_that_depend_on_each_other():
    x = fed(tf.float32, [None, 4], "x")
    return {"x": x}, {"y": (x - tf.reduce_mean(x, 0)) * weight("w", 4)}


@trait({"x": NOT}, "input 'x' is not a batch")
def one_number_of_all_rows():
    x = fed(tf.float32, [None, 4], "x")
    return {"x": x}, {"y": tf.reduce_mean(tf.matmul(x, weight("w", 4, 3)))}


@trait({"x": BATCH}, "output 'y' is a scalar for 1 row")
def squeezed():
    x = fed(tf.float32, None, "x")
    return {"x": x}, {"y": tf.squeeze(tf.matmul(x, weight("w", 4, 1)))}


@trait({"x": BATCH}, "output 'centres' has first dimension 4 for 1 row")
def an_output_of_the_model_alone():
    x = fed(tf.float32, [None, 3], "x")
    centres = weight("centres", 4, 3)
    return {"x": x}, {"y": tf.matmul(x, centres, transpose_b=True), "centres": tf.identity(centres)}


@trait({"x": BATCH})
def dropout():
    x = fed(tf.float32, [None, 16], "x")
    return {"x": x}, {"y": tf.nn.dropout(tf.matmul(x, weight("w", 16, 8)), rate=0.5)}


@trait({"x": NOT}, "input 'x' is not a batch")
def rows_in_one_vector():
    x = fed(tf.float32, [None], "x")
    return {"x": x}, {"y": tf.matmul(tf.reshape(x, [-1, 4]), weight("w", 4, 2))}


@trait({}, "it has no inputs")
def no_input():
    return {}, {"y": tf.identity(weight("w", 2, 2))}


@trait({"x": BATCH}, samples={"x": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]})
def a_sample_of_rows():
    x = fed(tf.float32, [None, 2], "x")
    return {"x": x}, {"y": tf.matmul(x, weight("w", 2, 2))}


@trait({"x": "batch fixed at 1"}, "the batch is fixed at 1 (x)", {"x": [[1.0, 2.0, 3.0, 4.0]]})
def a_sample_of_a_batch_of_one():
    x = fed(tf.float32, [None, 4], "x")
    return {"x": x}, {"y": tf.matmul(tf.reshape(x, [1, 4]), weight("w", 4, 2))}


def build_all():
    for name, made in TRAITS.items():
        with v1.variable_scope(name), tf.name_scope(f"{name}/"):
            inputs, outputs = made.build()
        made.parts = {side: {a: t.name for a, t in ends.items()} for side, ends in (("inputs", inputs), ("outputs", outputs))}


def config(prefix, base, **changes):
    bindings, signatures = {}, {}
    for name, made in TRAITS.items():
        signatures[name] = {side: {a: f"{name}/{side}/{a}" for a in ends} for side, ends in made.parts.items()}
        for side, ends in made.parts.items():
            bindings |= {f"{name}/{side}/{alias}": tensor for alias, tensor in ends.items()}
    samples = {name: made.samples for name, made in TRAITS.items() if made.samples}
    return toys.config(prefix, base, bindings=bindings, signatures=signatures, samples=samples, **changes)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    return toys.saved(tmp_path_factory.mktemp("traits"), build_all)


@pytest.fixture(scope="module")
def report(prefix, tmp_path_factory):
    post = {"warmup": {"kind": "warmup"}, "verify": {"kind": "verify"}, "manifest": {"kind": "manifest"}}
    return toys.export(config(prefix, tmp_path_factory.mktemp("exports"), post=post))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAITS)
def test_the_axes_of(name, report):
    signature = next(s for s in report.meta_graphs[0].signatures if s.key == name)
    made = TRAITS[name]
    assert {tensor.alias: tensor.rows for tensor in signature.inputs} == made.axes
    assert signature.batching == (f"no: {made.unbatched}" if made.unbatched else "yes")
    (verify,) = (step.details for step in report.steps if step.kind == "verify")
    proved = verify["meta_graphs"]["serving"]["signatures"][name]
    assert (proved["inputs"], proved["batching"]) == (made.axes, made.unbatched or "yes")
    assert all(output["max_abs_diff"] == 0 and output["mismatches"] == 0 for output in proved["outputs"].values())
