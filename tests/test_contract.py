"""What the contract asks of sources, steps and policies, and what users read of it. Every text is one that a user reads."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import exportkit
from exportkit.cli.sweep import preflight
from exportkit.errors import BindingError, ConfigError, PluginError, Problem, StepFailed
from exportkit.plugin import (
    Facts,
    ModelSource,
    Phase,
    PostStep,
    Preview,
    ReferenceAnswer,
    SourceModel,
    capture,
    capture_function,
    hookimpl,
    under_reporter,
)
from exportkit.registry import load_plugins
from exportkit.testing import toys
from exportkit.version.identity import identity

BY = "(plugin mine of this process)"


@dataclass(kw_only=True)
class Affine(ModelSource):
    """y = factor * x + offset, from a file with the offset, with the original's answers."""

    kind: str = "affine"
    factor: float = 2.0
    file: Path | None = None
    answers: float | None = None
    wrong: str = ""

    def preview(self):
        offers = {"x": Facts("float32", (None,)), "y": Facts("float32", (None,))}
        return Preview(tensors=offers, files=None if self.file is None else [self.file])

    def check(self, plan, prepared):
        if self.wrong == "check":
            yield Problem("wrong", f"is wrong, with {len(prepared.parts)} graphs known")

    def build(self, preview, scratch, wanted):
        import tensorflow as tf

        if self.wrong == "build":
            raise ConfigError(Problem("wrong", "is wrong"), Problem("elsewhere", "is wrong"), Problem("", "is wrong"))
        v1, offset = tf.compat.v1, 0.0 if self.file is None else float(self.file.read_text())
        with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
            x = v1.placeholder(tf.float32, [None], "x")
            y = tf.add(x * v1.get_variable("factor", initializer=self.factor), offset, name="y")
            session.run(v1.global_variables_initializer())
            names = {} if self.wrong == "offers" else {"x": x.name, "y": y.name}
            model = capture(graph, session, scratch, tensors=names)
        inputs = {"x": [1.0, 2.0]}
        answers = [] if self.answers is None else [ReferenceAnswer(inputs, {"y": [self.answers, 2 * self.answers]})]
        return SourceModel(model.meta_graph, model.checkpoint, model.tensors, answers=answers)


@dataclass(kw_only=True)
class Picky(PostStep):
    """Has something against its own fields."""

    kind: str = "picky"
    phase = Phase.VERIFY
    level: int = 0
    names: list[str] = field(default_factory=list)
    how: str = "check"

    def check(self, plan, prepared):
        return "junk" if self.how == "junk" else self._problems(plan)

    def _problems(self, plan):
        if self.how == "check" and self.level:
            yield Problem("level", f"is {self.level}", "write 0")
            yield Problem("", "is picky")
        if self.how == "looks":
            yield from (Problem("how", name) for name, signature in plan.signatures.items() if not signature.outputs)

    def run(self, export):
        if self.how == "run":
            raise StepFailed(
                Problem("level", "is too low"), Problem("names.x", "is not mine"), Problem("signatures.a", "differs")
            )


class Mine:
    """The plugin of these tests; `policy` is asked as `exportkit_check_plan`."""

    def __init__(self, policy=lambda plan, prepared: []):
        self.policy = policy

    @hookimpl
    def exportkit_model_sources(self):
        return [Affine]

    @hookimpl
    def exportkit_post_steps(self):
        return [Picky]

    @hookimpl
    def exportkit_check_plan(self, plan, prepared):
        return self.policy(plan, prepared)


@pytest.fixture
def export(tmp_path):
    """Plan with this file's plugin, and run; answers with the report, or with the lines of the refusal."""

    def run(error=None, *, mine=None, planned=False, post=None, **changes):
        plugins = load_plugins({"mine": mine or Mine()})
        data = {
            "name": "toy",
            "source": {"kind": "affine", **changes.pop("source", {})},
            "bindings": {"x": "x", "y": "y"},
            "signatures": {"serving_default": {"inputs": {"x": "x"}, "outputs": {"y": "y"}}},
            "post": {name: {"kind": name.partition("_")[0], **keys} for name, keys in (post or {}).items()},
            "export_dir": str(tmp_path / "exports"),
            **changes,
        }
        if error is None:
            plan = exportkit.plan(data, plugins)
            return plan if planned else exportkit.run(plan, plugins)
        with pytest.raises(error) as caught:
            plan = exportkit.plan(data, plugins)
            planned or exportkit.run(plan, plugins)
        assert not list(tmp_path.glob("exports/[0-9]*"))
        return str(caught.value).splitlines()

    return run


# check


def test_what_a_step_and_a_source_check_is_reported_with_all_others(export):
    changes = {"source": {"wrong": "check"}, "post": {"picky_twice": {"level": 3}}, "version": -1}
    assert export(ConfigError, planned=True, **changes) == [
        "version: is the integer -1; write auto, timestamp or an integer from 0, without leading zeros",
        "source.wrong: is wrong, with 0 graphs known",
        "post.picky_twice.level: is 3; write 0",
        f"post.picky_twice {BY}: is picky",
    ]


def test_a_check_that_returns_junk_is_named(export):
    lines = export(PluginError, planned=True, post={"picky": {"how": "junk"}})
    assert lines == [f"post.picky {BY}: check returned 'junk', not Problems"]


def test_a_check_that_needs_what_is_broken_is_asked_once_that_is_fixed(export):
    broken = {"serving_default": {"inputs": {"x": "x"}}}
    (line,) = export(ConfigError, planned=True, post={"picky": {"how": "looks"}}, signatures=broken)
    assert line.startswith("signatures.serving_default")
    assert export(planned=True, post={"picky": {"how": "looks"}})


def test_a_problem_where_there_is_one_already_is_its_consequence(export):
    policy = Mine(lambda plan, prepared: [Problem("post", "needs a picky"), Problem("vars.owner", "is not set")])
    assert export(ConfigError, planned=True, post={"picky": {"level": "x"}}, mine=policy) == [
        "post.picky.level: is the text 'x', not an integer; write an integer",
        f"vars.owner: is not set {BY}",
    ]


# A policy is asked twice


def test_a_policy_is_asked_again_when_the_graphs_are_known(export):
    asked = []

    def policy(plan, prepared):
        asked.append(sorted(prepared.parts))
        if any("factor" in part.pruned.variables for part in prepared.parts.values()):
            yield Problem("vars.factor", "no factors here")

    assert export(ConfigError, mine=Mine(policy)) == [f"vars.factor: no factors here {BY}"]
    assert asked == [[], ["serving"]]


# One rule for `where`


def test_what_a_source_reports_while_it_builds_is_below_its_place(export):
    own = {"meta_graphs": {"serving": {"tags": ["serve"]}, "gpu": {"tags": ["gpu"], "source": {"wrong": "build"}}}}
    assert export(ConfigError, **own) == [
        "meta_graphs.gpu.source.wrong: is wrong",
        "elsewhere: is wrong",
        f"meta_graphs.gpu.source {BY}: is wrong",
    ]


def test_what_a_step_reports_while_it_runs_is_below_its_place(export):
    assert export(StepFailed, post={"picky_one": {"how": "run"}}) == [
        "post.picky_one.level: is too low",
        "names.x: is not mine (post.picky_one)",
        "signatures.a: differs (post.picky_one)",
    ]


@pytest.mark.parametrize(
    ("where", "placed"),
    [
        ("level", "post.p.level"),
        ("names[0]", "post.p.names[0]"),
        ("names.x", None),
        ("levels", None),
        ("", None),
        ("a/b", None),
    ],
)
def test_a_place_is_a_reporters_own_where_it_begins_with_a_field(where, placed):
    found = under_reporter(Problem(where, "is wrong"), Picky(), "post.p")
    assert (found and found.where) == placed


# Preview.tensors


def test_a_name_that_the_source_will_not_offer_is_refused_unbuilt(export):
    bindings = {"x": "x", "y": "yy", "z": "scores", "w": "w:0"}
    assert export(ConfigError, planned=True, bindings=bindings) == [
        "bindings.y.tensor: the source offers no 'yy'; did you mean y? (the source offers x, y)",
        "bindings.z.tensor: the source offers no 'scores'; a tensor of its graph is written scores:0 (the source offers x, y)",
    ]


def test_dtypes_and_shapes_are_checked_unbuilt(export):
    changes = {
        "bindings": {"x": {"tensor": "x", "dtype": "int32"}, "y": {"tensor": "y", "shape": [None, 2]}},
        "samples": {"serving_default": {"x": [["a"]]}},
    }
    assert export(ConfigError, planned=True, **changes)[:2] == [
        "bindings.x.dtype: the tensor is float32, not int32; write float32",
        "bindings.y.shape: the tensor is float32 [?], which [null, 2] does not fit; write [null]",
    ]


def test_a_source_offers_what_its_preview_said(export):
    assert export(PluginError, source={"wrong": "offers"}) == [
        f"source {BY}: build returned tensors without 'x', which its preview offers"
    ]


# Preview.files


def test_a_source_without_a_checkpoint_is_unchanged_while_its_files_are(export, tmp_path, monkeypatch):
    file = tmp_path / "offset.txt"
    file.write_text("1.5")
    first = export(planned=True, source={"file": str(file)})
    file.write_text("2.5")
    second = export(planned=True, source={"file": str(file)})
    assert identity(first)["sha256"] == identity(second)["sha256"]  # both digest the file as it is now
    known = identity(first)
    file.write_text("1.5")
    assert identity(first)["sha256"] != known["sha256"]
    assert set(known["files"]) == {"source.file", "source, file 0 (offset.txt)"}


@pytest.mark.parametrize("named", [True, False])
def test_the_outlook_of_a_source_without_a_checkpoint(named, export, tmp_path, monkeypatch):
    file = tmp_path / "offset.txt"
    file.write_text("1.5")
    planned = export(planned=True, source={"file": str(file)} if named else {})
    monkeypatch.setattr(preflight, "plan", lambda *_: planned)
    assert preflight.plan_job(0, None).identity == (identity(planned)["sha256"] if named else None)


def test_a_file_that_is_not_there(export, tmp_path):
    assert export(ConfigError, planned=True, source={"file": str(tmp_path / "none")}) == [
        f"source {BY}: is made from {tmp_path}/none, and there is no such file; write the path of a file"
    ]


# Reference answers


@pytest.mark.slow
def test_a_right_capture_gives_the_originals_answers(export):
    (step,) = export(source={"answers": 2.0}, post={"verify": {}}).steps
    assert step.details["meta_graphs"]["serving"]["original model"] == {
        "answers": 1,
        "outputs": {"serving_default.y": {"compared": 2, "max_abs_diff": 0.0, "mismatches": 0}},
    }
    assert step.details["summary"].startswith(
        "max abs diff 0, mismatches 0; signatures 1, outputs 1; original model: answers 1, max abs diff 0; on random values"
    )


@pytest.mark.slow
def test_a_wrong_capture_is_refused_though_it_is_equal_to_itself(export):
    assert export(StepFailed, source={"answers": 3.0}, post={"verify": {}}) == [
        "signatures.serving_default.outputs.y: is not what the original model answers (atol 0), in its answer 0: "
        "6.0 there, 4.0 here (post.verify); the export equals the graph that the source captured, so look at how it is captured"
    ]


# capture_function


def _tf_module():
    import tensorflow as tf

    class Scale(tf.Module):
        def __init__(self):
            self.weights = tf.Variable(np.arange(8, dtype=np.float32).reshape(4, 2), name="weights")
            self.twins = [tf.Variable(1.5), tf.Variable(-0.5)]
            self.shift = tf.constant([1.0, 2.0])

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def score(self, x):
            y = tf.matmul(x, self.weights) + self.shift
            y = tf.cond(tf.reduce_sum(y) > 0, lambda: y * self.twins[0], lambda: y * self.twins[1])
            return {"y": y, "probs": tf.nn.softmax(y)}

    module = Scale()
    return module, module.score.get_concrete_function()


def _keras_model():
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(3)
    dense, norm = keras.layers.Dense(8, activation="relu"), keras.layers.BatchNormalization()
    model = keras.Sequential([keras.layers.Input((4,)), dense, norm, keras.layers.Dense(3, activation="softmax")])
    call = tf.function(lambda x: {"y": model(x, training=False)}, input_signature=[tf.TensorSpec([None, 4], name="x")])
    return model, call.get_concrete_function()


@dataclass(kw_only=True)
class Captured(ModelSource):
    kind: str = "captured"
    maker: str

    def build(self, preview, scratch, wanted):
        _, function = globals()[self.maker]()
        rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
        return capture_function(function, scratch, examples=[{"x": rows}, {"x": rows[:1]}])


class Captures:
    @hookimpl
    def exportkit_model_sources(self):
        return [Captured]


@pytest.mark.slow
@pytest.mark.parametrize(("maker", "variables", "elements"), [("_tf_module", 3, 12), ("_keras_model", 8, 18)])
def test_an_object_of_tensorflow_2_is_exported_bit_for_bit(maker, variables, elements, tmp_path):
    plugins = load_plugins({"captures": Captures()})
    config = {
        "name": "toy",
        "source": {"kind": "captured", "maker": maker},
        "bindings": {"x": "x", "y": "y"},
        "signatures": {"serving_default": {"inputs": {"x": "x"}, "outputs": {"y": "y"}}},
        "post": {"verify": {"kind": "verify"}},
        "export_dir": str(tmp_path / "exports"),
    }
    report = exportkit.run(exportkit.plan(config, plugins), plugins)
    assert report.weights.proof == f"{variables}/{variables} variables equal to the checkpoint, 0 initialised"
    found = report.steps[0].details["meta_graphs"]["serving"]["original model"]
    line = {"compared": elements, "max_abs_diff": 0.0, "mismatches": 0}
    assert found == {"answers": 2, "outputs": {"serving_default.y": line}}
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    _, function = globals()[maker]()
    expected = function(x)["y"].numpy()
    np.testing.assert_array_equal(toys.served_eagerly(report.directory, "serving_default", {"x": x})["y"], expected)


def test_a_lookup_table_is_refused_by_name(tmp_path):
    import tensorflow as tf

    class Words(tf.Module):
        def __init__(self):
            self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), 0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="x")])
        def look(self, x):
            return self.table.lookup(x)

    words = Words()
    function = words.look.get_concrete_function()
    with pytest.raises(BindingError) as caught:
        capture_function(function, tmp_path)
    assert str(caught.value) == (
        f"function '{function.name}': captures a resource that is no variable, read by "
        "None_Lookup/LookupTableFindV2 (LookupTableFindV2); a lookup table cannot be captured: look words up in the config "
        "(a lookup binding), or build the graph with graph_builder"
    )


def test_an_example_gives_all_inputs(tmp_path):
    module, function = _tf_module()
    with pytest.raises(BindingError) as caught:
        capture_function(function, tmp_path, examples=[{"x": np.ones((1, 4))}, {"z": 1}])
    assert str(caught.value) == "examples[1]: gives z, and the function takes x; give a value for each input"
    assert module.weights.shape == (4, 2)
