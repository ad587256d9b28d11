"""What is suggested for training graphs as public repositories have them, and the config that is written of it."""

from functools import cache

import more_training_graphs  # noqa: F401  (adds its cases)
import numpy as np
import pytest
import yaml
from training_graphs import CASES

import exportkit
from exportkit import metagraph
from exportkit.checkpoint import BundleWriter
from exportkit.cli import suggestion
from exportkit.errors import BindingError
from exportkit.protos import MetaGraphDef


@pytest.fixture(scope="module")
def written(shared):
    """The graph of a case, as a Saver writes it."""
    return cache(lambda case: metagraph.Graph(case.meta_graph(shared)))


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request):
    """A training graph: the tests of one run one after the other, so that a process builds it once."""
    return request.param


@pytest.mark.quick(25)
def test_suggests_what_authors_serve(case, written):
    graph = written(case)
    ranking = metagraph.rank(graph, lambda name: name in case.lacks)
    guess = suggestion.guess(graph, ranking)
    assert ranking.outputs[0].tensor in case.outputs
    assert guess.fetches[0] in case.outputs
    assert sorted(c.tensor for c in guess.inputs) == sorted(case.inputs)
    assert guess.constants == dict(case.constants)


@pytest.mark.quick(25)
def test_what_is_suggested_is_planned_without_a_problem(case, written, tmp_path):
    graph = written(case)
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


def test_a_baked_batch_is_not_printed_as_free(written):
    """The cell's first state has the shape of the sequences as tf.shape folded it: time, batch, width."""
    (case,) = (case for case in CASES if str(case) == "padded_sequences_out_of_a_queue")
    graph = written(case)
    guess = suggestion.guess(graph, metagraph.rank(graph))
    assert [candidate.shape for candidate in guess.inputs] == [(32, 30), (32,)]


@pytest.fixture
def bindings(written):
    """``bindings(name)``: the lines of the bindings in the config that is suggested for a case, comments among them."""

    def suggested(name):
        (case,) = (case for case in CASES if str(case) == name)
        graph = written(case)
        guess = suggestion.guess(graph, metagraph.rank(graph))
        lines = suggestion.config("m", "meta_graph", {"checkpoint": "c"}, graph, guess).splitlines()
        return [line.strip() for line in lines[lines.index("bindings:") + 1 : lines.index("signatures:")]]

    return suggested


def test_another_task_is_an_alternative_and_what_guards_a_logarithm_is_not(bindings):
    assert bindings("two_events_by_log_losses")[2:] == [
        "ctr_prob: ctr_prob:0",
        "logits: ctr_logit/BiasAdd:0",
        "# cvr_prob: cvr_prob:0    # or this",
    ]


def test_identities_that_were_made_to_be_fetched_are_offered_together(bindings):
    assert sorted(bindings("detections_named_to_be_fetched")[1:]) == [
        "detection_boxes: detection_boxes:0",
        "detection_classes: detection_classes:0",
        "detection_scores: detection_scores:0",
    ]


def test_parts_of_a_sparse_input_are_named_after_it(bindings):
    assert [line.split(":")[0] for line in bindings("sparse_ids_beside_dense_features")] == [
        "item_ids_shape",
        "item_ids_values",
        "item_ids_indices",
        "dense",
        "sigmoid",
        "logits",
    ]


def test_a_regression_predicts_and_the_statistics_of_a_batch_are_no_answer(bindings):
    assert bindings("statistics_of_a_batch_beside_the_answer")[2:] == ["predictions: fc/BiasAdd:0"]


def test_the_answer_of_a_condition_is_named_after_its_scope(bindings):
    lines = bindings("crf_decoded_in_a_condition")
    assert [line for line in lines if "Merge:0" in line][:1] == ["viterbi: viterbi/cond/Merge:0"]


def test_there_are_at_least_sixty_graphs():
    assert len(CASES) >= 60


@pytest.mark.parametrize("broken", ["lacks a node", "circle"])
def test_a_graph_that_is_not_whole_is_refused_or_ranked_and_never_hangs(broken, written):
    graph = written(CASES[0])
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
