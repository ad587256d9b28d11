"""What exportkit writes into saved_model.pb is what TensorFlow's SavedModelBuilder writes there, node for node.

The differences are in this module, each with its reason:

- `_output_shapes` is not written: a loader infers shapes, and those of an older TensorFlow may contradict a newer one.
- `_has_manual_control_dependencies` and `experimental_type` are marks of TensorFlow's own making, set anew by each import.
- The nodes that save and restore have other names; what they restore from which key is compared.
- The constant with an asset's path is not pinned to the CPU: strings have no other place, and a served graph has no pins.
- The default of a feature is one constant of its shape, not a constant and a Reshape.
- The list of ops has those in the branches of tf.cond, too; the Builder overlooks them.
- `tensorflow_git_version` is empty: the C API does not have it.
"""

import os
from collections import Counter
from pathlib import Path

import by_builder
import more_training_graphs  # noqa: F401  (adds its cases)
import pytest
import tensorflow as tf
import toys
import yaml
from training_graphs import CASES

import exportkit
from exportkit.core.host import Host
from exportkit.exporting import savedmodel
from exportkit.metagraph import Graph
from exportkit.metagraph.tensors import split
from exportkit.operations.bindings import Bindings
from exportkit.planning.prepare import Model, demand
from exportkit.processes import Sandbox
from exportkit.protos import NodeDef
from exportkit.spec import Constant, ExportPlan, MetaGraph, Placeholder, Signature, Tensor

v1 = tf.compat.v1
MARKS = ("_output_shapes", "_has_manual_control_dependencies")


def compare(theirs, ours):
    """Assert that two MetaGraphDefs are equal but for what the docstring above lists."""
    restored = [restores(meta) for meta in (theirs, ours)]
    assert restored[0] == restored[1]
    nodes = [{node.name: plain(node) for node in meta.graph_def.node if not is_savers(node, meta)} for meta in (theirs, ours)]
    assert sorted(nodes[0]) == sorted(nodes[1])
    assert {name: node for name, node in nodes[0].items() if node != nodes[1][name]} == {}
    assert theirs.graph_def.versions == ours.graph_def.versions
    functions = [{f.signature.name: f for f in meta.graph_def.library.function} for meta in (theirs, ours)]
    assert functions[0] == functions[1]
    assert dict(theirs.signature_def) == dict(ours.signature_def)
    assert dict(theirs.collection_def) == dict(ours.collection_def)
    information = [meta.meta_info_def for meta in (theirs, ours)]
    assert list(information[0].tags) == list(information[1].tags)
    for key in ("tensorflow_version", "stripped_default_attrs", "meta_graph_version"):
        assert getattr(information[0], key) == getattr(information[1], key)
    ops = [{op.name: op for op in one.stripped_op_list.op} for one in information]
    known = {name: ops[1].get(name) for name in ops[0] if name not in SAVERS}
    assert {name: op for name, op in ops[0].items() if name not in SAVERS} == known


SAVERS = {"DisableCopyOnRead", "Identity", "ReadVariableOp", "Read"}  # the Builder copies slices of resource variables first


def is_savers(node, meta):
    scope = meta.saver_def.restore_op_name.rpartition("/")[0]
    return bool(scope) and node.name.startswith(f"{scope}/")


def plain(node):
    """A node without the marks, and with its edges in one spelling."""
    copy = NodeDef()
    copy.CopyFrom(node)
    copy.ClearField("experimental_type")
    for mark in MARKS:
        copy.attr.pop(mark, None)
    edges = [split(edge) for edge in node.input]
    control = sorted(f"^{op}" for op, index in edges if index < 0)
    copy.input[:] = [f"{op}:{index}" for op, index in edges if index >= 0] + control
    if copy.op == "Const" and copy.device == "/device:CPU:*":
        copy.device = ""
    return copy


def restores(meta):
    """Variable op → the key, slice and dtype from which the meta graph's restore op fills it; and whether it checks shapes."""
    nodes = {node.name: node for node in meta.graph_def.node}
    if not meta.saver_def.restore_op_name:
        return {}
    found = {}
    todo = [meta.saver_def.restore_op_name]
    while todo:
        node = nodes[todo.pop()]
        if node.op == "NoOp":
            todo += [split(edge)[0] for edge in node.input]
            continue
        value = split(node.input[1])
        while nodes[value[0]].op == "Identity":
            value = split(nodes[value[0]].input[0])
        restore = nodes[value[0]]
        assert restore.op == "RestoreV2"
        assert split(restore.input[0])[0] == split(meta.saver_def.filename_tensor_name)[0]
        key, part = (nodes[split(edge)[0]].attr["value"].tensor.string_val[value[1]] for edge in restore.input[1:3])
        dtype = restore.attr["dtypes"].list.type[value[1]]
        found[split(node.input[0])[0]] = node.op, key, part, dtype, "validate_shape" in node.attr
    return found


def both(plan, prepared, directory):
    """Compare what the Builder and exportkit write of every meta graph."""
    (directory / "ours").mkdir()
    prepared.coverage.saved.clear()  # no values are written, whatever the plan has
    with Host(Sandbox([])) as host:
        bound = savedmodel.bind(plan, prepared, host)
        with savedmodel.write(directory / "ours", plan, prepared, bound, host) as written:
            ours = written.meta_graphs
    theirs = by_builder.written(directory / "theirs", plan, prepared)
    assert [*ours] == [*theirs]
    for key, meta in theirs.items():
        compare(meta, ours[key])
    assets = [Counter(path.name for path in (directory / side / "assets").glob("*")) for side in ("ours", "theirs")]
    assert assets[0] == assets[1]


def of_config(config, directory):
    plan = exportkit.plan(config)
    both(plan, plan.prepared, directory)


@pytest.mark.quick(8)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_graphs_as_authors_write_them(case, shared, tmp_path):
    graph = Graph(case.meta_graph(shared))
    inputs = {f"input_{i}": Placeholder(placeholder=tensor) for i, tensor in enumerate(case.inputs)}
    constants = {f"c_{i}": Constant(constant=v, replaces=t) for i, (t, v) in enumerate(case.constants.items())}
    plan = ExportPlan(
        name="drawn",
        source=None,
        bindings=Bindings({**inputs, **constants, "output": Tensor(tensor=case.outputs[0])}),
        signatures={"serving_default": Signature(inputs={name: name for name in inputs}, outputs={"output": "output"})},
        meta_graphs={"serving": MetaGraph(tags=["serve"])},
        export_dir=tmp_path,
        version=1,
    )
    both(plan, demand(plan, {"serving": Model(graph)}), tmp_path)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return toys.saved(tmp_path_factory.mktemp("dense"), toys.dense)


@pytest.mark.parametrize("strip", [True, False])
def test_parsing_top_k_and_labels(strip, dense, tmp_path):
    (tmp_path / "labels.txt").write_text("ant\nbee\ncat\n")
    bindings = {
        "x": "x:0",
        "probs": "probs:0",
        "examples": {"parse_example": {"x": {"dtype": "float32", "shape": [4]}}},
        "top": {"top_k": "probs", "k": 2},
        "classes": {"lookup": "top.indices", "vocabulary": str(tmp_path / "labels.txt"), "default": "?"},
    }
    signatures = {
        "serving_default": {
            "method": "classify",
            "inputs": {"inputs": "examples"},
            "outputs": {"classes": "classes", "scores": "top.values"},
        },
        "predict": {"inputs": {"x": "x"}, "outputs": {"probs": "probs", "x": "x"}},
    }
    of_config(toys.config(dense, tmp_path, bindings=bindings, signatures=signatures, strip_default_attrs=strip), tmp_path)


def test_several_meta_graphs_a_device_and_a_train_op(dense, tmp_path):
    bindings = {"x": "x:0", "probs": "probs:0", "labels": "labels:0", "loss": "loss:0"}
    signatures = {
        "serving_default": {"inputs": {"x": "x"}, "outputs": {"probs": "probs"}},
        "train": {"inputs": {"x": "x", "labels": "labels"}, "outputs": {"loss": "loss"}},
    }
    meta_graphs = {
        "serving": {"tags": ["serve"], "signatures": ["serving_default"]},
        "gpu": {"tags": ["serve", "gpu"], "signatures": ["serving_default"], "device": "/device:GPU:0"},
        "train": {"tags": ["train"], "train_op": "train_op"},
    }
    of_config(toys.config(dense, tmp_path, bindings=bindings, signatures=signatures, meta_graphs=meta_graphs), tmp_path)


@pytest.mark.parametrize("resource", [True, False])
def test_partitioned_variables_and_a_table(resource, tmp_path):
    (tmp_path / "words.txt").write_text("zero\none\n")

    def build():
        words = v1.placeholder(tf.string, [None], "x")
        lines = tf.lookup.TextFileInitializer(
            str(tmp_path / "words.txt"),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        ids = tf.lookup.StaticHashTable(lines, 0).lookup(words)
        with v1.variable_scope("m", partitioner=v1.fixed_size_partitioner(3), use_resource=resource):
            rows = v1.get_variable("rows", [6, 2], initializer=v1.random_normal_initializer())
        tf.gather(tf.convert_to_tensor(rows), ids, name="probs")

    of_config(toys.config(toys.saved(tmp_path, build), tmp_path), tmp_path)


CORPUS = Path(os.environ.get("EXPORTKIT_CORPUS", ""))
ENTRIES = yaml.safe_load((CORPUS / "corpus.yaml").read_text()) if os.environ.get("EXPORTKIT_CORPUS") else []


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e["expect"].startswith("export")], ids=lambda e: e["name"])
def test_corpus(entry, tmp_path):
    constants = {f"constant_{i}": {"constant": v, "replaces": t} for i, (t, v) in enumerate(entry["constants"].items())}
    config = {
        "name": entry["name"],
        "source": {"kind": "meta_graph", "checkpoint": str(CORPUS / entry["prefix"])},
        "bindings": {**{k: {"placeholder": t} for k, t in entry["inputs"].items()}, **constants, **entry["outputs"]},
        "signatures": {
            "serving_default": {"inputs": {k: k for k in entry["inputs"]}, "outputs": {k: k for k in entry["outputs"]}}
        },
        "export_dir": str(tmp_path / "exports"),
    }
    of_config(config, tmp_path)
