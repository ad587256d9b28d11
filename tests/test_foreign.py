"""`inspect` of what others exported: what is in it, and a config that exports it untouched."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from exportkit import cli
from exportkit.cli import foreign
from exportkit.testing import toys

SUGGESTED = """\
# @package _global_
defaults: [override /source: saved_model]
name: colours
source: {saved_model: models/colours}
# Its signatures are exported as they are: by_name, serving_default
# Their tensors can serve in more signatures, as in one for classify requests, which carry tf.Examples:
# bindings:
#   examples: {parse_example: {x: {dtype: float32, shape: [4], to: serving_default.inputs.x}}}
# signatures:
#   classify: {method: classify, inputs: {inputs: examples}, outputs: {scores: serving_default.outputs.probs}}
"""
FROZEN = """\
# @package _global_
defaults: [override /source: frozen_graph]
name: frozen
source: {graph: frozen.pb}
bindings:
  x: {tensor: 'x:0', dtype: float32, shape: [null, 4]}
  probs: probs:0
  logits: MatMul:0
signatures:
  serving_default: {inputs: {x: x}, outputs: {probs: probs, logits: logits}}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The directory models: colours/7 is a SavedModel with an asset, a table, and a variable that serving does not need."""
    import tensorflow as tf

    place = tmp_path_factory.mktemp("foreign") / "models"
    words = place.parent / "words.txt"
    words.write_text("red\ngreen\nblue\n")
    lookup = tf.lookup.TextFileIndex
    lines = tf.lookup.TextFileInitializer(str(words), tf.string, lookup.WHOLE_LINE, tf.int64, lookup.LINE_NUMBER)
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(lines, 0)
    module.kernel = tf.Variable(np.arange(12, dtype=np.float32).reshape(4, 3) / 10)
    module.steps = tf.Variable(np.zeros(5, np.float32))
    by_name = tf.function(
        lambda name: {"row": tf.gather(module.kernel, module.table.lookup(name))},
        input_signature=[tf.TensorSpec([None], tf.string, "name")],
    )
    serve = tf.function(
        lambda x: {"probs": tf.nn.softmax(x @ module.kernel)}, input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")]
    )
    tf.saved_model.save(module, str(place / "colours" / "7"), signatures={"serving_default": serve, "by_name": by_name})
    words.unlink()
    return place


@pytest.fixture
def run(capsys):
    """Run a command: its exit code, and what it printed to stdout and stderr."""

    def run(*words):
        code = cli.main(words)
        return code, *capsys.readouterr()

    return run


def export(text):
    """Export what a config says; the source is the one that its defaults choose."""
    config = yaml.safe_load(text)
    (choice,) = config.pop("defaults")
    config["source"]["kind"] = choice["override /source"]
    return toys.export({**config, "export_dir": f"exports/{config['name']}"})


def test_inspect_of_a_saved_model_ends_with_a_config_that_exports_it(models, run):
    Path("models").symlink_to(models)
    code, out, _ = run("inspect", "models/colours")
    assert code == 0
    assert out.startswith("models/colours/7: a SavedModel\ngraph tagged serve: ")
    assert out.endswith(f"A config to start from, for conf/model/colours.yaml:\n\n{SUGGESTED}")
    assert "__saved_model" not in out
    assert "assets: words.txt\n" in out
    assert re.search(r"^tables: \S+\nassets: .*\nfunctions: \d+$", out, re.MULTILINE)
    assert re.search(r"^steps/\.ATTRIBUTES/VARIABLE_VALUE +float32 +\[5\] +20 B +not needed$", out, re.MULTILINE)
    assert re.search(r"; weights 1, 48 B; not needed 1, 20 B$", out, re.MULTILINE)

    assert [s.key for s in export(SUGGESTED).meta_graphs[0].signatures] == ["by_name", "serving_default"]
    whole = [line.removeprefix("# ") for line in SUGGESTED.splitlines()[6:]]
    report = export("\n".join([*SUGGESTED.splitlines()[:4], *whole]))
    inputs = {"inputs": np.array([toys.example(x=[0.0, 0.0, 0.0, 0.0])], object)}
    np.testing.assert_array_equal(toys.served(report.directory, "classify", inputs)["scores"], np.full((1, 3), 1 / 3, "f4"))


def test_a_version_is_named_by_its_base_path(models, run):
    assert "\nname: colours\nsource: {saved_model: " in run("inspect", str(models / "colours" / "7"))[1]
    assert "\nname: colours\nsource: {saved_model: " in run("inspect", str(models / "colours" / "7" / "saved_model.pb"))[1]


def frozen(path, weights):
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], "x")
        tf.nn.softmax(tf.matmul(x, weights()), name="probs")
    Path(path).write_bytes(graph.as_graph_def().SerializeToString())


def test_inspect_of_a_frozen_graph_ends_with_a_config_that_exports_it(run):
    import tensorflow as tf

    frozen("frozen.pb", lambda: tf.ones([4, 3]))
    code, out, _ = run("inspect", "frozen.pb")
    assert (code, out.splitlines()[0]) == (0, "frozen.pb: a frozen graph")
    assert out.endswith(f"A config to start from, for conf/model/frozen.yaml:\n\n{FROZEN}")
    assert export(FROZEN).status == "exported"


def test_a_graph_alone_with_variables_has_no_config(run):
    import tensorflow as tf

    frozen("live.pb", lambda: tf.compat.v1.get_variable("w", [4, 3], use_resource=False))
    code, out, _ = run("inspect", "live.pb")
    assert (code, out.splitlines()[0]) == (0, "live.pb: a graph alone, with variables")
    said = "live.pb: has variables, and their values are not in it: w; name the checkpoint with its .meta "
    assert said in " ".join(out.split())
    assert "A config to start from" not in out


def archive(path, names):
    with zipfile.ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, "{}")


OTHERS = {
    "m.onnx": (
        b"\x08\x07\x12\x07pytorch",
        "is an ONNX model, which no model server's TensorFlow loads; export the TensorFlow model that it was converted from, "
        "or serve it with ONNX Runtime",
    ),
    "m.tflite": (
        b"\x1c\0\0\0TFL3",
        "is a TensorFlow Lite model, which no model server's TensorFlow loads; export the TensorFlow model that it was "
        "converted from",
    ),
    "m.pt": (["m/data.pkl"], "is a file of PyTorch, which TensorFlow does not load; export it with PyTorch's own tools"),
    "empty": (
        None,
        "holds neither a checkpoint nor a SavedModel; it is empty; name the directory of one, or a file: a .meta, .keras, .h5 "
        "or frozen .pb",
    ),
    "m.pb": (b"%PDF-1.7", "is not a GraphDef; hand in the file of a frozen graph (GraphDef)"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_cannot_be_exported_is_one_line(name, run):
    content, what = OTHERS[name]
    if content is None:
        Path(name).mkdir()
    elif isinstance(content, list):
        archive(name, content)
    else:
        Path(name).write_bytes(content)
    assert run("inspect", name) == (2, "", f"{name}: {what}\n")


def test_a_model_of_tensorflow_js_is_one_line(run):
    Path("js").mkdir()
    Path("js/model.json").write_text("{}")
    js = "js: is a model of TensorFlow.js; name the SavedModel that it was converted from\n"
    assert run("inspect", "js") == (2, "", js)


def test_a_signature_of_tensorflow_2_that_is_written_for_examples_gets_its_method():
    """TensorFlow 2 saves every signature as one for predict requests."""
    from exportkit.metagraph import Graph
    from exportkit.protos import MetaGraphDef
    from exportkit.spec import Signature

    meta = MetaGraphDef()
    for name, dtype, sizes in (("inputs", 7, [-1]), ("scores", 1, [-1, 2])):
        node = meta.graph_def.node.add(name=name, op="Placeholder")
        node.attr["dtype"].type = dtype
        shape = node.attr["_output_shapes"].list.shape.add()
        for size in sizes:
            shape.dim.add(size=size)
    op = meta.meta_info_def.stripped_op_list.op.add(name="Placeholder")
    op.output_arg.add(name="output", type_attr="dtype")
    op.attr.add(name="dtype", type="type")
    found = foreign.Foreign("", "saved_model", {"saved_model": "m"}, Path("m"), graphs={"": Graph(meta)})
    found.kept = {"ask": Signature(inputs={"inputs": "ask.inputs.inputs"}, outputs={"scores": "ask.outputs.scores"})}
    found.tensors = {"ask.inputs.inputs": "inputs:0", "ask.outputs.scores": "scores:0"}
    assert foreign.config("m", found, str).splitlines()[5:] == [
        "# Their tensors can serve in more signatures, as in one for classify requests, which carry tf.Examples:",
        "# signatures:",
        "#   classify: {'method': 'classify', 'inputs': {'inputs': 'ask.inputs.inputs'}, "
        "'outputs': {'scores': 'ask.outputs.scores'}}",
    ]
