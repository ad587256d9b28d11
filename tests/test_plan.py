"""From a config to a plan, or to one error that lists everything. Every text is one that a user reads."""

import io
import os
import shutil
import subprocess
import sys
import zipfile
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from exportkit.checkpoint import BundleWriter
from exportkit.errors import BindingError, ConfigError, PluginError, Problem
from exportkit.operations import builtin
from exportkit.planning.outline import next_version
from exportkit.planning.plan import plan, wanted
from exportkit.plugin import ModelSource, Phase, PostStep, Preview, hookimpl
from exportkit.protos import GraphDef
from exportkit.registry import load_plugins
from exportkit.spec import BINDINGS, Check, MetaGraph, Weights

SOURCES = ["encoder", "frozen_graph", "graph_builder", "keras", "meta_graph", "saved_model"]
GONE = object()
ADDRESS = "is an address, and only local files are read and written; give a path on this machine"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"


@dataclass(kw_only=True)
class Late(PostStep):
    """A step that publishes."""

    kind: str = "late"
    phase = Phase.PUBLISH
    url: str = "-"

    def run(self, export): ...


@dataclass(kw_only=True)
class Early(PostStep):
    """A step that verifies."""

    kind: str = "early"
    phase = Phase.VERIFY
    atol: float = 0.0

    def run(self, export): ...


class OfThisTest:
    @hookimpl
    def exportkit_post_steps(self):
        return [Late, Early]


@pytest.fixture
def plugins():
    """The installed plugins and two steps, loaded for this test alone."""
    return load_plugins({"test": OfThisTest()})


@pytest.fixture
def config(checkpoint):
    """A factory of configs of the dense model, with some keys set or GONE: ``config({"source.kind": GONE})``."""

    def make(changes=()):
        data = {
            "name": "digits",
            "source": {"kind": "meta_graph", "checkpoint": checkpoint("dense").prefix},
            "bindings": {
                "images": {"tensor": "x:0", "dtype": "float32", "shape": [None, 4]},
                "probs": "probs:0",
                "is_training": {"constant": False, "replaces": "is_training:0"},
            },
            "signatures": {"serving_default": {"inputs": {"images": "images"}, "outputs": {"scores": "probs"}}},
        }
        return changed(data, dict(changes))

    return make


def changed(data, changes):
    """A copy of `data` with some keys, given by their paths, set or GONE."""
    data = deepcopy(data)
    for path, value in changes.items():
        *parents, last = path.split(".")
        node = data
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is GONE:
            del node[last]
        else:
            node[last] = value
    return data


def told(config, plugins=None, kind=ConfigError):
    """The problems with a config, with this test's directory taken out."""
    with pytest.raises(kind) as caught:
        plan(config, plugins)
    return str(caught.value).replace(f"{Path.cwd()}/", "").splitlines()


# What a good config becomes


def test_a_plan(config, checkpoint, plugins, tmp_path):
    planned = plan(config({"post": {"late": {"kind": "late"}, "early": {"kind": "early", "atol": 1}}}), plugins)
    prefix = checkpoint("dense").prefix
    assert (planned.name, planned.version, planned.report) == ("digits", "auto", None)
    assert planned.export_dir == tmp_path / "exports/digits"
    assert planned.meta_graphs == {"serving": MetaGraph(tags=["serve"])}
    assert (planned.ensure_shape, planned.clear_devices, planned.strip_default_attrs) == (True, True, True)
    assert list(planned.post.items()) == [("early", Early(atol=1.0)), ("late", Late())]
    assert planned.weights == Weights()
    assert planned.checks == [
        Check("source", f"graph {prefix}.meta", True),
        Check("weights", f"checkpoint {prefix}", True),
        Check("weights", "every variable has one value in the checkpoint, or an initialize rule", True),
        Check("bind", "3 bindings: images, probs, is_training", True),
        Check("bind", "ops and CPU kernels", False),
        Check("audit", "the graph can answer at random (RandomUniform)", True),
        Check("sign", "serving_default: predict (images) → (scores)", True),
        Check("write", "meta graph tagged serve", True),
        Check("verify", "early", False),
        Check("publish", "late", False),
        Check("commit", f"{tmp_path}/exports/digits/1", False),
    ]


def test_planning_writes_nothing(config, tmp_path):
    plan(config())
    assert os.listdir(tmp_path) == []


def test_omegaconf_and_plain_mappings_give_the_same_plan(config):
    composed = OmegaConf.create(config({"export_dir": "out/${name}", "vars": {"sub": "eu"}}))
    planned = plan(composed)
    assert planned == plan(config({"export_dir": "out/digits", "vars": {"sub": "eu"}}))
    assert type(planned.config["bindings"]) is dict


def test_relative_paths_are_those_of_the_start(config, tmp_path, checkpoint):
    shutil.copytree(Path(checkpoint("dense").prefix).parent, "runs")
    planned = plan(config({"source.checkpoint": "runs", "report.path": "a/report.json", "export_dir": "../out"}))
    assert planned.source.checkpoint == tmp_path / "runs"
    assert planned.report == tmp_path / "a/report.json"
    assert planned.export_dir == tmp_path.parent / "out"


@pytest.mark.parametrize(("version", "text"), [("auto", "4"), ("timestamp", "<timestamp>"), (7, "7")])
def test_the_version_in_words(version, text, config):
    Path("exports/digits/3").mkdir(parents=True)
    assert next_version(plan(config({"version": version}))) == text


def test_what_a_source_has_to_provide(config):
    planned = plan(
        config(
            {
                "bindings.example": {"parse_example": {"images": {"dtype": "float32", "shape": [4]}}},
                "signatures.parsed": {"inputs": {"examples": "example"}, "outputs": {"scores": "probs"}},
                "meta_graphs": {"a": {"tags": ["serve"]}, "b": {"tags": ["train"], "train_op": "train"}},
            }
        )
    )
    assert wanted(planned) == ["x:0", "probs:0", "is_training:0", "train"]


def test_planning_imports_no_tensorflow(config):
    code = "import sys, json; from exportkit import plan; plan(json.load(sys.stdin)); print(*sys.modules, sep='\\n')"
    import json

    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(config()),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    modules = done.stdout.split()
    assert "exportkit.planning.plan" in modules
    assert not {"tensorflow", "tensorflow.python", "hydra"} & set(modules)


# Warnings


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"signatures": {"other": {"inputs": {"images": "images"}, "outputs": {"scores": "probs"}}}},
            "signatures: there is no serving_default, so every request has to name its signature (other)",
        ),
        ({"bindings.logits": "logits:0"}, "bindings.logits: is used by no signature"),
        ({"post": {"early": {"atol": 1}}}, "post.early: ignored, as the step was not chosen (post=[…,early])"),
        (
            {"bindings.labels": "labels:0", "signatures.serving_default.inputs.labels": "labels"},
            "signatures.serving_default: input 'labels' changes none of the outputs",
        ),
        (
            {"bindings.loss": "loss:0", "bindings.labels": "labels:0"}
            | {"signatures.loss": {"inputs": {"x": "images", "y": "labels"}, "outputs": {"loss": "loss"}}},
            "signatures.loss.outputs.loss: is a scalar, which REST 'instances' and server-side batching cannot carry",
        ),
        (
            {"bindings.images.shape": [8, 4]},
            "signatures.serving_default: the first dimension of 'images' is fixed at 8; "
            "requests of another size are refused, and a server cannot batch them; "
            "bindings.images: {placeholder: …, shape: [null, …]} tries to free it",
        ),
    ],
)
def test_what_may_surprise_is_a_warning(changes, warning, config, plugins):
    assert warning in plan(config(changes), plugins).warnings


# What is wrong, at each level of the config

OPERATIONS = ", ".join([*BINDINGS, *builtin.OPERATIONS])
ONE_RUN = "take the graph and the checkpoint of one run"
NO_ZEROS = "write auto, timestamp or an integer from 0, without leading zeros"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        # Keys
        ({"bindngs": {}}, "bindngs: no such key; did you mean bindings?"),
        ({"batch_size": 8}, "batch_size: no such key; free keys go under vars"),
        ({"vars": [1]}, "vars: is the list [1], not a mapping; write {NAME: …}"),
        ({"source.chekpoint": "x"}, "source.chekpoint: no such key; did you mean checkpoint?"),
        ({"bindings.images.dtyp": "float32"}, "bindings.images.dtyp: no such key; did you mean dtype?"),
        (
            {"signatures.serving_default.metod": "predict"},
            "signatures.serving_default.metod: no such key; did you mean method?",
        ),
        ({"weights": {"moving_averages": True}}, "weights.moving_averages: no such key; did you mean moving_average?"),
        ({"weights": {"names": [{"variable": "a", "kye": "b"}]}}, "weights.names[0].kye: no such key; did you mean key?"),
        ({"weights": []}, "weights: is the list [], not a mapping; write {…}"),
        ({"meta_graphs": {"serving": {"tag": ["serve"]}}}, "meta_graphs.serving.tag: no such key; did you mean tags?"),
        ({"report": {"pth": "x"}}, "report.pth: no such key; did you mean path?"),
        ({"report": "report.json"}, "report: is the text 'report.json', not a mapping; write {…}"),
        ({"post": {"early": {"kind": "early", "atoll": 1}}}, "post.early.atoll: no such key; did you mean atol?"),
        ({"ensure_shape": "no"}, "ensure_shape: is the text 'no', not true or false; write true or false"),
        (
            {"samples": {"serving_default": {"image": [[1, 2, 3, 4]]}}},
            "samples.serving_default.image: signature 'serving_default' has no input 'image'; did you mean images?",
        ),
        # Choices
        (
            {"source": None},
            f"source: is not chosen; choose one: source={'|'.join(SOURCES)}",
        ),
        (
            {"source": "???"},
            f"source: is not chosen; choose one: source={'|'.join(SOURCES)}",
        ),
        ({"source": "meta_graph"}, "source: is the text 'meta_graph', not a mapping; write {kind: …}"),
        ({"source.kind": "metagraph"}, "source.kind: there is no source 'metagraph'; did you mean meta_graph?"),
        (
            {"source.kind": GONE},
            f"source.kind: is not set; known: {', '.join(SOURCES)}",
        ),
        ({"source.kind": 3}, "source.kind: is the integer 3, not a text; put it in quotes"),
        ({"post": {"early": {"kind": "erly"}}}, "post.early.kind: there is no step 'erly'; did you mean early?"),
        ({"post": ["early"]}, "post: is the list [early], not a mapping; write {NAME: …}"),
        # Names
        ({"name": None}, "name: is not set; choose a model (model=NAME) or set name"),
        ({"name": "a/b"}, "name: 'a/b' cannot be a model's name; write one without /, spaces and a leading dot"),
        ({"name": ".a"}, "name: '.a' cannot be a model's name; write one without /, spaces and a leading dot"),
        ({"name": "12"}, "name: '12' cannot be a model's name; its directory would be taken for a version: add a letter"),
        ({"name": 1.1}, "name: is the number 1.1, not a text; put it in quotes"),
        ({"bindings.images.tensor": "X:0"}, "bindings.images.tensor: the graph has no tensor X:0; did you mean x:0?"),
        ({"bindings.probs": "prob:0"}, "bindings.probs.tensor: the graph has no tensor prob:0; did you mean probs:0?"),
        (
            {"bindings.is_training.replaces": "is_trainig:0"},
            "bindings.is_training.replaces: the graph has no tensor is_trainig:0; did you mean is_training:0?",
        ),
        (
            {"signatures.serving_default.outputs.scores": "prbs"},
            "signatures.serving_default.outputs.scores: there is no binding 'prbs'; did you mean probs?",
        ),
        (
            {"signatures.serving_default.inputs.images": "image"},
            "signatures.serving_default.inputs.images: there is no binding 'image'; did you mean images?",
        ),
        (
            {"meta_graphs": {"serving": {"tags": ["serve"], "signatures": ["serving_defaults"]}}},
            "meta_graphs.serving.signatures[0]: there is no signature 'serving_defaults'; did you mean serving_default?",
        ),
        ({"signatures": {}}, "signatures: there are none; write signatures: {serving_default: {inputs: …, outputs: …}}"),
        # What fits the graph
        ({"bindings.images.dtype": "float64"}, "bindings.images.dtype: the tensor is float32, not float64; write float32"),
        (
            {"bindings.images.shape": [None, 5]},
            "bindings.images.shape: the tensor is float32 [?, 4], which [null, 5] does not fit; write [null, 4]",
        ),
        (
            {"bindings.is_training.constant": "no"},
            "bindings.is_training.constant: 'no' cannot be of dtype bool; write true or false",
        ),
        (
            {"bindings.is_training": GONE},
            "signatures.serving_default: nothing feeds the placeholder is_training:0 (bool), which cond needs; "
            "put it among the inputs, or bake it: {constant: false, replaces: is_training:0}",
        ),
        (
            {"bindings.probs": {"tensor": "probs:0", "top_k": "x"}},
            f"bindings.probs: has tensor and top_k; write exactly one of {OPERATIONS}",
        ),
        (
            {"bindings.top": {"top_k": "probs", "k": 9}, "signatures.serving_default.outputs": {"best": "top.values"}},
            "bindings.top.k: is 9, but 'probs' has 3 entries in its last axis; write 3 or less",
        ),
        (
            {"bindings.top": {"top_k": "probs", "k": 2}, "signatures.serving_default.outputs": {"best": "top"}},
            "signatures.serving_default.outputs.best: 'top' is a top_k, which has two parts; write top.values or top.indices",
        ),
        (
            {"bindings.names": {"lookup": "probs", "vocabulary": "labels.txt"}}
            | {"signatures.serving_default.outputs": {"names": "names"}},
            "bindings.names.lookup: 'probs' is float32, not integers; look up the indices of a top_k",
        ),
        (
            {"bindings.names": {"lookup": "images", "vocabulary": "lables.txt"}},
            "bindings.names.vocabulary: there is no file lables.txt; did you mean labels.txt?",
        ),
        (
            {"bindings.names": {"lookup": "images", "vocabulary": "pointer.txt"}},
            "bindings.names.vocabulary: pointer.txt is a Git LFS pointer, not the file itself; run git lfs pull",
        ),
        # Signatures of TensorFlow Serving
        (
            {"signatures.serving_default.method": "clasify"},
            "signatures.serving_default.method: there is no method 'clasify'; did you mean classify?",
        ),
        # Weights
        (
            {"weights": {"names": [{"variable": "dense/(kernel)", "key": r"tower/\1"}]}},
            "CKPT: variable 'dense/kernel' (as 'tower/kernel') is not in the checkpoint; its nearest keys: dense/kernel; "
            "map it with weights.names, or list it in weights.initialize",
        ),
        (
            {"weights": {"names": [{"variable": "dense/(", "key": "x"}]}},
            "weights.names[0].variable: 'dense/(' is not a regular expression: "
            "missing ), unterminated subpattern at position 6; fix it",
        ),
        (
            {"weights": {"initialize": ["head/.*"]}},
            "weights.initialize[0]: 'head/.*' matches no variable; fix or drop the pattern",
        ),
        (
            {"weights": {"names": [{"variable": "dense/kernel", "key": "dense/bias"}]}},
            f"CKPT: variable 'dense/kernel' (as 'dense/bias') is [4, 3] in the graph and [3] in the checkpoint; {ONE_RUN}",
        ),
        # Meta graphs and versions
        (
            {"meta_graphs": {"serving": {"tags": "serve"}}},
            "meta_graphs.serving.tags: is the text 'serve', not a list; write [serve]",
        ),
        ({"meta_graphs": {}}, "meta_graphs: is empty; write {serving: {tags: [serve]}}"),
        ({"version": "0123"}, f"version: is the text '0123'; {NO_ZEROS}"),
        ({"version": -1}, f"version: is the integer -1; {NO_ZEROS}"),
        ({"version": True}, f"version: is the boolean true; {NO_ZEROS}"),
        ({"version": None}, f"version: is null; {NO_ZEROS}"),
        ({"version": 1.5}, f"version: is the number 1.5; {NO_ZEROS}"),
        ({"version": 2**63}, f"version: is the integer 9223372036854775808; {NO_ZEROS}"),
        (
            {"version": 5},
            "version: 5 exists in exports/digits; a version is never overwritten: write version=auto",
        ),
        (
            {"export_dir": "exports/digits/5"},
            "export_dir: ends in the number 5; versions are made below it: leave the number out",
        ),
        ({"export_dir": "labels.txt/out"}, "export_dir: labels.txt is not a directory; choose another one"),
        ({"export_dir": None}, "export_dir: is null, not a path; write a path"),
        # Addresses
        ({"export_dir": "gs://bucket/digits"}, f"export_dir: gs://bucket/digits {ADDRESS}"),
        ({"source.checkpoint": "s3://bucket/model.ckpt-1"}, f"source.checkpoint: s3://bucket/model.ckpt-1 {ADDRESS}"),
        ({"source.meta": "hdfs://host/a.meta"}, f"source.meta: hdfs://host/a.meta {ADDRESS}"),
        ({"report.path": "gs://bucket/report.json"}, f"report.path: gs://bucket/report.json {ADDRESS}"),
        (
            {
                "bindings.c": {"lookup": "top.indices", "vocabulary": "gs://b/labels.txt"},
                "bindings.top": {"top_k": "probs", "k": 1},
            },
            f"bindings.c.vocabulary: gs://b/labels.txt {ADDRESS}",
        ),
        (
            {"samples": {"serving_default": {"images": "gs://bucket/x.npz:images"}}},
            f"samples.serving_default.images: gs://bucket/x.npz {ADDRESS}",
        ),
        # Where the report goes
        ({"report.path": "labels.txt/report.json"}, "report.path: labels.txt is not a directory; choose another one"),
        ({"report.path": "/"}, "report.path: / is a directory; name a file in it"),
        # Steps
        ({"post": {"early": "yes"}}, "post.early: is the text 'yes', not a mapping; write {kind: …}"),
        ({"post": {"verify": {"kind": "verify", "batch_sizes": [-1]}}}, "post.verify.batch_sizes[0]: is -1; write 1 or more"),
        (
            {"post": {"verify": {"kind": "verify", "run_timeout": -5}}},
            "post.verify.run_timeout: is -5; write more than 0, at most 1,000,000",
        ),
        ({"post": {"verify": {"kind": "verify", "atol": -1}}}, "post.verify.atol: is -1; write 0 or more"),
        ({"post": {"manifest": {"kind": "manifest", "rows": 0}}}, "post.manifest.rows: is 0; write 1 or more"),
        (
            {"post": {"a": {"kind": "manifest"}, "b": {"kind": "manifest"}}},
            "post.b: is the last step of phase SEAL, and so is post.a; leave one of them out",
        ),
        # Interpolations and imports
        ({"export_dir": "out/${nme}"}, "export_dir: ${nme} is not in the config; did you mean name?"),
        ({"vars": {"a": {1, 2}}}, "vars.a: Value 'set' is not a supported primitive type; write plain values"),
        (
            {"bindings.images": {"_target_": "os.system"}},
            "bindings.images._target_: configs do not import anything by _target_; "
            "name code where a source asks for it: package.module:name",
        ),
        (
            {"weights": {"names": [{"_target_": "os.system"}]}},
            "weights.names[0]._target_: configs do not import anything by _target_; "
            "name code where a source asks for it: package.module:name",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(changes, text, config, plugins, checkpoint):
    Path("labels.txt").write_text("zero\none\ntwo\n")
    Path("pointer.txt").write_text(LFS)
    Path("exports/digits/5").mkdir(parents=True)
    assert told(config(changes), plugins) == [text.replace("CKPT", checkpoint("dense").prefix)]


CLASSIFY = {
    "bindings.example": {"parse_example": {"images": {"dtype": "float32", "shape": [4]}}},
    "bindings.top": {"top_k": "probs", "k": 2},
    "signatures.serving_default.method": "classify",
    "signatures.serving_default.inputs": {"inputs": "example"},
}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"signatures.serving_default.outputs": {"classes": "top.indices"}},
            "signatures.serving_default.outputs.classes: 'top.indices' is int32 [?, 2], classify needs string [N, k]; "
            "turn indices into labels with a lookup binding",
        ),
        (
            {"signatures.serving_default.outputs": {"labels": "probs"}},
            "signatures.serving_default.outputs.labels: classify gives only classes and scores; "
            "drop it, or write method: predict",
        ),
        (
            {
                "signatures.serving_default.inputs": {"inputs": "images"},
                "signatures.serving_default.outputs": {"scores": "probs"},
            },
            "signatures.serving_default.inputs.inputs: 'images' is float32 [?, 4], classify needs string [N]; "
            "feed it a parse_example binding",
        ),
        (
            {"signatures.serving_default.method": "regress", "signatures.serving_default.outputs": {"outputs": "probs"}},
            "signatures.serving_default.outputs.outputs: 'probs' is float32 [?, 3], regress needs float32 [N] or [N, 1]; "
            "bind a tensor of shape [N] or [N, 1], or write method: predict",
        ),
        (
            {
                "bindings.example.parse_example.images.shape": [5],
                "signatures.serving_default.outputs": {"scores": "probs"},
            },
            "bindings.example.parse_example.images.shape: 'images' is float32 [?, 4], which the parsed float32 [?, 5] "
            "does not fit; fix the feature's shape",
        ),
    ],
)
def test_rules_of_signatures_are_told(changes, text, config):
    assert told(changed(config(CLASSIFY), changes)) == [text]


# Checkpoints


def test_a_missing_checkpoint_is_told_once(config):
    assert told(config({"source.checkpoint": "runs/model.ckpt"})) == [
        f"source.checkpoint: runs/model.ckpt: no checkpoint is there; there is no directory {Path.cwd()}/runs either".replace(
            f"{Path.cwd()}/", ""
        )
    ]


def test_a_misspelt_checkpoint(config, copied):
    prefix = copied("dense")
    assert told(config({"source.checkpoint": f"{prefix}0"})) == [
        "source.checkpoint: copy_of_dense/model.ckpt-30: no checkpoint is there; did you mean model.ckpt-3?"
    ]


def test_a_checkpoint_without_meta(config, copied):
    prefix = copied("dense")
    os.remove(f"{prefix}.meta")
    assert told(config({"source.checkpoint": str(prefix)})) == [
        "source.checkpoint: copy_of_dense/model.ckpt-3 has no .meta beside it; "
        "put it there, name it with source.meta, or build the graph from code (source=graph_builder)"
    ]


TRAINED = "name the training checkpoint that it was made from"
KERAS = "export it as it is (source=keras)"
ALONE = (
    f"is a graph alone (GraphDef), such as a frozen one, and no checkpoint; {TRAINED}, "
    "or export the graph itself (source=frozen_graph)"
)


def _frozen():
    graph = GraphDef()
    graph.node.add(name="x", op="Placeholder").attr["dtype"].type = 1
    return graph


def _zip(*names):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return data.getvalue()


OTHER_FILES = {
    "m.keras": (_zip("metadata.json", "config.json"), f"is a Keras model and no TensorFlow checkpoint; {KERAS}"),
    "m.h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), f"is an HDF5 file of Keras and no TensorFlow checkpoint; {KERAS}"),
    "frozen.pb": (_frozen().SerializeToString(), ALONE),
    "graph.pbtxt": (str(_frozen()).encode(), ALONE),
    "saved_model.pb": (b"\x08\x01\x12\x02\x0a\x00", f"is the graph of a SavedModel and no checkpoint; {TRAINED}"),
    "m.pt": (_zip("m/data.pkl"), f"is a PyTorch file and no TensorFlow checkpoint; {TRAINED}"),
    "m.npz": (_zip("a.npy"), f"is an archive of NumPy arrays and no checkpoint; {TRAINED}"),
    "m.zip": (_zip("a.txt"), f"is a zip archive and no checkpoint; {TRAINED}"),
    "m.tflite": (b"\x1c\0\0\0TFL3" + bytes(99), f"is a TensorFlow Lite model and no checkpoint; {TRAINED}"),
    "notes.txt": (
        b"hello",
        "is no TensorFlow checkpoint, or one that was cut short; name the checkpoint's prefix, without .index or .data",
    ),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_a_file_that_is_no_checkpoint_is_named_for_what_it_is(name, config, tmp_path):
    content, text = OTHER_FILES[name]
    (tmp_path / name).write_bytes(content)
    assert told(config({"source.checkpoint": name})) == [f"source.checkpoint: {name}: {text}"]


def test_a_directory_of_exports_is_no_checkpoint(config, tmp_path):
    for version in ("1", "12"):
        (tmp_path / "exports" / version / "variables").mkdir(parents=True)
        (tmp_path / "exports" / version / "saved_model.pb").touch()
    assert told(config({"source.checkpoint": "exports"})) == [
        f"source.checkpoint: exports: is where exports are: it holds versions 1 to 12; {TRAINED}"
    ]
    assert told(config({"source.checkpoint": "exports/12"})) == [
        f"source.checkpoint: exports/12: is a SavedModel: it is exported already; serve it as it is, "
        f"give it more signatures (source=saved_model), or {TRAINED}"
    ]


def test_the_variables_of_a_saved_model_have_no_meta(config, checkpoint, tmp_path):
    variables = tmp_path / "1" / "variables"
    variables.mkdir(parents=True)
    (tmp_path / "1" / "saved_model.pb").touch()
    for suffix in (".index", ".data-00000-of-00001"):
        shutil.copy(checkpoint("dense").prefix + suffix, variables / f"variables{suffix}")
    assert told(config({"source.checkpoint": "1/variables"})) == [
        "source.checkpoint: 1/variables/variables holds the variables of the SavedModel 1, and no .meta is beside it; "
        f"{TRAINED}, or build the graph from code (source=graph_builder)"
    ]


def test_an_object_based_checkpoint_has_no_graph(config, tmp_path):
    with BundleWriter(tmp_path / "ckpt-1") as writer:
        writer.add("_CHECKPOINTABLE_OBJECT_GRAPH", b"")
    assert told(config({"source.checkpoint": "ckpt-1"})) == [
        "source.checkpoint: ckpt-1 is an object-based checkpoint of TensorFlow 2 (tf.train.Checkpoint), which has no graph; "
        "build the graph from code (source=graph_builder)"
    ]


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        ([["a", "b", "c", "d"]], "is string, not float32; write float32 values"),
        ([1, 2, 3, 4], "is float32 [4], not float32 [?, 4]; write a list of rows"),
        ([[1, 2]], "is float32 [1, 2], not float32 [?, 4]"),
        ([[1], [2, 3]], "is ragged: its lists are of different lengths; fill them up to one length"),
        ("texts.npy", "is string, not float32; write float32 values"),
        ("rows.npz:wide", "is float32 [2, 5], not float32 [?, 4]"),
        ("rows.npz:whole", None),
        ([[1, 2, 3, 4]], None),
    ],
)
def test_samples_of_another_type_are_refused_in_the_plan(sample, text, config, tmp_path):
    np.save(tmp_path / "texts.npy", np.array([b"a"]))
    np.savez(tmp_path / "rows.npz", wide=np.zeros([2, 5], np.float32), whole=np.zeros([3, 4], np.int64))
    changes = {"samples": {"serving_default": {"images": sample}}}
    if text is None:
        assert plan(config(changes)).samples
    else:
        assert told(config(changes)) == [f"samples.serving_default.images: {text}"]


def test_columns_of_examples_have_the_features_type(config):
    changes = {
        "bindings.example": {"parse_example": {"images": {"dtype": "float32", "shape": [4]}}},
        "signatures.serving_default.inputs": {"inputs": "example"},
        "samples": {"serving_default": {"inputs": {"examples": {"images": [["a", "b", "c", "d"]]}}}},
    }
    assert told(config(changes)) == [
        "samples.serving_default.inputs.examples.images: is string, not float32; write float32 values"
    ]


def test_a_meta_that_is_not_there(config):
    assert told(config({"source.meta": "graph.meta"})) == [
        "source.meta: graph.meta: no such file; hand in the .meta that tf.compat.v1.train.Saver writes beside a checkpoint"
    ]


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (
            ".index",
            "source.checkpoint: copy_of_dense/model.ckpt-3.index: is a Git LFS pointer, not a checkpoint; run `git lfs pull`",
        ),
        (
            ".data-00000-of-00001",
            "source.checkpoint: copy_of_dense/model.ckpt-3.data-00000-of-00001: is a Git LFS pointer, not the data; "
            "run `git lfs pull`",
        ),
        (".meta", "source.meta: copy_of_dense/model.ckpt-3.meta: is a Git LFS pointer, not the file itself; run git lfs pull"),
    ],
)
def test_a_pointer_instead_of_data(suffix, text, config, copied):
    prefix = copied("dense")
    Path(f"{prefix}{suffix}").write_text(LFS)
    assert told(config({"source.checkpoint": str(prefix)})) == [text]


def test_another_runs_checkpoint(config, checkpoint):
    """The graph of one model with the checkpoint of another."""
    other = checkpoint("queued").prefix
    assert told(config({"source.checkpoint": other, "source.meta": checkpoint("dense").meta})) == [
        f"{other}: variable 'dense/kernel' is not in the checkpoint; its nearest keys: kernel; "
        "map it with weights.names, or list it in weights.initialize",
        f"{other}: variable 'dense/bias' is not in the checkpoint; map it with weights.names, or list it in weights.initialize",
    ]


# Several at once


def test_everything_is_told_at_once(config):
    problems = told(
        config(
            {
                "naem": "x",
                "bindings.probs": "prob:0",
                "bindings.other": {"tensor": "x:0", "constant": 1},
                "signatures.serving_default.outputs.other": "other",
                "signatures.second": {"inputs": {}, "outputs": {"y": "nothing"}},
                "meta_graphs": {"serving": {"tags": "serve"}},
                "version": "v3",
                "export_dir": "exports/7",
            }
        )
    )
    assert problems == [
        "naem: no such key; did you mean name?",
        f"bindings.other: has tensor and constant; write exactly one of {OPERATIONS}",
        "signatures.second.outputs.y: there is no binding 'nothing'; known: images, other, other.indices, other.values, probs",
        "meta_graphs.serving.tags: is the text 'serve', not a list; write [serve]",
        "export_dir: ends in the number 7; versions are made below it: leave the number out",
        f"version: is the text 'v3'; {NO_ZEROS}",
        "bindings.probs.tensor: the graph has no tensor prob:0; did you mean probs:0?",
    ]


@pytest.mark.parametrize(
    "broken",
    [
        {"bindings.images": {"tensor": "x:0", "dtyp": "float32"}},
        {"bindings.probs": {}},
        {"bindings.is_training": {"constant": False}},
        {"signatures.serving_default": {"inputs": {}}},
        {"source": None},
        {"source.checkpoint": "nowhere"},
    ],
)
def test_a_broken_part_has_no_consequences(broken, config):
    """It offers its names still, and weights and placeholders are not judged by what is left."""
    good = config(
        {
            "bindings.top": {"top_k": "probs", "k": 2},
            "signatures.best": {"inputs": {"x": "images"}, "outputs": {"y": "top.values"}},
            "weights": {"names": [{"variable": "(dense/.*)", "key": r"\1"}]},
            "samples": {"serving_default": {"images": [[0, 0, 0, 0]]}},
        }
    )
    plan(good)
    assert len(told(changed(good, broken))) == 1


def test_the_same_problem_of_two_signatures_is_told_once(config):
    two = {"signatures.second": {"inputs": {"x": "images"}, "outputs": {"y": "probs"}}}
    assert len(told(config(two | {"bindings.is_training": GONE}))) == 1


def test_a_damaged_graph_is_told(config, copied):
    from exportkit import metagraph

    prefix = copied("dense")
    meta = metagraph.read(f"{prefix}.meta")
    nodes = [node for node in meta.graph_def.node if node.name != "dense/kernel/read"]
    del meta.graph_def.node[:]
    meta.graph_def.node.extend(nodes)
    Path(f"{prefix}.meta").write_bytes(meta.SerializeToString())
    where = os.path.relpath(f"{prefix}.meta")
    assert told(config({"source.checkpoint": str(prefix)})) == [
        f"source.meta: {where}: {node} takes dense/kernel/read, which the graph does not have; "
        "the file is damaged or was made by hand: copy it again"
        for node in ("MatMul (MatMul)", "gradients/MatMul_grad/MatMul (MatMul)")
    ]


# Sources of code


@pytest.fixture
def model(monkeypatch):
    """A module on the path whose import would raise."""
    Path("my_model.py").write_text(
        "1 / 0\ndef build(size, depth=1): ...\nclass Net:\n    def __init__(self, size): ...\n"
        "    def build_graph_from_config(self, config): ...\n    def restored(self, config, checkpoint_path): ...\n"
    )
    monkeypatch.syspath_prepend(Path.cwd())


def builder(config, **source):
    return config({"source": {"kind": "graph_builder", "builder": "my_model:build", "params": {"size": 1}} | source})


@pytest.mark.usefixtures("model")
def test_a_plan_of_code_tells_what_was_checked(config):
    planned = plan(builder(config))
    assert [(c.stage, c.what, c.checked) for c in planned.checks[:4]] == [
        ("source", "builder my_model:build", True),
        ("source", "the graph's tensors and variables", False),
        ("weights", "every variable has one value in the checkpoint, or an initialize rule", False),
        ("bind", "3 bindings: images, probs, is_training", False),
    ]


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({"builder": "my_model:bild"}, "source.builder: there is no 'bild' in my_model.py; did you mean build?"),
        ({"builder": "my_modle:build"}, "source.builder: there is no module 'my_modle'; did you mean my_model?"),
        ({"builder": "my_model.build"}, "source.builder: 'my_model.build' is not a reference; write my_model:build"),
        ({"builder": GONE}, "source.builder: is not set; set it to a text"),
        ({"params": {"sise": 1}}, "source.params.sise: is not a parameter; did you mean size?"),
        ({"params": {}}, "source.params.size: has no default and is not given; set it"),
        (
            {"checkpoint": "nowhere"},
            "source.checkpoint: nowhere: no checkpoint is there; paths are relative to where exportkit was started",
        ),
    ],
)
def test_code_is_checked_without_importing_it(source, text, config):
    data = builder(config, **{k: v for k, v in source.items() if v is not GONE})
    for key in [k for k, v in source.items() if v is GONE]:
        del data["source"][key]
    assert told(data) == [text]


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({"args": {}}, "source.args.size: has no default and is not given; set it"),
        (
            {"method": "build_graph"},
            "source.method: class Net has no method 'build_graph'; did you mean build_graph_from_config?",
        ),
        ({"method": "restored"}, "source.checkpoint: is not set, and restored needs it; set it"),
        ({"encoder": "my_model:Nett"}, "source.encoder: there is no 'Nett' in my_model.py; did you mean Net?"),
    ],
)
def test_an_encoder_is_checked_without_importing_it(source, text, config):
    whole = {"kind": "encoder", "encoder": "my_model:Net", "args": {"size": 1}}
    assert told(config({"source": whole | source})) == [text]


def test_a_meta_graph_with_a_build_of_its_own(config, checkpoint):
    other = checkpoint("resources")
    own = {"tags": ["train"], "source": {"meta": other.meta, "checkpont": "x"}, "train_op": "train"}
    data = config({"meta_graphs": {"serving": {"tags": ["serve"]}, "train": own}})
    assert told(data) == ["meta_graphs.train.source.checkpont: no such key; did you mean checkpoint?"]
    del own["source"]["checkpont"]
    planned = plan(data)
    assert planned.sources["train"].meta == Path(other.meta)
    assert planned.sources["train"].checkpoint == planned.source.checkpoint


# Plugins


class Policy:
    def __init__(self, answer):
        self.answer = answer

    @hookimpl
    def exportkit_check_plan(self, plan):
        return self.answer


def test_a_policy_refuses_and_is_named(config):
    plugins = load_plugins({"rules": Policy([Problem("vars.owner", "is not set", "set it")])})
    assert told(config(), plugins) == ["vars.owner: is not set (plugin rules of this process); set it"]


def test_a_policy_is_asked_about_a_broken_plan_as_well(config):
    plugins = load_plugins({"rules": Policy([Problem("vars.owner", "is not set")])})
    assert told(config({"version": -1}), plugins) == [
        f"version: is the integer -1; {NO_ZEROS}",
        "vars.owner: is not set (plugin rules of this process)",
    ]


def test_what_a_policy_makes_of_a_broken_plan_is_no_fault_of_its(config):
    plugins = load_plugins({"rules": Policy(["not a problem"])})
    assert told(config({"version": -1}), plugins) == [f"version: is the integer -1; {NO_ZEROS}"]
    assert told(config(), plugins, PluginError) == [
        "plugin rules of this process: exportkit_check_plan returned ['not a problem'], not a list of Problems; fix it"
    ]


@dataclass(kw_only=True)
class Faulty(ModelSource):
    kind: str = "faulty"
    told: str = ""

    def preview(self):
        return {"raises": lambda: 1 / 0, "wrong": lambda: "x", "": lambda: Preview(problems=[Problem("told", "is wrong")])}[
            self.told
        ]()

    def build(self, preview, scratch, wanted): ...


BAD = "source (plugin bad of this process): preview raised ZeroDivisionError: division by zero"


class FaultySources:
    @hookimpl
    def exportkit_model_sources(self):
        return [Faulty]


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("", ConfigError, "source.told: is wrong"),
        ("raises", PluginError, f"{BAD} ({__file__}:{Faulty.preview.__code__.co_firstlineno + 1})"),
        ("wrong", PluginError, "source (plugin bad of this process): preview returned a str, not a Preview"),
    ],
)
def test_a_faulty_source_is_named(how, kind, text, config):
    plugins = load_plugins({"bad": FaultySources()})
    assert told(config({"source": {"kind": "faulty", "told": how}}), plugins, kind) == [text]


def test_a_directory_that_is_not_writable(config, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert told(config()) == [f"export_dir: {tmp_path} is not writable; make it writable, or choose another one"]


def test_a_report_that_cannot_be_written(config, monkeypatch, tmp_path):
    (tmp_path / "r.json").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "r.json")
    assert told(config({"report.path": "r.json"})) == [
        "report.path: r.json is not writable; make it writable, or choose another one"
    ]


def test_errors_of_a_plan_are_of_exit_code_2():
    assert ConfigError.exit_code == BindingError.exit_code == 2


def test_what_comes_from_the_environment_is_not_written_down(plugins, config, monkeypatch):
    monkeypatch.setenv("TOKEN_OF_A_TEAM", "s3cr3t")
    secret = "${oc.env:TOKEN_OF_A_TEAM}"
    composed = OmegaConf.create(config({"vars": {"token": secret, "url": "https://host/${vars.token}/x"}}))
    assert plan(composed, plugins).config["vars"] == {"token": secret, "url": f"https://host/{secret}/x"}
