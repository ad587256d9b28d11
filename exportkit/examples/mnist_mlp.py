"""The classic MLP with two hidden layers, trained on the handwritten digits that come with scikit-learn.

``python -m exportkit.examples.mnist_mlp`` trains it in seconds and writes

* ``runs/mnist_mlp/model.ckpt-<step>``: the checkpoint with Adam's slots, its ``.meta`` and the ``checkpoint`` state file
* ``data/labels.txt``: the names of the ten classes, one per line
* ``data/digits.npz``: the held-out digits, ``images`` float32 [n, 64] and ``labels`` int64 [n]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1

LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD_OUT = 360
SPLIT_SEED = 20


class Digits(NamedTuple):
    """Handwritten digits: `images` float32 [n, 64] with pixels in 0..1, `labels` int64 [n]."""

    images: np.ndarray
    labels: np.ndarray


class Trained(NamedTuple):
    """The result of a training run: the checkpoint's prefix and the accuracy on the held-out digits."""

    checkpoint: Path
    accuracy: float


def build(
    num_inputs: int = 64,
    num_neurons: Sequence[int] = (256, 256),
    num_classes: int = len(LABELS),
    dropout: float = 0.2,
) -> dict[str, tf.Tensor]:
    """Build the model in the current default graph.

    Args:
        num_inputs: pixels of an image.
        num_neurons: width of each hidden layer.
        num_classes: width of the output layer.
        dropout: share of each hidden layer that is dropped while `is_training`.

    Returns:
        The model's tensors by name:
        images: placeholder ``x:0``, float32 [batch, num_inputs]
        labels: placeholder ``labels:0``, int64 [batch]
        is_training: placeholder ``is_training:0``, bool []
        logits: ``logits:0``, float32 [batch, num_classes]
        probs: ``probs:0``, float32 [batch, num_classes]
        loss: ``loss:0``, float32 [], the mean cross entropy
    """
    images = v1.placeholder(tf.float32, [None, num_inputs], name="x")
    labels = v1.placeholder(tf.int64, [None], name="labels")
    is_training = v1.placeholder(tf.bool, [], name="is_training")

    hidden = images
    for i, units in enumerate(num_neurons):
        hidden = tf.nn.relu(_dense(hidden, units, scope=f"hidden_{i}"))
        hidden = _dropout(hidden, dropout, is_training)
    logits = tf.identity(_dense(hidden, num_classes, scope="output"), name="logits")

    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    return {
        "images": images,
        "labels": labels,
        "is_training": is_training,
        "logits": logits,
        "probs": tf.nn.softmax(logits, name="probs"),
        "loss": tf.reduce_mean(cross_entropy, name="loss"),
    }


def _dense(inputs: tf.Tensor, units: int, scope: str) -> tf.Tensor:
    with v1.variable_scope(scope):
        kernel = v1.get_variable("kernel", [inputs.shape[-1], units], initializer=v1.glorot_uniform_initializer())
        bias = v1.get_variable("bias", [units], initializer=v1.zeros_initializer())
        return tf.nn.bias_add(tf.matmul(inputs, kernel), bias)


def _dropout(inputs: tf.Tensor, rate: float, is_training: tf.Tensor) -> tf.Tensor:
    return tf.cond(is_training, lambda: tf.nn.dropout(inputs, rate), lambda: tf.identity(inputs))


def load_digits() -> tuple[Digits, Digits]:
    """Return the digits for training and the held-out ones; the split is always the same."""
    try:
        from sklearn.datasets import load_digits as load
    except ModuleNotFoundError as error:
        raise SystemExit("mnist_mlp: the digits come with scikit-learn; pip install 'exportkit[examples]'") from error

    images, labels = load(return_X_y=True)
    images = (images / 16).astype(np.float32)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    held_out, training = order[:HELD_OUT], order[HELD_OUT:]
    return Digits(images[training], labels[training]), Digits(images[held_out], labels[held_out])


def train(
    runs: Path,
    data: Path,
    *,
    steps: int = 600,
    batch_size: int = 64,
    num_neurons: Sequence[int] = (256, 256),
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> Trained:
    """Train the model; write the checkpoint below `runs`, the labels and the held-out digits below `data`."""
    training, held_out = load_digits()
    batches = np.random.default_rng(seed)
    with tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(seed)
        model = build(training.images.shape[1], num_neurons)
        global_step = v1.train.get_or_create_global_step()
        train_op = v1.train.AdamOptimizer(learning_rate).minimize(model["loss"], global_step)
        saver = v1.train.Saver(save_relative_paths=True)

        session.run(v1.global_variables_initializer())
        for _ in range(steps):
            batch = batches.integers(len(training.images), size=batch_size)
            session.run(train_op, _feeds(model, training, batch, is_training=True))

        everything = np.arange(len(held_out.images))
        probs = session.run(model["probs"], _feeds(model, held_out, everything, is_training=False))
        prefix = runs / "mnist_mlp" / "model.ckpt"
        prefix.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = saver.save(session, str(prefix), global_step)
    _write_data(data, held_out)
    return Trained(Path(checkpoint), float(np.mean(probs.argmax(axis=1) == held_out.labels)))


def _feeds(model: dict[str, tf.Tensor], digits: Digits, rows: np.ndarray, is_training: bool) -> dict[tf.Tensor, object]:
    return {
        model["images"]: digits.images[rows],
        model["labels"]: digits.labels[rows],
        model["is_training"]: is_training,
    }


def _write_data(data: Path, held_out: Digits) -> None:
    data.mkdir(parents=True, exist_ok=True)
    (data / "labels.txt").write_text("\n".join(LABELS) + "\n")
    np.savez(data / "digits.npz", **held_out._asdict())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m exportkit.examples.mnist_mlp", description="Train the digits MLP.")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where checkpoints go (default: runs)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="where labels and held-out digits go (default: data)")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument(
        "--num-neurons", type=int, nargs="+", default=[256, 256], metavar="N", help="width of each hidden layer"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    trained = train(args.runs, args.data, steps=args.steps, num_neurons=args.num_neurons, seed=args.seed)
    print(f"wrote {trained.checkpoint}: accuracy {trained.accuracy:.4f} on {HELD_OUT} held-out digits")
    print(f"wrote {args.data / 'labels.txt'} and {args.data / 'digits.npz'}")


if __name__ == "__main__":
    main()
