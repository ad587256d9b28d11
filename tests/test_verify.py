"""The step verify: whole exports are proved, and exports that were broken by hand are stopped, each with what is wrong."""

import dataclasses
import os
import re
import shutil
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import toys
import yaml

import exportkit
from exportkit.checkpoint import Bundle, BundleWriter
from exportkit.errors import ConfigError, EnvironmentFailed, StepFailed
from exportkit.metagraph import Graph, read, read_saved_model
from exportkit.plugin import Phase, PostStep, hookimpl
from exportkit.processes import workers
from exportkit.protos import MetaGraphDef
from exportkit.registry import load_plugins
from exportkit.steps.verify import Verify
from exportkit.verifying.parity import divergence, relocation
from exportkit.verifying.parity.divergence import Tolerance, compare
from exportkit.verifying.parity.sides import Sides
from exportkit.verifying.parity.trials import TrainingGraph

pytestmark = [pytest.mark.slow, pytest.mark.quick(16)]
v1 = tf.compat.v1
KEPT = []


@dataclass(kw_only=True)
class Keep(PostStep):
    """Keeps what it is handed, and a copy of the version."""

    kind: str = "keep"
    phase = Phase.AUGMENT
    into: str = ""

    def run(self, export):
        shutil.copytree(export.directory, self.into)
        KEPT.append(dataclasses.replace(export, directory=Path(self.into)))


class Plugin:
    @hookimpl
    def exportkit_post_steps(self):
        return [Keep]


PLUGINS = load_plugins(extra={"tests": Plugin()})


# ---- a model with all the traits, exported once ----


def model():
    v1.set_random_seed(None)  # what would initialise a variable again gives it other values
    x = v1.placeholder(tf.float32, [None, 4], "x")
    training = v1.placeholder(tf.bool, [], "training")
    normal = v1.random_normal_initializer(stddev=0.25)
    first, second, last = (v1.get_variable(n, s, initializer=normal) for n, s in (("a", [4, 4]), ("b", [4, 4]), ("c", [4, 3])))
    hidden = tf.matmul(tf.reshape(x, [-1, 4], name="flat"), first, name="hidden")
    dropped = tf.cond(training, lambda: tf.nn.dropout(hidden, rate=0.5), lambda: tf.identity(hidden))
    hidden = tf.matmul(dropped, second, name="deeper")
    probs = tf.nn.softmax(tf.matmul(hidden, last, name="logits"), name="probs")
    v1.train.AdamOptimizer().minimize(tf.reduce_sum(probs), name="train")


def config(prefix, base, **changes):
    (base / "labels.txt").write_text("red\ngreen\nblue\n")
    bindings = {
        "x": "x:0",
        "probs": "probs:0",
        "training": {"constant": False, "replaces": "training:0"},
        "example": {"parse_example": {"x": {"dtype": "float32", "shape": [4]}}},
        "top": {"top_k": "probs", "k": 2},
        "classes": {"lookup": "top.indices", "vocabulary": str(base / "labels.txt")},
    }
    signatures = {
        "serving_default": {
            "method": "classify",
            "inputs": {"inputs": "example"},
            "outputs": {"classes": "classes", "scores": "top.values"},
        },
        "predict": {"inputs": {"x": "x"}, "outputs": {"probs": "probs"}},
    }
    rows = [[1.0, 2, 3, 4], [0, 0, 0, 1], [0.5, 0.25, 0.125, 0]]
    samples = {"serving_default": {"inputs": {"examples": {"x": rows}}}, "predict": {"x": rows}}
    return toys.config(prefix, base, bindings=bindings, signatures=signatures, samples=samples, **changes)


def kept(data, into):
    """The Export of a version that is kept in the directory `into`."""
    exportkit.run(exportkit.plan({**data, "post": {"keep": {"kind": "keep", "into": str(into)}}}, PLUGINS), PLUGINS)
    return KEPT[-1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    base = tmp_path_factory.mktemp("whole")
    return kept(config(toys.saved(base, model), base), base / "kept")


@pytest.fixture(scope="module")
def trained(whole, tmp_path_factory):
    """The training graph of `whole`, started once for all tests that break its export."""
    export = dataclasses.replace(whole, scratch=tmp_path_factory.mktemp("scratch"))
    with TrainingGraph(export, "serving", 60).running() as running:
        yield running


@pytest.fixture
def broken(whole, trained, tmp_path, monkeypatch):
    """Verify a copy of `whole` that a function has broken; the text of what it is refused for."""

    @contextmanager
    def running(self, *, seeded=False):
        assert not seeded
        yield trained

    monkeypatch.setattr(TrainingGraph, "running", running)
    export = copied(whole, tmp_path)

    def verified(breaker, **options):
        breaker(export.directory)
        with pytest.raises(StepFailed) as caught:
            Verify(**options).run(export)
        return str(caught.value)

    return verified


def copied(export, base):
    shutil.copytree(export.directory, base / "version")
    (base / "scratch").mkdir()
    return dataclasses.replace(export, directory=base / "version", scratch=base / "scratch")


# ---- what breaks an export ----


def edited(change):
    """A breaker that changes the graph on disk."""

    def breaker(directory):
        model = read_saved_model(directory)
        change(model.meta_graphs[0])
        (directory / "saved_model.pb").write_bytes(model.SerializeToString())

    return breaker


def nodes(meta):
    return {node.name: node for node in meta.graph_def.node}


def revalued(change):
    """A breaker that changes the variables on disk: name → value."""

    def breaker(directory):
        prefix = directory / "variables" / "variables"
        bundle = Bundle(prefix)
        values = change({name: bundle.read(name) for name in bundle.entries})
        shutil.rmtree(prefix.parent)
        prefix.parent.mkdir()
        with BundleWriter(str(prefix)) as writer:
            for name, value in values.items():
                writer.add(name, value)

    return breaker


def swap(values):
    return {**values, "a": values["b"], "b": values["a"]}


def make_stale(values):
    return {**values, "c": values["c"] * 1.5}


def init_op(meta):
    return nodes(meta)[meta.collection_def["saved_model_main_op"].node_list.value[0]]


def reinitialise(meta):
    init_op(meta).input.append("^b/Assign")


def leave_tables_empty(meta):
    del init_op(meta).input[:]


def switch_dropout_on(meta):
    (baked,) = [n for n in meta.graph_def.node if n.op == "Const" and n.name.startswith("inputs/baked")]
    baked.attr["value"].tensor.bool_val[:] = [True]


def reverse_order(meta):
    top = nodes(meta)["outputs/top"]
    meta.graph_def.node.add(name="negative", op="Neg", input=[top.input[0]]).attr["T"].type = top.attr["T"].type
    top.input[0] = "negative"


def bake_batch_of_one(meta):
    shape = nodes(meta)["flat/shape"]
    shape.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([1, 4]))


def forget_asset(meta):
    del meta.asset_file_def[:]
    del meta.collection_def["saved_model_assets"]


def name_another_tensor(meta):
    meta.signature_def["predict"].outputs["probs"].name = "logits:0"


def parse_wrong(meta):
    cast = nodes(meta)["inputs/x"]
    meta.graph_def.node.add(name="negative", op="Neg", input=[cast.input[0]]).attr["T"].type = cast.attr["dtype"].type
    cast.input[0] = "negative"


def remove(pattern):
    return lambda directory: [path.unlink() for path in directory.glob(pattern)]


def truncate(directory):
    (data,) = (directory / "variables").glob("variables.data*")
    data.write_bytes(data.read_bytes()[:-1])


def flip(directory):
    (data,) = (directory / "variables").glob("variables.data*")
    content = bytearray(data.read_bytes())
    content[3] ^= 1
    data.write_bytes(content)


def mislabel(directory):
    (directory / "assets" / "labels.txt").write_text("green\nred\nblue\n")


DIFFERS = r"signatures\.{}: differs by [\d.e-]+ from the training graph \(atol 0\): {}"
LOADS = r"meta_graphs\.serving: does not load: {}"


@pytest.mark.parametrize(
    ("breaker", "text"),
    [
        (revalued(swap), DIFFERS.format("predict.outputs.probs", r"first at variable a: \S+ there, \S+ here")),
        (revalued(make_stale), DIFFERS.format("predict.outputs.probs", r"first at variable c: \S+ there, \S+ here")),
        (edited(reinitialise), DIFFERS.format("predict.outputs.probs", r"first at variable b: \S+ there, \S+ here")),
        (
            edited(switch_dropout_on),
            r"signatures\.predict\.outputs\.probs: changes from run to run, and the training graph's does not: "
            r"dropout/random_uniform/RandomUniform \(RandomUniform\) in cond; is dropout left on\? .*",
        ),
        (
            edited(leave_tables_empty),
            r"signatures\.serving_default: its sample is refused, and the training graph takes it: FAILED_PRECONDITION: Tabl",
        ),
        (
            edited(reverse_order),
            DIFFERS.format(
                "serving_default.outputs.scores", "every node of the training graph is equal, the top_k behind them is not"
            ),
        ),
        (
            mislabel,
            r"signatures\.serving_default\.outputs\.classes: differs in \d values from the training graph \(atol 0\): "
            "every node of the training graph is equal, the lookup behind them is not",
        ),
        (
            edited(bake_batch_of_one),
            r"signatures\.predict: its sample is refused, and the training graph takes it: INVALID_ARGUMENT: .*",
        ),
        (
            edited(name_another_tensor),
            DIFFERS.format("predict.outputs.probs", r"the signature names logits:0, not probs:0"),
        ),
        (
            edited(parse_wrong),
            DIFFERS.format("serving_default.outputs.scores", r"first at 'x' as parsed from the tf\.Example: 4\.0 there, -4\.0"),
        ),
        (
            edited(forget_asset),
            r"meta_graphs\.serving: reads \S+/labels\.txt, which is not in the version; "
            "put it in the collection asset_filepaths of the graph",
        ),
        (remove("assets/*"), LOADS.format(r"NOT_FOUND: .*assets/labels\.txt; No such file or directory")),
        (remove("variables/variables.data*"), LOADS.format("NOT_FOUND: ")),
        (truncate, LOADS.format("OUT_OF_RANGE: ")),
        (flip, LOADS.format("DATA_LOSS: ")),
        (
            remove("variables/variables.index"),
            r"signatures\.predict: its sample is refused, and the training graph takes it: FAILED_PRECONDITION: ",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_export_is_stopped(broken, breaker, text):
    assert_matches(broken(breaker), text)


def assert_matches(text, pattern):
    assert any(re.match(pattern, line) for line in text.splitlines()), text


# ---- whole exports ----


def test_a_whole_export_is_proved(whole, tmp_path):
    export = copied(whole, tmp_path)
    details = Verify().run(export)
    assert (details["atol"], details["rtol"]) == (0.0, 0.0)
    proved = details["meta_graphs"]["serving"]
    nodes = len(whole.source.meta_graph.graph_def.node)
    assert proved["training graph"] == f"whole graph of {nodes:,} nodes"
    assert list(proved["seconds"]) == ["export", "export, optimized", "samples", "training graph"]
    assert proved["signatures"]["predict"]["rows"] == [1, 3]
    assert proved["signatures"]["predict"]["samples"] == "as given"
    equal = {"max_abs_diff": 0.0, "mismatches": 0, "random": False}
    for signature in proved["signatures"].values():
        for output in signature["outputs"].values():
            assert {**output, **equal} == output
            assert output["optimized_max_abs_diff"] < 1e-6


def test_a_tolerance_allows_what_is_small(whole, broken, tmp_path):
    text = broken(revalued(lambda values: {**values, "c": values["c"] * np.float32(1 + 1e-5)}), atol=1e-12)
    assert_matches(text, r".*\(atol 1e-12\): .*; post\.verify\.rtol allows what is small")
    export = dataclasses.replace(whole, directory=tmp_path / "version", scratch=tmp_path / "scratch")
    details = Verify(rtol=1e-3).run(export)["meta_graphs"]["serving"]
    assert 0 < details["signatures"]["predict"]["outputs"]["probs"]["max_abs_diff"] < 1e-4


def test_a_sample_that_does_not_fit_is_told(whole, tmp_path):
    export = copied(whole, tmp_path)
    wrong = dataclasses.replace(export.plan.samples["predict"]["x"], value=[[1.0]])
    plan = dataclasses.replace(export.plan, samples={"predict": {"x": wrong}})
    with pytest.raises(ConfigError, match=r"^samples\.predict\.x: is float32 \[1, 1\], not float32 \[\?, 4\]$"):
        Verify().run(dataclasses.replace(export, plan=plan))


def exported(base, build, **changes):
    """What verify says of a model that is exported as a whole."""
    data = toys.config(toys.saved(base, build), base, **changes)
    report = exportkit.run(exportkit.plan({**data, "post": {"verify": {"kind": "verify"}}}, PLUGINS), PLUGINS)
    return report, report.steps[0].details["meta_graphs"]


def hard_wired_dropout(seed=None):
    v1.set_random_seed(seed)
    x = v1.placeholder(tf.float32, [None, 32], "x")  # so many that no two draws are equal by chance
    weights = v1.get_variable("w", [32, 32], initializer=v1.random_normal_initializer())
    cell = lambda i, state: (i + 1, tf.nn.dropout(tf.matmul(state, weights), rate=0.5))  # noqa: E731
    v1.disable_control_flow_v2()
    tf.identity(tf.while_loop(lambda i, _: i < 3, cell, (0, x))[1], name="probs")
    v1.enable_control_flow_v2()


@pytest.mark.parametrize("seed", [None, 42])
def test_dropout_that_is_hard_wired_is_said_and_proved_with_seeds(tmp_path, seed):
    report, details = exported(tmp_path, partial(hard_wired_dropout, seed))
    output = details["serving"]["signatures"]["serving_default"]["outputs"]["probs"]
    assert output == {"max_abs_diff": 0.0, "mismatches": 0, "optimized_max_abs_diff": 0.0, "random": True, "compared": 96}
    assert report.warnings[-1] == (
        "signatures.serving_default.outputs.probs: is random, as in the training graph (while/dropout/random_uniform/"
        "RandomUniform (RandomUniform)); with fixed seeds it equals the training graph's"
    )


def counter():
    x = v1.placeholder(tf.float32, [None, 4], "x")
    count = v1.get_variable("count", [], initializer=v1.zeros_initializer())
    tf.add(x, v1.assign_add(count, 1.0), name="probs")


def test_an_output_that_changes_in_step_with_the_training_graph(tmp_path):
    report, _ = exported(tmp_path, counter)
    assert report.warnings[-1] == (
        "signatures.serving_default.outputs.probs: changes from run to run, as in the training graph, which it equals"
    )


def test_a_random_output_with_other_weights_is_stopped(tmp_path):
    export = kept(toys.config(toys.saved(tmp_path, partial(hard_wired_dropout, 3)), tmp_path), tmp_path / "kept")
    revalued(lambda values: {"w": values["w"] * 2})(export.directory)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(StepFailed) as caught:
        Verify().run(dataclasses.replace(export, scratch=scratch))
    assert_matches(str(caught.value), DIFFERS.format("serving_default.outputs.probs", "first at variable w: "))


def batch_of_one():
    x = v1.placeholder(tf.float32, [None, 4], "x")
    weights = v1.get_variable("w", [4, 4], initializer=v1.random_normal_initializer())
    tf.matmul(tf.reshape(x, [1, 4]), weights, name="probs")


def test_a_batch_size_baked_into_the_training_graph_is_found(tmp_path):
    _, details = exported(tmp_path, batch_of_one, samples={"serving_default": {"x": [[1, 2, 3, 4]]}})
    signature = details["serving"]["signatures"]["serving_default"]
    assert (signature["rows"], signature["inputs"]) == ([], {"x": "batch fixed at 1"})


def test_weights_are_restored_once_for_each_way_to_run_them(tmp_path, monkeypatch):
    started, start = [], workers._started
    monkeypatch.setattr(workers, "_started", lambda script, *files: started.append(script.__name__) or start(script, *files))
    data = toys.config(toys.saved(tmp_path, toys.dense), tmp_path)
    post = {"verify": {"kind": "verify", "batch_sizes": [1, 2, 3, 5]}}
    exportkit.run(exportkit.plan({**data, "post": post}, PLUGINS), PLUGINS)
    export, reference = ["exportkit.core.worker"] * 2
    assert started == [export, reference]


def test_a_sample_that_both_sides_refuse_names_its_key(tmp_path):
    with pytest.raises(StepFailed) as caught:
        exported(tmp_path, batch_of_one, samples={"serving_default": {"x": [[1, 2, 3, 4], [5, 6, 7, 8]]}})
    assert_matches(
        str(caught.value),
        r"signatures\.serving_default: its sample is refused, by the training graph as well: INVALID_ARGUMENT: .*; "
        r"correct samples\.serving_default",
    )


def converted():
    """Constants around a normalisation in a branch: what TensorFlow's optimiser folds and fuses once the switch is baked."""
    x, training = v1.placeholder(tf.float32, [None, 8, 8, 3], "x"), v1.placeholder(tf.bool, [], "training")
    kernel = v1.get_variable("kernel", [3, 3, 3, 8], initializer=v1.random_normal_initializer())
    scale, offset, mean, spread = (
        v1.get_variable(name, [8], initializer=v1.random_uniform_initializer(0.5, 1.5)) for name in "abcd"
    )
    y = tf.nn.conv2d(x, kernel, 1, "SAME")
    batch = lambda: v1.nn.fused_batch_norm(y, scale, offset)[0]  # noqa: E731
    moving = lambda: v1.nn.fused_batch_norm(y, scale, offset, mean, spread, is_training=False)[0]  # noqa: E731
    rate = v1.placeholder(tf.float32, [], "rate")
    tf.nn.softmax(tf.reduce_sum(tf.cond(training, batch, moving) * rate * 1.7 / 3.3, [1, 2]), name="probs")


def test_what_the_optimiser_changes_is_told_apart(tmp_path):
    baked = {"t": {"constant": False, "replaces": "training:0"}, "r": {"constant": 0.7, "replaces": "rate:0"}}
    _, details = exported(tmp_path, converted, bindings={"x": "x:0", "probs": "probs:0", **baked})
    output = details["serving"]["signatures"]["serving_default"]["outputs"]["probs"]
    assert output["max_abs_diff"] == 0
    assert output["optimized_max_abs_diff"] < 1e-5
    assert details["serving"]["signatures"]["serving_default"]["samples"] == "random values, as samples gives none"


def test_a_pinned_meta_graph_is_not_run(tmp_path):
    graphs = {"serving": {"tags": ["serve"]}, "gpu": {"tags": ["serve", "gpu"], "device": "/device:GPU:0"}}
    report, details = exported(tmp_path, toys.dense, meta_graphs=graphs)
    assert details["gpu"] == {"not verified": "pinned to /device:GPU:0"}
    assert report.warnings == ["meta_graphs.gpu: is pinned to /device:GPU:0, and was not verified"]


def test_meta_graphs_of_which_none_can_be_run_prove_nothing(tmp_path):
    with pytest.raises(StepFailed) as caught:
        exported(tmp_path, toys.dense, meta_graphs={"gpu": {"tags": ["serve", "gpu"], "device": "/device:GPU:0"}})
    assert str(caught.value) == (
        f"post.verify ({PLUGINS.providers[Verify]}): nothing was compared: no meta graph has a signature that can be run here; "
        "leave the step out if that is as it should be: ~post.verify"
    )


def nothing_found():
    x = v1.placeholder(tf.float32, [None, 4], "x")
    threshold = v1.get_variable("w", [], initializer=v1.constant_initializer(100.0))
    tf.where(x[:, 0] > threshold, name="probs")


@pytest.mark.parametrize("samples", [{}, {"samples": {"serving_default": {"x": [[1.0, 2.0, 3.0, 4.0]]}}}])
def test_answers_without_an_element_prove_nothing(tmp_path, samples):
    with pytest.raises(StepFailed) as caught:
        exported(tmp_path, nothing_found, **samples)
    assert str(caught.value) == (
        "signatures.serving_default: nothing was compared: no output has an element that could be (post.verify); "
        "give samples.serving_default rows that it answers with a value"
    )


def test_one_answer_with_an_element_is_enough(tmp_path):
    report, details = exported(tmp_path, nothing_found, samples={"serving_default": {"x": [[200.0, 2, 3, 4], [1, 2, 3, 4]]}})
    assert (
        details["serving"]["signatures"]["serving_default"]["outputs"]["probs"]["compared"] == 1
    )  # its rows are not those of the input, which is tried whole
    assert report.steps[0].details["summary"] == "max abs diff 0, mismatches 0; signatures 1, outputs 1"


def partitioned():
    x = v1.placeholder(tf.float32, [None, 4], "x")
    with v1.variable_scope("part", partitioner=v1.fixed_size_partitioner(3), use_resource=True):
        weights = v1.get_variable("w", [4, 5], initializer=v1.random_normal_initializer())
    v1.get_variable("unsaved", [5], initializer=v1.ones_initializer())
    tf.matmul(x, tf.convert_to_tensor(weights), name="probs")


def test_parts_of_a_variable(tmp_path):
    _, details = exported(tmp_path, partitioned)
    assert details["serving"]["signatures"]["serving_default"]["outputs"]["probs"]["max_abs_diff"] == 0


def test_the_training_graph_waits_for_no_queue(tmp_path):
    def queued():
        queue = v1.RandomShuffleQueue(64, 0, [tf.int64, tf.float32], [[], [4]], seed=1, name="queue")
        _, features = queue.dequeue_many(8, name="batch")
        weights = v1.get_variable("w", [4, 3], initializer=v1.random_normal_initializer())
        with tf.control_dependencies([features.op]):
            tf.matmul(features, weights, name="probs")

    bindings = {"x": {"placeholder": "batch:1", "shape": [None, 4]}, "probs": "probs:0"}
    _, details = exported(tmp_path, queued, bindings=bindings)
    assert details["serving"]["signatures"]["serving_default"]["rows"] == [1, 2]


def test_a_node_of_an_unknown_op_is_left_out_of_the_training_graph(tmp_path):
    prefix = toys.saved(tmp_path, toys.dense)
    meta = MetaGraphDef.FromString(Path(f"{prefix}.meta").read_bytes())
    meta.graph_def.node.add(name="gone", op="OpOfContrib")
    meta.meta_info_def.stripped_op_list.op.add(name="OpOfContrib")
    Path(f"{prefix}.meta").write_bytes(meta.SerializeToString())
    post = {"verify": {"kind": "verify"}}
    report = exportkit.run(exportkit.plan(toys.config(prefix, tmp_path, post=post), PLUGINS), PLUGINS)
    said = report.steps[0].details["meta_graphs"]["serving"]["training graph"]
    assert said == f"whole graph of {len(meta.graph_def.node):,} nodes, but for 1 that an import might run"


def test_a_training_graph_that_does_not_answer_in_time(whole, tmp_path, monkeypatch):
    start = workers._started

    @contextmanager
    def stopped(*arguments):
        with start(*arguments) as process:
            os.kill(process.pid, signal.SIGSTOP)
            yield process

    monkeypatch.setattr(workers, "_started", stopped)
    with pytest.raises(StepFailed) as caught:
        Verify(run_timeout=0.01).run(copied(whole, tmp_path))
    assert str(caught.value) == (
        "training graph: starting it: its process took longer than 0.01 s; set post.verify.run_timeout higher, "
        "or look for a queue that waits for ever"
    )


def test_a_training_graph_whose_process_dies(whole, tmp_path):
    export = copied(whole, tmp_path)
    with pytest.raises(EnvironmentFailed) as caught, TrainingGraph(export, "serving", 60).running() as running:
        running._worker.kill()
        running.run({}, [])
    assert str(caught.value).startswith(
        "training graph: running it: its process was killed by SIGKILL, most likely because memory ran out"
    )


# ---- the parts ----


@pytest.mark.parametrize(
    ("there", "here", "text"),
    [
        (np.float32([1, 2]), np.float32([1, 2.5]), "2.0 there, 2.5 here"),
        (np.float32([1, 2]), np.float32([1, np.nan]), "2.0 there, nan here"),
        (np.float32([1, np.inf]), np.float32([1, -np.inf]), "inf there, -inf here"),
        (np.int64([1, 2]), np.int64([3, 2]), "1 there, 3 here"),
        (np.array([b"a", b"b"], object), np.array([b"a", b"c"], object), "'b' there, 'c' here"),
        (np.float32([1]), np.float64([1]), "float32 [1] there, float64 [1] here"),
        (np.float32([[1]]), np.float32([1]), "float32 [1, 1] there, float32 [1] here"),
        (np.bool_(True), np.bool_(False), "True there, False here"),
    ],
)
def test_values_that_differ(there, here, text):
    found = compare(np.asarray(there), np.asarray(here))
    assert found and str(found) == text


def test_values_that_are_equal():
    assert not compare(np.float32([np.nan, np.inf, 0.0]), np.float32([np.nan, np.inf, -0.0]))
    assert not compare(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
    assert not compare(np.float32([1, 100]), np.float32([1.05, 101]), Tolerance(atol=0.1, rtol=0.01))
    assert compare(np.float32([1, 100]), np.float32([1.2, 100]), Tolerance(atol=0.1, rtol=0.01))


def test_what_can_be_compared_leaves_loops_and_branches_out():
    v1.disable_control_flow_v2()
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [], "x")
        weight = tf.constant(2.0, name="weight")
        inner = lambda i, y: (i + 1, tf.cond(y > 1, lambda: y * weight, lambda: y))  # noqa: E731
        looped = tf.while_loop(lambda i, _: i < 3, inner, (0, x), name="loop")[1]
        branched = tf.cond(looped > 0, lambda: tf.identity(looped, name="taken"), lambda: looped)
        tf.negative(branched, name="y")
        index = Graph(v1.train.export_meta_graph())
    v1.enable_control_flow_v2()
    tensors = divergence.comparable(index, index, ["y:0"])
    assert tensors.index("weight:0") < tensors.index("loop/Exit_1:0") < tensors.index("y:0")
    assert not [t for t in tensors if "loop/Merge" in t or "loop/cond" in t or "loop/add" in t]
    assert divergence.enclosed(index, ["y:0"])
    assert "cond/taken:0" not in tensors and "cond/Merge:0" in tensors


def test_a_copy_has_no_path_of_this_machine(whole, tmp_path):
    taken = relocation.relocate(whole.directory, tmp_path / "moved")
    assert [Path(path).name for path in taken] == ["labels.txt"]
    assert whole.directory.joinpath("saved_model.pb").read_bytes() != (tmp_path / "moved/saved_model.pb").read_bytes()
    assert (tmp_path / "moved/variables/variables.index").resolve() == whole.directory / "variables/variables.index"


# ---- values that only the training graph refuses ----


def asserting(least):
    """A graph that refuses two rows, or all numbers of rows below `least`."""

    def build():
        x = v1.placeholder(tf.float32, [None, 4], "x")
        weights = v1.get_variable("w", [4, 3], initializer=v1.random_normal_initializer())
        rows = tf.shape(x)[0]
        taken = tf.logical_and(tf.not_equal(rows, 2), tf.greater_equal(rows, least))
        with tf.control_dependencies([v1.assert_equal(taken, True, message="not these")]):
            tf.matmul(x, weights, name="probs")

    return build


def forget_assertion(meta):
    for node in meta.graph_def.node:
        if node.name.startswith("probs"):
            node.input[:] = [text for text in node.input if text[0] != "^"]


def without_assertion(base, least):
    export = kept(toys.config(toys.saved(base, asserting(least)), base), base / "kept")
    edited(forget_assertion)(export.directory)
    (base / "scratch").mkdir()
    return dataclasses.replace(export, scratch=base / "scratch", tried={})


def test_values_that_only_the_training_graph_refuses_are_drawn_anew(tmp_path):
    export = without_assertion(tmp_path, least=0)
    signature = Verify().run(export)["meta_graphs"]["serving"]["signatures"]["serving_default"]
    assert (signature["rows"], signature["outputs"]["probs"]["max_abs_diff"]) == ([1, 8], 0.0)
    (warning,) = export.report.warnings
    start = "signatures.serving_default: takes random values that the training graph refuses, so others were compared: "
    assert warning.startswith(f"{start}InvalidArgumentError: ")
    assert "[not these]" in warning and warning.endswith("; samples.serving_default gives it values")


def test_a_training_graph_that_refuses_all_random_values(tmp_path):
    export = without_assertion(tmp_path, least=1000)
    with pytest.raises(StepFailed) as caught:
        Verify().run(export)
    start = (
        "signatures.serving_default: takes 11 of 11 random values, and the training graph none of these: InvalidArgumentError"
    )
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(
        "; write samples: {serving_default: {x: 'samples.npz:x'}}, where x float32 [?, 4]; "
        "post.verify.unsampled=allow exports it unverified"
    )
    details = Verify(unsampled="allow").run(dataclasses.replace(export, tried={}))
    assert (details["status"], export.report.unverified) == ("not verified", ["serving_default"])


# ---- real training artefacts ----


def test_every_corpus_entry_that_exports_is_verified(corpus, tmp_path, capsys):
    for entry in yaml.safe_load((corpus / "corpus.yaml").read_text()):
        if entry["expect"].startswith("export"):
            report = exportkit.run(exportkit.plan(of_corpus(entry, corpus, tmp_path), PLUGINS), PLUGINS)
            details = report.steps[0].details["meta_graphs"]["serving"]
            outputs = details["signatures"]["serving_default"]["outputs"].values()
            random = entry["name"] == "tidigits"
            assert [(o["max_abs_diff"], o["mismatches"], o["random"]) for o in outputs] == [(0.0, 0, random)] * len(outputs)
            with capsys.disabled():
                optimized, seconds = max(o["optimized_max_abs_diff"] for o in outputs), details["seconds"]
                print(f"\n{entry['name']:22} 0 {optimized:8.2g} {seconds['training graph']:6} {seconds['export']:6}", end="")


def of_corpus(entry, corpus, base):
    constants = {f"constant_{i}": {"constant": v, "replaces": t} for i, (t, v) in enumerate(entry["constants"].items())}
    inputs = {alias: {"placeholder": tensor} for alias, tensor in entry["inputs"].items()}
    return {
        "name": entry["name"],
        "source": {"kind": "meta_graph", "checkpoint": str(corpus / entry["prefix"])},
        "bindings": {**inputs, **entry["outputs"], **constants},
        "signatures": {"serving_default": {"inputs": {a: a for a in inputs}, "outputs": {a: a for a in entry["outputs"]}}},
        "export_dir": str(base / entry["name"]),
        "post": {"verify": {"kind": "verify"}},
    }


@pytest.mark.parametrize("baked", [False, True])
@pytest.mark.parametrize("v2", [False, True])
def test_dropout_in_a_branch_that_is_never_taken_keeps_no_state(tmp_path, monkeypatch, baked, v2):
    def build():
        x, training = v1.placeholder(tf.float32, [None, 4], "x"), v1.placeholder(tf.bool, [], "training")
        scale = v1.get_variable("scale", [4], initializer=v1.ones_initializer())
        tf.identity(v1.cond(training, lambda: v1.nn.dropout(x, rate=0.5), lambda: x) * scale, name="y")

    before = v1.control_flow_v2_enabled()
    switch = {True: v1.enable_control_flow_v2, False: v1.disable_control_flow_v2}
    switch[v2]()
    try:
        prefix = toys.saved(tmp_path, build)
    finally:
        switch[before]()
    ops = {node.op for node in read(f"{prefix}.meta").graph_def.node}
    assert (bool(ops & {"If", "StatelessIf"}), "Switch" in ops) == (v2, not v2)
    found = []
    monkeypatch.setattr(Sides, "_batches", lambda self, running, model: found.append(self.here.keeps_state) or {})
    config = toys.config(
        prefix,
        tmp_path,
        bindings={"x": "x:0", "y": "y:0", "training": {"constant": baked, "replaces": "training:0"}},
        signatures={"serving_default": {"inputs": {"x": "x"}, "outputs": {"y": "y"}}},
        post={"verify": {"kind": "verify"}},
    )
    with pytest.raises(StepFailed, match=r"nothing was compared|samples"):
        toys.export(config)
    assert found == [baked]
