"""Sentences to ids inside the graph, by TensorFlow's own kernels only, so that every model server can run them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exportkit.plugin import ConfigError, Problem

if TYPE_CHECKING:
    import tensorflow as tf

SPACE = " "


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """How sentences become ids.

    Attributes:
        vocabulary: one word per line; the line's number is its id.
        separator: RE2 pattern of what stands between words.
        lowercase: whether letters are made small first.
        unknown: id of a word that the vocabulary does not have.
        padding: id behind the end of a sentence.
        start: id before its first word; None for none.
        end: id behind its last word; None for none.
        max_length: ids that a sentence has at most, with start and end; None for any number.
        fixed_length: ids that a sentence has exactly, padding too; None for as many as the longest has.
    """

    vocabulary: Path
    separator: str
    lowercase: bool
    unknown: int
    padding: int
    start: int | None = None
    end: int | None = None
    max_length: int | None = None
    fixed_length: int | None = None

    def build(self, sentences: "tf.Tensor") -> dict[str, "tf.Tensor"]:
        """Build the tokenizer in the current graph.

        Args:
            sentences: string [batch].

        Returns:
            ids: int64 [batch, length].
            mask: bool [batch, length], true up to the end of the sentence.
            lengths: int64 [batch].
        """
        import tensorflow as tf

        batch = tf.shape(sentences, tf.int64)[0]
        words = tf.compat.v1.strings.split(self._spaced(sentences), result_type="SparseTensor")
        row = words.indices[:, 0]
        lengths = tf.math.unsorted_segment_sum(tf.ones_like(row), row, batch)
        found = tf.sparse.SparseTensor(words.indices, self._table().lookup(words.values), words.dense_shape)
        ids = tf.sparse.to_dense(found, self.padding)
        ids, lengths = self._bounded(ids, lengths, batch)
        ids = self._padded(ids)
        mask = tf.sequence_mask(lengths, tf.shape(ids, tf.int64)[1])
        return {"ids": ids, "mask": mask, "lengths": lengths}

    def _spaced(self, sentences: "tf.Tensor") -> "tf.Tensor":
        """Return the words of each sentence with spaces between them.

        TensorFlow's lower() ends a text at a NUL, and asks for the locale of the server's process: a Turkish one would make an
        I dotless. So ASCII letters and the dotted I are made small before it.
        """
        import tensorflow as tf

        text = tf.strings.regex_replace(sentences, r"\x00", SPACE)
        if self.lowercase:
            text = tf.strings.regex_replace(tf.strings.lower(text), "\u0130", "i\u0307")
            text = tf.strings.lower(text, encoding="utf-8")
        return tf.strings.regex_replace(text, self.separator, SPACE)

    def _table(self) -> "tf.lookup.StaticHashTable":
        import tensorflow as tf

        lines = tf.lookup.TextFileInitializer(
            str(self.vocabulary),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        return tf.lookup.StaticHashTable(lines, self.unknown)

    def _bounded(self, ids: "tf.Tensor", lengths: "tf.Tensor", batch: "tf.Tensor") -> tuple["tf.Tensor", "tf.Tensor"]:
        """Return sentences cut to their length, between their start and their end."""
        import tensorflow as tf

        column = tf.stack([batch, 1])
        if self.max_length is not None:
            room = self.max_length - sum(marker is not None for marker in (self.start, self.end))
            ids, lengths = ids[:, :room], tf.minimum(lengths, room)
        if self.start is not None:
            ids, lengths = tf.concat([tf.fill(column, _int64(self.start)), ids], axis=1), lengths + 1
        if self.end is not None:
            ids = tf.concat([ids, tf.fill(column, _int64(self.padding))], axis=1)
            last = tf.equal(tf.range(tf.shape(ids, tf.int64)[1])[None, :], lengths[:, None])
            ids, lengths = tf.where(last, tf.fill(tf.shape(ids), _int64(self.end)), ids), lengths + 1
        return ids, lengths

    def _padded(self, ids: "tf.Tensor") -> "tf.Tensor":
        """Return sentences of one length, which is never 0: few models can read nothing at all."""
        import tensorflow as tf

        missing = tf.maximum(0, (self.fixed_length or 1) - tf.shape(ids)[1])
        ids = tf.pad(ids, [[0, 0], [0, missing]], constant_values=_int64(self.padding))
        return tf.ensure_shape(ids, [None, self.fixed_length])


def _int64(value: int) -> "tf.Tensor":
    import tensorflow as tf

    return tf.constant(value, tf.int64)


def build_front(
    tokenizer: Tokenizer, scope: str, batch: int | None, dtypes: Mapping[str, str]
) -> tuple["tf.Graph", dict[str, str]]:
    """Return a graph that turns sentences into what a model reads.

    Args:
        scope: of all its nodes.
        batch: how many sentences the model reads at once; None for any number.
        dtypes: of what is asked for among ``ids``, ``mask`` and ``lengths``.

    Returns:
        The graph, and the tensor names of ``sentences`` and of what was asked for.

    Raises:
        ConfigError: the separator is not a pattern.
    """
    import tensorflow as tf

    with tf.Graph().as_default() as graph, tf.name_scope(scope):
        sentences = tf.compat.v1.placeholder(tf.string, [batch], "sentences")
        built = tokenizer.build(sentences)
        asked = {name: tf.cast(built[name], dtype) for name, dtype in dtypes.items()}
        tensors = {name: tf.identity(tensor, name) for name, tensor in asked.items()}
        _try_separator(tokenizer.separator)
    return graph, {"sentences": sentences.name, **{name: tensor.name for name, tensor in tensors.items()}}


def _try_separator(separator: str) -> None:
    import tensorflow as tf

    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        try:
            session.run(tf.strings.regex_replace("", separator, SPACE))
        except tf.errors.InvalidArgumentError as cause:
            what = cause.message.partition("Invalid pattern: ")[2].partition(" [[")[0] or cause.message
            do = "write it as https://github.com/google/re2/wiki/Syntax has it"
            raise ConfigError(Problem("separator", f"is not a pattern: {' '.join(what.split())}", do)) from None
