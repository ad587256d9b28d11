"""The metagraph room: every trait of a training graph is built small, pruned, imported again and must answer bit for bit."""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.python.client import pywrap_tf_session

from exportkit.checkpoint import Bundle
from exportkit.errors import BindingError, ExportKitError, Problem
from exportkit.metagraph import (
    Graph,
    Ranking,
    Running,
    problems,
    rank,
    read,
    read_saved_model,
    serving_subgraph,
    split,
    warnings,
)
from exportkit.metagraph.kinds import op_class
from exportkit.protos import MetaGraphDef, SavedModel, op_def_pb2

tf1 = tf.compat.v1
X = np.arange(12, dtype=np.float32).reshape(3, 4) / 7


@pytest.fixture
def graph():
    with tf.Graph().as_default() as graph:
        tf1.set_random_seed(7)
        yield graph
    tf1.enable_control_flow_v2()  # what a test disabled


def dense(x, units=2, resource=False, name="dense"):
    with tf1.variable_scope(name, use_resource=resource):
        kernel = tf1.get_variable("kernel", [x.shape[-1], units], initializer=tf1.random_normal_initializer())
        bias = tf1.get_variable("bias", [units], initializer=tf1.ones_initializer())
    return tf.nn.bias_add(tf.matmul(x, kernel), bias, name=f"{name}_out")


def indexed():
    return Graph(tf1.train.export_meta_graph())


def texts(found):
    return [str(problem) for problem in found]


def ops_of(pruned):
    return {node.op for node in pruned.meta.graph_def.node}


def names_of(pruned):
    return [node.name for node in pruned.meta.graph_def.node]


def served(tmp_path, fetches, feeds, *, constants=(), targets=()):
    """Prunes the default graph at `feeds`, restores it elsewhere and asserts that it answers as the whole graph does."""
    with tf1.Session() as session:
        session.run([tf1.global_variables_initializer(), tf1.local_variables_initializer(), tf1.tables_initializer()])
        session.run(list(targets))
        expected = session.run(fetches, feeds)
        every = tf1.global_variables() + tf1.local_variables()
        saver = tf1.train.Saver({v.op.name: v for v in every}) if every else None
        prefix = saver.save(session, str(tmp_path / "ckpt"), write_meta_graph=False) if saver else None
    whole = indexed()
    pruned = serving_subgraph(whole, fetches, feeds)
    assert pruned.nodes_after == len(pruned.meta.graph_def.node) < pruned.nodes_before == len(whole.nodes)
    with tf.Graph().as_default() as imported, tf1.Session() as session:
        fed = {cut: _stand_in(whole, cut, feeds, constants) for cut in pruned.cuts}
        tf1.train.import_meta_graph(pruned.meta, input_map=fed)
        variables = tf1.global_variables()
        assert sorted(v.op.name for v in variables) == sorted(v.op_name for v in pruned.variables.values())
        if variables:
            tf1.train.Saver({v.op.name: v for v in variables}).restore(session, prefix)
        session.run(tf1.get_collection(tf1.GraphKeys.TABLE_INITIALIZERS))
        values = {fed[cut]: feeds[cut] for cut in pruned.cuts if cut not in constants}
        for got, wanted in zip(session.run([_fetched(imported, f) for f in fetches], values), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    return pruned


def _stand_in(whole, cut, feeds, constants):
    dtype = tf.as_dtype(whole.dtype(cut))
    return tf.constant(feeds[cut], dtype) if cut in constants else tf1.placeholder(dtype, whole.shape(cut))


def _fetched(imported, fetch):
    return imported.as_graph_element(fetch)


# Reading


@pytest.mark.parametrize("as_text", [False, True])
def test_reads_a_binary_and_a_text_meta(graph, tmp_path, as_text):
    dense(tf1.placeholder(tf.float32, [None, 4], "x"))
    path = tmp_path / "model.meta"
    expected = tf1.train.export_meta_graph(str(path), as_text=as_text)
    assert read(path) == expected


def refusal(call, *args):
    with pytest.raises(BindingError) as caught:
        call(*args)
    return str(caught.value)


MADE_BY = "hand in the .meta that tf.compat.v1.train.Saver writes beside a checkpoint"


def test_refuses_what_is_no_meta(graph, tmp_path):
    dense(tf1.placeholder(tf.float32, [None, 4], "x"))
    whole = tf1.train.export_meta_graph().SerializeToString(deterministic=True)

    def given(name, data):
        (tmp_path / name).write_bytes(data)
        return refusal(read, tmp_path / name).removeprefix(f"{tmp_path}/")

    saved_model = SavedModel(saved_model_schema_version=1, meta_graphs=[MetaGraphDef.FromString(whole)]).SerializeToString()
    frozen = graph.as_graph_def().SerializeToString()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    assert given("lfs.meta", pointer) == "lfs.meta: is a Git LFS pointer, not the file itself; run git lfs pull"
    assert given("empty.meta", b"") == f"empty.meta: is empty; {MADE_BY}"
    assert given("saved_model.pb", saved_model) == (
        "saved_model.pb: is a SavedModel, not a .meta; hand in the .meta of the training run, beside its checkpoint"
    )
    assert given("frozen.pb", frozen) == f"frozen.pb: is a bare GraphDef, which knows no variables; {MADE_BY}"
    assert given("noise.meta", b"\xff\xfenot a graph") == f"noise.meta: is not a MetaGraphDef; {MADE_BY}"
    assert given("notes.meta", b"hello") == f"notes.meta: is not a MetaGraphDef; {MADE_BY}"
    assert given("void.meta", MetaGraphDef().SerializeToString() or b"\n\x00") == (
        f"void.meta: is not a MetaGraphDef: it holds no graph; {MADE_BY}"
    )


@pytest.mark.parametrize("share", [0.2, 0.6, 0.999])
def test_says_how_much_of_a_truncated_meta_is_missing(graph, tmp_path, share):
    dense(tf1.placeholder(tf.float32, [None, 4], "x"))
    tf1.train.export_meta_graph(str(tmp_path / "model.meta"))
    data = (tmp_path / "model.meta").read_bytes()
    (tmp_path / "model.meta").write_bytes(data[: int(len(data) * share)])
    said = refusal(read, tmp_path / "model.meta")
    assert "is truncated: at least " in said and f"bytes are missing after {int(len(data) * share):,}; copy it again" in said


def test_a_missing_file_names_the_meta_beside_it(tmp_path):
    assert refusal(read, tmp_path / "m.meta") == f"{tmp_path}/m.meta: no such file; {MADE_BY}"
    (tmp_path / "model-7.meta").write_bytes(b"")
    said = refusal(read, tmp_path / "model-7")
    assert said == f"{tmp_path}/model-7: no such file; did you mean {tmp_path}/model-7.meta?"
    assert refusal(read, tmp_path) == f"{tmp_path}: cannot be read: it is a directory; {MADE_BY}"


def test_reads_a_saved_model_from_its_directory(graph, tmp_path):
    tf1.placeholder(tf.float32, [None, 4], "x")
    with tf1.Session() as session:
        builder = tf1.saved_model.Builder(str(tmp_path / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"])
        builder.save()
    read_back = read_saved_model(tmp_path / "1")
    assert [list(m.meta_info_def.tags) for m in read_back.meta_graphs] == [["serve"]]
    assert read_saved_model(tmp_path / "1" / "saved_model.pb") == read_back
    tf1.train.export_meta_graph(str(tmp_path / "m.meta"))
    assert refusal(read_saved_model, tmp_path / "m.meta") == (
        f"{tmp_path}/m.meta: is not a SavedModel; copy it again, or hand in the saved_model.pb of a SavedModel version"
    )
    assert refusal(read_saved_model, tmp_path) == (
        f"{tmp_path}/saved_model.pb: no such file; hand in the saved_model.pb of a SavedModel version"
    )


# Tensors


def test_dtypes_and_counts_come_from_the_op_definitions(graph):
    x = tf1.placeholder(tf.float32, [4, 6], "x")
    tf.split(x, 3, axis=1, name="split")
    tf.unstack(tf.cast(x, tf.int64), name="unstack")
    tf.nn.top_k(x, 2, name="top")
    queue = tf1.FIFOQueue(9, [tf.string, tf.float16, tf.bool], shapes=[[], [3], [2]], name="queue")
    queue.dequeue_many(5, name="batch")
    tf1.get_variable("ref", [2], tf.float64, use_resource=False)
    tf.no_op("nothing")
    index = indexed()
    assert [index.dtype(f"batch:{i}") for i in range(4)] == ["string", "float16", "bool", None]
    assert [index.num_outputs(op) for op in ("split", "unstack", "batch", "nothing", "top")] == [3, 4, 3, 0, 2]
    assert index.num_outputs("none") is None
    assert [index.dtype(t) for t in ("x", "split:2", "unstack:3", "top:1", "ref:0", "none:0")] == [
        "float32", "float32", "int64", "int32", "float64", None,
    ]  # fmt: skip
    del index.meta.meta_info_def.stripped_op_list.op[:]
    index = Graph(index.meta)
    assert [index.dtype(t) for t in ("x", "ref:0", "x:1", "split:2")] == ["float32", "float64", None, None]
    assert [index.num_outputs(op) for op in ("x", "ref", "split", "nothing")] == [1, 1, None, None]


def test_dtypes_of_defaults_and_of_function_calls(graph):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def pair(x):
        return x + 1, tf.cast(x, tf.int32)

    tf1.placeholder(tf.float32, [None], "x")
    pair(graph.get_tensor_by_name("x:0"))
    tf.argmax(graph.get_tensor_by_name("x:0"), name="arg")
    meta = tf1.train.export_meta_graph(strip_default_attrs=True)
    index = Graph(meta)
    call = next(name for name, node in index.nodes.items() if node.op.endswith("PartitionedCall"))
    assert [index.dtype(f"{call}:{i}") for i in range(3)] == ["float32", "int32", None]
    assert "output_type" not in index.nodes["arg"].attr and index.dtype("arg") == "int64"


def test_shapes_come_from_what_the_writer_inferred_or_from_the_op(graph):
    tf1.placeholder(tf.float32, [None, 4], "x")
    tf1.placeholder(tf.float32, name="any")
    tf1.placeholder(tf.float32, [], "scalar")
    tf1.get_variable("v", [2, 3], use_resource=False)
    iterator = tf1.data.make_one_shot_iterator(tf.data.Dataset.from_tensors(([1.0, 2.0], 3)).batch(5, drop_remainder=True))
    iterator.get_next("next")
    index = indexed()
    names = ("x:0", "any:0", "scalar:0", "v:0", "next:0", "next:1", "next:2", "none:0")
    known = [(None, 4), None, (), (2, 3), (5, 2), (5,), None, None]
    assert [index.shape(name) for name in names] == known
    bare = MetaGraphDef()
    bare.CopyFrom(index.meta)
    for node in bare.graph_def.node:
        node.attr.pop("_output_shapes", None)
    assert [Graph(bare).shape(name) for name in names] == known
    bare.graph_def.versions.producer = 23
    assert Graph(bare).shape("scalar:0") is None, "a Placeholder's [] meant unknown before producer 24"


def test_finds_a_tensor_or_says_what_is_near(graph):
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    with tf1.name_scope("head"):
        tf.nn.softmax(dense(x), name="probabilities")
    tf.nn.top_k(x, 2, name="top")
    tf.no_op("train")
    index = indexed()
    assert [index.find(name) for name in ("x", "x:0", " top:1 ")] == ["x:0", "x:0", "top:1"]

    def said(name):
        found = index.find(name)
        assert isinstance(found, Problem)
        return str(found.under("bindings.p.tensor"))

    where = "bindings.p.tensor"
    assert said("probabilites") == f"{where}: the graph has no tensor probabilites; did you mean head/probabilities:0?"
    assert said("head/probabilties:0") == (
        f"{where}: the graph has no tensor head/probabilties:0; did you mean head/probabilities:0?"
    )
    assert said("top:2") == f"{where}: top:2 is not a tensor: top (TopKV2) returns 2 tensors; write top:0 to top:1"
    assert said("x:1") == f"{where}: x:1 is not a tensor: x (Placeholder) returns 1 tensor; write x:0"
    assert said("train") == (f"{where}: train is not a tensor: train (NoOp) returns no tensors; name an op that returns one")
    assert said("^x") == f"{where}: the graph has no tensor ^x; did you mean x:0?"


def test_an_unknown_node_of_a_fetch_is_an_error(graph):
    dense(tf1.placeholder(tf.float32, [None, 4], "images"))
    assert refusal(indexed().reach, ["imags:0"]) == "imags: the graph has no such node; did you mean images?"
    meta = tf1.train.export_meta_graph()
    del meta.graph_def.node[0]
    assert refusal(Graph(meta).reach, ["dense_out"]).endswith(
        "takes images, which the graph does not have; the file is not whole: copy it again"
    )


# Variables


def test_variables_know_their_kind_shape_initialiser_and_collections(graph):
    tf1.get_variable("w", [2, 3], tf.float64, use_resource=False)
    tf1.get_variable("r", [4], use_resource=True, trainable=False)
    tf1.get_variable("l", [], tf.int64, use_resource=True, collections=["local_variables"], trainable=False)
    tf1.get_variable("any", initializer=tf1.placeholder(tf.float32), validate_shape=False, use_resource=False)
    found = indexed().variables
    assert {v.name: (v.dtype, v.shape, v.resource, v.trainable, v.collections) for v in found.values()} == {
        "w": ("float64", (2, 3), False, True, ("trainable_variables", "variables")),
        "r": ("float32", (4,), True, False, ("variables",)),
        "l": ("int64", (), True, False, ("local_variables",)),
        "any": ("float32", None, False, True, ("trainable_variables", "variables")),
    }
    assert {v.initializer for v in found.values()} == {"w/Assign", "r/Assign", "l/Assign", "any/Assign"}
    assert all(v.full_name == v.name and v.full_shape == v.shape and v.slice is None for v in found.values())


@pytest.mark.parametrize("resource", [False, True])
def test_slices_of_a_partitioned_variable_know_the_whole(graph, resource):
    split = tf1.fixed_size_partitioner(2)
    tf1.get_variable("emb", [5, 3], partitioner=split, use_resource=resource)
    tf1.train.Saver()
    index = indexed()
    assert [(v.name, v.shape, v.full_name, v.full_shape) for v in index.variables.values()] == [
        ("emb/part_0", (3, 3), "emb", (5, 3)),
        ("emb/part_1", (2, 3), "emb", (5, 3)),
    ]
    assert [(list(v.slice.var_offset), list(v.slice.var_shape)) for v in index.variables.values()] == [
        ([0, 0], [3, 3]),
        ([3, 0], [2, 3]),
    ]


@pytest.mark.parametrize("resource", [False, True])
@pytest.mark.parametrize("version", [tf1.train.SaverDef.V1, tf1.train.SaverDef.V2])
@pytest.mark.parametrize("sharded", [False, True])
def test_the_savers_own_keys_are_the_names(graph, tmp_path, resource, version, sharded):
    a = tf1.get_variable("a", [2], use_resource=resource)
    b = tf1.get_variable("b", [2], use_resource=resource)
    tf1.get_variable("c", [2], use_resource=resource)
    saver = tf1.train.Saver({"old/a": a, "c": b}, write_version=version, sharded=sharded)
    meta = saver.export_meta_graph(str(tmp_path / "m.meta"))
    assert {v.op_name: v.name for v in Graph(meta).variables.values()} == {"a": "old/a", "b": "b", "c": "c"}


def test_variables_that_no_collection_holds_are_found_with_their_initialiser(graph):
    tf1.get_variable("ref", initializer=[1.0, 2.0], use_resource=False, trainable=False, collections=["mine"])
    res = tf1.get_variable("res", initializer=[3.0], use_resource=True, trainable=False, collections=["mine"])
    tf1.assign(res, [4.0])
    tf1.train.Saver([res, tf1.get_variable("k", [1])])
    found = indexed().variables
    assert [(v.name, v.initializer, v.definition is None) for v in found.values()] == [
        ("ref", "ref/Assign", True),
        ("res", "res/Assign", True),
        ("k", "k/Assign", False),
    ]


# Reaching


def test_reach_stops_at_tensors_and_at_control_edges_to_their_op(graph):
    queue = tf1.FIFOQueue(9, [tf.float32, tf.float32], shapes=[[], []], name="queue")
    first, second = queue.dequeue(name="batch")
    with tf.control_dependencies([first.op]):
        y = tf.identity(first, name="y")
    tf.add(y, second, name="z")
    index = indexed()
    assert index.reach(["y:0"], ["batch:0"]) == {"y"}
    assert index.reach(["z"], ["batch:0"]) == {"z", "y", "batch", "queue"}
    assert index.reach(["z"], ["batch:0", "batch:1"]) == {"z", "y"}
    assert index.reach(["batch:0"], ["batch:0"]) == set()
    assert index.reach(["batch"], ["batch:0"]) == {"batch", "queue"}, "a fetch without an index is the operation"


def test_reach_goes_into_what_functions_name(graph):
    handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[2], shared_name="hidden", name="weights")
    tf.raw_ops.AssignVariableOp(resource=handle, value=[5.0, 6.0], name="weights/Assign")

    @tf.function(input_signature=[tf.TensorSpec([2], tf.float32)])
    def body(x):
        again = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[2], shared_name="hidden")
        return x * tf.raw_ops.ReadVariableOp(resource=again, dtype=tf.float32)

    y = tf.identity(body(tf1.placeholder(tf.float32, [2], "x")), name="y")
    index = indexed()
    assert "weights" in index.reach([y.name])
    assert list(serving_subgraph(index, [y.name], ["x"]).variables) == ["weights"]


# Pruning


def train_with(loss):
    return tf1.train.AdamOptimizer(0.1).minimize(loss, name="train_step")


@pytest.mark.parametrize("resource", [False, True])
def test_drops_the_training_and_answers_the_same(graph, tmp_path, resource):
    x, labels = tf1.placeholder(tf.float32, [None, 4], "x"), tf1.placeholder(tf.int32, [None], "labels")
    probs = tf.nn.softmax(dense(x, 3, resource), name="probs")
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=probs), name="loss")
    step = train_with(loss)
    tf1.summary.scalar("loss", loss)
    tf1.train.Saver()
    pruned = served(tmp_path, ["probs:0"], {"x:0": X})
    assert step.name not in names_of(pruned) and "labels" not in names_of(pruned)
    assert list(pruned.variables) == ["dense/kernel", "dense/bias"] and pruned.cuts == ("x:0",)
    assert sorted(pruned.meta.collection_def) == ["trainable_variables", "variables"]
    assert not pruned.meta.HasField("saver_def") and not pruned.no_initializer
    assert not any("_output_shapes" in node.attr for node in pruned.meta.graph_def.node)
    used = {op.name for op in pruned.meta.meta_info_def.stripped_op_list.op}
    assert used == ops_of(pruned)


def test_is_deterministic_and_leaves_the_source_alone(graph):
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    train_with(tf.reduce_sum(dense(dense(x, 4, name="one"), 2, True, name="two")))
    index = indexed()
    before = index.meta.SerializeToString(deterministic=True)
    runs = {serving_subgraph(index, ["two_out"], ["x"]).meta.SerializeToString(deterministic=True) for _ in range(3)}
    again = serving_subgraph(Graph(MetaGraphDef.FromString(before)), ["two_out:0"], ["x:0"])
    assert runs == {again.meta.SerializeToString(deterministic=True)}
    assert index.meta.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("resource", [False, True])
def test_the_initialisers_that_are_kept_run(graph, resource):
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    dense(x, 2, resource)
    train_with(tf.reduce_sum(graph.get_tensor_by_name("dense_out:0")))
    pruned = serving_subgraph(indexed(), ["dense_out"], ["x"])
    with tf.Graph().as_default(), tf1.Session() as session:
        tf1.train.import_meta_graph(pruned.meta, input_map={"x:0": tf1.placeholder(tf.float32, [None, 4])})
        session.run(tf1.global_variables_initializer())
        np.testing.assert_array_equal(session.run("dense_out:0", {"Placeholder:0": np.zeros((1, 4))}), [[1, 1]])


def test_cuts_in_the_middle_of_many_outputs(graph, tmp_path):
    x = tf1.placeholder(tf.float32, [4, 6], "x")
    one, two, three = tf.split(x, 3, axis=1, name="split")
    tf.add(dense(one, 2, name="a"), dense(three, 2, name="b"), name="y")
    tf.multiply(two, 2.0, name="unused")
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    pruned = served(tmp_path, ["y:0"], {"split:0": values[:, :2] + 9, "x:0": values})
    assert "split" in names_of(pruned) and "x" not in names_of(pruned) and pruned.cuts == ("split:0", "x:0")
    both = serving_subgraph(indexed(), ["y"], ["split:0", "split:2"])
    assert "split" not in names_of(both) and both.cuts == ("split:0", "split:2")
    assert [n.input[0] for n in both.meta.graph_def.node if n.op == "MatMul"] == ["split", "split:2"]


def test_a_fetch_that_is_cut_needs_nothing(graph):
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    dense(x)
    pruned = serving_subgraph(indexed(), ["x:0"], ["x"])
    assert (pruned.nodes_after, pruned.cuts, dict(pruned.variables)) == (0, (), {})


def test_cuts_a_queue_and_the_control_edges_to_it(graph, tmp_path):
    files = tf1.placeholder(tf.string, [], "file")
    queue = tf1.RandomShuffleQueue(9, 1, [tf.int64, tf.float32], shapes=[[], [4]], name="queue")
    tf1.train.add_queue_runner(tf1.train.QueueRunner(queue, [queue.enqueue((tf.strings.to_number(files, tf.int64), X[0]))]))
    _, features = queue.dequeue_many(3, name="batch")
    with tf.control_dependencies([features]):
        tf.nn.softmax(dense(features), name="probs")
    pruned = served(tmp_path, ["probs:0"], {"batch:1": X})
    assert not any("Queue" in op for op in ops_of(pruned)) and "Placeholder" not in ops_of(pruned)
    assert not any(name.startswith("^") for node in pruned.meta.graph_def.node for name in node.input)


def test_cuts_an_iterator(graph, tmp_path):
    data = tf.data.Dataset.from_tensors((X, [0, 1, 0])).map(lambda x, y: (x * 2, y)).repeat()
    features, _ = tf1.data.make_one_shot_iterator(data).get_next("next")
    tf.nn.softmax(dense(tf.ensure_shape(features, [3, 4])), name="probs")
    pruned = served(tmp_path, ["probs:0"], {"next:0": X})
    assert not any("Iterator" in op or "Dataset" in op for op in ops_of(pruned))
    assert len(pruned.meta.graph_def.library.function) == 0


def test_bakes_switches_and_keeps_batch_normalisation_in_v1_conditions(graph, tmp_path):
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    training = tf1.placeholder(tf.bool, [], "is_training")
    with tf1.variable_scope("bn", use_resource=False):
        mean = tf1.get_variable("mean", [4], initializer=tf1.ones_initializer(), trainable=False)
    tf1.disable_control_flow_v2()
    moved = lambda: tf.identity(tf1.assign(mean, tf.reduce_mean(x, 0)))  # noqa: E731
    centre = tf1.cond(training, moved, lambda: tf.identity(mean))
    dense(x - centre)
    pruned = served(tmp_path, ["dense_out:0"], {"x:0": X, "is_training:0": False}, constants=("is_training:0",))
    assert list(pruned.variables) == ["bn/mean", "dense/kernel", "dense/bias"]
    assert "Switch" in ops_of(pruned) and "cond_context" not in pruned.meta.collection_def


def test_keeps_v1_while_loops(graph, tmp_path):
    tf1.disable_control_flow_v2()
    x = tf1.placeholder(tf.float32, [3, 4], "x")
    kernel = tf1.get_variable("kernel", [4, 4], use_resource=False)
    _, y = tf1.while_loop(lambda i, _: i < 3, lambda i, h: (i + 1, tf.tanh(tf.matmul(h, kernel))), (0, x))
    tf.identity(y, name="y")
    train_with(tf.reduce_sum(y))
    pruned = served(tmp_path, ["y:0"], {"x:0": X})
    assert {"Enter", "Exit", "NextIteration"} <= ops_of(pruned) and "while_context" not in pruned.meta.collection_def
    assert not any(name.startswith("gradients") for name in names_of(pruned))


def test_keeps_functional_control_flow_and_prunes_its_library(graph, tmp_path):
    x = tf1.placeholder(tf.float32, [3, 4], "x")
    kernel = tf1.get_variable("kernel", [4, 4], use_resource=True)
    _, y = tf.while_loop(lambda i, _: i < 3, lambda i, h: (i + 1, tf.tanh(tf.matmul(h, kernel))), (0, x))
    y = tf.cond(tf.reduce_sum(x) > 0, lambda: y * 2, lambda: y @ kernel)
    tf.identity(y, name="y")
    train_with(tf.reduce_sum(y))
    pruned = served(tmp_path, ["y:0"], {"x:0": X})
    whole = indexed()
    assert ops_of(pruned) & {"While", "StatelessWhile"} and ops_of(pruned) & {"If", "StatelessIf"}
    assert 0 < len(pruned.meta.graph_def.library.function) < len(whole.functions)
    assert list(pruned.variables) == ["kernel"]


def test_keeps_the_gradient_functions_of_kept_functions(graph):
    @tf.function
    def double(x):
        return x * 2

    @tf.function
    def other(x):
        return x * 3

    x = tf1.placeholder(tf.float32, [3], "x")
    tf.identity(double(x), "y")
    tf.identity(other(x), "unused")
    meta = tf1.train.export_meta_graph()
    library = meta.graph_def.library
    names = {part: next(f.signature.name for f in library.function if part in f.signature.name) for part in ("double", "other")}
    for part, name in names.items():
        library.function.add().CopyFrom(next(f for f in library.function if f.signature.name == name))
        library.function[-1].signature.name = f"gradient_of_{part}"
        library.gradient.add(function_name=name, gradient_func=f"gradient_of_{part}")
    kept = serving_subgraph(Graph(meta), ["y:0"], ["x:0"]).meta.graph_def.library
    assert {f.signature.name for f in kept.function} == {names["double"], "gradient_of_double"}
    assert [(g.function_name, g.gradient_func) for g in kept.gradient] == [(names["double"], "gradient_of_double")]


@pytest.mark.parametrize("resource", [False, True])
def test_keeps_partitioned_variables(graph, tmp_path, resource):
    x = tf1.placeholder(tf.int64, [None], "ids")
    table = tf1.get_variable("emb", [5, 3], partitioner=tf1.fixed_size_partitioner(2), use_resource=resource)
    train_with(tf.reduce_sum(tf.identity(tf.nn.embedding_lookup(table, x), name="y")))
    pruned = served(tmp_path, ["y:0"], {"ids:0": [4, 0, 2]})
    assert [v.full_name for v in pruned.variables.values()] == ["emb", "emb"]


def test_a_switch_that_is_a_variable_is_kept(graph, tmp_path):
    tf1.disable_control_flow_v2()
    x = tf1.placeholder(tf.float32, [3, 4], "x")
    training = tf1.get_variable("is_training", initializer=False, trainable=False, use_resource=False)
    tf1.assign(training, True, name="turn_on")
    y = tf1.cond(training, lambda: tf.nn.dropout(x, rate=0.5), lambda: x)
    dense(tf.reshape(y, [3, 4]))
    pruned = served(tmp_path, ["dense_out:0"], {"x:0": X})
    assert "is_training" in pruned.variables and "turn_on" not in names_of(pruned)
    assert "is_training" not in serving_subgraph(indexed(), ["dense_out"], ["x", "is_training"]).variables


def test_a_train_op_may_be_fetched(graph):
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    train_with(tf.reduce_sum(dense(x)))
    index = indexed()
    both = serving_subgraph(index, ["dense_out:0"], ["x:0"], ops=["train_step"])
    assert "dense/kernel/Adam" in both.variables and "train_step" in names_of(both)
    assert serving_subgraph(index, ["dense_out:0", "train_step"], ["x:0"]).meta == both.meta
    with tf.Graph().as_default(), tf1.Session() as session:
        tf1.train.import_meta_graph(both.meta, input_map={"x:0": tf1.constant(X)})
        session.run(tf1.global_variables_initializer())
        before = session.run("dense_out:0")
        session.run("train_step")
        assert (session.run("dense_out:0") < before).all()


def test_clears_devices_and_colocation_with_what_is_gone(graph):
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    with tf.device("/device:GPU:0"):
        y = dense(x, 2)
    with graph.colocate_with(x.op), graph.colocate_with(y.op, ignore_existing=True), graph.colocate_with(x.op):
        tf.identity(y, name="z")
    index = indexed()
    assert b"loc:@x" in index.nodes["z"].attr["_class"].list.s
    cleared = {node.name: node for node in serving_subgraph(index, ["z"], ["x"]).meta.graph_def.node}
    assert not any(node.device for node in cleared.values())
    assert list(cleared["z"].attr["_class"].list.s) == [b"loc:@dense_out"]
    kept = serving_subgraph(index, ["z"], ["x"], clear_devices=False)
    assert {node.device for node in kept.meta.graph_def.node} == {"", "/device:GPU:0"}


def test_clears_devices_inside_functions(graph):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def body(x):
        with tf.device("/device:GPU:0"):
            return x * 2.0

    tf.identity(body(tf1.placeholder(tf.float32, [None], "x")), name="y")
    index = indexed()
    pruned = serving_subgraph(index, ["y"], ["x"])
    assert any(node.device for function in index.functions.values() for node in function.node_def)
    assert not any(node.device for function in pruned.meta.graph_def.library.function for node in function.node_def)
    assert texts(warnings(index, ["y"], ["x"], "serving_default")) == [
        "serving_default: pins of 2 nodes to /device:GPU:0 are cleared"
    ]


def test_promotes_local_variables_and_builds_missing_definitions(graph, tmp_path):
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    scale = tf1.get_variable("scale", initializer=2.0, collections=["local_variables"], use_resource=False)
    ref = tf1.get_variable("ref", initializer=[1.0, 2.0, 3.0, 4.0], collections=["mine"], trainable=False, use_resource=False)
    res = tf1.get_variable("res", initializer=3.0, collections=["mine"], trainable=False, use_resource=True)
    tf.identity(dense(x * scale * ref) + res, name="y")
    with tf1.Session() as session:
        session.run([tf1.global_variables_initializer(), scale.initializer, ref.initializer, res.initializer])
        expected = session.run("y:0", {"x:0": X})
        every = [*tf1.global_variables(), scale, ref, res]
        prefix = tf1.train.Saver(every).save(session, str(tmp_path / "ckpt"))
    pruned = serving_subgraph(Graph(read(f"{prefix}.meta")), ["y"], ["x"])
    assert sorted(pruned.meta.collection_def) == ["trainable_variables", "variables"]
    with tf.Graph().as_default(), tf1.Session() as session:
        tf1.train.import_meta_graph(pruned.meta, input_map={"x:0": tf1.constant(X)})
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver().restore(session, prefix)
        np.testing.assert_array_equal(session.run("y:0"), expected)


def assigns_itself(pruned, name, dtype=tf.float32):
    """Imports a pruned graph; the error of the variable's initialiser before any restore."""
    with tf.Graph().as_default(), tf1.Session() as session:
        tf1.train.import_meta_graph(pruned.meta, input_map={"x:0": tf1.constant(X)})
        (variable,) = [v for v in tf1.global_variables() if v.op.name == name]
        with pytest.raises(tf.errors.FailedPreconditionError):
            session.run(variable.initializer)
        variable.load(np.full(variable.shape, 3, dtype.as_numpy_dtype), session)
        session.run(variable.initializer)
        np.testing.assert_array_equal(session.run(variable), np.full(variable.shape, 3))


@pytest.mark.parametrize("resource", [False, True])
def test_an_initial_value_that_needs_something_foreign_stays_behind(graph, tmp_path, resource):
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    given = tf1.placeholder(tf.float32, [4], "embedding")
    w = tf1.get_variable("w", initializer=given, use_resource=resource)
    tf1.get_variable("unseen", initializer=1.0, use_resource=resource)
    tf.multiply(x, w, name="y")
    pruned = serving_subgraph(indexed(), ["y"], ["x"])
    assert pruned.no_initializer == {"w": "its initial value needs embedding (Placeholder)"}
    assert "embedding" not in names_of(pruned) and list(pruned.variables) == ["w"]
    assigns_itself(pruned, "w")


@pytest.mark.parametrize("resource", [False, True])
def test_an_initial_value_that_is_another_variable_or_large_stays_behind(graph, resource):
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    other = tf1.get_variable("other", initializer=[1.0, 2.0, 3.0, 4.0], use_resource=resource)
    shadow = tf1.Variable(tf1.identity(other) + 1, name="shadow", use_resource=resource)
    big = tf1.get_variable("big", initializer=np.random.rand(4, 100_000).astype(np.float32), use_resource=resource)
    tf.add(x * shadow, tf.reduce_sum(big, 1), name="y")
    pruned = serving_subgraph(indexed(), ["y"], ["x"])
    assert list(pruned.variables) == ["shadow", "big"]
    assert pruned.no_initializer["big"] == "its initial value is a constant of 2 MB"
    assert pruned.no_initializer["shadow"].startswith("its initial value needs other (Var")
    assert pruned.meta.ByteSize() < 50_000
    assigns_itself(pruned, "shadow")
    assigns_itself(pruned, "big")


def test_a_variable_that_only_a_restore_sets_gets_an_initialiser(graph):
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[4], shared_name="", name="raw")
    restored = tf.raw_ops.RestoreV2(prefix="ckpt", tensor_names=["raw"], shape_and_slices=[""], dtypes=[tf.float32])
    tf.raw_ops.AssignVariableOp(resource=handle, value=tf.identity(restored[0]))
    with tf.control_dependencies([x]):
        tf.multiply(x, tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32), name="y")
    index = indexed()
    assert index.variables["raw"].initializer is None
    pruned = serving_subgraph(index, ["y"], ["x"])
    assert pruned.no_initializer == {"raw": "the graph has no op that initialises it"}
    assert {"raw/exportkit_read", "raw/exportkit_assign"} <= set(names_of(pruned))
    assigns_itself(pruned, "raw")


@st.composite
def dags(draw):
    """A GraphDef of nodes with three outputs each that take tensors and control edges from those before them."""
    meta = MetaGraphDef()
    for i in range(draw(st.integers(1, 12))):
        edge = st.tuples(st.integers(0, max(i - 1, 0)), st.integers(-1, 2))
        node = meta.graph_def.node.add(name=f"n{i}", op="Op")
        edges = sorted(draw(st.lists(edge, max_size=4 if i else 0)), key=lambda e: e[1] < 0)
        node.input.extend(f"^n{op}" if k < 0 else f"n{op}:{k}" if k else f"n{op}" for op, k in edges)
    tensors = st.sampled_from([f"n{i}:{k}" for i in range(len(meta.graph_def.node)) for k in range(3)])
    return meta, draw(st.lists(tensors, min_size=1, max_size=3)), draw(st.lists(tensors, max_size=4))


def needed(meta, fetches, cuts):
    """The oracle: what the fetches need, by plain recursion."""
    nodes, found = {node.name: node for node in meta.graph_def.node}, set()

    def visit(name):
        if name not in found:
            found.add(name)
            for tensor in nodes[name].input:
                op, _, index = tensor.lstrip("^").partition(":")
                control = tensor.startswith("^") and any(cut.startswith(f"{op}:") for cut in cuts)
                if not control and (tensor.startswith("^") or f"{op}:{index or 0}" not in cuts):
                    visit(op)

    for fetch in fetches:
        if fetch not in cuts:
            visit(fetch.split(":")[0])
    return found


@given(dags())
def test_keeps_exactly_what_is_needed_and_leaves_no_loose_ends(dag):
    meta, fetches, cuts = dag
    pruned = serving_subgraph(Graph(meta), fetches, cuts)
    kept = set(names_of(pruned))
    assert kept == needed(meta, fetches, cuts)
    for node in pruned.meta.graph_def.node:
        for op, index in map(split, node.input):
            assert op in kept or f"{op}:{index}" in pruned.cuts
    assert set(pruned.cuts) <= set(cuts)
    assert serving_subgraph(Graph(pruned.meta), fetches, cuts).meta == pruned.meta


# Tables and assets


def words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("a\nb\nc\n")
    return str(path)


@pytest.mark.parametrize("listed", [True, False])
def test_keeps_tables_with_what_fills_them_and_their_files(graph, tmp_path, listed):
    text = tf1.placeholder(tf.string, [None], "text")
    table = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(
            words(tmp_path), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        ),
        num_oov_buckets=1,
    )
    unused = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["z"], [1]), 0)
    unused.lookup(tf.constant(["z"]))
    tf.identity(table.lookup(text), name="ids")
    pruned = served(tmp_path, ["ids:0"], {"text:0": ["c", "nope", "a"]})
    index = indexed()
    if not listed:
        del index.meta.collection_def["table_initializer"], index.meta.collection_def["asset_filepaths"]
        assert serving_subgraph(index, ["ids"], ["text"]).meta == pruned.meta
    (table_op,) = pruned.tables
    assert index.nodes[table_op].op == "HashTableV2" and len(pruned.tables[table_op]) == 1
    assert list(pruned.assets.values()) == [str(tmp_path / "words.txt")]
    (asset,) = pruned.assets
    assert list(pruned.meta.collection_def["asset_filepaths"].node_list.value) == [f"{asset}:0"]
    assert list(pruned.meta.collection_def["table_initializer"].node_list.value) == [*pruned.tables[table_op]]


def test_a_table_that_shares_its_name_is_filled_by_the_others_initialiser(graph, tmp_path):
    text = tf1.placeholder(tf.string, [None], "text")
    first = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, shared_name="same", name="first")
    second = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, shared_name="same", name="second")
    fill = tf.raw_ops.InitializeTableV2(table_handle=first, keys=["a", "b"], values=np.int64([7, 8]), name="fill")
    tf1.add_to_collection(tf1.GraphKeys.TABLE_INITIALIZERS, fill)
    tf.raw_ops.LookupTableFindV2(table_handle=second, keys=text, default_value=np.int64(0), name="ids")
    pruned = served(tmp_path, ["ids:0"], {"text:0": ["b"]})
    assert pruned.tables == {"first": ("fill",), "second": ("fill",)}


def test_tables_that_cannot_be_filled_are_problems(graph):
    text = tf1.placeholder(tf.string, [None], "text")
    keys = tf1.placeholder(tf.string, [None], "keys")
    bare = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, name="bare")
    fed = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, name="fed")
    tf.raw_ops.InitializeTableV2(table_handle=fed, keys=keys, values=np.int64([7]), name="fill")
    for name, table in (("ids", bare), ("fed_ids", fed)):
        tf.raw_ops.LookupTableFindV2(table_handle=table, keys=text, default_value=np.int64(0), name=name)
    index = indexed()
    assert texts(problems(index, ["ids", "fed_ids"], ["text"], "signatures.s")) == [
        "signatures.s: nothing fills the table bare; build the graph with the table's initializer, "
        "or bind the tensor behind it",
        "signatures.s: the table fed is filled by fill, which needs keys (Placeholder); "
        "bake it: {constant: …, replaces: keys:0}",
    ]
    pruned = serving_subgraph(index, ["ids", "fed_ids"], ["text"])
    assert dict(pruned.tables) == {} and "fill" not in names_of(pruned)


# Problems


def test_a_graph_that_can_be_served_has_no_problems(graph):
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    tf1.placeholder_with_default(1.0, [], "rate")
    dense(x * graph.get_tensor_by_name("rate:0"))
    assert problems(indexed(), ["dense_out"], ["x"], "signatures.s") == []
    assert warnings(indexed(), ["dense_out"], ["x"], "signatures.s") == []


def test_placeholders_that_nothing_feeds(graph):
    tf1.disable_control_flow_v2()
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    other = tf1.placeholder(tf.int32, [None, 4], "other")
    training = tf1.placeholder(tf.bool, [], "is_training")
    keep = tf1.placeholder(tf.float32, [], "keep_prob")
    dense(tf1.cond(training, lambda: x * keep, lambda: x) + tf.cast(other, tf.float32, name="cast"))
    index = indexed()
    found = texts(problems(index, ["dense_out:0"], ["x:0"], "signatures.s"))
    assert found[0] == (
        "signatures.s: nothing feeds the placeholder other:0 (int32), which cast needs; "
        "put it among the inputs, or bake it: {constant: …, replaces: other:0}"
    )
    assert sorted(text.split("; ")[1] for text in found[1:]) == [
        "put it among the inputs, or bake it: {constant: 1.0, replaces: keep_prob:0}",
        "put it among the inputs, or bake it: {constant: false, replaces: is_training:0}",
    ]
    assert problems(index, ["dense_out:0"], ["x", "other", "is_training", "keep_prob"], "signatures.s") == []


def test_input_queues_iterators_and_readers_are_one_problem_each(graph):
    reader = tf1.WholeFileReader(name="reader")
    names = tf1.FIFOQueue(9, [tf.string], name="names")
    _, content = reader.read(names, name="read")
    queue = tf1.FIFOQueue(9, [tf.string, tf.float32], shapes=[[], [4]], name="queue")
    queue.enqueue((content, X[0]))
    strings, features = queue.dequeue_many(3, name="batch")
    data = tf1.data.make_one_shot_iterator(tf.data.Dataset.from_tensors((X, [1.0])))
    more, _ = data.get_next("next")
    both = tf.add(dense(features), dense(tf.ensure_shape(more, [3, 4]), name="more"), name="both")
    tf.tuple([both, tf.strings.length(strings), tf.strings.length(content)], name="tuple")
    index = indexed()
    assert texts(problems(index, ["both"], [], "s")) == [
        f"s: batch (QueueDequeueManyV2), which {index.consumers['batch'][0]} needs, belongs to the training input queue; "
        "write {placeholder: batch:1} in bindings",
        "s: next (IteratorGetNext), which EnsureShape needs, belongs to the training input pipeline; "
        "write {placeholder: next:0} in bindings",
    ]
    every = [f"tuple/control_dependency{end}" for end in ("", "_1", "_2")]
    said = texts(problems(index, every, ["next:0"], "s"))
    assert "write {placeholder: TENSOR} in bindings for each of batch:0, batch:1" in "\n".join(said)
    assert any("read (ReaderReadV2), which" in text and "reads files of the training machine" in text for text in said)
    assert len(said) == 2


def test_python_mutable_tables_and_restores(graph):
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    y = tf1.py_func(lambda v: v, [x], tf.float32, name="python")
    table = tf.raw_ops.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.float32, name="mutable")
    z = tf.raw_ops.LookupTableFindV2(table_handle=table, keys=["a"], default_value=0.0, name="find")
    w = tf.raw_ops.RestoreV2(prefix="c", tensor_names=["w"], shape_and_slices=[""], dtypes=[tf.float32], name="restore")
    tf.stack([tf.reduce_sum(y), tf.reduce_sum(z), tf.reduce_sum(w[0])], name="all")
    found = texts(problems(indexed(), ["all"], ["x"], "s"))
    assert sorted(found) == [
        "s: mutable (MutableHashTableV2), which find needs, is a mutable table, whose content no variable holds; "
        "write {placeholder: mutable:0} in bindings",
        "s: python (PyFunc), which Sum needs, runs Python of the training program, which no server has; "
        "write {placeholder: python:0} in bindings",
        "s: restore (RestoreV2), which Sum_2 needs, reads a checkpoint of the training machine at every request; "
        "write {placeholder: restore:0} in bindings",
    ]


def test_what_functions_hide(graph):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def body(x):
        lost = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="lost", name="lost")
        return tf1.py_func(lambda v: v, [x], tf.float32, name="python") + tf.raw_ops.ReadVariableOp(
            resource=lost, dtype=tf.float32
        )

    tf.identity(body(tf1.placeholder(tf.float32, [None], "x")), name="y")
    index = indexed()
    call = index.inputs("y")[0][0]
    inner = next(name for name in index.functions if "body" in name)
    found = texts(problems(index, ["y"], ["x"], "s"))
    assert [text.replace(inner, "F").replace(call, "C") for text in found] == [
        "s: lost (VarHandleOp) in the function F, which C calls, is a variable that the graph itself does not have; "
        "build it outside the function",
        "s: python (PyFunc) in the function F, which C calls, runs Python of the training program, which no server has; "
        "bind a tensor behind C with {placeholder: TENSOR}",
    ]


def test_ops_that_are_gone_or_unknown(graph):
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    tf.identity(x, name="y")
    meta = tf1.train.export_meta_graph()
    nodes = {node.name: node for node in meta.graph_def.node}
    nodes["x"].op, nodes["y"].op = "GatherTree", "MyTeamsOp"
    assert texts(problems(Graph(meta), ["y:0"], [], "s")) == [
        "s: y (MyTeamsOp) is of an op that the meta graph does not describe; write {placeholder: y:0} in bindings",
        "s: x (GatherTree), which y needs, was an op of tf.contrib, which TensorFlow 2 does not have; "
        "write {placeholder: x:0} in bindings",
    ]


def test_reading_an_asset_is_no_problem(graph, tmp_path):
    path = tf.constant(words(tmp_path), name="path")
    tf1.add_to_collection(tf1.GraphKeys.ASSET_FILEPATHS, path)
    tf.io.read_file(path, name="asset")
    tf.io.read_file(tf.constant("elsewhere.txt"), name="other")
    index = indexed()
    assert problems(index, ["asset"], [], "s") == []
    assert [p.what.split(",")[0] for p in problems(index, ["other"], [], "s")] == [
        "other (ReadFile) reads files of the training machine"
    ]
    assert dict(serving_subgraph(index, ["asset"], []).assets) == {"path": str(tmp_path / "words.txt")}


def test_no_registered_op_is_called_gone():
    registered = op_def_pb2.OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    assert [op.name for op in registered.op if op_class(op.name) == "tf.contrib"] == []
    assert {op_class(op.name) for op in registered.op} == {
        None, "placeholder", "queue", "iterator", "reader", "python", "mutable table", "TPU", "restore",
    }  # fmt: skip
    quiet = ("PlaceholderWithDefault", "HashTableV2", "TensorArrayReadV3", "StackPopV2", "ParseExampleV2", "DecodeRaw", "If")
    assert [op for op in quiet if op_class(op)] == []


def test_warns_of_randomness(graph):
    x = tf1.placeholder(tf.float32, [8, 4], "x")
    tf.nn.softmax(dense(tf1.nn.dropout(x, rate=0.5)), name="probs")
    assert texts(warnings(indexed(), ["probs:0"], ["x:0"], "signatures.s")) == [
        "signatures.s: may be random: dropout/random_uniform/RandomUniform (RandomUniform); "
        "is dropout left on? bake its rate or is_training, "
        "or leave it out: no_dropout: {tensor: x:0, replaces: dropout/SelectV2:0} in bindings",
    ]


def test_a_baked_switch_decides_an_if_too(graph):
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    training = tf1.placeholder(tf.bool, [], "is_training")
    tf.identity(tf1.cond(training, lambda: tf1.nn.dropout(x, rate=0.5), lambda: x), name="y")
    index = indexed()
    assert {"If", "StatelessIf"} & {node.op for node in index.nodes.values()}
    for baked, wanted in (({}, 1), ({"is_training:0": True}, 1), ({"is_training:0": False}, 0)):
        assert len(warnings(index, ["y"], ["x", "is_training"], "s", baked)) == wanted


def test_baked_switches_silence_what_they_leave_out(graph):
    tf1.disable_control_flow_v2()
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    training = tf1.placeholder(tf.bool, [], "is_training")
    mean = tf1.get_variable("mean", [4], use_resource=False)
    moved = tf1.cond(training, lambda: tf.identity(tf1.assign(mean, mean + 1)), lambda: tf.identity(mean))
    tf.identity(tf1.cond(training, lambda: tf1.nn.dropout(x - moved, rate=0.5), lambda: x - moved), name="y")
    index, cuts = indexed(), ["x", "is_training"]
    for baked, wanted in (({}, 2), ({"is_training:0": True}, 2), ({"is_training:0": False}, 0), ({"x": 1.0}, 2)):
        assert len(warnings(index, ["y"], cuts, "s", baked)) == wanted


def test_warns_of_updates_and_of_what_only_control_edges_reach(graph):
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    mean = tf1.get_variable("mean", [4], use_resource=False)
    queue = tf1.FIFOQueue(9, [tf.float32], name="queue")
    with tf.control_dependencies([tf1.assign_sub(mean, mean * 0.1, name="moved"), queue.enqueue(1.0, name="put")]):
        tf.identity(x - mean, name="y")
    index = indexed()
    assert texts(warnings(index, ["y"], ["x"], "s")) == [
        "s: requests may change variables: moved (AssignSub); is training mode left on? bake is_training"
    ]
    assert texts(problems(index, ["y"], ["x"], "s")) == [
        "s: put (QueueEnqueueV2), which sub needs, belongs to the training input queue; "
        "only control edges lead there: cut before them, as with {placeholder: sub:0}"
    ]


# Suggestions


def test_suggests_inputs_outputs_and_switches(graph):
    tf1.disable_control_flow_v2()
    x, labels = tf1.placeholder(tf.float32, [None, 4], "images"), tf1.placeholder(tf.int64, [None], "labels")
    training, keep = tf1.placeholder(tf.bool, [], "is_training"), tf1.placeholder(tf.float32, [], "keep_prob")
    rate = tf1.placeholder(tf.float32, [], "learning_rate")
    hidden = tf1.cond(training, lambda: tf.nn.relu(dense(x, 8)) * keep, lambda: tf.nn.relu(dense(x, 8, name="again")))
    logits = dense(tf.reshape(hidden, [-1, 8]), 3, name="logits")
    tf.nn.softmax(logits, name="probs")
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    tf1.train.AdamOptimizer(rate).minimize(loss)
    index = indexed()
    assert [c.tensor for c in rank(index).inputs] == ["images:0"]
    assert [c.tensor for c in rank(index).outputs[:2]] == ["probs:0", "logits_out:0"]
    assert rank(index).constants == {"is_training:0": False, "keep_prob:0": 1.0}
    best = rank(index).inputs[0]
    assert (best.dtype, best.shape, best.op) == ("float32", (None, 4), "Placeholder")
    assert best.why == "the likeliest output needs it, float32 [null, 4], named like an input"


def test_suggests_switches_by_who_takes_them(graph):
    tf1.disable_control_flow_v2()
    flag, rate = tf1.placeholder(tf.bool, name="Placeholder"), tf1.placeholder(tf.float32, [], "Placeholder_1")
    evaluate, plain = tf1.placeholder(tf.bool, [], "is_eval"), tf1.placeholder(tf.float32, [], "temperature")
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    y = tf1.cond(flag, lambda: tf1.nn.dropout(x, rate=rate), lambda: x)
    tf.identity(tf1.cond(evaluate, lambda: y, lambda: y * plain))
    assert rank(indexed()).constants == {"Placeholder:0": False, "Placeholder_1:0": 0.0, "is_eval:0": True}


def test_suggests_for_a_graph_without_variables_or_without_anything(graph):
    assert rank(indexed()) == Ranking([], [], [], {})
    tf.identity(tf1.placeholder(tf.float32, [2], "x"), name="y")
    assert [c.tensor for c in rank(indexed()).outputs] == ["y:0"]
    assert [c.tensor for c in rank(indexed()).inputs] == ["x:0"]


# The room


def test_does_not_import_tensorflow():
    code = "import sys, exportkit.metagraph; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_fifty_thousand_nodes_take_seconds_at_most(graph):
    tf1.placeholder(tf.float32, [None], "x")
    tf.identity(tf1.get_variable("v", [1], use_resource=False), name="y")
    meta = tf1.train.export_meta_graph()
    template = next(node for node in meta.graph_def.node if node.name == "y")
    for i in range(50_000):
        node = meta.graph_def.node.add()
        node.CopyFrom(template)
        node.name, node.input[:] = (
            f"tower_{i % 7}/layer_{i}/identity",
            [f"tower_{(i - 1) % 7}/layer_{i - 1}/identity" if i else "y"],
        )
    started = time.process_time()
    index = Graph(MetaGraphDef.FromString(meta.SerializeToString()))
    last = "tower_5/layer_49999/identity"
    pruned = serving_subgraph(index, [last], ["x"])
    assert isinstance(index.find("tower_5/layer_4999/identty"), Problem)
    elapsed = time.process_time() - started
    assert list(pruned.variables) == ["v"] and pruned.nodes_before - pruned.nodes_after == 1
    assert elapsed < 6, f"{elapsed:.1f} s"


# Real training artefacts

CORPUS = os.environ.get("EXPORTKIT_CORPUS")
NODES_AFTER = {"csv-dataset": 46, "tf2onnx": 11, "queue-partitioned": 85, "halite3": 228, "story-rnn": 1830, "sea-dog": 557}


def corpus():
    if not CORPUS:
        return []
    import yaml

    return yaml.safe_load((pathlib.Path(CORPUS) / "corpus.yaml").read_text())


real = pytest.mark.skipif(not CORPUS, reason="EXPORTKIT_CORPUS names no folder of real training artefacts")
each = pytest.mark.parametrize("entry", corpus(), ids=lambda entry: entry["name"])


def pruned_entry(entry):
    index = Graph(read(f"{CORPUS}/{entry['prefix']}.meta"))
    cuts, fetches = [*entry["inputs"].values(), *entry["constants"]], [*entry["outputs"].values()]
    return index, cuts, fetches, serving_subgraph(index, fetches, cuts)


def imported(index, entry, pruned):
    fed = {cut: _stand_in(index, cut, entry["constants"], entry["constants"]) for cut in pruned.cuts}
    tf1.train.import_meta_graph(pruned.meta, input_map=fed)
    return fed


@real
@each
def test_real_graphs_prune_and_import(entry):
    index, cuts, fetches, pruned = pruned_entry(entry)
    assert problems(index, fetches, cuts, "s") == []
    assert pruned.nodes_after == NODES_AFTER.get(entry["name"], pruned.nodes_after)
    with tf.Graph().as_default() as graph:
        imported(index, entry, pruned)
        assert len(tf1.global_variables()) == len(pruned.variables)
        assert [graph.get_tensor_by_name(f).dtype.name for f in fetches] == [index.dtype(f) for f in fetches]


@real
@each
def test_real_inputs_and_outputs_are_among_the_first_three(entry):
    index, held = Graph(read(f"{CORPUS}/{entry['prefix']}.meta")), _held(f"{CORPUS}/{entry['prefix']}")
    ranking = rank(index, lambda name: held is not None and name not in held)
    nodes = {c.tensor.split(":")[0] for c in ranking.outputs[:3]}
    assert {output.split(":")[0] for output in entry["outputs"].values()} <= nodes
    assert set(entry["inputs"].values()) <= {c.tensor for c in [*ranking.inputs, *ranking.others]}


def _held(prefix):
    """The names in a checkpoint; None where its index cannot be read."""
    try:
        return {*Bundle(prefix).entries, *Bundle(prefix).aliases}
    except ExportKitError:
        return None


@real
@each
def test_real_graphs_answer_as_the_whole_graph_does(entry):
    index, _, fetches, pruned = pruned_entry(entry)
    if entry["expect"].startswith("refuse") or "random" in entry["expect"]:
        assert entry["name"] in ("threaded-training", "sea-dog", "tidigits")
        return
    feeds = {tensor: example(index, tensor) for tensor in entry["inputs"].values()}
    with tf.Graph().as_default(), tf1.Session() as session:
        fed = imported(index, entry, pruned)
        restored(session, entry, pruned)
        got = session.run(fetches, {fed[cut]: feeds[cut] for cut in pruned.cuts if cut in feeds})
    whole = read(f"{CORPUS}/{entry['prefix']}.meta")
    for node in whole.graph_def.node:
        node.attr.pop("_output_shapes", None)
    with tf.Graph().as_default(), tf1.Session() as session:
        tf1.train.import_meta_graph(whole, clear_devices=True)
        restored(session, entry, pruned)
        expected = session.run(fetches, {**feeds, **entry["constants"]})
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def example(index, tensor):
    rng, shape = np.random.default_rng(0), [3 if size is None else size for size in index.shape(tensor) or (3, 1)]
    if index.dtype(tensor) == "string":
        return rng.choice(np.array([b"a", b"b", b"3"], object), shape)
    return rng.integers(0, 3, shape).astype(index.dtype(tensor))


def restored(session, entry, pruned):
    session.run(tf1.get_collection(tf1.GraphKeys.TABLE_INITIALIZERS))
    wanted = {variable.op_name for variable in pruned.variables.values()}
    saver = tf1.train.Saver([variable for variable in tf1.global_variables() if variable.op.name in wanted])
    saver.restore(session, f"{CORPUS}/{entry['prefix']}")


@real
def test_a_real_dropout_is_said_to_be_random():
    entry = next(entry for entry in corpus() if entry["name"] == "tidigits")
    index, cuts, fetches, _ = pruned_entry(entry)
    (said,) = texts(warnings(index, fetches, cuts, "s"))
    cell = "rnn/while/multi_rnn_cell/cell_"
    assert said.startswith("s: may be random: rnn/while/")
    assert f"no_dropout: {{tensor: rnn/while/TensorArrayReadV3:0, replaces: {cell}0/dropout/mul:0}}" in said
    assert f"no_dropout_2: {{tensor: {cell}1/gru_cell/add:0, replaces: {cell}2/dropout/mul:0}} in bindings" in said
    replaced = Running(index, fetches, cuts).dropout
    assert warnings(index.rewired(replaced), fetches, cuts, "s") == []


@real
def test_a_real_dropout_behind_a_baked_switch_is_not():
    entry = next(entry for entry in corpus() if entry["name"] == "halite3")
    index, cuts, fetches, _ = pruned_entry(entry)
    assert len(warnings(index, fetches, cuts, "s")) == 1
    assert warnings(index, fetches, cuts, "s", entry["constants"]) == []
