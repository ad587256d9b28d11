"""A bidirectional GRU that turns sentences into vectors, in the manner of quick-thoughts (Logeswaran & Lee, 2018).

It is trained to find the neighbours of a sentence among other sentences: the projection of its thought vector is compared, by
dot product, with the thought vectors of all other sentences in the batch, and a softmax picks the neighbours.

``python -m exportkit.examples.thought_encoder`` trains it for some seconds on the story in ``sentences.txt`` and writes

* ``runs/thought_encoder/model.ckpt-<step>``: the checkpoint with Adam's slots, its ``.meta`` and the ``checkpoint`` state file
* ``runs/thought_encoder/vocabulary.txt``: one word per line; the line's number, from 0, is the word's id
"""

import argparse
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1

RestoreFn = Callable[[tf.compat.v1.Session], None]

SENTENCES = Path(__file__).with_name("sentences.txt")
END, UNKNOWN = "<eos>", "<unk>"


class ThoughtEncoder:
    """The encoder. To use it: construct it, build its graph, restore its weights, run ``thought_vectors:0``."""

    def __init__(self, vocab_size: int = 4000):
        self.vocab_size = vocab_size

    def build_graph_from_config(self, config: Any, checkpoint_path: str) -> RestoreFn:
        """Build the encoder in the current default graph.

        Inputs are ``encode_ids:0``, int64 [batch, length], and ``encode_mask:0``, int8 [batch, length]: 1 where there is a word
        and 0 behind the end of the sentence. Outputs are ``thought_vectors:0``, float32 [batch, 2 * dim], and
        ``output_projection:0`` of the same shape: the prediction of the neighbouring sentences' thought vectors.

        Args:
            config: has ``dim``, the width of the word embeddings and of each direction's state, as an item or an attribute.
            checkpoint_path: a checkpoint's prefix, or a directory, whose latest checkpoint is used.

        Returns:
            A function that restores the weights into a session.
        """
        self.build(_setting(config, "dim"))
        saver = v1.train.Saver(v1.trainable_variables())

        def restore_fn(session: tf.compat.v1.Session) -> None:
            saver.restore(session, _latest(checkpoint_path))

        return restore_fn

    def build(self, dim: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Build the encoder without a saver, and return its thought vectors and their projection."""
        ids = v1.placeholder(tf.int64, [None, None], name="encode_ids")
        mask = v1.placeholder(tf.int8, [None, None], name="encode_mask")
        embeddings = v1.get_variable(
            "word_embedding", [self.vocab_size, dim], initializer=v1.random_uniform_initializer(-0.1, 0.1)
        )
        words = tf.transpose(tf.nn.embedding_lookup(embeddings, ids), [1, 0, 2])
        present = tf.transpose(tf.cast(mask, tf.bool))
        states = [
            _gru(words, present, dim, scope="forward"),
            _gru(tf.reverse(words, [0]), tf.reverse(present, [0]), dim, scope="backward"),
        ]
        vectors = tf.concat(states, axis=1, name="thought_vectors")
        return vectors, tf.identity(_dense(vectors, 2 * dim, scope="projection"), name="output_projection")


def _setting(config: Any, name: str) -> Any:
    return config[name] if isinstance(config, Mapping) else getattr(config, name)


def _latest(checkpoint_path: str) -> str:
    if not Path(checkpoint_path).is_dir():
        return checkpoint_path
    latest = tf.train.latest_checkpoint(checkpoint_path)
    if latest is None:
        raise FileNotFoundError(f"{checkpoint_path}: no checkpoint here")
    return latest


def _gru(words: tf.Tensor, present: tf.Tensor, units: int, scope: str) -> tf.Tensor:
    """Run a gated recurrent unit along the first axis; a step without a word does not change the state.

    Args:
        words: float32 [length, batch, dim].
        present: bool [length, batch].
        units: width of the state.
        scope: variable scope of the unit.

    Returns:
        The state after the last word, float32 [batch, units].
    """
    with v1.variable_scope(scope):
        width = words.shape[-1] + units
        gates_kernel = v1.get_variable("gates/kernel", [width, 2 * units])
        gates_bias = v1.get_variable("gates/bias", [2 * units], initializer=v1.ones_initializer())
        candidate_kernel = v1.get_variable("candidate/kernel", [width, units])
        candidate_bias = v1.get_variable("candidate/bias", [units], initializer=v1.zeros_initializer())

    def step(state: tf.Tensor, inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        word, is_present = inputs
        gates = tf.sigmoid(tf.concat([word, state], axis=1) @ gates_kernel + gates_bias)
        reset, keep = tf.split(gates, 2, axis=1)
        candidate = tf.tanh(tf.concat([word, reset * state], axis=1) @ candidate_kernel + candidate_bias)
        return tf.where(is_present[:, None], keep * state + (1 - keep) * candidate, state)

    return tf.foldl(step, (words, present), initializer=tf.zeros([tf.shape(words)[1], units]))


def _dense(inputs: tf.Tensor, units: int, scope: str) -> tf.Tensor:
    with v1.variable_scope(scope):
        kernel = v1.get_variable("kernel", [inputs.shape[-1], units])
        bias = v1.get_variable("bias", [units], initializer=v1.zeros_initializer())
        return tf.nn.bias_add(tf.matmul(inputs, kernel), bias)


def neighbour_loss(projections: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
    """Return the loss of picking each sentence's neighbours from a batch of consecutive sentences.

    Args:
        projections: float32 [batch, width], the projected thought vector of each sentence.
        vectors: float32 [batch, width], the thought vector of each sentence.

    Returns:
        The mean cross entropy, float32 []. Picking at random costs ``log(batch - 1)``; a sentence never picks itself.
    """
    scores = tf.matmul(projections, vectors, transpose_b=True)
    others = tf.linalg.set_diag(scores, tf.fill(tf.shape(scores)[:1], -1e9))
    band = tf.linalg.band_part(tf.ones_like(scores), 1, 1)
    neighbours = tf.linalg.set_diag(band, tf.zeros(tf.shape(band)[:1]))
    targets = neighbours / tf.reduce_sum(neighbours, axis=1, keepdims=True)
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=targets, logits=others))


def tokenize(sentence: str) -> list[str]:
    return re.findall(r"[a-z']+", sentence.lower())


def make_vocabulary(sentences: Sequence[str], size: int) -> list[str]:
    """Return a vocabulary of at most `size` words: the end mark, the unknown word, then the words by falling frequency."""
    counts = Counter(word for sentence in sentences for word in tokenize(sentence))
    return [END, UNKNOWN, *sorted(counts, key=lambda word: (-counts[word], word))][:size]


def encode(sentences: Sequence[str], vocabulary: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Convert sentences to the encoder's inputs.

    Returns:
        ids: int64 [batch, length], each sentence with its end mark, padded to the longest.
        mask: int8 [batch, length], 1 up to the end of the sentence.
    """
    index = {word: i for i, word in enumerate(vocabulary)}
    rows = [[index.get(word, index[UNKNOWN]) for word in tokenize(sentence)] + [index[END]] for sentence in sentences]
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, index[END], np.int64)
    ids[mask] = np.concatenate(rows)
    return ids, mask.astype(np.int8)


class Trained(NamedTuple):
    """The result of a training run: the checkpoint's prefix, and the loss over the whole text before and after."""

    checkpoint: Path
    loss_before: float
    loss_after: float


def train(
    runs: Path,
    *,
    steps: int = 60,
    dim: int = 256,
    vocab_size: int = 4000,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Trained:
    """Train the encoder on the story, and write the checkpoint and the vocabulary below `runs`."""
    sentences = SENTENCES.read_text(encoding="utf-8").splitlines()
    vocabulary = make_vocabulary(sentences, vocab_size)
    ids, mask = encode(sentences, vocabulary)
    directory = runs / "thought_encoder"
    with tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(seed)
        vectors, projections = ThoughtEncoder(vocab_size).build(dim)
        loss = neighbour_loss(projections, vectors)
        global_step = v1.train.get_or_create_global_step()
        train_op = v1.train.AdamOptimizer(learning_rate).minimize(loss, global_step)
        saver = v1.train.Saver(save_relative_paths=True)

        def run(fetch: Any, rows: slice) -> Any:
            return session.run(fetch, {"encode_ids:0": ids[rows], "encode_mask:0": mask[rows]})

        def loss_over_text() -> float:
            return float(np.mean([run(loss, rows) for rows in _windows(len(ids), batch_size)]))

        session.run(v1.global_variables_initializer())
        loss_before = loss_over_text()
        starts = np.random.default_rng(seed)
        for _ in range(steps):
            start = starts.integers(len(ids) - batch_size + 1)
            run(train_op, slice(start, start + batch_size))
        loss_after = loss_over_text()

        directory.mkdir(parents=True, exist_ok=True)
        checkpoint = saver.save(session, str(directory / "model.ckpt"), global_step)
    (directory / "vocabulary.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return Trained(Path(checkpoint), loss_before, loss_after)


def _windows(count: int, size: int) -> Iterator[slice]:
    """Return slices of `size` consecutive rows; a shorter rest is left out."""
    return (slice(start, start + size) for start in range(0, count - size + 1, size))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m exportkit.examples.thought_encoder", description="Train the sentence encoder on a short story."
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where checkpoints go (default: runs)")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--dim", type=int, default=256, help="width of embeddings and of each direction (default: 256)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    trained = train(args.runs, steps=args.steps, dim=args.dim, seed=args.seed)
    went = "down" if trained.loss_after < trained.loss_before else "up"
    print(f"loss went {went}: {trained.loss_before:.3f} before, {trained.loss_after:.3f} after {args.steps} steps")
    print(f"wrote {trained.checkpoint} and {trained.checkpoint.with_name('vocabulary.txt')}")


if __name__ == "__main__":
    main()
