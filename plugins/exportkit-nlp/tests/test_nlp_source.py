"""The source `text`: what it tells before anything is built, and what is served with it."""

import re
import shutil
from pathlib import Path

import exportkit
import numpy as np
import pytest
import tensorflow as tf
from exportkit.plugin import BindingError, ConfigError, read_saved_model
from exportkit.testing import main
from nlp_toys import END, PADDING, UNKNOWN, answer, encode, save, served, write_vocabulary

from exportkit_nlp.tokens import Tokenizer

PLUGINS = exportkit.load_plugins()
SENTENCES = ["The river.", "Nobody spoke to the river, nobody!", "", "Don't"]
HOW = {"separator": r"[^a-z']+", "lowercase": True, "unknown": UNKNOWN, "padding": PADDING, "end": END}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    return save(tmp_path_factory.mktemp("bag"))


def _config(prefix, tmp_path, **source):
    vocabulary = write_vocabulary(tmp_path)
    inner = {"kind": "meta_graph", "checkpoint": str(prefix)}
    text = {"kind": "text", "model": inner, "vocabulary": str(vocabulary), "separator": HOW["separator"], "end": "</s>"}
    feeds = {"ids": "token_ids:0", "mask": "token_mask:0", "lengths": "token_lengths:0"}
    return {
        "name": "bag",
        "source": {**text, **feeds, **source},
        "bindings": {"sentences": "sentences", "mean": "mean:0", "ids": "ids", "mask": "mask"},
        "signatures": {
            "serving_default": {
                "inputs": {"sentences": "sentences"},
                "outputs": {"mean": "mean", "ids": "ids", "mask": "mask"},
            }
        },
        "export_dir": str(tmp_path / "exports"),
    }


def _export(config):
    return exportkit.run(exportkit.plan(config, PLUGINS), PLUGINS)


def _refusal(error, call, *args):
    with pytest.raises(error) as refused:
        call(*args)
    return str(refused.value).splitlines()


def test_sentences_are_answered_as_their_ids_are(prefix, tmp_path):
    report = _export(_config(prefix, tmp_path))
    answered = served(report.directory, SENTENCES)
    ids, mask = encode(SENTENCES, Tokenizer(vocabulary=tmp_path, **HOW))
    np.testing.assert_array_equal(answered["ids"], ids)
    np.testing.assert_array_equal(answered["mask"], mask)
    assert answered["ids"].dtype == np.int32 and answered["mask"].dtype == np.float32
    by_hand = answer(prefix, {"token_ids:0": ids, "token_mask:0": mask, "token_lengths:0": mask.sum(axis=1)})
    assert np.abs(answered["mean"] - by_hand).max() == 0
    assert report.assets == ["words.txt"]


def test_the_vocabulary_travels_with_the_export(prefix, tmp_path):
    report = _export(_config(prefix, tmp_path))
    before = served(report.directory, SENTENCES)["mean"]
    moved = shutil.move(report.directory, tmp_path / "elsewhere")
    (tmp_path / "words.txt").unlink()
    np.testing.assert_array_equal(served(moved, SENTENCES)["mean"], before)


def test_what_the_model_was_fed_through_is_gone(prefix, tmp_path):
    report = _export(_config(prefix, tmp_path))
    nodes = read_saved_model(report.directory).meta_graphs[0].graph_def.node
    assert [node.name for node in nodes if node.op == "Placeholder"] == ["inputs/sentences"]


def test_the_length_that_a_model_reads_is_kept(tmp_path):
    prefix = save(tmp_path, ids_shape=(None, 4))
    report = _export(_config(prefix, tmp_path))
    answered = served(report.directory, SENTENCES)
    ids, _ = encode(SENTENCES, Tokenizer(vocabulary=tmp_path, **HOW, max_length=4, fixed_length=4))
    np.testing.assert_array_equal(answered["ids"], ids)


def test_the_batch_that_a_model_reads_is_told(tmp_path):
    prefix = save(tmp_path, ids_shape=(2, None))
    report = _export(_config(prefix, tmp_path))
    assert "the first dimension of 'sentences' is fixed at 2" in "\n".join(report.warnings)


def test_two_builds_are_equal(prefix, tmp_path):
    first, second = (_export(_config(prefix, tmp_path)) for _ in range(2))
    graphs = [(Path(r.directory) / "saved_model.pb").read_bytes() for r in (first, second)]
    assert graphs[0] == graphs[1]


def test_a_model_that_has_a_scope_named_text(tmp_path):
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session, tf.name_scope("text"):
        ids = tf.compat.v1.placeholder(tf.int64, [None, None], "sentences")
        table = tf.compat.v1.get_variable("table", [20], initializer=tf.compat.v1.ones_initializer())
        with tf.control_dependencies([ids]):
            tf.reduce_sum(tf.gather(table, ids), axis=1, name="count")
        session.run(table.initializer)
        prefix = tf.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    config = _config(prefix, tmp_path, ids="text/sentences:0", mask=None, lengths=None)
    config["bindings"] = {"sentences": "sentences", "count": "text/count:0"}
    config["signatures"]["serving_default"]["outputs"] = {"count": "count"}
    assert served(_export(config).directory, ["the river"])["count"].tolist() == [3]


def test_everything_that_is_wrong_is_told_at_once(prefix, tmp_path):
    config = _config(prefix, tmp_path, ids="token_id:0", unknown="<unkn>", max_length=1)
    config["source"]["model"]["checkpoint"] = str(tmp_path / "nowhere")
    assert _refusal(ConfigError, exportkit.plan, config, PLUGINS) == [
        "source.max_length: is a length of 1, which leaves no room for a word; 2 or more are needed",
        f"source.unknown: '<unkn>' is not in {tmp_path / 'words.txt'}; did you mean <unk>?",
        f"source.model.checkpoint: {tmp_path / 'nowhere'}: no checkpoint is there; {tmp_path} holds words.txt",
    ]


def test_every_key_of_both_sources_is_read(prefix, tmp_path):
    config = _config(prefix, tmp_path, lowercase="yes", max_length=0, model={"kind": "meta_graph"})
    assert _refusal(ConfigError, exportkit.plan, config, PLUGINS) == [
        "source.model.checkpoint: is not set; set it to a path",
        "source.lowercase: is the text 'yes', not true or false; write true or false",
        "source.max_length: is 0; write 1 or more, or null",
    ]


def test_a_tensor_that_the_model_does_not_have(prefix, tmp_path):
    config = _config(prefix, tmp_path, ids="token_id:0")
    assert _refusal(ConfigError, exportkit.plan, config, PLUGINS) == [
        "source.ids: the graph has no tensor token_id:0; did you mean token_ids:0?"
    ]


def test_a_tensor_that_built_code_does_not_have(tmp_path, monkeypatch):
    (tmp_path / "bag_builder.py").write_text("from nlp_toys import bag_of_words\n\n\ndef build():\n    bag_of_words()\n")
    monkeypatch.syspath_prepend(tmp_path)
    prefix = save(tmp_path)
    inner = {"kind": "graph_builder", "builder": "bag_builder:build", "checkpoint": prefix}
    plan = exportkit.plan(_config(prefix, tmp_path, model=inner, mask="token_masks:0"), PLUGINS)
    assert _refusal(BindingError, exportkit.run, plan, PLUGINS) == [
        "source.mask: the graph has no tensor token_masks:0; did you mean token_mask:0?"
    ]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({}, f"source.model.kind: is not set; known: {', '.join(sorted(PLUGINS.sources))}"),
        ("meta_graph", "source.model: is the text 'meta_graph', not a mapping; write {kind: …}"),
        ({"kind": "metagraph"}, "source.model.kind: there is no source 'metagraph'; did you mean meta_graph?"),
        ({"kind": "meta_graph"}, "source.model.checkpoint: is not set; set it to a path"),
        (
            {"kind": "meta_graph", "checkpoint": "a", "mta": "b"},
            "source.model.mta: no such key; did you mean meta?",
        ),
    ],
)
def test_a_model_that_cannot_be_read(prefix, tmp_path, model, told):
    assert _refusal(ConfigError, exportkit.plan, _config(prefix, tmp_path, model=model), PLUGINS) == [told]


def test_a_text_before_a_text(prefix, tmp_path):
    inner = _config(prefix, tmp_path)["source"]
    assert _refusal(ConfigError, exportkit.plan, _config(prefix, tmp_path, model=inner), PLUGINS) == [
        "source.model.kind: is 'text' too; choose the source of the model itself"
    ]


def test_the_model_is_a_key_like_all_others(capsys):
    assert main(["plugins", "text"]) == 0
    assert re.search(r"model +a source: {kind: …} +must be given", capsys.readouterr().out)


def test_paths_of_the_model_do_not_depend_on_where_it_is_built(prefix, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(prefix).parent)
    plan = exportkit.plan(_config(Path(prefix).name, tmp_path), PLUGINS)
    monkeypatch.chdir(tmp_path)
    assert exportkit.run(plan, PLUGINS).status == "exported"


def test_what_fails_in_the_model_is_told_with_its_place(tmp_path, monkeypatch):
    (tmp_path / "broken_builder.py").write_text("def build():\n    raise ValueError('no such dataset')\n")
    monkeypatch.syspath_prepend(tmp_path)
    inner = {"kind": "graph_builder", "builder": "broken_builder:build", "checkpoint": save(tmp_path)}
    plan = exportkit.plan(_config("", tmp_path, model=inner), PLUGINS)
    (line,) = _refusal(ConfigError, exportkit.run, plan, PLUGINS)
    assert line.startswith("source.model.builder: raised ValueError: no such dataset")
