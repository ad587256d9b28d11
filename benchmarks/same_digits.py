"""Check whether exported versions of the digits classifier give the same answers as the first one, bit for bit.

``python same_digits.py VERSION VERSION… DIGITS_NPZ``
"""

import sys
from pathlib import Path

import numpy as np

from exportkit.examples.score_digits import classify  # it imports TensorFlow, without Keras

import tensorflow as tf  # isort: skip


def answers(version: str, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the most likely classes by the classify signature, and all probabilities by the predict signature."""
    model = tf.saved_model.load(version, tags=["serve"])
    return classify(Path(version), images), model.signatures["predict_images"](images=tf.constant(images))["scores"].numpy()


def main(first: str, *others: str) -> None:
    *versions, digits = others
    with np.load(digits) as held_out:
        images = held_out["images"]
    expected = answers(first, images)
    for version in versions:
        for one, other in zip(expected, answers(version, images), strict=True):
            np.testing.assert_array_equal(one, other)
        print(f"equal answers to {len(images)} digits")


main(*sys.argv[1:])
