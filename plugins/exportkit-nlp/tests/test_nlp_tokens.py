"""Ids and masks that the graph makes are those of a plain-Python tokenizer."""

import os
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import tensorflow as tf
from exportkit.plugin import ConfigError
from hypothesis import given
from hypothesis import strategies as st
from nlp_toys import END, PADDING, START, UNKNOWN, WORDS, encode, write_vocabulary

from exportkit_nlp.tokens import Tokenizer, build_front

v1 = tf.compat.v1
KNOWN = unicodedata.ucd_3_2_0.category  # characters of a Unicode that Python and TensorFlow have both
CHARACTERS = st.characters(exclude_categories=["Cs"]).filter(lambda c: KNOWN(c) != "Cn")
WORD = st.sampled_from(WORDS) | st.sampled_from(WORDS).map(str.upper) | st.text(CHARACTERS, max_size=6)
GAP = st.sampled_from([" ", "  ", "\t", "\n", ", ", "-", "\u3000", "\0", "!"])
SENTENCE = st.lists(st.tuples(WORD, GAP), max_size=8).map(lambda pairs: "".join(map("".join, pairs)))
SENTENCES = st.lists(SENTENCE | st.text(CHARACTERS, max_size=40), max_size=5)

PLAIN = {"separator": r"[^a-z'<>/0-9]+", "lowercase": True, "unknown": UNKNOWN, "padding": PADDING}
WAYS = {
    "plain": PLAIN,
    "markers": {**PLAIN, "start": START, "end": END},
    "short": {**PLAIN, "start": START, "end": END, "max_length": 4},
    "fixed": {**PLAIN, "end": END, "max_length": 6, "fixed_length": 6},
    "one_word": {**PLAIN, "max_length": 1, "fixed_length": 3, "padding": 19},
    "unicode": {**PLAIN, "separator": "[,!-]"},
    "as_written": {**PLAIN, "separator": "[,!]", "lowercase": False},
}


@pytest.fixture(scope="module", params=WAYS)
def tokenizer(request, tmp_path_factory):
    """A tokenizer, and the function of sentences that its graph is."""
    how = Tokenizer(vocabulary=write_vocabulary(tmp_path_factory.mktemp("words")), **WAYS[request.param])
    graph, names = build_front(how, "text", None, {"ids": "int64", "mask": "bool", "lengths": "int32"})
    with graph.as_default(), v1.Session() as session:
        session.run(v1.tables_initializer())
        yield how, lambda sentences: session.run(names, {names["sentences"]: _bytes(sentences)})


def _bytes(sentences):
    return np.array([s if isinstance(s, bytes) else s.encode() for s in sentences], object)


def _assert_as_in_python(tokenizer, sentences):
    how, run = tokenizer
    ids, mask = encode(sentences, how)
    answer = run(sentences)
    np.testing.assert_array_equal(answer["ids"], ids)
    np.testing.assert_array_equal(answer["mask"], mask)
    np.testing.assert_array_equal(answer["lengths"], mask.sum(axis=1))


@given(sentences=SENTENCES)
def test_any_sentences(tokenizer, sentences):
    _assert_as_in_python(tokenizer, sentences)


@pytest.mark.parametrize(
    "sentences",
    [
        [],
        [""],
        ["", "   ", "\t\n"],
        ["the", ""],
        ["the river the river the river the river"],
        ["THE RIVER", "Straße STRASSE", "Ὀδός ὈΔΌΣ", "NAÏVE naïve", "河 42"],
        ["\u0130I \u0131i", "ΟΔΥΣΣΕΥΣ ΣΑΣ", "\u212a", "ǅ ẞ"],
        ["the\0river", "\0the"],
        ["nonsense don't the"],
    ],
)
def test_sentences_that_are_hard(tokenizer, sentences):
    _assert_as_in_python(tokenizer, sentences)


def test_bytes_that_are_no_text_are_as_replacement_characters(tokenizer):
    _, run = tokenizer
    np.testing.assert_array_equal(run([b"\xff\xfe", b"\xc3"])["ids"], run(["\ufffd\ufffd", "\ufffd"])["ids"])


IN_TURKEY = """
import sys
import numpy as np
from exportkit.core.graph import Graph, Session

file, sentences, ids, tables = sys.argv[1:]
with Graph() as graph, open(file, "rb") as definition:
    graph.import_(definition.read())
    with Session(graph) as session:
        session.run({}, [], [tables])
        found, lower = session.run({sentences: np.array(["IGLOO", "\u0130"], object)}, [ids, "lower"])
        print([found.tolist(), lower.item()])
"""


def test_letters_are_made_small_whatever_the_locale_of_the_server(tmp_path):
    vocabulary = write_vocabulary(tmp_path, ["<pad>", "<unk>", "igloo", "i\u0307"])
    how = Tokenizer(vocabulary=vocabulary, separator="[,]", lowercase=True, unknown=1, padding=0)
    graph, names = build_front(how, "text", None, {"ids": "int64"})
    with graph.as_default():
        tf.strings.lower("I", encoding="utf-8", name="lower")
        tables = v1.tables_initializer().name
    (tmp_path / "graph.pb").write_bytes(graph.as_graph_def().SerializeToString())
    environment = {**os.environ, "LC_ALL": "tr_TR.UTF-8", "PYTHONUTF8": "1"}
    command = [sys.executable, "-c", IN_TURKEY, tmp_path / "graph.pb", names["sentences"], names["ids"], tables]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.stdout.split() == ["[[[2],", "[3]],", str("\u0131".encode()) + "]"], done.stderr


def test_the_servers_kernels_only(tmp_path):
    how = Tokenizer(vocabulary=write_vocabulary(tmp_path), **WAYS["short"])
    graph, _ = build_front(how, "text", None, {"ids": "int64", "mask": "int8", "lengths": "int32"})
    definition = graph.as_graph_def()
    assert not definition.library.function
    assert {node.op for node in definition.node} <= {
        *("Add", "AddV2", "Cast", "ConcatV2", "Const", "EnsureShape", "Equal", "ExpandDims", "Fill", "GreaterEqual"),
        *("HashTableV2", "Identity", "InitializeTableFromTextFileV2", "Less", "LookupTableFindV2", "Max", "Maximum", "Minimum"),
        *("NoOp", "OnesLike", "Pack", "PadV2", "Placeholder", "Range", "Select", "SelectV2", "Shape", "SparseToDense"),
        *("StaticRegexReplace", "StridedSlice", "StringLower", "StringSplitV2", "Sub", "UnsortedSegmentSum"),
    }


def test_a_separator_that_is_no_pattern(tmp_path):
    how = Tokenizer(vocabulary=write_vocabulary(tmp_path), **{**PLAIN, "separator": "[a"})
    with pytest.raises(ConfigError) as refused:
        build_front(how, "text", None, {"ids": "int64"})
    assert str(refused.value) == (
        "separator: is not a pattern: [a, error: missing ]: [a; write it as https://github.com/google/re2/wiki/Syntax has it"
    )
