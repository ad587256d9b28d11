"""A plain-Python tokenizer to compare with, and small models that read what it makes."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from exportkit_nlp.tokens import Tokenizer

v1 = tf.compat.v1

WORDS = ["<pad>", "<unk>", "<s>", "</s>", "the", "river", "nobody", "spoke", "don't", "straße", "ὀδός", "naïve", "河", "42"]
UNKNOWN, PADDING, START, END = 1, 0, 2, 3


def write_vocabulary(directory: Path, words: Sequence[str] = WORDS) -> Path:
    path = directory / "words.txt"
    path.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return path


def encode(sentences: Sequence[str], how: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """What the graph must make of `sentences`: ids and mask."""
    ids = {word: number for number, word in enumerate(WORDS)}
    rows = [[ids.get(word, how.unknown) for word in _words(sentence, how)] for sentence in sentences]
    before, behind = ([] if i is None else [i] for i in (how.start, how.end))
    room = None if how.max_length is None else how.max_length - len(before) - len(behind)
    rows = [[*before, *row[:room], *behind] for row in rows]
    width = how.fixed_length or max([1, len(before) + len(behind), *map(len, rows)])
    padded = [row + [how.padding] * (width - len(row)) for row in rows]
    mask = [[True] * len(row) + [False] * (width - len(row)) for row in rows]
    return np.array(padded, np.int64).reshape(-1, width), np.array(mask, bool).reshape(-1, width)


def _words(sentence: str, how: Tokenizer) -> list[str]:
    text = sentence.lower() if how.lowercase else sentence
    return [word for word in re.split(r"[ \0\t\n\r\v\f]+", re.sub(how.separator, " ", text)) if word]


def bag_of_words(ids_shape=(None, None), ids_dtype=tf.int32, mask_dtype=tf.float32) -> None:
    """A model of 20 words that reads ids, a mask and lengths: the mean of its words' vectors."""
    ids = v1.placeholder(ids_dtype, ids_shape, "token_ids")
    mask = v1.placeholder(mask_dtype, ids_shape, "token_mask")
    lengths = v1.placeholder(tf.int32, ids_shape[:1], "token_lengths")
    table = v1.get_variable("table", [20, 5], initializer=v1.random_normal_initializer())
    present = tf.cast(mask, tf.float32)[:, :, None]
    total = tf.reduce_sum(tf.gather(table, ids) * present, axis=1)
    tf.divide(total, tf.cast(tf.maximum(lengths, 1), tf.float32)[:, None], name="mean")


def save(directory: Path, **options) -> str:
    """A checkpoint of `bag_of_words` with its .meta; returns its prefix."""
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        v1.set_random_seed(5)
        bag_of_words(**options)
        session.run(v1.global_variables_initializer())
        return v1.train.Saver().save(session, str(directory / "model.ckpt"))


def answer(prefix: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """What the model itself answers to ids that are fed by hand."""
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        v1.train.import_meta_graph(f"{prefix}.meta").restore(session, prefix)
        return session.run("mean:0", feeds)


def served(directory: str, sentences: Sequence[str], signature: str = "serving_default") -> dict[str, np.ndarray]:
    """What the exported signature answers to sentences."""
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        definition = v1.saved_model.load(session, ["serve"], str(directory)).signature_def[signature]
        feeds = {definition.inputs["sentences"].name: np.array([s.encode() for s in sentences], object)}
        return session.run({alias: info.name for alias, info in definition.outputs.items()}, feeds)
