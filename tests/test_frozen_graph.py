"""The source `frozen_graph`: a graph alone becomes a version, and there is no checkpoint anywhere."""

import json
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

import exportkit
from exportkit.errors import ConfigError
from exportkit.metagraph import read_graph_def
from exportkit.protos import GraphDef
from exportkit.sources.frozen_graph import FrozenGraph
from exportkit.testing import toys
from exportkit.verifying.audit import verify_version
from exportkit.version.identity import identity, is_complete

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """The file of a graph x → probs with its weights as a constant."""
    import tensorflow as tf

    path = tmp_path_factory.mktemp("frozen") / "frozen_inference_graph.pb"
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], "x")
        tf.nn.softmax(tf.matmul(x, tf.constant(WEIGHTS, name="w")), name="probs")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def config(graph, **changes):
    return toys.config("", Path.cwd(), source={"kind": "frozen_graph", "graph": str(graph)}, **changes)


def test_a_frozen_graph_becomes_a_version(frozen):
    bindings = {
        "examples": {"parse_example": {"x": {"dtype": "float32", "shape": [4]}}},
        "x": "x:0",
        "probs": "probs:0",
    }
    signature = {"method": "classify", "inputs": {"inputs": "examples"}, "outputs": {"scores": "probs"}}
    post = {name: {"kind": name} for name in ("verify", "manifest")}
    report = toys.export(config(frozen, bindings=bindings, signatures={"serving_default": signature}, post=post))
    assert (report.weights.variables, report.weights.bytes, report.weights.proof) == (0, 0, "no variables")
    assert report.steps[0].details["summary"].startswith("max abs diff 0, mismatches 0")

    rows = np.float32([[1, 2, 3, 4], [0, 0, 0, 1]])
    inputs = {"inputs": np.array([toys.example(x=row) for row in rows], object)}
    logits = rows @ WEIGHTS
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for ask in (toys.served, toys.served_eagerly):
        np.testing.assert_allclose(ask(report.directory, "serving_default", inputs)["scores"], expected, rtol=1e-6)

    manifest = json.loads((Path(report.directory) / "assets.extra/exportkit.json").read_text())
    assert (manifest["checkpoint"]["prefix"], manifest["weights"]["proof"]) == (None, "no variables")
    assert [str(found) for found in verify_version(Path(report.directory)) if found.passed is False] == []


def test_the_plan_knows_dtypes_and_that_there_are_no_variables(frozen):
    plan = exportkit.plan(config(frozen))
    assert [(check.what, check.checked) for check in plan.checks][:2] == [
        (f"graph {frozen}, without variables", True),
        ("the graph has no variables", True),
    ]
    with pytest.raises(ConfigError, match="the tensor is float32, not int64"):
        exportkit.plan(config(frozen, bindings={"x": {"tensor": "x:0", "dtype": "int64"}, "probs": "probs:0"}))


def test_the_file_is_the_identity_of_a_frozen_graph(frozen, tmp_path):
    copy = tmp_path / "copy.pb"
    copy.write_bytes(frozen.read_bytes())
    plans = [exportkit.plan(config(copy)) for _ in range(2)]
    assert all(map(is_complete, plans))
    first = identity(plans[0])
    assert identity(plans[1]) == first
    graph_def = GraphDef.FromString(frozen.read_bytes())
    next(node for node in graph_def.node if node.name == "w").attr["value"].tensor.tensor_content = WEIGHTS[::-1].tobytes()
    copy.write_bytes(graph_def.SerializeToString())
    assert identity(exportkit.plan(config(copy)))["sha256"] != first["sha256"]


def test_a_graph_in_text(frozen, tmp_path):
    text = tmp_path / "frozen.pbtxt"
    text.write_text(text_format.MessageToString(GraphDef.FromString(frozen.read_bytes())))
    read = read_graph_def(text)
    assert read == read_graph_def(frozen)
    assert [op.name for op in read.meta_info_def.stripped_op_list.op] == ["Const", "MatMul", "Placeholder", "Softmax"]


REFUSED = {
    "none": (lambda frozen, checkpoint: None, "no such file; hand in the file of a frozen graph (GraphDef)"),
    "empty": (lambda frozen, checkpoint: b"", "is empty; hand in the file of a frozen graph (GraphDef)"),
    "no graph": (lambda frozen, checkpoint: b"%PDF-1.7", "is not a GraphDef; hand in the file of a frozen graph (GraphDef)"),
    "cut off": (
        lambda frozen, checkpoint: frozen.read_bytes()[:-50],
        "is truncated: at least {} bytes are missing after {}; copy it again",
    ),
    "a .meta": (
        lambda frozen, checkpoint: Path(checkpoint("dense").meta).read_bytes(),
        "is a MetaGraphDef, not a graph alone; name it with its checkpoint: source=meta_graph",
    ),
    "a SavedModel": (
        lambda frozen, checkpoint: b"\x08\x01\x12\x00",
        "is a SavedModel, not a graph alone; name its directory: source=saved_model",
    ),
}


@pytest.mark.parametrize("content", REFUSED)
def test_a_file_that_is_no_frozen_graph_is_one_line(content, frozen, checkpoint, tmp_path):
    make, what = REFUSED[content]
    path = tmp_path / "given.pb"
    if (data := make(frozen, checkpoint)) is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        exportkit.plan(config(path))
    assert str(caught.value).startswith(f"source.graph: {path}: {what.split('{}')[0]}")
    assert str(caught.value).endswith(what.rpartition("{}")[2])
    assert "\n" not in str(caught.value)


def test_a_graph_with_variables_is_not_frozen(checkpoint, tmp_path):
    import tensorflow as tf

    meta = tf.compat.v1.train.import_meta_graph
    path = tmp_path / "graph.pb"
    with tf.Graph().as_default() as graph:
        meta(checkpoint("dense").meta)
    path.write_bytes(graph.as_graph_def().SerializeToString())
    preview = FrozenGraph(kind="frozen_graph", graph=path).preview()
    names = "dense/kernel, dense/bias, beta1_power, beta2_power, dense/kernel/Adam and 3 more"
    assert [str(problem) for problem in preview.problems] == [
        f"graph: {path} has variables, and their values are not in it: {names}; name the checkpoint with its .meta "
        "(source=meta_graph), the SavedModel (source=saved_model), or a graph that was frozen"
    ]
