"""Measure the accuracy of an exported digits classifier through its serving signature, as a client sees it.

``python -m exportkit.examples.score_digits exports/mnist_mlp`` loads the newest version there, sends the held-out digits of
``data/`` to ``serving_default`` as serialized tf.Examples, and compares the first class name of each answer with the label. It
does not need the model's code.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf


def newest_version(path: Path) -> Path:
    """Return the child of a base directory with the highest version number; return a version directory as it is.

    Raises:
        FileNotFoundError: there is no version.
    """
    if (path / "saved_model.pb").exists():
        return path
    versions = [child for child in path.glob("*") if child.name.isdecimal() and (child / "saved_model.pb").exists()]
    if not versions:
        raise FileNotFoundError(f"{path}: no SavedModel version here; export one: exportkit model=mnist_mlp")
    return max(versions, key=lambda child: int(child.name))


def to_example(image: np.ndarray) -> bytes:
    """Return an image, float32 [64], as a serialized tf.Example."""
    pixels = tf.train.Feature(float_list=tf.train.FloatList(value=image))
    return tf.train.Example(features=tf.train.Features(feature={"images": pixels})).SerializeToString()


def classify(version: Path, images: np.ndarray) -> np.ndarray:
    """Return the name of the most likely class of each image, bytes [n], from ``serving_default`` of the exported version."""
    model = tf.saved_model.load(str(version), tags=["serve"])
    examples = tf.constant([to_example(image) for image in images])
    return model.signatures["serving_default"](inputs=examples)["classes"].numpy()[:, 0]


def accuracy(version: Path, data: Path) -> tuple[float, int]:
    """Return the share of held-out digits that the version classifies correctly, and the number of these digits."""
    words = np.array((data / "labels.txt").read_bytes().splitlines())
    with np.load(data / "digits.npz") as digits:
        images, labels = digits["images"], digits["labels"]
    return float(np.mean(classify(version, images) == words[labels])), len(labels)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m exportkit.examples.score_digits", description="Accuracy of an exported digits classifier."
    )
    parser.add_argument("version", type=Path, help="a version directory, or the base directory of versions: the newest")
    parser.add_argument("--data", type=Path, default=Path("data"), help="where labels.txt and digits.npz are (default: data)")
    parser.add_argument("--at-least", type=float, default=0.95, metavar="SHARE", help="exit 1 below this (default: 0.95)")
    args = parser.parse_args(argv)
    try:
        share, count = accuracy(newest_version(args.version), args.data)
    except FileNotFoundError as error:
        sys.exit(f"score_digits: {error}")
    print(f"accuracy on {count} held-out digits: {share:.4f}")
    return 0 if share >= args.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
