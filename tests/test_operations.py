"""Computed bindings: what a config may say, what is known of them unbuilt, and that an export computes what NumPy computes."""

from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf
import toys
from toys import v1

import exportkit
from exportkit.errors import ConfigError, ExportKitError, PluginError, StepFailed
from exportkit.metagraph.tensors import Facts
from exportkit.operations.argmax import ArgMax
from exportkit.operations.base import Operation
from exportkit.operations.builtin import OPERATIONS
from exportkit.operations.cast import Cast
from exportkit.operations.concat import Concat
from exportkit.operations.reshape import Reshape
from exportkit.operations.scale import Scale
from exportkit.operations.sigmoid import Sigmoid
from exportkit.operations.softmax import Softmax
from exportkit.operations.split import Split
from exportkit.operations.threshold import Threshold
from exportkit.plugin import hookimpl
from exportkit.registry import load_plugins
from exportkit.verifying.parity.adapters import FEEDER_TWINS, TWINS

LOGITS = Facts("float32", (None, 4))


@pytest.mark.parametrize(
    ("operation", "inputs", "facts"),
    [
        (ArgMax(argmax="a"), [LOGITS], [Facts("int64", (None,))]),
        (ArgMax(argmax="a", axis=0, dtype="int32"), [LOGITS], [Facts("int32", (4,))]),
        (ArgMax(argmax="a"), [Facts("float32")], [Facts("int64")]),
        (Softmax(softmax="a"), [LOGITS], [LOGITS]),
        (Sigmoid(sigmoid="a"), [Facts("float64", ())], [Facts("float64", ())]),
        (Cast(cast="a", dtype="int8"), [LOGITS], [Facts("int8", (None, 4))]),
        (Reshape(reshape="a", shape=[None, 2, 2]), [LOGITS], [Facts("float32", (None, 2, 2))]),
        (Scale(scale="a", factor=2.0), [LOGITS], [LOGITS]),
        (Threshold(threshold="a", at=0.5), [LOGITS], [Facts("bool", (None, 4))]),
        (Concat(concat=["a", "b"]), [LOGITS, Facts("float32", (2, 3))], [Facts("float32", (2, 7))]),
        (Concat(concat=["a", "b"], axis=0), [LOGITS, Facts("float32", (2, 4))], [Facts("float32", (None, 4))]),
        (Concat(concat=["a", "b"]), [LOGITS, Facts("float32")], [Facts("float32")]),
        (Split(split="a", num=2), [LOGITS], [Facts("float32", (None, 2))] * 2),
        (Split(split="a", num=2, axis=0), [LOGITS], [Facts("float32", (None, 4))] * 2),
    ],
)
def test_dtype_and_shape_before_anything_is_built(operation, inputs, facts):
    assert list(operation.check()) == []
    assert list(operation.problems(inputs)) == []
    assert list(operation.facts(inputs)) == facts


@pytest.mark.parametrize(
    ("operation", "inputs", "text"),
    [
        (ArgMax(argmax="a", axis=2), [LOGITS], "axis: is 2, but 'a' is float32 [?, 4]; write -2 to 1"),
        (ArgMax(argmax="a"), [Facts("string", (2,))], "argmax: 'a' is string, not numbers; name a binding of numbers"),
        (ArgMax(argmax="a"), [Facts("int32", ())], "axis: is -1, but 'a' is int32 []; name a binding of rank 1 or more"),
        (Softmax(softmax="a"), [Facts("int32", (2,))], "softmax: 'a' is int32, not floating-point numbers; cast it first"),
        (Softmax(softmax="a"), [Facts("float32", ())], "softmax: 'a' is a scalar; name a binding of rank 1 or more"),
        (Sigmoid(sigmoid="a"), [Facts("bool")], "sigmoid: 'a' is bool, not floating-point numbers; cast it first"),
        (
            Cast(cast="a", dtype="int46"),
            None,
            "dtype: there is no dtype 'int46' to cast to; did you mean int16, int64 or uint16?",
        ),
        (Cast(cast="a", dtype="int8"), [Facts("string")], "cast: 'a' is string, not numbers; name a binding of numbers"),
        (Reshape(reshape="a", shape=[None, None]), None, "shape: has 2 sizes that are not known; write null for one at most"),
        (
            Reshape(reshape="a", shape=[-1, 2]),
            None,
            "shape[0]: is -1; write null for the size that follows from the others",
        ),
        (
            Reshape(reshape="a", shape=[None, 5]),
            [Facts("float32", (3, 4))],
            "shape: does not hold the 12 elements of 'a' (float32 [3, 4]); correct its sizes",
        ),
        (Scale(scale="a"), [Facts("uint8")], "scale: 'a' is uint8, not floating-point numbers; cast it first"),
        (
            Threshold(threshold="a", at=1.0),
            [Facts("int64")],
            "threshold: 'a' is int64, not floating-point numbers; cast it first",
        ),
        (Concat(concat=["a"]), None, "concat: has 1 entries; name two bindings or more"),
        (
            Concat(concat=["a", "b"]),
            [LOGITS, Facts("int32", (None, 4))],
            "concat: 'a' is float32 and 'b' int32; name bindings of one dtype, or cast one",
        ),
        (
            Concat(concat=["a", "b"]),
            [Facts("float32", (2, 4)), Facts("float32", (3, 4))],
            "concat: 'a' is float32 [2, 4] and 'b' float32 [3, 4]; name bindings that fit",
        ),
        (Split(split="a", num=1), None, "num: is 1; write 2 to 1000"),
        (Split(split="a", num=3), [LOGITS], "num: is 3, but 'a' has 4 entries in that axis; write a divisor of it"),
    ],
)
def test_what_cannot_be_computed(operation, inputs, text):
    found = operation.check() if inputs is None else operation.problems(inputs)
    assert [str(problem) for problem in found] == [text]


BINDINGS = {
    "x": "x:0",
    "logits": "logits:0",
    "again": {"scale": "logits", "factor": 0.5, "offset": -1},
    "both": {"concat": ["logits", "again"]},
    "probabilities": {"softmax": "both"},
    "best": {"argmax": "probabilities", "dtype": "int32"},
    "names": {"lookup": "best", "vocabulary": "labels.txt", "default": "?"},
    "independent": {"sigmoid": "logits"},
    "chosen": {"threshold": "independent", "at": 0.5},
    "flags": {"cast": "chosen", "dtype": "int8"},
    "halves": {"split": "logits", "num": 2},
    "square": {"reshape": "halves.1", "shape": [None, 1, 2]},
    "top": {"top_k": "independent", "k": 2},
}


def build():
    x = v1.placeholder(tf.float32, [None, 3], "x")
    kernel = v1.get_variable("kernel", [3, 4], initializer=v1.random_normal_initializer())
    tf.matmul(x, kernel, name="logits")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    return toys.saved(tmp_path_factory.mktemp("linear"), build)


def outputs():
    refs = [name for name in BINDINGS if name not in ("x", "halves", "top")]
    return {**{ref: ref for ref in refs}, "left": "halves.0", "right": "halves.1", "values": "top.values", "ids": "top.indices"}


@pytest.fixture
def config(prefix, tmp_path):
    """A config that outputs every operation, and the vocabulary that it names."""
    (tmp_path / "labels.txt").write_text("".join(f"class {i}\n" for i in range(6)))
    signatures = {"serving_default": {"inputs": {"x": "x"}, "outputs": outputs()}}
    return toys.config(prefix, tmp_path, bindings=dict(BINDINGS), signatures=signatures)


def test_every_operation_answers_and_is_verified(config, prefix):
    config["post"] = {"verify": {"kind": "verify"}}
    config["samples"] = {"serving_default": {"x": [[1, 2, 3], [-4, 5, 0.5]]}}
    report = toys.export(config)
    assert report.steps[0].status == "passed"
    x = np.array([[1, 2, 3], [-4, 5, 0.5]], np.float32)
    logits = toys.restored(prefix, "logits:0", {"x:0": x})
    both = np.concatenate([logits, logits * np.float32(0.5) - 1], axis=1)
    powers = np.exp(both.astype(np.float64) - both.max(axis=1, keepdims=True))
    independent = 1 / (1 + np.exp(-logits.astype(np.float64)))
    chosen = independent >= 0.5
    for serve in (toys.served, toys.served_eagerly):
        answer = serve(report.directory, "serving_default", {"x": x})
        np.testing.assert_array_equal(answer["both"], both)
        np.testing.assert_allclose(answer["probabilities"], powers / powers.sum(axis=1, keepdims=True), rtol=1e-6)
        np.testing.assert_array_equal(answer["best"], both.argmax(axis=1))
        assert answer["best"].dtype == np.int32
        expected = [f"class {i}".encode() if i < 6 else b"?" for i in both.argmax(axis=1)]
        assert answer["names"].tolist() == expected
        np.testing.assert_allclose(answer["independent"], independent, rtol=1e-6)
        np.testing.assert_array_equal(answer["flags"], chosen.astype(np.int8))
        np.testing.assert_array_equal(answer["left"], logits[:, :2])
        np.testing.assert_array_equal(answer["square"], logits[:, 2:].reshape(2, 1, 2))
        np.testing.assert_array_equal(answer["ids"], np.argsort(-independent, axis=1, kind="stable")[:, :2])
    shapes = {tensor.alias: (tensor.dtype, tensor.shape) for tensor in report.meta_graphs[0].signatures[0].outputs}
    assert shapes["square"] == ("float32", [None, 1, 2])
    assert shapes["names"] == ("string", [None])
    assert shapes["probabilities"] == ("float32", [None, 8])


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("scale", lambda spec, values: [values * spec.factor]),
        ("softmax", lambda spec, values: [np.full_like(values, 1 / values.shape[-1])]),
        ("cast", lambda spec, values: [(values > 2).astype(np.int8)]),
    ],
)
def test_an_operation_that_computes_something_else_is_caught(kind, wrong, config, monkeypatch):
    monkeypatch.setitem(TWINS, OPERATIONS[kind], wrong)
    config["post"] = {"verify": {"kind": "verify"}}
    config["samples"] = {"serving_default": {"x": [[1, 2, 3], [-4, 5, 0.5]]}}
    with pytest.raises(StepFailed, match=r"first at|the [a-z]+ behind them is not"):
        toys.export(config)


def test_every_operation_has_a_twin():
    assert {*TWINS, *FEEDER_TWINS} == set(OPERATIONS.values())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"best": {"argmax": "halves"}},
            "best.argmax: 'halves' is a split, which has two parts; write halves.0 or halves.1",
        ),
        (
            {"both": {"concat": ["logits", "best"]}},
            "both.concat: leads back to itself: both → best → probabilities → both; name a tensor binding",
        ),
        (
            {"best": {"argmax": "probabilites"}},
            "best.argmax: there is no binding 'probabilites'; did you mean probabilities?",
        ),
        (
            {"halves": {"split": "logits", "num": 3}},
            "halves.num: is 3, but 'logits' has 4 entries in that axis; write a divisor of it",
        ),
        ({"best": {"argmx": "logits"}}, "best.argmx: no such key; did you mean argmax?"),
        (
            {"best": {"argmax": "logits", "dtype": "int8"}},
            "best.dtype: is the text 'int8', not int64 or int32; did you mean int32 or int64?",
        ),
    ],
)
def test_a_wrong_config_is_one_line(change, text, config):
    config["bindings"] |= change
    with pytest.raises(ConfigError) as refused:
        toys.export(config)
    assert f"bindings.{text}" in str(refused.value).splitlines()


@dataclass(kw_only=True)
class Negative(Operation):
    """Binding `negative` with the other sign."""

    kind = "negative"

    negative: str

    def facts(self, inputs):
        return inputs

    def add(self, graph, name, inputs):
        return graph.add("Neg", inputs, name=name)

    def recompute(self, inputs):
        return [-inputs[0]]


def raising(self, *_):
    raise RuntimeError("boom")


@pytest.fixture
def negative(prefix, tmp_path, monkeypatch):
    """A config with a binding of a plugin, and the plugins that have it."""
    plugins = load_plugins({"negatives": Offering})
    signatures = {"serving_default": {"inputs": {"x": "x"}, "outputs": {"y": "y"}}}
    bindings = {"x": "x:0", "logits": "logits:0", "y": {"negative": "logits"}}
    samples = {"serving_default": {"x": [[1, 2, 3], [-4, 5, 0.5]]}}
    post = {"verify": {"kind": "verify"}}
    return toys.config(prefix, tmp_path, bindings=bindings, signatures=signatures, samples=samples, post=post), plugins


class Offering:
    """A plugin."""

    @staticmethod
    @hookimpl
    def exportkit_bindings():
        return [Negative]


def test_a_plugin_brings_its_own(negative, prefix):
    config, plugins = negative
    report = exportkit.run(exportkit.plan(config, plugins), plugins)
    x = np.array([[1, 2, 3]], np.float32)
    expected = -toys.restored(prefix, "logits:0", {"x:0": x})
    np.testing.assert_array_equal(toys.served(report.directory, "serving_default", {"x": x})["y"], expected)
    assert report.steps[0].status == "passed"


@pytest.mark.parametrize(
    ("method", "replacement", "text"),
    [
        ("facts", raising, "bindings.y: facts() of Negative raised RuntimeError: boom"),
        ("facts", lambda self, inputs: [], "bindings.y: facts() of Negative returned 0 values, and it offers 1"),
        ("add", raising, "bindings.y: add() of Negative raised RuntimeError: boom"),
        ("problems", raising, "bindings.y: problems() of Negative raised RuntimeError: boom"),
    ],
)
def test_a_plugins_mistake_is_one_line(method, replacement, text, negative, monkeypatch):
    monkeypatch.setattr(Negative, method, replacement)
    config, plugins = negative
    with pytest.raises(ExportKitError) as refused:
        exportkit.run(exportkit.plan(config, plugins), plugins)
    assert str(refused.value).startswith(text)


def test_what_a_plugin_recomputes_otherwise_is_caught(negative, monkeypatch):
    monkeypatch.setattr(Negative, "recompute", lambda self, inputs: [inputs[0]])
    config, plugins = negative
    with pytest.raises(StepFailed, match="the negative behind them is not"):
        exportkit.run(exportkit.plan(config, plugins), plugins)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": "top_k"}, "offers binding 'top_k', and so does exportkit"),
        ({"kind": "tensor"}, "offers binding 'tensor', and so does exportkit"),
        ({"kind": "minus"}, "offers binding 'minus' without a field 'minus'; it holds the bindings that it is computed from"),
        ({"recompute": Operation.recompute}, "offers binding 'negative' without recompute(); the step verify asks for it"),
    ],
)
def test_an_operation_that_cannot_be_offered(change, text, monkeypatch):
    for name, value in change.items():
        monkeypatch.setattr(Negative, name, value)
    with pytest.raises(PluginError) as refused:
        load_plugins({"negatives": Offering})
    assert text in str(refused.value)
