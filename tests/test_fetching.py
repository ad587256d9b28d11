"""Tensors that a server cannot fetch, values that are known before a run, and dropout that is left out."""

import numpy as np
import pytest
import tensorflow as tf
import toys

from exportkit.errors import ConfigError
from exportkit.metagraph import Graph, problems, rank, warnings
from exportkit.metagraph.contexts import Within
from exportkit.metagraph.folding import Bounds, Folding
from exportkit.planning.plan import plan
from exportkit.protos import MetaGraphDef

v1 = tf.compat.v1


@pytest.fixture
def graph():
    v1.disable_control_flow_v2()
    with tf.Graph().as_default() as made:
        yield made
    v1.enable_control_flow_v2()


def indexed():
    return Graph(MetaGraphDef.FromString(v1.train.export_meta_graph().SerializeToString()))


def texts(found):
    return [str(problem) for problem in found]


def doubled_in_a_loop():
    x = v1.placeholder(tf.float32, [2], "x")
    _, y = v1.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.multiply(y, 2.0, name="doubled")), (0, x))
    tf.identity(y, name="y")


def chosen_by_a_condition(predicate):
    x = v1.placeholder(tf.float32, [2], "x")
    y = v1.cond(predicate, lambda: tf.multiply(x, 2.0, name="two"), lambda: tf.multiply(x, 3.0, name="three"))
    return tf.identity(y, name="y")


def test_a_tensor_inside_a_loop_is_refused_and_its_exit_named(graph):
    doubled_in_a_loop()
    index = indexed()
    assert texts(problems(index, ["while/doubled:0"], ["x:0"], "s")) == [
        "s: while/doubled:0 lies inside the while loop while/while_context, where it has a value per step and none "
        "can be fetched; take while/Exit_1:0, an output of the loop"
    ]
    assert problems(index, ["y:0"], ["x:0"], "s") == []
    assert index.contexts["while/doubled"] == (Within(frame="while/while_context"),)
    assert "while/Exit_1" not in index.contexts and "y" not in index.contexts


def test_what_lies_inside_a_loop_cannot_be_fed(graph):
    doubled_in_a_loop()
    assert texts(problems(indexed(), ["y:0"], ["x:0", "while/doubled:0"], "s")) == [
        "s: while/doubled:0 lies inside the while loop while/while_context, where nothing can be fed; cut before the loop: x:0"
    ]


def test_a_tensor_inside_a_branch_is_refused_and_its_merge_named(graph):
    chosen_by_a_condition(v1.placeholder(tf.bool, [], "flag"))
    index = indexed()
    assert texts(problems(index, ["cond/two:0"], ["x:0", "flag:0"], "s")) == [
        "s: cond/two:0 lies inside one branch of a tf.cond and has a value only while flag:0 is true; "
        "take cond/Merge:0, what joins the branches"
    ]
    assert problems(index, ["cond/two:0"], ["x:0", "flag:0"], "s", {"flag:0": True}) == []
    assert texts(problems(index, ["cond/two:0"], ["x:0", "flag:0"], "s", {"flag:0": False})) == [
        "s: cond/two:0 lies inside one branch of a tf.cond and never has a value, as flag:0 is false; "
        "take cond/Merge:0, what joins the branches"
    ]


def test_a_branch_inside_a_branch_and_one_inside_a_loop(graph):
    x, a, b = v1.placeholder(tf.float32, [2], "x"), v1.placeholder(tf.bool, [], "a"), v1.placeholder(tf.bool, [], "b")
    inner = lambda: v1.cond(b, lambda: tf.identity(x, name="deep"), lambda: x * 2)  # noqa: E731
    v1.cond(a, inner, lambda: x)
    v1.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, v1.cond(a, lambda: y, lambda: y + 1)), (0, x))
    index = indexed()
    a_true, b_true = Within(predicate=("a", 0)), Within(predicate=("b", 0))
    assert index.contexts["cond/cond/deep"] == (a_true, b_true)
    assert index.contexts["cond/cond/Merge"] == (a_true,)
    assert "cond/Merge" not in index.contexts
    assert index.contexts["while/cond/Merge"] == (Within(frame="while/while_context"),)


def test_handles_and_sparse_tensors_are_no_values(graph):
    v1.get_variable("v", [2], use_resource=True)
    v1.sparse_placeholder(tf.float32, [None, 4], name="features")
    index = indexed()
    assert texts(problems(index, ["v:0"], [], "s")) == [
        "s: v:0 (VarHandleOp) is a handle, not a value; take what is read from it: v/Read/ReadVariableOp:0"
    ]
    found = index.find("features")
    assert found.what == "features is a sparse tensor, not one tensor"
    assert found.do == "bind its parts: features/indices:0, features/values:0, features/shape:0"


@pytest.mark.parametrize(
    ("tensor", "bounds"),
    [
        ("keep:0", Bounds(0.75, 0.75)),
        ("drawn:0", Bounds(0.0, 1.0, open=True)),
        ("kept:0", Bounds(0.0, 1.0)),
        ("all:0", Bounds(1.0, 1.0)),
        ("over:0", Bounds(1.0, 1.0)),
        ("never:0", Bounds(0.0, 0.0)),
        ("x:0", None),
    ],
)
def test_bounds_of_what_is_drawn(graph, tensor, bounds):
    x = v1.placeholder(tf.float32, [2], "x")
    keep, drawn = tf.constant(0.75, name="keep"), tf.identity(v1.random_uniform([2]), name="drawn")
    tf.floor(keep + drawn, name="kept")
    tf.floor(1.0 + drawn, name="all")
    tf.greater_equal(drawn, 0.0, name="over")
    tf.logical_and(tf.constant(False), x[0] > 0, name="never")
    op, index = tensor.split(":")
    assert Folding(indexed(), {}).bounds((op, int(index))) == bounds


def test_no_alarm_about_dropout_that_keeps_everything(graph):
    x, keep = v1.placeholder(tf.float32, [2], "x"), v1.placeholder(tf.float32, name="keep")
    tf.multiply(x / keep, tf.floor(keep + v1.random_uniform([2])), name="y")
    index = indexed()
    assert warnings(index, ["y:0"], ["x:0"], "s", {"keep:0": 1.0}) == []
    assert len(warnings(index, ["y:0"], ["x:0"], "s", {"keep:0": 0.5})) == 1


def test_no_alarm_about_what_lies_behind_a_constant_false(graph):
    x, v = v1.placeholder(tf.float32, [2], "x"), v1.get_variable("v", [2], use_resource=False)
    off = tf.logical_and(tf.constant(False), tf.constant(True))
    moved = v1.cond(off, lambda: tf.identity(v1.assign(v, v + 1)), lambda: tf.identity(v))
    noisy = v1.cond(off, lambda: x + v1.random_normal([2]), lambda: tf.identity(x))
    tf.add(moved, noisy, name="y")
    assert warnings(indexed(), ["y:0"], ["x:0"], "s") == []


# Dropout that is wired in


def wired():
    x = v1.placeholder(tf.float32, [None, 4], "x")
    kernel = v1.get_variable("kernel", initializer=tf.constant(np.eye(4, 3, dtype=np.float32)), use_resource=False)
    dropped = v1.nn.dropout(x, rate=0.5, name="dropout")
    tf.nn.softmax(tf.matmul(dropped, kernel), name="probs")


WAY_OUT = {"tensor": "x:0", "replaces": "dropout/SelectV2:0"}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    return toys.saved(tmp_path_factory.mktemp("wired"), wired)


def wired_config(prefix, base, **bindings):
    return toys.config(prefix, base, bindings={"x": "x:0", "probs": "probs:0", **bindings})


def test_the_message_writes_the_way_out_down(prefix, tmp_path):
    (warning,) = plan(wired_config(prefix, tmp_path)).warnings
    assert warning == (
        "signatures.serving_default: may be random: dropout/random_uniform/RandomUniform (RandomUniform); is dropout left on? "
        "bake its rate or is_training, or leave it out: no_dropout: {tensor: x:0, replaces: dropout/SelectV2:0} in bindings"
    )
    assert plan(wired_config(prefix, tmp_path, no_dropout=WAY_OUT)).warnings == []


@pytest.mark.slow
def test_dropout_that_is_left_out_is_proved_and_served(prefix, tmp_path):
    post = {"verify": {"kind": "verify"}}
    data = wired_config(prefix, tmp_path, no_dropout=WAY_OUT) | {"post": post}
    report = toys.export(data)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    answers = toys.served(report.directory, "serving_default", {"x": x})["probs"]
    powers = np.exp(x[:, :3])
    np.testing.assert_allclose(answers, powers / powers.sum(1, keepdims=True), rtol=1e-6)
    assert [step.status for step in report.steps] == ["passed"]


@pytest.mark.parametrize(
    ("binding", "text"),
    [
        (
            {"tensor": "dropout/SelectV2:0", "replaces": "x:0"},
            "bindings.swapped: 'dropout/SelectV2:0' is computed from 'x:0', so the graph would go round in a circle; "
            "tensor is what goes in, replaces is what comes out",
        ),
        (
            {"tensor": "dropout/GreaterEqual:0", "replaces": "dropout/SelectV2:0"},
            "bindings.swapped: 'dropout/GreaterEqual:0' is bool and 'dropout/SelectV2:0' float32; "
            "name two tensors of one dtype",
        ),
        (
            {"tensor": "kernel/read:0", "replaces": "dropout/SelectV2:0"},
            "bindings.swapped: 'kernel/read:0' is float32 [4, 3] and 'dropout/SelectV2:0' float32 [?, 4]; "
            "name two tensors of one shape",
        ),
        (
            {"tensor": "probs:0", "replaces": "dropot/SelectV2:0"},
            "bindings.swapped.replaces: the graph has no tensor dropot/SelectV2:0; did you mean dropout/SelectV2:0?",
        ),
    ],
)
def test_what_cannot_take_the_place_of_what(prefix, tmp_path, binding, text):
    with pytest.raises(ConfigError) as error:
        plan(wired_config(prefix, tmp_path, swapped=binding))
    assert texts(error.value.problems) == [text]


def test_what_is_replaced_cannot_be_fed_as_well(prefix, tmp_path):
    cut = {"placeholder": "dropout/SelectV2:0"}
    data = wired_config(prefix, tmp_path, no_dropout=WAY_OUT, cut=cut)
    data["signatures"] = {"serving_default": {"inputs": {"cut": "cut"}, "outputs": {"probs": "probs"}}}
    with pytest.raises(ConfigError) as error:
        plan(data)
    assert "bindings.cut: 'dropout/SelectV2:0' is replaced by 'x:0' already; drop one" in texts(error.value.problems)


def test_an_output_that_is_replaced_is_what_takes_its_place(prefix, tmp_path):
    data = wired_config(prefix, tmp_path, no_dropout=WAY_OUT, probs="dropout/SelectV2:0")
    report = toys.export(data)
    answers = toys.served(report.directory, "serving_default", {"x": [[1.0, 2.0, 3.0, 4.0]]})
    assert answers["probs"].tolist() == [[1.0, 2.0, 3.0, 4.0]]


def test_plan_refuses_what_has_no_value(tmp_path):
    v1.disable_control_flow_v2()

    def build():
        v1.get_variable("v", [1], use_resource=False)
        doubled_in_a_loop()

    try:
        looped = toys.saved(tmp_path, build)
    finally:
        v1.enable_control_flow_v2()
    with pytest.raises(ConfigError, match=r"signatures\.serving_default: while/doubled:0 lies inside the while loop"):
        plan(toys.config(looped, tmp_path, bindings={"x": "x:0", "probs": "while/doubled:0"}))


def test_outputs_inside_loops_and_branches_are_never_suggested(graph):
    doubled_in_a_loop()
    assert [c.tensor for c in rank(indexed()).outputs if c.tensor.startswith("while/doubled")] == []


def test_a_circle_of_frames_and_a_switch_without_a_predicate_end(graph):
    index = indexed()
    meta = MetaGraphDef()
    meta.CopyFrom(index.meta)
    enter = meta.graph_def.node.add(name="a", op="Enter", input=["b"])
    enter.attr["frame_name"].s = b"one"
    meta.graph_def.node.add(name="b", op="Enter", input=["a", "gone"]).attr["frame_name"].s = b"two"
    meta.graph_def.node.add(name="s", op="Switch", input=["a"])
    meta.graph_def.node.add(name="m", op="Merge", input=["gone", "s"])
    one, two = Within(frame="one"), Within(frame="two")
    assert set(Graph(meta).contexts["a"]) == {one, two}
