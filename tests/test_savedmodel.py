"""What is written: signatures, adapters, weights, tables, assets, meta graphs; answers are those of the training graph."""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import toys
from toys import v1

from exportkit.checkpoint import Bundle
from exportkit.core import host
from exportkit.errors import BindingError, ConfigError, EnvironmentFailed, ExportKitError, WeightsError
from exportkit.metagraph import read_saved_model
from exportkit.processes import spare

X = np.array([[1, 2, 3, 4], [0.5, -1, 0, 2]], np.float32)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return toys.saved(tmp_path_factory.mktemp("dense"), toys.dense)


def meta_graphs(report):
    return read_saved_model(report.directory).meta_graphs


def test_predict_answers_what_the_training_graph_answers_in_both_loaders(dense, tmp_path):
    report = toys.export(toys.config(dense, tmp_path))
    expected = toys.restored(dense, "probs:0", {"x:0": X})
    np.testing.assert_array_equal(toys.served(report.directory, "serving_default", {"x": X})["probs"], expected)
    np.testing.assert_array_equal(toys.served_eagerly(report.directory, "serving_default", {"x": X})["probs"], expected)


def test_only_what_the_signature_reaches_is_written(dense, tmp_path):
    report = toys.export(toys.config(dense, tmp_path))
    assert list(Bundle(f"{report.directory}/variables/variables").entries) == ["dense/bias", "dense/kernel"]
    assert report.weights.variables == 2
    assert report.weights.bytes == (4 * 3 + 3) * 4
    assert report.weights.proof == "2/2 variables equal to the checkpoint, 0 initialised"
    assert not [node.op for node in meta_graphs(report)[0].graph_def.node if "Adam" in node.op]


def test_the_shape_of_each_input_is_checked_behind_what_is_fed(dense, tmp_path):
    report = toys.export(toys.config(dense, tmp_path))
    nodes = {node.name: node for node in meta_graphs(report)[0].graph_def.node}
    assert meta_graphs(report)[0].signature_def["serving_default"].inputs["x"].name == "inputs/x:0"
    assert nodes["MatMul"].input[0] == "inputs/x_checked"
    assert nodes["inputs/x_checked"].input == ["inputs/x"]
    assert [dim.size for dim in nodes["inputs/x_checked"].attr["shape"].shape.dim] == [-1, 4]


def test_without_ensure_shape_no_check_is_in_the_graph(dense, tmp_path):
    report = toys.export(toys.config(dense, tmp_path, ensure_shape=False))
    assert not [node.name for node in meta_graphs(report)[0].graph_def.node if node.op == "EnsureShape"]


def test_classify_by_tf_example_top_k_and_lookup(dense, tmp_path):
    (tmp_path / "labels.txt").write_text("ant\nbee\ncat\n")
    report = toys.export(
        toys.config(
            dense,
            tmp_path,
            bindings={
                "x": "x:0",
                "probs": "probs:0",
                "examples": {"parse_example": {"x": {"dtype": "float32", "shape": [4]}}},
                "top": {"top_k": "probs", "k": 2},
                "classes": {"lookup": "top.indices", "vocabulary": str(tmp_path / "labels.txt"), "default": "?"},
            },
            signatures={
                "serving_default": {
                    "method": "classify",
                    "inputs": {"inputs": "examples"},
                    "outputs": {"classes": "classes", "scores": "top.values"},
                },
                "predict": {"inputs": {"x": "x"}, "outputs": {"probs": "probs"}},
            },
        )
    )
    (tmp_path / "labels.txt").rename(tmp_path / "gone.txt")
    probs = toys.restored(dense, "probs:0", {"x:0": X})
    best = np.argsort(-probs, axis=1, kind="stable")[:, :2]
    inputs = {"inputs": [toys.example(x=row) for row in X]}
    for serve in (toys.served, toys.served_eagerly):
        answer = serve(report.directory, "serving_default", inputs)
        np.testing.assert_array_equal(answer["scores"], np.take_along_axis(probs, best, 1))
        assert answer["classes"].tolist() == np.array([b"ant", b"bee", b"cat"])[best].tolist()
        np.testing.assert_array_equal(serve(report.directory, "predict", {"x": X})["probs"], probs)
    assert report.assets == ["labels.txt"]
    definition = meta_graphs(report)[0].signature_def["serving_default"]
    assert definition.method_name == "tensorflow/serving/classify"


def parsed(feature, dtype):
    def build():
        x = v1.placeholder(dtype, [None, 2], "x")
        weight = v1.get_variable("weight", [], initializer=v1.ones_initializer())
        tf.multiply(tf.cast(x, tf.float32), weight, name="y")

    return build, {
        "bindings": {"x": "x:0", "y": "y:0", "e": {"parse_example": {"feature": {**feature, "to": "x"}}}},
        "signatures": {"serving_default": {"inputs": {"inputs": "e"}, "outputs": {"y": "y"}}},
    }


@pytest.mark.parametrize(
    ("feature", "dtype", "given", "expected"),
    [
        ({"dtype": "int64", "shape": [2]}, tf.int32, {"feature": [3, 4]}, [[3.0, 4.0]]),
        ({"dtype": "int64", "shape": [2]}, tf.bool, {"feature": [0, 1]}, [[0.0, 1.0]]),
        ({"dtype": "float32", "shape": [2], "default": [1.5, 2.5]}, tf.float32, {}, [[1.5, 2.5]]),
        ({"dtype": "float32", "shape": [2], "default": 9}, tf.float64, {}, [[9.0, 9.0]]),
    ],
)
def test_a_feature_is_cast_to_its_binding_and_has_its_default(feature, dtype, given, expected, tmp_path):
    build, changes = parsed(feature, dtype)
    report = toys.export(toys.config(toys.saved(tmp_path, build), tmp_path, **changes))
    answer = toys.served(report.directory, "serving_default", {"inputs": [toys.example(**given)]})
    assert answer["y"].tolist() == expected


def test_a_feature_that_does_not_fit_its_binding_is_refused(tmp_path):
    build, changes = parsed({"dtype": "float32", "shape": [3]}, tf.float32)
    with pytest.raises(ConfigError) as refused:
        toys.export(toys.config(toys.saved(tmp_path, build), tmp_path, **changes))
    assert str(refused.value) == (
        "bindings.e.parse_example.feature.shape: 'x' is float32 [?, 2], which the parsed float32 [?, 3] does not fit; "
        "fix the feature's shape"
    )


def queue():
    """A model behind a queue with a batch size of 8 baked in, and a dropout flag."""
    queue = tf.queue.RandomShuffleQueue(100, 10, [tf.int64, tf.float32], [[], [4]], name="batch")
    _, x = queue.dequeue_many(8, name="batch/dequeue")
    training = v1.placeholder(tf.bool, [], "training")
    x = tf.cond(training, lambda: tf.nn.dropout(x, rate=0.5), lambda: x)
    kernel = v1.get_variable("kernel", [4, 2], initializer=v1.random_normal_initializer())
    tf.identity(tf.matmul(x, kernel), name="scores")


QUEUE = {
    "bindings": {
        "x": {"placeholder": "batch/dequeue:1", "shape": [None, 4]},
        "training": {"constant": False, "replaces": "training:0"},
        "scores": "scores:0",
    },
    "signatures": {"serving_default": {"inputs": {"x": "x"}, "outputs": {"scores": "scores"}}},
}


def test_a_queue_is_cut_a_flag_is_baked_and_the_batch_is_free(tmp_path):
    prefix = toys.saved(tmp_path, queue)
    report = toys.export(toys.config(prefix, tmp_path, **QUEUE))
    x = np.tile(X, (4, 1))
    expected = toys.restored(prefix, "scores:0", {"batch/dequeue:1": x, "training:0": False})
    np.testing.assert_array_equal(toys.served(report.directory, "serving_default", {"x": x})["scores"], expected)
    assert toys.served(report.directory, "serving_default", {"x": X})["scores"].shape == (2, 2)
    ops = {node.op for node in meta_graphs(report)[0].graph_def.node}
    assert not ops & {"RandomShuffleQueueV2", "QueueDequeueManyV2"}


def test_a_queue_that_is_fed_without_being_cut_is_refused_with_what_to_write(tmp_path):
    bindings = {**QUEUE["bindings"], "x": "batch/dequeue:1"}
    with pytest.raises(ConfigError) as refused:
        toys.export(toys.config(toys.saved(tmp_path, queue), tmp_path, **{**QUEUE, "bindings": bindings}))
    assert str(refused.value) == (
        "bindings.x.tensor: 'batch/dequeue:1' is the output of a QueueDequeueManyV2, not a placeholder, and is fed by "
        "signatures.serving_default; to cut the graph there write {placeholder: batch/dequeue:1}"
    )


def test_several_meta_graphs_share_one_set_of_variables(tmp_path):
    prefix = toys.saved(tmp_path, queue)
    report = toys.export(
        toys.config(
            prefix,
            tmp_path,
            **QUEUE,
            meta_graphs={
                "serving": {"tags": ["serve"]},
                "gpu": {"tags": ["serve", "gpu"], "device": "/device:GPU:0"},
                "train": {"tags": ["train"], "constants": {"training": True}},
            },
        )
    )
    x = np.tile(X, (4, 1))
    expected = toys.restored(prefix, "scores:0", {"batch/dequeue:1": x, "training:0": False})
    for tags, equal in ((("serve",), True), (("train",), False)):
        answer = toys.served(report.directory, "serving_default", {"x": x}, tags)["scores"]
        assert np.array_equal(answer, expected) == equal
    pins = {node.name: node.device for node in meta_graphs(report)[1].graph_def.node}
    assert pins["MatMul"] == "/device:GPU:0"
    assert [node.device for node in meta_graphs(report)[0].graph_def.node if "GPU" in node.device] == []
    assert len(list(Path(report.directory, "variables").iterdir())) == 2


def test_a_train_op_is_kept_and_recorded(dense, tmp_path):
    bindings = {"x": "x:0", "probs": "probs:0", "labels": "labels:0", "loss": "loss:0"}
    report = toys.export(
        toys.config(
            dense,
            tmp_path,
            bindings=bindings,
            signatures={
                "serving_default": {"inputs": {"x": "x"}, "outputs": {"probs": "probs"}},
                "train": {"inputs": {"x": "x", "labels": "labels"}, "outputs": {"loss": "loss"}},
            },
            meta_graphs={
                "serving": {"tags": ["serve"], "signatures": ["serving_default"]},
                "train": {"tags": ["train"], "train_op": "train_op"},
            },
        )
    )
    serving, train = meta_graphs(report)
    assert train.collection_def["saved_model_train_op"].node_list.value == ["train_op"]
    assert "train_op" not in {node.name for node in serving.graph_def.node}
    assert "dense/kernel/Adam" in Bundle(f"{report.directory}/variables/variables").entries


def averaged():
    toys.dense()
    average = tf.train.ExponentialMovingAverage(0.5)
    kernel = next(v for v in v1.trainable_variables() if v.op.name == "dense/kernel")
    average.apply([kernel])
    shadow = average.average(kernel)
    v1.add_to_collection("shadow", shadow.name)
    with tf.control_dependencies([kernel.initializer]):
        pass


def test_moving_averages_take_the_place_of_their_variables(tmp_path):
    prefix = toys.saved(tmp_path, averaged)
    plain = toys.export(toys.config(prefix, tmp_path))
    assert plain.weights.notes == ["1 moving averages not used; weights.moving_average=true takes them"]
    report = toys.export(toys.config(prefix, tmp_path, weights={"moving_average": True}))
    assert report.weights.notes == ["1 moving averages taken, none for dense/bias"]
    exported, source = Bundle(f"{report.directory}/variables/variables"), Bundle(prefix)
    shadow = "dense/kernel/ExponentialMovingAverage"
    np.testing.assert_array_equal(exported.read("dense/kernel"), source.read(shadow))


def test_names_map_variables_to_keys_and_an_unused_rule_is_told(dense, tmp_path):
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        toys.dense()
        session.run(v1.global_variables_initializer())
        variables = {f"tower/{v.op.name}": v for v in v1.trainable_variables()}
        prefix = v1.train.Saver(variables).save(session, str(tmp_path / "other"))
    source = {"kind": "meta_graph", "checkpoint": prefix, "meta": f"{dense}.meta"}
    rule = {"variable": r"dense/(.*)", "key": r"tower/dense/\1"}
    report = toys.export(toys.config(prefix, tmp_path, source=source, weights={"names": [rule]}))
    exported = Bundle(f"{report.directory}/variables/variables")
    np.testing.assert_array_equal(exported.read("dense/kernel"), Bundle(prefix).read("tower/dense/kernel"))
    with pytest.raises(ExportKitError) as refused:
        toys.export(toys.config(prefix, tmp_path, source=source, weights={"names": [rule, {"variable": "dens", "key": "x"}]}))
    assert str(refused.value) == "weights.names[1].variable: 'dens' matches no variable; fix or drop the rule"


def test_an_uncovered_variable_is_named_with_its_nearest_keys(dense, tmp_path):
    def other():
        v1.placeholder(tf.float32, [None, 4], "x")
        v1.get_variable("dense/kernels", [4, 3], initializer=v1.zeros_initializer())
        v1.get_variable("unrelated", [3], initializer=v1.zeros_initializer())
        tf.matmul(v1.get_default_graph().get_tensor_by_name("x:0"), v1.global_variables()[0].value(), name="m")
        tf.add(v1.get_default_graph().get_tensor_by_name("m:0"), v1.global_variables()[1].value(), name="probs")

    meta = toys.saved(tmp_path, other) + ".meta"
    source = {"kind": "meta_graph", "checkpoint": dense, "meta": meta}
    with pytest.raises(ConfigError) as refused:
        toys.export(toys.config(dense, tmp_path, source=source))
    assert [p.what for p in refused.value.problems] == [
        "variable 'dense/kernels' is not in the checkpoint",
        "variable 'unrelated' is not in the checkpoint",
    ]
    assert refused.value.problems[0].do.startswith("its nearest keys: dense/kernel")
    report = toys.export(toys.config(dense, tmp_path, source=source, weights={"initialize": ["dense/kernels", "unrelated"]}))
    assert report.weights.proof == "0/2 variables equal to the checkpoint, 2 initialised"
    assert toys.served(report.directory, "serving_default", {"x": X})["probs"].tolist() == [[0.0] * 3] * 2


def test_a_variable_whose_initial_value_does_not_travel_cannot_be_initialised(tmp_path):
    def build():
        x = v1.placeholder(tf.float32, [None, 4], "x")
        start = v1.placeholder(tf.float32, [4], "start")
        bias = v1.get_variable("bias", initializer=lambda: start, use_resource=False)
        v1.get_variable("kernel", [4], initializer=v1.ones_initializer())
        tf.identity(x + bias.value(), name="probs")

    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        build()
        session.run(v1.global_variables_initializer(), {"start:0": [1, 2, 3, 4]})
        prefix = v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    report = toys.export(toys.config(prefix, tmp_path))
    assert toys.served(report.directory, "serving_default", {"x": X})["probs"].tolist() == np.add(X, [1, 2, 3, 4]).tolist()
    with pytest.raises(ConfigError) as refused:
        toys.export(toys.config(prefix, tmp_path, weights={"initialize": ["bias"]}))
    assert [p.where for p in refused.value.problems] == ["weights.initialize"]
    assert refused.value.problems[0].what.startswith("'bias' cannot be initialised: ")


def test_each_initialised_variable_is_written_whichever_meta_graph_has_it(dense, tmp_path):
    report = toys.export(
        toys.config(
            dense,
            tmp_path,
            bindings={"x": "x:0", "probs": "probs:0", "labels": "labels:0", "loss": "loss:0"},
            signatures={
                "serving_default": {"inputs": {"x": "x"}, "outputs": {"probs": "probs"}},
                "train": {"inputs": {"x": "x", "labels": "labels"}, "outputs": {"loss": "loss"}},
            },
            meta_graphs={
                "serving": {"tags": ["serve"], "signatures": ["serving_default"]},
                "train": {"tags": ["train"], "train_op": "train_op"},
            },
            weights={"initialize": [".*/Adam(_1)?", "beta._power"]},
        )
    )
    exported = Bundle(f"{report.directory}/variables/variables")
    assert exported.read("beta1_power") == np.float32(0.9)
    assert not exported.read("dense/kernel/Adam").any()
    assert report.weights.proof == "2/8 variables equal to the checkpoint, 6 initialised"


def test_partitioned_variables_keep_their_slices(tmp_path):
    def build():
        x = v1.placeholder(tf.float32, [None, 6], "x")
        with v1.variable_scope("m", partitioner=v1.fixed_size_partitioner(3)):
            kernel = v1.get_variable("kernel", [6, 2], initializer=v1.random_normal_initializer(), use_resource=False)
        tf.matmul(x, tf.convert_to_tensor(kernel), name="probs")

    prefix = toys.saved(tmp_path, build)
    report = toys.export(toys.config(prefix, tmp_path))
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    expected = toys.restored(prefix, "probs:0", {"x:0": x})
    np.testing.assert_array_equal(toys.served(report.directory, "serving_default", {"x": x})["probs"], expected)
    assert report.weights.proof == "1/1 variables equal to the checkpoint, 0 initialised"


def test_tables_of_the_graph_are_initialised_and_their_files_become_assets(tmp_path):
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("zero\none\n")

    def build():
        words = v1.placeholder(tf.string, [None], "x")
        lines = tf.lookup.TextFileInitializer(
            str(vocabulary), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        v1.get_variable("unused", [])
        tf.identity(tf.lookup.StaticHashTable(lines, -1).lookup(words), name="probs")

    report = toys.export(toys.config(toys.saved(tmp_path, build), tmp_path))
    vocabulary.unlink()
    for serve in (toys.served, toys.served_eagerly):
        answer = serve(report.directory, "serving_default", {"x": ["one", "two", "zero"]})
        assert answer["probs"].tolist() == [1, -1, 0]
    assert report.weights.variables == 0
    with pytest.raises(ExportKitError) as refused:
        toys.export(toys.config(str(tmp_path / "run" / "model.ckpt-1"), tmp_path))
    assert str(refused.value) == (
        f"{vocabulary}: the graph reads this file as an asset, and it is not there; put it back, or bake its content"
    )


def test_different_assets_of_one_name_are_refused(dense, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "labels.txt").write_text(f"{folder}\nx\ny\n")
    bindings = {
        "x": "x:0",
        "top": {"top_k": "probs", "k": 1},
        "probs": "probs:0",
        "a": {"lookup": "top.indices", "vocabulary": str(tmp_path / "a" / "labels.txt")},
        "b": {"lookup": "top.indices", "vocabulary": str(tmp_path / "b" / "labels.txt")},
    }
    signatures = {"serving_default": {"inputs": {"x": "x"}, "outputs": {"a": "a", "b": "b"}}}
    with pytest.raises(BindingError, match=r"are different assets of one name; rename one of them$"):
        toys.export(toys.config(dense, tmp_path, bindings=bindings, signatures=signatures))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"top": {"top_k": "probs", "k": 4}},
            "bindings.top.k: is 4, but 'probs' has 3 entries in its last axis; write 3 or less",
        ),
        (
            {"top": {"lookup": "probs", "vocabulary": "labels.txt"}},
            "bindings.top.lookup: 'probs' is float32, not integers; look up the indices of a top_k",
        ),
    ],
)
def test_adapters_that_do_not_fit(change, text, dense, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("labels.txt").write_text("a\n")
    output = "top.values" if "top_k" in change["top"] else "top"
    signatures = {"serving_default": {"inputs": {"x": "x"}, "outputs": {"o": output}}}
    with pytest.raises(ConfigError) as refused:
        toys.export(toys.config(dense, tmp_path, bindings={"x": "x:0", "probs": "probs:0", **change}, signatures=signatures))
    assert str(refused.value) == text


def test_an_op_that_tensorflow_does_not_know_is_named_with_its_node(dense, tmp_path):
    meta = tf.compat.v1.MetaGraphDef.FromString(Path(dense + ".meta").read_bytes())
    softmax = next(node for node in meta.graph_def.node if node.name == "probs")
    softmax.op = "SoftmaxOfContrib"
    known = next(op for op in meta.meta_info_def.stripped_op_list.op if op.name == "Softmax")
    meta.meta_info_def.stripped_op_list.op.add().CopyFrom(known)
    meta.meta_info_def.stripped_op_list.op[-1].name = "SoftmaxOfContrib"
    path = tmp_path / "odd.meta"
    path.write_bytes(meta.SerializeToString())
    with pytest.raises(BindingError) as refused:
        toys.export(
            toys.config(
                dense,
                tmp_path,
                allow={"ops": ["unknown"]},
                source={"kind": "meta_graph", "checkpoint": dense, "meta": str(path)},
            )
        )
    assert str(refused.value) == (
        f"meta_graphs.serving: op SoftmaxOfContrib (node 'probs') is not known to TensorFlow {tf.__version__}, nor to its "
        "server; bind an input behind it, or an output before it"
    )


def test_a_stale_meta_is_refused_before_a_byte_is_written(dense, tmp_path):
    meta = toys.saved(tmp_path, lambda: toys.dense(outputs=5)) + ".meta"
    with pytest.raises(ConfigError) as refused:
        toys.export(toys.config(dense, tmp_path, source={"kind": "meta_graph", "checkpoint": dense, "meta": meta}))
    assert [p.what for p in refused.value.problems] == [
        "variable 'dense/kernel' is [4, 5] in the graph and [4, 3] in the checkpoint",
        "variable 'dense/bias' is [5] in the graph and [3] in the checkpoint",
    ]
    assert not (tmp_path / "exports").exists()


def test_the_init_op_assigns_no_variable(tmp_path, dense):
    report = toys.export(toys.config(dense, tmp_path))
    assert "saved_model_main_op" not in meta_graphs(report)[0].collection_def


def test_tables_whose_filling_would_assign_variables_are_refused(tmp_path):
    def build():
        words = v1.placeholder(tf.string, [None], "x")
        step = v1.get_variable("step", [], initializer=v1.zeros_initializer(), use_resource=False)
        with tf.control_dependencies([step.initializer]):
            table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1.0]), 0.0)
        tf.add(table.lookup(words), step.value(), name="probs")

    with pytest.raises(BindingError) as refused:
        toys.export(toys.config(toys.saved(tmp_path, build), tmp_path))
    assert str(refused.value) == (
        "meta_graphs.serving: filling its tables would assign variables anew: step/Assign; "
        "build the tables without control dependencies on variables"
    )


def test_a_meta_graph_may_have_a_build_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "builders.py").write_text(
        "import tensorflow as tf\n"
        "def build(scale):\n"
        "    x = tf.compat.v1.placeholder(tf.float32, [None], 'x')\n"
        "    w = tf.compat.v1.get_variable('w', [], initializer=tf.compat.v1.ones_initializer())\n"
        "    return {'x': x, 'y': tf.multiply(x * w, scale, name='y')}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import builders

    report = toys.export(
        {
            "name": "scaled",
            "source": {
                "kind": "graph_builder",
                "builder": "builders:build",
                "params": {"scale": 2.0},
                "checkpoint": toys.saved(tmp_path, lambda: builders.build(1.0)),
            },
            "bindings": {"x": "x", "y": "y"},
            "signatures": {"serving_default": {"inputs": {"x": "x"}, "outputs": {"y": "y"}}},
            "meta_graphs": {
                "serving": {"tags": ["serve"]},
                "train": {"tags": ["train"], "source": {"params": {"scale": 5.0}}},
            },
            "export_dir": str(tmp_path / "exports"),
        }
    )
    answers = [toys.served(report.directory, "serving_default", {"x": [1.0]}, (tag,))["y"] for tag in ("serve", "train")]
    assert [answer.tolist() for answer in answers] == [[2.0], [5.0]]
    assert report.weights.variables == 1


def test_default_attributes_are_stripped_on_request_only(dense, tmp_path):
    stripped = toys.export(toys.config(dense, tmp_path))
    kept = toys.export(toys.config(dense, tmp_path, strip_default_attrs=False))
    matmul = [next(n for n in meta_graphs(r)[0].graph_def.node if n.op == "MatMul") for r in (stripped, kept)]
    assert ["transpose_a" in node.attr for node in matmul] == [False, True]
    assert meta_graphs(stripped)[0].meta_info_def.stripped_default_attrs


@pytest.mark.slow
def test_twice_the_same_input_gives_twice_the_same_bytes(dense, tmp_path):
    config = toys.config(dense, tmp_path, signatures={
        name: {"inputs": {"x": "x"}, "outputs": {"probs": "probs", "again": "probs"}} for name in ("serving_default", "b", "a")
    })  # fmt: skip
    digests = []
    for seed in ("1", "2"):
        config["export_dir"] = str(tmp_path / f"seed-{seed}")
        code = f"import json, exportkit; exportkit.run(exportkit.plan(json.loads({json.dumps(json.dumps(config))})))"
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        files = sorted(p for p in (tmp_path / f"seed-{seed}" / "1").rglob("*") if p.is_file())
        digests.append({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files})
    assert digests[0] == digests[1]
    assert sorted(digests[0]) == ["saved_model.pb", "variables.data-00000-of-00001", "variables.index"]


def test_an_index_and_data_of_two_saves_are_told_and_the_checkpoint_is_blamed(tmp_path):
    prefix = toys.saved(tmp_path, toys.dense)
    (tmp_path / "other" / "run").mkdir(parents=True)
    other = toys.saved(tmp_path / "other", toys.dense, seed=8)
    data = ".data-00000-of-00001"
    Path(prefix + data).write_bytes(Path(other + data).read_bytes())
    with pytest.raises(WeightsError) as refused:
        toys.export(toys.config(prefix, tmp_path))
    do = "its index and its data are of two different saves, or it was damaged: copy both again"
    assert str(refused.value).splitlines() == [
        f"{prefix}{data}: is damaged: the bytes of 'dense/{name}' do not have their checksum; {do}"
        for name in ("kernel", "bias")
    ]


def test_the_report_says_which_way_the_values_took(dense, tmp_path):
    assert toys.export(toys.config(dense, tmp_path)).weights.how == "copied as bytes"
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        toys.dense()
        session.run(v1.global_variables_initializer())
        old = v1.train.Saver(write_version=v1.train.SaverDef.V1).save(session, str(tmp_path / "old"))
    report = toys.export(toys.config(old, tmp_path))
    assert (report.weights.how, report.weights.proof) == (
        "decoded from a V1 checkpoint",
        "2/2 variables equal to the checkpoint, 0 initialised",
    )


def test_bytes_that_change_on_the_way_fail_the_export(dense, tmp_path, monkeypatch):
    from exportkit.exporting import savedmodel

    real = savedmodel.write

    @contextmanager
    def corrupting(directory, *rest):
        with real(directory, *rest) as written:
            yield written
        path = Path(directory, "variables", "variables.data-00000-of-00001")
        data = bytearray(path.read_bytes())
        data[5] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr(savedmodel, "write", corrupting)
    with pytest.raises(WeightsError):
        toys.export(toys.config(dense, tmp_path))
    assert list((tmp_path / "exports" / "toy").iterdir()) == []


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            "infer",
            BindingError,
            "meta_graphs.serving: TensorFlow cannot import the serving graph: its process died of SIGABRT",
        ),
        ("describe", EnvironmentFailed, "tensorflow: its C library fails: its process died of SIGABRT"),
    ],
)
def test_a_graph_that_kills_tensorflow_is_one_line(call, error, text, dense, tmp_path, monkeypatch):
    script = tmp_path / "worker.py"
    script.write_text(
        f"import os\nfrom exportkit.core import worker\nworker.CALLS[{call!r}] = lambda *_: os.abort()\nmain = worker.main\n"
    )
    monkeypatch.setattr(spare, "_spare", None)
    monkeypatch.setattr(host, "core_worker", SimpleNamespace(__name__="worker", __file__=str(script)))
    with pytest.raises(error) as refused:
        toys.export(toys.config(dense, tmp_path))
    assert str(refused.value).startswith(text)
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "exports" / "toy" / "1").exists()


def test_what_tensorflow_refuses_is_its_own_text_on_one_line(dense, tmp_path):
    meta = tf.compat.v1.MetaGraphDef.FromString(Path(dense + ".meta").read_bytes())
    next(node for node in meta.graph_def.node if node.name == "probs").attr["T"].type = tf.int32.as_datatype_enum
    path = tmp_path / "odd.meta"
    path.write_bytes(meta.SerializeToString())
    with pytest.raises(BindingError) as refused:
        toys.export(toys.config(dense, tmp_path, source={"kind": "meta_graph", "checkpoint": dense, "meta": str(path)}))
    assert str(refused.value).startswith("meta_graphs.serving: TensorFlow cannot import the serving graph: ")
    assert "int32" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
