"""What is suggested for training graphs as public repositories have them, and the config that is written of it."""

from functools import cache

import more_training_graphs  # noqa: F401  (adds its cases)
import numpy as np
import pytest
import tensorflow as tf
import yaml
from training_graphs import CASES

import exportkit
from exportkit import metagraph
from exportkit.checkpoint import BundleWriter
from exportkit.cli import suggestion
from exportkit.errors import BindingError
from exportkit.protos import MetaGraphDef

v1 = tf.compat.v1


@pytest.fixture(scope="module", autouse=True)
def as_tensorflow_1_wrote_graphs():
    v1.disable_control_flow_v2()
    yield
    v1.enable_control_flow_v2()


@cache
def written(build):
    """The graph that `build` makes, as a Saver writes it."""
    with tf.Graph().as_default():
        build()
        return metagraph.Graph(MetaGraphDef.FromString(v1.train.export_meta_graph().SerializeToString()))


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request):
    """A training graph: the tests of one run one after the other, so that a process builds it once."""
    return request.param


@pytest.mark.quick(25)
def test_suggests_what_authors_serve(case):
    graph = written(case.build)
    ranking = metagraph.rank(graph, lambda name: name in case.lacks)
    guess = suggestion.guess(graph, ranking)
    assert ranking.outputs[0].tensor in case.outputs
    assert guess.fetches[0] in case.outputs
    assert sorted(c.tensor for c in guess.inputs) == sorted(case.inputs)
    assert guess.constants == dict(case.constants)


@pytest.mark.quick(25)
def test_what_is_suggested_is_planned_without_a_problem(case, tmp_path):
    graph = written(case.build)
    guess = suggestion.guess(graph, metagraph.rank(graph, lambda name: name in case.lacks))
    with BundleWriter(tmp_path / "model") as writer:
        for variable in graph.variables.values():
            if variable.full_name not in case.lacks and None not in (variable.shape or ()):
                writer.add(variable.full_name, np.zeros(variable.shape, variable.dtype))
    (tmp_path / "model.meta").write_bytes(graph.meta.SerializeToString())
    source = {"checkpoint": str(tmp_path / "model"), "meta": str(tmp_path / "model.meta")}
    text = suggestion.config(str(case), "meta_graph", source, graph, guess)
    config = yaml.safe_load(text)
    del config["defaults"]
    config["source"]["kind"] = "meta_graph"
    planned = exportkit.plan({**config, "export_dir": str(tmp_path / "exports")})
    assert list(planned.signatures) == ["serving_default"]


def test_a_baked_batch_is_not_printed_as_free():
    """The cell's first state has the shape of the sequences as tf.shape folded it: time, batch, width."""
    (case,) = (case for case in CASES if str(case) == "padded_sequences_out_of_a_queue")
    graph = written(case.build)
    guess = suggestion.guess(graph, metagraph.rank(graph))
    assert [candidate.shape for candidate in guess.inputs] == [(32, 30), (32,)]


def test_there_are_at_least_sixty_graphs():
    assert len(CASES) >= 60


@pytest.mark.parametrize("broken", ["lacks a node", "circle"])
def test_a_graph_that_is_not_whole_is_refused_or_ranked_and_never_hangs(broken):
    graph = written(CASES[0].build)
    meta = MetaGraphDef()
    meta.CopyFrom(graph.meta)
    node = next(node for node in meta.graph_def.node if node.op == "Softmax")
    if broken == "circle":
        meta.graph_def.node.add(name="round", op="Identity", input=["round"])
        node.input[:] = ["round"]
        assert isinstance(metagraph.rank(metagraph.Graph(meta)), metagraph.Ranking)
        return
    node.input[:] = ["gone"]
    with pytest.raises(BindingError, match="takes gone, which the graph does not have"):
        metagraph.rank(metagraph.Graph(meta))
