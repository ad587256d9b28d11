"""The examples that ship: what their graphs offer, what their training leaves, and that their configs speak of the same."""

import pkgutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import yaml

from exportkit.examples import mnist_mlp, score_digits, thought_encoder
from exportkit.examples.thought_encoder import ThoughtEncoder

v1 = tf.compat.v1

CONF = Path(__file__).parents[1] / "conf"


def signature_of(tensor):
    """A tensor as ``(name, dtype, shape)``."""
    return tensor.name, tensor.dtype.name, tensor.shape.as_list()


def read_conf(name):
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())


def conf_tensors(bindings):
    """The tensors that bindings name, as ``{name: (dtype or None, shape or None)}``."""
    named = {}
    for binding in bindings.values():
        fields = {"tensor": binding} if isinstance(binding, str) else binding
        if name := fields.get("tensor") or fields.get("replaces"):
            named[name] = fields.get("dtype"), fields.get("shape")
    return named


def assert_names_tensors_of(bindings, graph):
    for name, (dtype, shape) in conf_tensors(bindings).items():
        tensor = graph.get_tensor_by_name(name)
        assert dtype in (None, tensor.dtype.name)
        assert shape in (None, tensor.shape.as_list())


# ---- mnist_mlp ----


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """The digits model trained as its command trains it, and where: ``(trained, root)``."""
    root = tmp_path_factory.mktemp("digits")
    return mnist_mlp.train(root / "runs", root / "data"), root


def test_mlp_offers_its_tensors_by_name():
    with tf.Graph().as_default():
        offered = mnist_mlp.build()
    assert {name: signature_of(tensor) for name, tensor in offered.items()} == {
        "images": ("x:0", "float32", [None, 64]),
        "labels": ("labels:0", "int64", [None]),
        "is_training": ("is_training:0", "bool", []),
        "logits": ("logits:0", "float32", [None, 10]),
        "probs": ("probs:0", "float32", [None, 10]),
        "loss": ("loss:0", "float32", []),
    }


@pytest.mark.parametrize("num_neurons", [[5, 3], (5, 3)])
def test_mlp_layers_are_config(num_neurons):
    with tf.Graph().as_default():
        mnist_mlp.build(num_inputs=4, num_neurons=num_neurons)
        assert {v.op.name: v.shape.as_list() for v in v1.global_variables()} == {
            "hidden_0/kernel": [4, 5],
            "hidden_0/bias": [5],
            "hidden_1/kernel": [5, 3],
            "hidden_1/bias": [3],
            "output/kernel": [3, 10],
            "output/bias": [10],
        }


def test_mlp_drops_units_only_while_training():
    images = np.ones([2, 64], np.float32)
    with tf.Graph().as_default(), v1.Session() as session:
        offered = mnist_mlp.build()
        session.run(v1.global_variables_initializer())

        def logits(is_training):
            return session.run(offered["logits"], {"x:0": images, "is_training:0": is_training})

        np.testing.assert_array_equal(logits(False), logits(False))
        assert not np.array_equal(logits(True), logits(True))


def test_digits_split_is_fixed_and_complete():
    training, held_out = mnist_mlp.load_digits()
    again, _ = mnist_mlp.load_digits()
    np.testing.assert_array_equal(training.labels, again.labels)
    assert len(training.images) + len(held_out.images) == 1797
    assert (training.images.dtype, training.labels.dtype) == (np.float32, np.int64)
    assert (training.images.min(), training.images.max()) == (0.0, 1.0)


@pytest.mark.slow
def test_mlp_learns_digits(digits_run):
    trained, _ = digits_run
    assert trained.accuracy >= 0.97


@pytest.mark.slow
def test_mlp_checkpoint_is_a_whole_training_checkpoint(digits_run):
    trained, root = digits_run
    model = [f"{layer}/{part}" for layer in ("hidden_0", "hidden_1", "output") for part in ("kernel", "bias")]
    slots = [f"{name}/{slot}" for name in model for slot in ("Adam", "Adam_1")]
    reader = tf.train.load_checkpoint(str(trained.checkpoint))
    assert set(reader.get_variable_to_shape_map()) == {*model, *slots, "beta1_power", "beta2_power", "global_step"}
    assert reader.get_tensor("global_step") == 600
    assert trained.checkpoint == root / "runs/mnist_mlp/model.ckpt-600"
    assert tf.train.latest_checkpoint(str(root / "runs/mnist_mlp")) == str(trained.checkpoint)


@pytest.mark.slow
def test_mlp_run_can_be_moved(digits_run):
    trained, _ = digits_run
    state = trained.checkpoint.with_name("checkpoint").read_text()
    assert 'model_checkpoint_path: "model.ckpt-600"' in state.splitlines()


@pytest.mark.slow
def test_mlp_writes_labels_and_held_out_digits(digits_run):
    _, root = digits_run
    words = (root / "data/labels.txt").read_text().splitlines()
    assert words == ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    _, held_out = mnist_mlp.load_digits()
    with np.load(root / "data/digits.npz") as digits:
        assert (digits["images"].dtype, digits["images"].shape) == (np.float32, (360, 64))
        np.testing.assert_array_equal(digits["images"], held_out.images)
        np.testing.assert_array_equal(digits["labels"], held_out.labels)


@pytest.mark.slow
def test_mlp_answers_alike_from_code_and_from_meta(digits_run):
    trained, _ = digits_run
    _, held_out = mnist_mlp.load_digits()
    feeds = {"x:0": held_out.images, "is_training:0": False}
    with tf.Graph().as_default(), v1.Session() as session:
        mnist_mlp.build()
        v1.train.Saver().restore(session, str(trained.checkpoint))
        from_code = session.run("probs:0", feeds)
    with tf.Graph().as_default(), v1.Session() as session:
        v1.train.import_meta_graph(f"{trained.checkpoint}.meta").restore(session, str(trained.checkpoint))
        from_meta = session.run("probs:0", feeds)
    np.testing.assert_array_equal(from_code, from_meta)
    assert np.mean(from_code.argmax(axis=1) == held_out.labels) == trained.accuracy


def test_mlp_command_says_what_it_wrote(tmp_path, capsys):
    default_graph = v1.get_default_graph()
    operations = len(default_graph.get_operations())
    mnist_mlp.main(
        ["--runs", str(tmp_path / "r"), "--data", str(tmp_path / "d"), "--steps", "3", "--num-neurons", "8", "4", "--seed", "7"]
    )
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"wrote {tmp_path}/r/mnist_mlp/model.ckpt-3: accuracy 0.")
    assert second == f"wrote {tmp_path}/d/labels.txt and {tmp_path}/d/digits.npz"
    assert v1.get_default_graph() is default_graph
    assert len(default_graph.get_operations()) == operations


def test_mlp_training_is_repeatable(tmp_path):
    first, again = (
        mnist_mlp.train(tmp_path / run, tmp_path / "data", steps=5, num_neurons=[8], seed=3) for run in ("first", "again")
    )
    data = [Path(f"{run.checkpoint}.data-00000-of-00001").read_bytes() for run in (first, again)]
    assert data[0] == data[1]


# ---- score_digits ----


class FirstPixel(tf.Module):
    """A digits classifier that believes the first pixel: its tenths are the digit."""

    def __init__(self, words):
        super().__init__()
        self.words = tf.constant(words)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs):
        images = tf.io.parse_example(inputs, {"images": tf.io.FixedLenFeature([64], tf.float32)})["images"]
        first = tf.cast(tf.round(images[:, :1] * 10), tf.int32)
        ranked = (first + tf.range(10)) % 10
        return {"classes": tf.gather(self.words, ranked), "scores": tf.ones_like(ranked, tf.float32)}


@pytest.fixture
def scored(tmp_path):
    """A version that is right about three of four digits: ``(version directory, arguments that name the data)``."""
    data, version = tmp_path / "data", tmp_path / "exports" / "10"
    data.mkdir()
    (data / "labels.txt").write_text("\n".join(mnist_mlp.LABELS) + "\n")
    images = np.zeros([4, 64], np.float32)
    images[:, 0] = [0.0, 0.3, 0.9, 0.5]
    np.savez(data / "digits.npz", images=images, labels=np.array([0, 3, 9, 6]))
    module = FirstPixel(mnist_mlp.LABELS)
    tf.saved_model.save(module, str(version), signatures={"serving_default": module.classify})
    return version, ["--data", str(data)]


@pytest.mark.parametrize(("at_least", "exit_code"), [([], 1), (["--at-least", "0.75"], 0), (["--at-least", "0.76"], 1)])
def test_score_is_that_of_the_first_class(scored, capsys, at_least, exit_code):
    version, data = scored
    assert score_digits.main([str(version), *data, *at_least]) == exit_code
    assert capsys.readouterr().out == "accuracy on 4 held-out digits: 0.7500\n"


def test_score_takes_the_newest_version_of_a_base_directory(scored):
    version, _ = scored
    for name in ("9", "11", ".12.staging", "latest"):
        (version.parent / name).mkdir()
    (version.parent / "9" / "saved_model.pb").touch()
    (version.parent / ".12.staging" / "saved_model.pb").touch()
    assert score_digits.newest_version(version.parent) == version
    assert score_digits.newest_version(version) == version


def test_score_without_a_version_says_where_it_looked(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no SavedModel version here"):
        score_digits.newest_version(tmp_path)


# ---- thought_encoder ----

DIM, VOCAB_SIZE = 6, 20
IDS = np.array([[2, 3, 4, 0], [5, 6, 0, 0]], np.int64)
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int8)


@pytest.fixture(scope="module")
def encoder_checkpoint(tmp_path_factory):
    """A checkpoint of a small encoder whose every variable was drawn at random: ``(prefix, values by name)``."""
    prefix = tmp_path_factory.mktemp("encoder") / "model.ckpt"
    draw = np.random.default_rng(1)
    with tf.Graph().as_default(), v1.Session() as session:
        ThoughtEncoder(VOCAB_SIZE).build(DIM)
        values = {v.op.name: draw.normal(size=v.shape.as_list()).astype(np.float32) for v in v1.global_variables()}
        for variable in v1.global_variables():
            variable.load(values[variable.op.name], session)
        v1.train.Saver().save(session, str(prefix))
    return str(prefix), values


def think(checkpoint, ids, mask, fetch="thought_vectors:0"):
    with tf.Graph().as_default(), v1.Session() as session:
        restore_fn = ThoughtEncoder(VOCAB_SIZE).build_graph_from_config({"dim": DIM}, checkpoint)
        restore_fn(session)
        return session.run(fetch, {"encode_ids:0": ids, "encode_mask:0": mask})


@pytest.mark.parametrize("config", [{"dim": 6}, SimpleNamespace(dim=6)], ids=["item", "attribute"])
def test_encoder_names_its_tensors(config):
    with tf.Graph().as_default() as graph:
        ThoughtEncoder(vocab_size=20).build_graph_from_config(config, "not/read/before/restore_fn")
        names = ("encode_ids:0", "encode_mask:0", "thought_vectors:0", "output_projection:0")
        assert [signature_of(graph.get_tensor_by_name(name)) for name in names] == [
            ("encode_ids:0", "int64", [None, None]),
            ("encode_mask:0", "int8", [None, None]),
            ("thought_vectors:0", "float32", [None, 12]),
            ("output_projection:0", "float32", [None, 12]),
        ]
        assert {v.op.name: v.shape.as_list() for v in v1.global_variables()} == {
            "word_embedding": [20, 6],
            "forward/gates/kernel": [12, 12],
            "forward/gates/bias": [12],
            "forward/candidate/kernel": [12, 6],
            "forward/candidate/bias": [6],
            "backward/gates/kernel": [12, 12],
            "backward/gates/bias": [12],
            "backward/candidate/kernel": [12, 6],
            "backward/candidate/bias": [6],
            "projection/kernel": [12, 12],
            "projection/bias": [12],
        }


def test_restore_fn_restores_into_a_finalized_graph(encoder_checkpoint):
    prefix, values = encoder_checkpoint
    with tf.Graph().as_default() as graph:
        restore_fn = ThoughtEncoder(VOCAB_SIZE).build_graph_from_config({"dim": DIM}, prefix)
        variables = {v.op.name: v for v in v1.global_variables()}
        graph.finalize()
        with v1.Session() as session:
            restore_fn(session)
            restored = session.run(variables)
    assert restored.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(restored[name], value)


def test_restore_fn_takes_the_latest_of_a_directory(encoder_checkpoint):
    prefix, _ = encoder_checkpoint
    np.testing.assert_array_equal(think(str(Path(prefix).parent), IDS, MASK), think(prefix, IDS, MASK))


def test_restore_fn_names_a_directory_without_checkpoints(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no checkpoint here"):
        think(str(tmp_path), IDS, MASK)


def reference_gru(values, scope, words):
    """The state of a gated recurrent unit behind `words`, float32 [length, dim], in plain numpy."""
    state = np.zeros(DIM, np.float32)
    for word in words:
        gates = np.concatenate([word, state]) @ values[f"{scope}/gates/kernel"] + values[f"{scope}/gates/bias"]
        reset, keep = np.split(1 / (1 + np.exp(-gates)), 2)
        inputs = np.concatenate([word, reset * state])
        candidate = np.tanh(inputs @ values[f"{scope}/candidate/kernel"] + values[f"{scope}/candidate/bias"])
        state = keep * state + (1 - keep) * candidate
    return state


def test_thought_vectors_are_the_last_states_of_both_directions(encoder_checkpoint):
    prefix, values = encoder_checkpoint
    vectors, projection = think(prefix, IDS, MASK, ["thought_vectors:0", "output_projection:0"])
    for ids, mask, vector in zip(IDS, MASK, vectors, strict=True):
        words = values["word_embedding"][ids[mask == 1]]
        expected = [reference_gru(values, "forward", words), reference_gru(values, "backward", words[::-1])]
        np.testing.assert_allclose(vector, np.concatenate(expected), rtol=0, atol=1e-5)
    np.testing.assert_allclose(projection, vectors @ values["projection/kernel"] + values["projection/bias"], rtol=0, atol=1e-5)


def test_padding_does_not_change_thought_vectors(encoder_checkpoint):
    prefix, _ = encoder_checkpoint
    ids, mask = np.full([2, 9], 7, np.int64), np.zeros([2, 9], np.int8)
    ids[:, :4], mask[:, :4] = IDS, MASK
    np.testing.assert_array_equal(think(prefix, ids, mask), think(prefix, IDS, MASK))


def test_masked_words_are_not_read(encoder_checkpoint):
    prefix, _ = encoder_checkpoint
    full = think(prefix, IDS, np.ones_like(MASK))
    masked = think(prefix, IDS, MASK)
    np.testing.assert_array_equal(full[0], masked[0])
    assert not np.allclose(full[1], masked[1])


def test_guessing_a_neighbour_costs_the_log_of_the_others():
    vectors = tf.zeros([5, 3])
    np.testing.assert_allclose(thought_encoder.neighbour_loss(vectors, vectors), np.log(4), rtol=1e-6)


def test_knowing_the_neighbours_costs_only_the_choice_between_two():
    scores = np.array([[0, 50, 0, 0], [50, 0, 50, 0], [0, 50, 0, 50], [0, 0, 50, 0]], np.float32)
    loss = thought_encoder.neighbour_loss(tf.constant(scores), tf.eye(4))
    np.testing.assert_allclose(loss, np.log(2) / 2, rtol=1e-6)


def test_a_sentence_never_picks_itself():
    alike = 50 * tf.eye(5)
    np.testing.assert_allclose(thought_encoder.neighbour_loss(alike, alike), np.log(4), rtol=1e-6)


def test_vocabulary_starts_with_the_commonest_words():
    sentences = ["The boat, the rope.", "A boat!"]
    assert thought_encoder.make_vocabulary(sentences, 100) == ["<eos>", "<unk>", "boat", "the", "a", "rope"]
    assert thought_encoder.make_vocabulary(sentences, 3) == ["<eos>", "<unk>", "boat"]


def test_encode_marks_the_end_and_pads():
    ids, mask = thought_encoder.encode(["The boat sank.", "Boat"], ["<eos>", "<unk>", "boat", "the"])
    assert (ids.dtype, ids.tolist()) == (np.int64, [[3, 2, 1, 0], [2, 0, 0, 0]])
    assert (mask.dtype, mask.tolist()) == (np.int8, [[1, 1, 1, 1], [1, 1, 0, 0]])


@pytest.mark.slow
def test_encoder_learns_and_leaves_what_it_says(tmp_path):
    default_graph = v1.get_default_graph()
    operations = len(default_graph.get_operations())
    trained = thought_encoder.train(tmp_path, steps=30, dim=32, vocab_size=700, learning_rate=1e-2)
    assert trained.loss_before == pytest.approx(np.log(31), abs=0.05)
    assert trained.loss_after < trained.loss_before - 0.3
    assert trained.checkpoint == tmp_path / "thought_encoder/model.ckpt-30"
    reader = tf.train.load_checkpoint(str(trained.checkpoint.parent))
    assert reader.get_tensor("word_embedding/Adam").shape == (700, 32)
    assert len(default_graph.get_operations()) == operations


def test_encoder_command_says_what_it_wrote(tmp_path, capsys):
    thought_encoder.main(["--runs", str(tmp_path), "--steps", "2", "--dim", "4"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("loss went ") and first.endswith(" after 2 steps")
    assert second == f"wrote {tmp_path}/thought_encoder/model.ckpt-2 and {tmp_path}/thought_encoder/vocabulary.txt"
    words = (tmp_path / "thought_encoder/vocabulary.txt").read_text().splitlines()
    assert words[:3] == ["<eos>", "<unk>", "the"]


# ---- conf ----


def test_digits_conf_fits_the_graph():
    digits, model = read_conf("signature/digits"), read_conf("model/mnist_mlp")
    build = pkgutil.resolve_name(model["source"]["builder"])
    with tf.Graph().as_default() as graph:
        build(**model["source"]["params"])
        assert_names_tensors_of(digits["bindings"], graph)


def test_both_digits_models_read_what_training_writes():
    models = {name: read_conf(f"model/{name}") for name in ("mnist_mlp", "mnist_meta")}
    assert {name: model["source"]["checkpoint"] for name, model in models.items()} == {
        "mnist_mlp": "runs/mnist_mlp",
        "mnist_meta": "runs/mnist_mlp",
    }
    digits = read_conf("signature/digits")
    assert digits["bindings"]["classes"]["vocabulary"] == "data/labels.txt"
    assert digits["samples"]["predict_images"] == {"images": "data/digits.npz:images"}


def test_encoder_conf_fits_the_graph():
    conf = read_conf("model/thought_encoder")
    source = conf["source"]
    encoder = pkgutil.resolve_name(source["encoder"])(**source["args"])
    with tf.Graph().as_default() as graph:
        getattr(encoder, source["method"])(source["config"], source["checkpoint"])
        assert_names_tensors_of(conf["bindings"], graph)


def test_encoder_conf_sends_the_sentences_that_it_names():
    sentences = thought_encoder.SENTENCES.read_text(encoding="utf-8").splitlines()
    vocabulary = thought_encoder.make_vocabulary(sentences, 4000)
    ids, mask = thought_encoder.encode(["Let the river finish speaking.", "Nobody spoke."], vocabulary)
    sample = read_conf("model/thought_encoder")["samples"]["serving_default"]
    assert sample == {"encode_ids": ids.tolist(), "encode_mask": mask.tolist()}
