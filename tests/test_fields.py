"""Reading mappings into dataclasses: exact texts for what is wrong, all of it at once, and never an exception."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exportkit.config.reader import Reader
from exportkit.spec import BINDINGS, MetaGraph, Signature, Weights


@dataclass(kw_only=True)
class Inner:
    size: int
    tags: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Outer:
    name: str
    inner: Inner
    ratio: float = 0.5
    quick: bool = False
    path: Path | None = None
    shape: list[int | None] | None = None
    named: dict[str, Inner] = field(default_factory=dict)
    free: Any = None


WHOLE = {"name": "a", "inner": {"size": 1}}


def read(value, cls=Outer, base=Path("/base")):
    reader = Reader(base)
    return reader.read(cls, value, "top"), [str(problem) for problem in reader.problems]


def test_reads_every_declared_type():
    value, problems = read(
        {
            "name": "a",
            "inner": {"size": 3, "tags": ("x", "y")},
            "ratio": 2,
            "quick": True,
            "path": "data/x",
            "shape": [None, 4],
            "named": {"k": {"size": 2}},
            "free": {"any": [1]},
        }
    )
    assert problems == []
    assert value == Outer(
        name="a",
        inner=Inner(size=3, tags=["x", "y"]),
        ratio=2.0,
        quick=True,
        path=Path("/base/data/x"),
        shape=[None, 4],
        named={"k": Inner(size=2)},
        free={"any": [1]},
    )
    assert type(value.ratio) is float


def test_defaults_stand_for_what_is_not_given():
    assert read(WHOLE) == (Outer(name="a", inner=Inner(size=1)), [])
    assert read(WHOLE | {"ratio": "???"}) == (Outer(name="a", inner=Inner(size=1)), [])


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (3, ["top: is the integer 3, not a mapping; write {name: …, inner: …}"]),
        (None, ["top: is null, not a mapping; write {name: …, inner: …}"]),
        ({}, ["top.name: is not set; set it to a text", "top.inner: is not set; set it to a mapping"]),
        (WHOLE | {"name": "???"}, ["top.name: is not set; set it to a text"]),
        (WHOLE | {"nam": 1}, ["top.nam: no such key; did you mean name or named?"]),
        (WHOLE | {7: 1}, ["top.7: no such key; known: free, inner, name, named, path, quick, ratio, shape"]),
        (WHOLE | {"name": 3}, ["top.name: is the integer 3, not a text; put it in quotes"]),
        (WHOLE | {"name": 1.5}, ["top.name: is the number 1.5, not a text; put it in quotes"]),
        (WHOLE | {"name": True}, ["top.name: is the boolean true, not a text; put it in quotes"]),
        (WHOLE | {"name": None}, ["top.name: is null, not a text; write a text"]),
        (WHOLE | {"name": {"a": 1}}, ["top.name: is a mapping, not a text; write a text"]),
        (WHOLE | {"name": ["a", 1]}, ["top.name: is the list [a, 1], not a text; write a text"]),
        (WHOLE | {"inner": {"size": "4"}}, ["top.inner.size: is the text '4', not an integer; write an integer"]),
        (WHOLE | {"inner": {"size": 4.0}}, ["top.inner.size: is the number 4.0, not an integer; write an integer"]),
        (WHOLE | {"inner": {"size": True}}, ["top.inner.size: is the boolean true, not an integer; write an integer"]),
        (WHOLE | {"inner": {"size": 1, "tags": "ab"}}, ["top.inner.tags: is the text 'ab', not a list; write [ab]"]),
        (WHOLE | {"inner": {"size": 1, "tags": {"a": 1}}}, ["top.inner.tags: is a mapping, not a list; write [a text, …]"]),
        (WHOLE | {"inner": {"size": 1, "tags": None}}, ["top.inner.tags: is null, not a list; write [a text, …]"]),
        (
            WHOLE | {"inner": {"size": 1, "tags": ["a", 2]}},
            ["top.inner.tags[1]: is the integer 2, not a text; put it in quotes"],
        ),
        (WHOLE | {"ratio": "1"}, ["top.ratio: is the text '1', not a number; write a number"]),
        (WHOLE | {"quick": 1}, ["top.quick: is the integer 1, not true or false; write true or false"]),
        (WHOLE | {"quick": "yes"}, ["top.quick: is the text 'yes', not true or false; write true or false"]),
        (WHOLE | {"path": ""}, ["top.path: is the text '', not a path; write a path or null"]),
        (WHOLE | {"name": ["a" * 90]}, [f"top.name: is the list [{'a' * 58}…, not a text; write a text"]),
        (WHOLE | {"path": 3}, ["top.path: is the integer 3, not a path; write a path or null"]),
        (WHOLE | {"shape": 4}, ["top.shape: is the integer 4, not a list; write [4]"]),
        (WHOLE | {"shape": ["None", 4]}, ["top.shape[0]: is the text 'None', not an integer; write an integer or null"]),
        (WHOLE | {"named": [1]}, ["top.named: is the list [1], not a mapping; write {NAME: …}"]),
        (WHOLE | {"named": {"k": {"sise": 1}}}, ["top.named.k.sise: no such key; did you mean size?"]),
        (WHOLE | {"named": {True: {"size": 1}}}, ["top.named.true: the key is the boolean true, not a text; put it in quotes"]),
    ],
)
def test_says_where_what_and_what_to_do(value, texts):
    assert read(value) == (None, texts)


def test_an_unknown_key_that_was_meant_for_a_required_one_is_told_once():
    assert read({"name": "a", "iner": {"size": 1}})[1] == ["top.iner: no such key; did you mean inner?"]


def test_everything_wrong_is_told_at_once():
    assert read({"nam": 1, "inner": {"size": "x"}, "quick": 0})[1] == [
        "top.nam: no such key; did you mean name or named?",
        "top.inner.size: is the text 'x', not an integer; write an integer",
        "top.quick: is the integer 0, not true or false; write true or false",
    ]


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("a/b", "/base/a/b"),
        ("/a", "/a"),
        ("./a", "/base/a"),
        ("../a", "/a"),
        ("a/../b", "/base/b"),
        ("~/a", "/home/me/a"),
        ("~no_one/a", "/base/~no_one/a"),
    ],
)
def test_paths_are_relative_to_the_start(given, path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert Reader(Path("/base")).path(given) == Path(path)


def test_a_path_through_a_symbolic_link_keeps_its_way_back(tmp_path):
    (tmp_path / "far/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far/deep")
    assert Reader(tmp_path).path("link/../x") == tmp_path / "link/../x"


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["???", "~", "~nobody/x", "\0", 10**400]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([f for c in (Outer, Inner, *BINDINGS.values(), Weights) for f in c.__dataclass_fields__])
            | st.text()
            | st.integers()
            | st.booleans()
            | st.none(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(plain, st.sampled_from([Outer, Inner, Signature, MetaGraph, Weights, *BINDINGS.values()]))
def test_plain_data_gives_a_value_or_problems_and_never_raises(value, cls):
    reader = Reader(Path("/base"))
    result = reader.read(cls, value, "top")
    assert (result is None) == bool(reader.problems)
    assert result is None or type(result) is cls
    assert all(p.where.startswith("top") and p.what and "\n" not in str(p) for p in reader.problems)


@given(st.integers(-(10**300), 10**300) | st.floats(allow_nan=False))
def test_a_number_is_taken_for_a_number(value):
    assert read(WHOLE | {"ratio": value}) == (Outer(name="a", inner=Inner(size=1), ratio=float(value)), [])
