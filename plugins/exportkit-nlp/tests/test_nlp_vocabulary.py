"""Vocabulary files, and every way in which TensorFlow would refuse one only when it is served."""

import pytest
from exportkit.plugin import ConfigError

from exportkit_nlp.vocabulary import Vocabulary


def _refusal(call, *args, **kwargs):
    with pytest.raises(ConfigError) as refused:
        call(*args, **kwargs)
    return str(refused.value).splitlines()


def _file(tmp_path, content):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [b"a\nb\nc\n", b"a\nb\nc", b"a\r\nb\r\nc\r\n"])
def test_a_line_is_a_word(tmp_path, content):
    assert Vocabulary.read(_file(tmp_path, content)).words == {"a": 0, "b": 1, "c": 2}


def test_a_missing_file(tmp_path):
    missing = tmp_path / "words.txt"
    assert _refusal(Vocabulary.read, missing) == [
        f"vocabulary: {missing} cannot be read: no such file or directory; name a file with one word per line"
    ]


def test_what_no_table_can_be_filled_from(tmp_path):
    path = _file(tmp_path, b"a\n\nb\na\n")
    assert _refusal(Vocabulary.read, path) == [
        f"vocabulary: {path}:4: 'a' stands in line 1 already; keep one of them",
        f"vocabulary: {path}:2: the line is empty, which no table can be filled from; remove it",
    ]


def test_an_empty_file(tmp_path):
    path = _file(tmp_path, b"")
    assert _refusal(Vocabulary.read, path) == [f"vocabulary: {path} is empty; name a file with one word per line"]


def test_words_that_are_no_text_keep_their_lines(tmp_path):
    assert Vocabulary.read(_file(tmp_path, b"\xff\xfe\nb\n")).words["b"] == 1


def test_special_words_are_words_or_ids(tmp_path):
    vocabulary = Vocabulary.read(_file(tmp_path, b"<pad>\n<unk>\nword\n"))
    assert vocabulary.ids(unknown="<unk>", padding=0, start=None, end=7) == {"unknown": 1, "padding": 0, "end": 7}


def test_special_words_that_there_are_not(tmp_path):
    path = _file(tmp_path, b"<pad>\n<unk>\nword\n")
    assert _refusal(Vocabulary.read(path).ids, unknown="<unkn>", padding=True, end="</s>") == [
        f"unknown: '<unkn>' is not in {path}; did you mean <unk>?",
        f"padding: 'True' is not in {path}; write a word of it, or an id",
        f"end: '</s>' is not in {path}; known: <pad>, <unk>, word",
    ]
