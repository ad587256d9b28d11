"""The shipped example: a thought encoder that is served sentences, through the command line."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from exportkit.examples import thought_encoder
from nlp_toys import served

SENTENCES = ["Let the river finish speaking.", "Nobody spoke.", "", "Zebras? \0 Ὀδός!", "NOBODY'S business " * 9]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("example")
    thought_encoder.train(directory / "runs", steps=2, dim=8, vocab_size=300)
    return directory


def test_vectors_are_those_of_ids_fed_by_hand(runs, monkeypatch):
    monkeypatch.chdir(runs)
    small = ["source.model.args.vocab_size=300", "source.model.config.dim=8"]
    command = [sys.executable, "-m", "exportkit", "experiment=thought_sentences", *small]
    done = subprocess.run(command, cwd=runs, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    vectors = served(runs / "exports" / "thought_sentences" / "1", SENTENCES)["vectors"]
    assert np.abs(vectors - _by_hand(runs)).max() == 0


def _by_hand(runs):
    vocabulary = (runs / "runs/thought_encoder/vocabulary.txt").read_text().splitlines()
    ids, mask = thought_encoder.encode(SENTENCES, vocabulary)
    prefix = tf.train.latest_checkpoint(runs / "runs" / "thought_encoder")
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        tf.compat.v1.train.import_meta_graph(f"{prefix}.meta").restore(session, prefix)
        return session.run("thought_vectors:0", {"encode_ids:0": ids, "encode_mask:0": mask})


def test_a_misspelt_key_of_the_model_is_told_by_hydra(runs):
    command = [sys.executable, "-m", "exportkit", "plan", "experiment=thought_sentences", "source.model.cnfig=1"]
    done = subprocess.run(command, cwd=runs, capture_output=True, text=True)
    assert done.returncode == 2
    assert "source.model.cnfig: no such key; did you mean source.model.config?" in done.stderr
