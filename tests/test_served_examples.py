"""The examples, exported by their shipped configs from the command line and served by three loaders."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import toys

from exportkit.examples import mnist_mlp, thought_encoder
from exportkit.serving.loading import Request
from exportkit.serving.native import run_signatures

MODELS = ("mnist_mlp", "mnist_meta", "thought_encoder")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory in which the examples were trained, a little, and exported by one sweep."""
    place = tmp_path_factory.mktemp("examples")
    before = os.getcwd()
    os.chdir(place)
    try:
        mnist_mlp.main(["--steps", "60"])
        thought_encoder.main(["--steps", "3"])
    finally:
        os.chdir(before)
    command = [Path(sys.executable).with_name("exportkit"), "-m", f"model={','.join(MODELS)}"]
    subprocess.run(command, cwd=place, check=True, capture_output=True)
    subprocess.run([command[0], "model=mnist_adopted"], cwd=place, check=True, capture_output=True)
    return place


def answers(directory, signature, inputs):
    """What the compat.v1 loader, tf.saved_model.load and the C++ loader answer."""
    native = run_signatures(directory, ["serve"], [Request(signature, {k: np.asarray(v) for k, v in inputs.items()})]).outputs[
        0
    ]
    return [toys.served(directory, signature, inputs), toys.served_eagerly(directory, signature, inputs), native]


@pytest.mark.slow
def test_an_adopted_version_keeps_its_signatures_and_gets_another(place):
    images = np.load(place / "data" / "digits.npz")["images"]
    examples = np.array([toys.example(images=row) for row in images[:50]], object)
    own, adopted = (str(place / "exports" / model / "1") for model in ("mnist_mlp", "mnist_adopted"))
    for signature, inputs in (("predict_images", {"images": images}), ("serving_default", {"inputs": examples})):
        for before, after in zip(answers(own, signature, inputs), answers(adopted, signature, inputs), strict=True):
            assert sorted(before) == sorted(after)
            assert all(np.array_equal(before[alias], after[alias]) for alias in before)
    scores = toys.served(own, "predict_images", {"images": images})["scores"]
    order = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    for answer in answers(adopted, "best_three", {"images": images}):
        np.testing.assert_array_equal(answer["digits"], order)
        np.testing.assert_array_equal(answer["scores"], np.take_along_axis(scores, order, 1))


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS[:2])
def test_digits(model, place):
    images = np.load(place / "data" / "digits.npz")["images"]
    labels = (place / "data" / "labels.txt").read_text().encode().split()
    prefix = tf.train.latest_checkpoint(str(place / "runs" / "mnist_mlp"))
    probs = toys.restored(prefix, "probs:0", {"x:0": images, "is_training:0": False})
    order = np.argsort(-probs, axis=1, kind="stable")
    directory = str(place / "exports" / model / "1")
    for answer in answers(directory, "predict_images", {"images": images}):
        np.testing.assert_array_equal(answer["scores"], probs)
    examples = np.array([toys.example(images=row) for row in images[:50]], object)
    for answer in answers(directory, "serving_default", {"inputs": examples}):
        np.testing.assert_array_equal(answer["scores"], np.take_along_axis(probs[:50], order[:50], 1))
        assert answer["classes"].tolist() == np.array(labels, object)[order[:50]].tolist()


@pytest.mark.slow
def test_thought_encoder(place):
    ids = np.array([[5, 9, 2, 0], [7, 1, 0, 0]], np.int64)
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.int8)
    prefix = tf.train.latest_checkpoint(str(place / "runs" / "thought_encoder"))
    names = ["thought_vectors", "output_projection"]
    expected = toys.restored(prefix, [f"{n}:0" for n in names], {"encode_ids:0": ids, "encode_mask:0": mask})
    directory = str(place / "exports" / "thought_encoder" / "1")
    for answer in answers(directory, "serving_default", {"encode_ids": ids, "encode_mask": mask}):
        for name, value in zip(names, expected, strict=True):
            np.testing.assert_array_equal(answer[name], value)


def test_a_wrong_rank_is_a_refusal_and_not_a_dead_server(place):
    directory = str(place / "exports" / "mnist_meta" / "1")
    with pytest.raises(Exception, match="is not compatible with expected shape"):
        run_signatures(directory, ["serve"], [Request("predict_images", {"images": np.zeros([2, 8, 8], np.float32)})])
