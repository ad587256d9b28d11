"""The shipped example: a thought encoder that is served sentences, through the command line."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from exportkit.examples import thought_encoder
from exportkit.testing import main
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


def test_a_misspelt_key_of_the_model_is_told_by_hydra(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    assert main(["plan", "experiment=thought_sentences", "source.model.cnfig=1"]) == 2
    assert "source.model.cnfig: no such key; did you mean source.model.config?" in capsys.readouterr().err


def test_the_readmes_model_composes_and_is_planned(tmp_path, monkeypatch, capsys):
    readme = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n# (conf/model/titles\.yaml)\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / block[0]).parent.mkdir(parents=True)
    (tmp_path / block[0]).write_text(block[1])
    (tmp_path / "runs" / "titles").mkdir(parents=True)
    (tmp_path / "runs" / "titles" / "words.txt").write_text("<pad>\n<unk>\n</s>\nthe\n")
    assert main(["plan", "model=titles"]) == 2
    told = capsys.readouterr().err
    assert "source.model.checkpoint: " in told and len(told.splitlines()) == 1, told
