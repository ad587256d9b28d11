"""A second session of a loaded version: the first one's variables in the same memory, and tables of its own."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import toys

from exportkit.core import worker as core_worker
from exportkit.core.host import Host
from exportkit.metagraph import Graph, read_saved_model
from exportkit.processes import Sandbox
from exportkit.protos import ConfigProto
from exportkit.serving.running import Refusal, Running, unoptimized
from exportkit.serving.second_session import second_session

pytestmark = pytest.mark.slow
v1 = tf.compat.v1
X = np.array([[1, 2], [3, 4]], np.float32)


def model():
    """Build a reference variable, a resource variable, one in two parts, and a table of labels."""
    x, words = v1.placeholder(tf.float32, [None, 2], "x"), v1.placeholder(tf.string, [None], "words")
    reference = v1.get_variable("reference", initializer=[2.0, 3.0], use_resource=False)
    resource = v1.get_variable("resource", initializer=[5.0, 7.0], use_resource=True)
    parts = v1.get_variable(
        "parts", [2, 2], initializer=v1.constant_initializer([1, 10]), partitioner=v1.fixed_size_partitioner(2)
    )
    rearranged = tf.multiply(x * 1e30, 1e-30)
    tf.add(tf.matmul(rearranged * reference * resource, tf.convert_to_tensor(parts)), 0.0, name="y")
    Path("labels.txt").write_text("red\ngreen\n")
    table = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(
            "labels.txt", tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        ),
        num_oov_buckets=1,
    )
    tf.identity(table.lookup(words), name="ids")


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """Export the model, which is proved with one load."""
    base, loads = tmp_path_factory.mktemp("second"), []
    exchange = Running._exchange

    def exchanging(self, stage, name, *arguments):
        loads.append(name)
        return exchange(self, stage, name, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        patch.setattr(Running, "_exchange", exchanging)
        config = toys.config(
            toys.saved(base, model),
            base,
            bindings={"x": "x:0", "words": "words:0", "y": "y:0", "ids": "ids:0"},
            signatures={
                "serving_default": {"inputs": {"x": "x"}, "outputs": {"y": "y"}},
                "label": {"inputs": {"words": "words"}, "outputs": {"ids": "ids"}},
            },
            post={"verify": {"kind": "verify"}, "manifest": {"kind": "manifest"}},
        )
        report = toys.export(config)
    assert [name for name in loads if name != core_worker.RUN] == [core_worker.LOAD, core_worker.SECOND]
    return Path(report.directory)


@pytest.fixture
def first(version):
    with Host(Sandbox([version])) as host:
        yield Running(version, ["serve"], host=host)


def graph(version):
    return Graph(read_saved_model(version).meta_graphs[0])


def test_it_answers_with_the_first_ones_variables_and_its_own_tables(version, first):
    known = second_session(graph(version), version)
    assert known.values == [
        ("reference:0", "save/RestoreV2:2"),
        ("parts/part_0/Read/ReadVariableOp:0", "save/Identity:0"),
        ("parts/part_1/Read/ReadVariableOp:0", "save/Identity_1:0"),
        ("resource/Read/ReadVariableOp:0", "save/Identity_2:0"),
    ]
    paths = {node: path.tolist() for node, path in known.assets.items()}
    assert paths == {"asset_path": str(version / "assets" / "labels.txt").encode()}
    second = first.beside(known, unoptimized())
    assert second.ask("serving_default", {"x": X})["y"].tolist() == [[52, 520], [114, 1140]]
    assert second.ask("label", {"words": np.array([b"green", b"blue"], object)})["ids"].tolist() == [1, 2]
    assert first.ask("label", {"words": np.array([b"red"], object)})["ids"].tolist() == [0]
    assert (first.loads, second.loads) == (1, 1)
    large = {"x": X * np.float32(1e10)}
    assert np.isinf(second.ask("serving_default", large)["y"]).all()  # as it is written
    assert np.isfinite(first.ask("serving_default", large)["y"]).all()  # the optimizer has put both factors together


def test_a_variable_that_is_restored_under_anothers_name_has_the_same_value_in_both(version, first):
    """What the second one restores are variables, not names: so it shows an error of the first one's restore."""
    swapped = graph(version).meta
    names = next(node for node in swapped.graph_def.node if node.name == "save/RestoreV2/tensor_names")
    strings = names.attr["value"].tensor.string_val
    strings[-1], strings[-2] = strings[-2], strings[-1]
    assert second_session(Graph(swapped), version) == second_session(graph(version), version)


def test_it_is_made_again_with_the_session_that_it_shares(version, first):
    second = first.beside(second_session(graph(version), version), unoptimized(), remembers=True)
    answers = [second.answer("serving_default", {"x": X}, 0)["y"].tolist()]
    first._host.kill()
    answers.append(second.answer("serving_default", {"x": X * 2}, 0)["y"].tolist())
    assert (first.loads, second.loads, answers) == (2, 2, [[[52, 520], [114, 1140]], [[104, 1040], [228, 2280]]])
    other = Running(version, ["serve"], host=first._host)
    other.load()
    assert not isinstance(second.ask("serving_default", {"x": X}), Refusal)
    assert (first.loads, second.loads, first._host.holder is first) == (3, 3, True)


def with_legacy_init_op(meta):
    meta.collection_def["legacy_init_op"].node_list.value.append("init")


def with_init_signature(meta):
    meta.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "init"


def with_another_op_in_its_saver(meta):
    meta.graph_def.node.add(name="extra", op="Assert")
    next(node for node in meta.graph_def.node if node.name == "save/restore_all").input.append("^extra")


def without_a_read(meta):
    save = next(node for node in meta.graph_def.node if node.name == "save/SaveV2")
    save.input.remove(next(name for name in save.input if "ReadVariableOp" in name))


def with_one_value_for_two(meta):
    assigned = [node for node in meta.graph_def.node if node.op == "AssignVariableOp" and node.name.startswith("save/")]
    assigned[0].input[1] = assigned[1].input[1]


@pytest.mark.parametrize(
    "change",
    [with_legacy_init_op, with_init_signature, with_another_op_in_its_saver, without_a_read, with_one_value_for_two],
    ids=lambda change: change.__name__,
)
def test_a_model_that_restores_in_another_way_has_none(change, version):
    meta = graph(version).meta
    change(meta)
    assert second_session(Graph(meta), version) is None


def test_a_model_without_variables_has_one(tmp_path):
    def scaled():
        tf.multiply(v1.placeholder(tf.float32, [None], "x"), 2.0, name="y")

    meta = graph_of(scaled)
    assert dataclasses.astuple(second_session(Graph(meta), tmp_path)) == ([], [], [], {})


def graph_of(build):
    with tf.Graph().as_default():
        build()
        return v1.train.export_meta_graph()


def test_a_second_session_that_cannot_be_made_is_a_problem(version, first):
    known = second_session(graph(version), version)
    second = first.beside(dataclasses.replace(known, initialize=["none"]), ConfigProto())
    with pytest.raises(Exception, match="loading: NOT_FOUND: none is not in the graph"):
        second.load()
    assert first.ask("label", {"words": np.array([b"red"], object)})["ids"].tolist() == [0]
