"""Which axes are a batch, and which random values a model takes: one export with a signature for each trait, proved at once."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import toys

import exportkit
from exportkit.cli import tables
from exportkit.errors import ConfigError, StepFailed
from exportkit.metagraph import Graph, read
from exportkit.samples.baked import first_sizes
from exportkit.samples.graph_hints import hints
from exportkit.serving import running, warmup
from exportkit.verifying.audit import verify_version

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


@trait({"x": BATCH})
def width_follows_from_a_matmul_in_a_function():
    x = fed(tf.float32, None, "x")
    w = weight("w", 13, 2)

    @tf.function
    def squashed(x):
        return tf.tanh(x)

    @tf.function
    def layer(x):
        return tf.nn.softmax(tf.matmul(squashed(x), w))

    return {"x": x}, {"y": layer(x)}


@trait({"ids": BATCH})
def ids_in_a_branch():
    ids, rows = fed(tf.int32, [None], "ids"), weight("rows", 5, 2)
    looked_up = tf.cond(tf.reduce_all(ids >= 0), lambda: tf.gather(rows, ids), lambda: tf.gather(rows, ids * 0))
    return {"ids": ids}, {"y": looked_up}


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


@trait({"x": "batch fixed at 9"}, "the batch is fixed at 9 (x)")
def baked_in_the_placeholder_and_a_state():
    x = fed(tf.float32, [9, 5], "x")
    return {"x": x}, {"y": tf.matmul(x, weight("w", 5, 2)) + tf.zeros([9, 2])}


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


@trait(dict.fromkeys(("values", "splits"), NOT), "input 'values' is not a batch")
def ragged_ids():
    ids = v1.ragged.placeholder(tf.int64, 1, name="ragged")
    rows = tf.math.segment_sum(tf.gather(weight("w", 20, 3), ids.flat_values), ids.value_rowids())
    return {"values": ids.flat_values, "splits": ids.row_splits}, {"y": tf.nn.softmax(rows)}


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


@pytest.mark.slow
def test_only_what_a_server_can_batch_is_warmed_up(report):
    (warmed,) = (step.details for step in report.steps if step.kind == "warmup")
    assert set(warmed["left_out"]) == {name for name, made in TRAITS.items() if made.unbatched}
    why = "a server cannot batch it (the batch is fixed at 7 (x)); post.warmup.batching=never writes it all the same"
    assert warmed["left_out"]["baked_in_the_placeholder"] == why
    assert f"signatures.baked_in_the_placeholder: has no warmup record: {why}" in report.warnings
    assert warmed["records"] == len(TRAITS) - len(warmed["left_out"])
    assert "siamfc: input 'z' is not a batch" in tables.unbatched(report)


def batched(model, signature, inputs, most=64):
    """Why a batching server refuses a task, or two of them in one batch; empty where it takes both.

    The rules are those of TensorFlow Serving's batching_session.cc: ComputeInputSize, MergeInputTensors and SplitOutputTensors.
    """
    if not inputs or any(not value.ndim for value in inputs.values()):
        return "must have at least one dimension"
    if len({len(value) for value in inputs.values()}) > 1:
        return "must have equal 0th-dimension size"
    size = len(next(iter(inputs.values())))
    if size > most:
        return f"Task size {size} is larger than maximum input batch size {most}"
    for tasks in (1, 2):
        answer = model.ask(signature, {alias: np.concatenate([value] * tasks) for alias, value in inputs.items()})
        if isinstance(answer, running.Refusal):
            return answer.text
        if any(not value.ndim for value in answer.values()):
            return "Batched output tensor has 0 dimensions"
        if any(len(value) != tasks * size for value in answer.values()):
            return (
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input tensors"
            )
    return ""


@pytest.mark.slow
def test_a_batching_server_takes_what_is_warmed_up(prefix, tmp_path):
    """Records of all signatures, as post.warmup.batching=never writes them, against the rule that a server batches by."""
    post = {"warmup": {"kind": "warmup", "batching": "never"}}
    directory = toys.export(config(prefix, tmp_path, post=post)).directory
    with running.Running(directory, ["serve"], timeout=600) as model:
        requests = [logged for _, logged in warmup.read_warmup(Path(directory) / warmup.FILE)]
        refused = {r.signature: why for r in requests if (why := batched(model, r.signature, r.inputs))}
    assert {request.signature for request in requests} == set(TRAITS)
    assert set(refused) <= {name for name, made in TRAITS.items() if made.unbatched}
    split = "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input tensors"
    assert refused["baked_at_500"] == "Task size 500 is larger than maximum input batch size 64"
    assert (refused["an_output_of_the_model_alone"], refused["rows_in_one_vector"]) == (split, split)
    assert (refused["squeezed"], refused["one_number_of_all_rows"]) == ("Batched output tensor has 0 dimensions",) * 2


@pytest.mark.slow
def test_the_manifest_has_what_was_found_and_asks_it_again(report):
    recorded = json.loads(Path(report.directory, "assets.extra/exportkit.json").read_text())["samples"]
    assert {name: one["axes"] for name, one in recorded.items()} == {name: made.axes for name, made in TRAITS.items()}
    assert {name: one["batching"] for name, one in recorded.items()} == {n: m.unbatched or "yes" for n, m in TRAITS.items()}
    found = {finding.what: finding for finding in verify_version(Path(report.directory))}
    assert found["run siamfc"].why == "its recorded outputs come out exactly: score float32 [1, 4, 4, 1]"
    assert found["run gcn"].why == "its recorded outputs come out exactly: y float32 [8, 3]"
    assert not [finding for finding in found.values() if finding.passed is False]


# ---- what the graph says, without running it ----


@pytest.fixture(scope="module")
def graph(prefix):
    return Graph(read(f"{prefix}.meta"))


def said(graph, name):
    return {alias: hints(graph, TRAITS[name].parts["inputs"].values())[t] for alias, t in TRAITS[name].parts["inputs"].items()}


def test_ranks_and_sizes_come_from_saved_weights(graph):
    assert said(graph, "rank_and_width_follow_from_a_matmul")["x"].narrowed(None) == (None, 6)
    assert said(graph, "width_follows_from_a_ref_variable")["x"].narrowed((None, None)) == (None, 11)
    assert said(graph, "channels_follow_from_a_convolution")["x"].narrowed(None) == (None, None, None, 3)
    assert said(graph, "channels_follow_from_a_convolution")["x"].least == 3
    assert said(graph, "width_follows_from_a_reshape")["x"].narrowed((None, None)) == (None, 35)
    assert said(graph, "width_follows_from_a_matmul_in_a_function")["x"].narrowed(None) == (None, 13)
    assert said(graph, "width_follows_from_a_bias")["x"].narrowed((None, None)) == (None, 9)
    assert said(graph, "baked_in_a_reshape")["x"].narrowed((None, 6)) == (32, 6)
    assert said(graph, "rows_in_one_vector")["x"].multiple == 4


def test_ids_stay_below_the_rows_that_they_point_into(graph):
    assert said(graph, "ids_of_a_variable")["ids"].below == 50
    assert said(graph, "ids_of_a_partitioned_variable")["ids"].below == 10
    assert said(graph, "ids_in_a_branch")["ids"].below == 5
    assert said(graph, "ids_of_a_one_hot")["action"].below == 5
    assert said(graph, "labels_as_ids")["labels"].below == 3
    assert said(graph, "sparse_ids")["values"].below == 20


def test_texts_are_what_their_decoders_read(graph):
    assert said(graph, "words_of_a_table")["word"].texts == [b"red", b"green"]
    contents = {"numbers_as_texts": "number", "lines_of_csv": "csv", "bytes_of_a_row": "raw", "one_image_in_bytes": "image"}
    contents |= {"examples_that_the_graph_parses": "example", "images_in_bytes": "image"}
    assert {name: next(iter(said(graph, name).values())).content for name in contents} == contents
    assert said(graph, "lines_of_csv")["line"].count == 3
    assert said(graph, "bytes_of_a_row")["raw"].count == 6
    assert sorted(said(graph, "examples_that_the_graph_parses")["examples"].example) == ["f", "n"]


def test_lengths_one_hots_and_sparse_parts(graph):
    assert said(graph, "lengths_of_sequences")["length"].length
    assert said(graph, "one_hot_labels")["labels"].one_hot
    assert {alias: hint.part for alias, hint in said(graph, "gcn").items()} == {
        "features": "",
        "indices": "indices",
        "values": "values",
        "shape": "dense_shape",
    }


def test_the_parts_of_a_ragged_tensor_are_known(graph):
    assert {alias: hint.part for alias, hint in said(graph, "ragged_ids").items()} == {
        "values": "values",
        "splits": "row_splits",
    }


def test_a_baked_batch_is_among_the_first_dimensions(graph):
    ends = TRAITS["baked_in_a_reshape"].parts
    assert first_sizes(graph, ends["outputs"].values(), ends["inputs"].values())[0] == 32


def test_the_graph_is_not_changed_by_looking(prefix, graph):
    assert graph.meta.SerializeToString(deterministic=True) == read(f"{prefix}.meta").SerializeToString(deterministic=True)


# ---- what plan says ----


def test_plan_says_once_what_is_fixed(prefix, tmp_path):
    warnings = exportkit.plan(config(prefix, tmp_path)).warnings
    tail = "requests of another size are refused, and a server cannot batch them"
    place = "baked_in_the_placeholder/inputs/x"
    assert (
        f"signatures.baked_in_the_placeholder: the first dimension of '{place}' is fixed at 7; {tail}; "
        f"bindings.{place}: {{placeholder: …, shape: [null, …]}} tries to free it"
    ) in warnings
    place = "baked_in_the_placeholder_and_a_state/inputs/x"
    assert (
        f"signatures.baked_in_the_placeholder_and_a_state: the first dimension of '{place}' is fixed at 9; {tail}; "
        f"bindings.{place}: {{placeholder: …, shape: [null, …]}} tries to free it, "
        "though constants of the graph have that size too"
    ) in warnings
    what = "has 32 rows for any request, so that a server cannot batch them"
    assert f"signatures.baked_in_a_reshape.outputs.y: {what}" in warnings


@pytest.mark.parametrize(
    "kind, keys, problem",
    [
        ("verify", {"unsampled": "alow"}, "unsampled: is the text 'alow', not refuse or allow; did you mean allow?"),
        ("verify", {"batch_sizes": [0]}, "batch_sizes[0]: is 0; write 1 or more"),
        ("warmup", {"batching": "always"}, "batching: is the text 'always', not maybe or never; write maybe or never"),
    ],
)
def test_what_a_key_cannot_be(kind, keys, problem, prefix, tmp_path):
    with pytest.raises(ConfigError) as refused:
        exportkit.plan(config(prefix, tmp_path, post={kind: {"kind": kind, **keys}}))
    assert str(refused.value) == f"post.{kind}.{problem}"


# ---- what takes no random value ----


def choosy():
    x = v1.placeholder(tf.float32, [None, 3], "x")
    with tf.control_dependencies([v1.assert_equal(tf.reduce_sum(x), 6.0, message="not six")]):
        tf.identity(x * weight("w", 3), "probs")


LINE = "signatures.serving_default: takes none of 11 random values, nor does the training graph: INVALID_ARGUMENT: assertion "
DO = (
    "(post.verify); write samples: {serving_default: {x: 'samples.npz:x'}}, where x float32 [?, 3]; "
    "post.verify.unsampled=allow exports it unverified"
)


@pytest.mark.slow
def test_a_signature_that_takes_no_random_value(tmp_path):
    prefix = toys.saved(tmp_path, choosy)
    steps = {"warmup": {"kind": "warmup"}, "verify": {"kind": "verify"}, "manifest": {"kind": "manifest"}}
    with pytest.raises(StepFailed) as refused:
        toys.export(toys.config(prefix, tmp_path, post=steps))
    assert str(refused.value).startswith(LINE) and str(refused.value).endswith(DO)
    steps["verify"]["unsampled"] = "allow"
    report = toys.export(toys.config(prefix, tmp_path, post=steps))
    assert report.unverified == ["serving_default"]
    assert tables.summary(report, 1.0).endswith(" in 1.0 s, not verified: serving_default")
    assert {step.kind: step.status for step in report.steps} == {
        "warmup": "passed",
        "verify": "not verified",
        "manifest": "passed",
    }
    (finding,) = (f for f in verify_version(Path(report.directory)) if f.what == "verify")
    said = "when it was exported: not verified: serving_default; nothing could be run"
    assert (finding.passed, finding.why, finding.do) == (None, said, "export it again with samples")
    sampled = toys.config(prefix, tmp_path, post=steps, samples={"serving_default": {"x": [[1.0, 2.0, 3.0]]}})
    report = toys.export(sampled)
    assert (report.unverified, report.meta_graphs[0].signatures[0].inputs[0].rows) == ([], "batch fixed at 1")


@pytest.mark.slow
def test_a_large_input_lies_beside_the_manifest(tmp_path):
    prefix = toys.saved(
        tmp_path, lambda: tf.reduce_mean(v1.placeholder(tf.float32, [None, 300, 300], "x") * weight("w"), 1, name="probs")
    )
    report = toys.export(toys.config(prefix, tmp_path, post={"manifest": {"kind": "manifest"}}))
    recorded = json.loads(Path(report.directory, "assets.extra/exportkit.json").read_text())["samples"]["serving_default"]
    assert recorded["inputs"]["x"]["file"] == "assets.extra/exportkit_samples.npz:serving_default.x"
    with np.load(f"{report.directory}/assets.extra/exportkit_samples.npz") as beside:
        assert beside["serving_default.x"].shape == (2, 300, 300)
    (run,) = (f for f in verify_version(Path(report.directory)) if f.what == "run serving_default")
    assert (run.passed, run.why) == (True, "its recorded outputs come out exactly: probs float32 [2, 300]")
    copy = tmp_path / "copy" / "1"
    shutil.copytree(report.directory, copy)
    np.savez(copy / "assets.extra/exportkit_samples.npz", **{"serving_default.x": np.zeros((2, 300, 300), np.float32)})
    found = {str(f) for f in verify_version(copy) if f.passed is False}
    restore = "take the version from where it was published, or export it again"
    assert found == {f"[x] files: assets.extra/exportkit_samples.npz: was changed: it does not have its digest; {restore}"}
