"""Everything that a tf.Example can carry, from the plan to a version that is checked again."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import toys

import exportkit
from exportkit.checkpoint.encoding import objects
from exportkit.errors import ConfigError
from exportkit.metagraph.tensors import Facts
from exportkit.operations.parse_example import Feature, ParseExample
from exportkit.planning import serving_rules
from exportkit.protos import DTYPE_NAMES
from exportkit.registry import load_plugins
from exportkit.spec import Tensor
from exportkit.verifying.audit import verify_version
from exportkit.version import manifest

v1 = tf.compat.v1
STEPS = {kind: {"kind": kind} for kind in ("verify", "warmup", "manifest")}
SHAPES = [[], [2], [2, 3], [2, 1, 2]]
DEFAULTS = {"string": "none\0", "int64": -7, "float32": 0.5}
CASES = {
    f"{dtype}_{len(shape)}{'_default' * optional}": Feature(
        dtype=dtype, shape=shape, default=DEFAULTS[dtype] if optional else None
    )
    for dtype, shape, optional in itertools.product(DEFAULTS, SHAPES, (False, True))
}
ROWS = 3  # the last one lacks every feature that has a default


def value(name, row):
    """What row `row` has of a feature; text with zero bytes at its end, and bytes that are no text."""
    feature = CASES[name]
    size = int(np.prod(feature.shape))
    numbers = np.arange(size).reshape(feature.shape) + 10 * row
    if feature.default is not None and row == ROWS - 1:
        return None
    if feature.dtype == "string":
        return np.array([b"\xff%d\0" % n for n in numbers.flat], object).reshape(feature.shape)
    return (numbers * 0.25 if feature.dtype == "float32" else numbers - 2**60).astype(feature.dtype)


def expected(name, row):
    feature, given = CASES[name], value(name, row)
    if given is not None:
        return given.tolist()
    default = feature.default.encode() if feature.dtype == "string" else feature.default
    return objects([default] * int(np.prod(feature.shape))).reshape(feature.shape).tolist()


def written(path, rows):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            writer.write(row)
    return str(path)


def proved(report):
    """Warmup's, verify's and the manifest's word on an export, and what is wrong with the version when it is checked again."""
    steps = {step.kind: (step.status, step.details.get("summary")) for step in report.steps}
    wrong = [str(finding) for finding in verify_version(Path(report.directory)) if finding.passed is False]
    recorded = manifest.read_manifest(Path(report.directory))["samples"]
    assert all(sample["outputs"] is not None for sample in recorded.values())
    return steps, wrong


def matrix():
    """A placeholder for each case; nothing but a scale behind the floats, so that answers are the features themselves."""
    scale = v1.get_variable("scale", initializer=tf.constant(1.0))
    for name, feature in CASES.items():
        x = v1.placeholder(feature.dtype, [None, *feature.shape], f"x_{name}")
        tf.multiply(x, scale, name=f"y_{name}") if feature.dtype == "float32" else tf.identity(x, f"y_{name}")


def matrix_config(directory, samples):
    features = {
        name: {"dtype": f.dtype, "shape": f.shape, "to": f"x_{name}", **({} if f.default is None else {"default": f.default})}
        for name, f in CASES.items()
    }
    tensors = {f"{side}_{name}": f"{side}_{name}:0" for name in CASES for side in "xy"}
    return toys.config(
        toys.saved(directory, matrix),
        directory,
        bindings={**tensors, "example": {"parse_example": features}},
        signatures={"serving_default": {"inputs": {"examples": "example"}, "outputs": {n: f"y_{n}" for n in CASES}}},
        samples=samples,
        post=STEPS,
    )


@pytest.mark.slow
def test_every_dtype_and_rank_with_and_without_a_default(tmp_path):
    rows = [toys.example(**{n: v for n in CASES if (v := value(n, row)) is not None}) for row in range(ROWS)]
    samples = {"serving_default": {"examples": written(tmp_path / "rows.tfrecord", rows)}}
    report = toys.export(matrix_config(tmp_path, samples))
    assert proved(report) == (
        {
            "warmup": ("passed", "each request answered; requests 1"),
            "verify": ("passed", "max abs diff 0, mismatches 0; signatures 1, outputs 24"),
            "manifest": ("passed", None),
        },
        [],
    )
    answers = toys.served(report.directory, "serving_default", {"examples": rows})
    for name, answer in answers.items():
        assert answer.tolist() == [expected(name, row) for row in range(ROWS)], name


@pytest.mark.slow
def test_every_dtype_and_rank_on_drawn_values(tmp_path):
    steps, wrong = proved(toys.export(matrix_config(tmp_path, {})))
    assert wrong == []
    assert steps["verify"] == (
        "passed",
        "max abs diff 0, mismatches 0; signatures 1, outputs 24; on random values: serving_default",
    )


# ---- behind classify and regress ----


def labelled():
    text, number = v1.placeholder(tf.string, [None], "text"), v1.placeholder(tf.float32, [None], "number")
    v1.get_variable("unused", initializer=tf.constant(1.0))
    tf.stack([text, tf.strings.upper(text)], 1, name="classes")
    scale = v1.get_variable("scale", initializer=tf.constant(2.0))
    tf.stack([number * scale, -number], 1, name="scores")
    tf.multiply(number, scale, name="value")


@pytest.mark.slow
@pytest.mark.parametrize("given", [{}, {"examples": {"words": ["ant", "bé"], "size": [1.5, -2]}}, {"examples": {}}])
def test_classify_and_regress_of_a_scalar_text(given, tmp_path):
    features = {
        "words": {"dtype": "string", "to": "text", "default": "nothing"},
        "size": {"dtype": "float32", "to": "number", "default": 4},
    }
    data = toys.config(
        toys.saved(tmp_path, labelled),
        tmp_path,
        bindings={n: f"{n}:0" for n in ("text", "number", "classes", "scores", "value")} | {"e": {"parse_example": features}},
        signatures={
            "serving_default": {
                "method": "classify",
                "inputs": {"inputs": "e"},
                "outputs": {"classes": "classes", "scores": "scores"},
            },
            "value": {"method": "regress", "inputs": {"inputs": "e"}, "outputs": {"outputs": "value"}},
        },
        samples={key: {"inputs": given} for key in ("serving_default", "value")} if given else {},
        post=STEPS,
    )
    report = toys.export(data)
    steps, wrong = proved(report)
    assert (steps["warmup"], wrong) == (("passed", "each request answered; requests 2"), [])
    assert steps["verify"][1].startswith("max abs diff 0, mismatches 0; signatures 2, outputs 3")
    rows = [toys.example(words=["ant"], size=[1.5]), toys.example()]
    answer = toys.served(report.directory, "serving_default", {"inputs": rows})
    assert answer["classes"].tolist() == [[b"ant", b"ANT"], [b"nothing", b"NOTHING"]]
    assert answer["scores"].tolist() == [[3.0, -1.5], [8.0, -4.0]]
    assert toys.served(report.directory, "value", {"inputs": rows})["outputs"].tolist() == [3.0, 8.0]


# ---- casts ----


def castable(source, target):
    """Whether TensorFlow casts on a CPU."""
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        try:
            session.run(tf.identity(tf.cast(v1.placeholder(source, [None], "x"), target)).op, {"x:0": np.array([0, 1], source)})
        except (tf.errors.OpError, ValueError, TypeError):
            return False
    return True


def refusals(source, target):
    example = ParseExample(parse_example={"x": Feature(dtype=source)})
    return [str(p) for p in serving_rules.computed({"x": Tensor(tensor="x:0"), "e": example}, {"x": Facts(target, (None,))})]


@pytest.mark.parametrize("source", ["int64", "float32"])
def test_the_plan_takes_exactly_the_casts_that_tensorflow_has(source):
    taken = {target for target in DTYPE_NAMES if not refusals(source, target)}
    assert taken == {target for target in DTYPE_NAMES if castable(source, target)}
    assert refusals("string", "string") == []


def casts(targets):
    def build():
        scale = v1.get_variable("scale", initializer=tf.constant(1.0))
        tf.identity(scale, "scaled")
        for target in targets:
            tf.identity(v1.placeholder(target, [None], f"x_{target}"), f"y_{target}")

    return build


@pytest.mark.slow
@pytest.mark.parametrize("source", ["int64", "float32"])
def test_every_cast_is_proved(source, tmp_path):
    targets = sorted(target for target in DTYPE_NAMES if not refusals(source, target))
    features = {target: {"dtype": source, "to": f"x_{target}"} for target in targets}
    tensors = {f"{side}_{target}": f"{side}_{target}:0" for target in targets for side in "xy"}
    report = toys.export(
        toys.config(
            toys.saved(tmp_path, casts(targets)),
            tmp_path,
            bindings={**tensors, "scaled": "scaled:0", "e": {"parse_example": features}},
            signatures={
                "serving_default": {
                    "inputs": {"e": "e"},
                    "outputs": {"scale": "scaled", **{target: f"y_{target}" for target in targets}},
                }
            },
            samples={"serving_default": {"e": {"examples": {target: [0, 1, 5] for target in targets}}}},
            post=STEPS,
        )
    )
    steps, wrong = proved(report)
    assert wrong == []
    assert steps["verify"][1] == f"max abs diff 0, mismatches 0; signatures 1, outputs {len(targets) + 1}"


@pytest.mark.parametrize(
    ("source", "target", "text"),
    [
        ("float32", "string", "'x' is string [?], which a float32 cannot feed; write dtype: string"),
        ("string", "int32", "'x' is int32 [?], which a string cannot feed; write dtype: int64 or float32"),
        ("float32", "int4", "'x' is int4 [?], which a float32 cannot feed; write dtype: int64"),
        ("int64", "float8_e5m2", "'x' is float8_e5m2 [?], which a int64 cannot feed; write dtype: float32"),
        (
            "int64",
            "resource",
            "'x' is resource [?], which a int64 cannot feed; no feature can: name a binding of numbers or strings",
        ),
    ],
)
def test_a_feature_that_cannot_be_cast_is_refused_by_the_plan(source, target, text):
    assert refusals(source, target) == [f"bindings.e.parse_example.x.dtype: {text}"]


def test_an_export_of_what_cannot_be_cast_ends_in_the_plan(tmp_path):
    prefix = toys.saved(tmp_path, casts(["string"]))
    bindings = {"x": "x_string:0", "y": "y_string:0", "scaled": "scaled:0", "e": {"parse_example": {"x": {"dtype": "int64"}}}}
    signatures = {"serving_default": {"inputs": {"e": "e"}, "outputs": {"y": "y", "scaled": "scaled"}}}
    with pytest.raises(ConfigError) as refused:
        exportkit.plan(toys.config(prefix, tmp_path, bindings=bindings, signatures=signatures), load_plugins())
    assert str(refused.value) == (
        "bindings.e.parse_example.x.dtype: 'x' is string [?], which a int64 cannot feed; write dtype: string"
    )
