"""Reading mappings into dataclasses: exact texts for what is wrong, all of it at once, and never an exception."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, MinLen, MultipleOf
from hypothesis import given
from hypothesis import strategies as st

from exportkit.config.reader import Reader, read_fields, readable
from exportkit.operations.builtin import OPERATIONS
from exportkit.spec import BINDINGS, MetaGraph, Signature, Weights

KINDS = (*BINDINGS.values(), *OPERATIONS.values())


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
            st.sampled_from([f for c in (Outer, Inner, *KINDS, Weights) for f in c.__dataclass_fields__])
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


@given(plain, st.sampled_from([Outer, Inner, Signature, MetaGraph, Weights, *KINDS]))
def test_plain_data_gives_a_value_or_problems_and_never_raises(value, cls):
    reader = Reader(Path("/base"))
    result = reader.read(cls, value, "top")
    assert (result is None) == bool(reader.problems)
    assert result is None or type(result) is cls
    assert all(p.where.startswith("top") and p.what and "\n" not in str(p) for p in reader.problems)


@given(st.integers(-(10**300), 10**300) | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_taken_for_a_number(value):
    assert read(WHOLE | {"ratio": value}) == (Outer(name="a", inner=Inner(size=1), ratio=float(value)), [])


@dataclass(kw_only=True)
class Ranged:
    sizes: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)] = field(default_factory=lambda: [1])
    limit: Annotated[float, Gt(0)] | None = None
    share: Annotated[float, Ge(0), Le(1)] = 0.5
    where: Path | None = None


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ({"sizes": [2, 0, -1]}, ["top.sizes[1]: is 0; write 1 or more", "top.sizes[2]: is -1; write 1 or more"]),
        ({"sizes": []}, ["top.sizes: is empty; write 1 or more entries"]),
        ({"sizes": ["a"]}, ["top.sizes[0]: is the text 'a', not an integer; write an integer"]),
        ({"limit": 0}, ["top.limit: is 0; write more than 0, or null"]),
        ({"limit": "a"}, ["top.limit: is the text 'a', not a number; write a number or null"]),
        ({"limit": float("nan")}, ["top.limit: is nan; write a finite number, or null"]),
        ({"share": 1.5}, ["top.share: is 1.5; write 0 or more, at most 1"]),
        (
            {"share": -1e-9, "limit": -5},
            ["top.limit: is -5; write more than 0, or null", "top.share: is -1e-09; write 0 or more, at most 1"],
        ),
        ({"share": float("-inf")}, ["top.share: is -inf; write a finite number"]),
        (
            {"where": "gs://bucket/x"},
            ["top.where: gs://bucket/x is an address, and only local files are read and written; give a path on this machine"],
        ),
        (
            {"where": Path("s3://bucket/x")},
            ["top.where: s3://bucket/x is an address, and only local files are read and written; give a path on this machine"],
        ),
        (
            {"where": "file:///data/x"},
            ["top.where: file:///data/x is an address, and only local files are read and written; write /data/x"],
        ),
    ],
)
def test_a_value_out_of_its_range_is_told(value, texts):
    read_, problems = read(value, Ranged)
    assert (read_, sorted(problems)) == (None, sorted(texts))


def test_a_value_in_its_range_is_read():
    given = {"sizes": [1, 8], "limit": None, "share": 1, "where": "a:b/c"}
    assert read(given, Ranged) == (Ranged(sizes=[1, 8], limit=None, share=1.0, where=Path("/base/a:b/c")), [])


def test_a_range_that_cannot_be_checked_cannot_be_read():
    assert readable(Annotated[list[Annotated[int, Ge(1)]], MinLen(1)])
    assert not readable(Annotated[int, MultipleOf(2)])


class Precision(Enum):
    FULL = 32
    HALF = 16


class Side(StrEnum):
    LEFT = "left"


@dataclass(kw_only=True)
class Choosing:
    how: Literal["mean", "sum", "max"] = "mean"
    often: Literal[0, 1, 2] | None = 1
    text: Literal["1", "2"] = "1"
    either: Literal["auto", 3, True] = "auto"
    precision: Precision = Precision.FULL
    sides: list[Side] = field(default_factory=list)


def test_a_choice_is_read():
    chosen, problems = read(
        {"how": "sum", "often": None, "either": True, "precision": "HALF", "sides": ["LEFT", Side.LEFT]}, Choosing
    )
    assert (problems, chosen) == (
        [],
        Choosing(how="sum", often=None, either=True, precision=Precision.HALF, sides=[Side.LEFT, Side.LEFT]),
    )
    assert read({"precision": Precision.HALF}, Choosing)[0].precision is Precision.HALF
    assert read({"either": 3}, Choosing)[0].either == 3


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"how": "maen"}, "top.how: is the text 'maen', not mean, sum or max; did you mean mean?"),
        ({"how": "none of them"}, "top.how: is the text 'none of them', not mean, sum or max; write mean, sum or max"),
        ({"how": 3}, "top.how: is the integer 3, not mean, sum or max; write mean, sum or max"),
        ({"how": None}, "top.how: is null, not mean, sum or max; write mean, sum or max"),
        ({"often": True}, "top.often: is the boolean true, not 0, 1 or 2; write 0, 1 or 2 or null"),
        ({"text": 1}, "top.text: is the integer 1, not 1 or 2; put it in quotes"),
        ({"precision": "half"}, "top.precision: is the text 'half', not FULL or HALF; did you mean HALF?"),
        ({"precision": "HALFS"}, "top.precision: is the text 'HALFS', not FULL or HALF; did you mean HALF?"),
        ({"sides": ["left"]}, "top.sides[0]: is the text 'left', not LEFT; did you mean LEFT?"),
        ({"how": ["mean"]}, "top.how: is the list [mean], not mean, sum or max; write mean, sum or max"),
    ],
)
def test_a_choice_that_there_is_not(given, text):
    assert read(given, Choosing) == (None, [text])


@dataclass(kw_only=True)
class Shape(ABC):
    kind: str

    @abstractmethod
    def area(self): ...


@dataclass(kw_only=True)
class Holder:
    shape: Shape
    others: list[Shape] = field(default_factory=list)


def test_a_class_that_a_kind_chooses():
    reader, seen = Reader(Path("/base")), []
    reader.by_kind[Shape] = lambda value, where: seen.append((value, where)) or "a shape"
    read = reader.read(Holder, {"shape": {"kind": "a"}, "others": [{"kind": "b"}]}, "top")
    assert (read.shape, read.others, reader.problems) == ("a shape", ["a shape"], [])
    assert seen == [({"kind": "a"}, "top.shape"), ({"kind": "b"}, "top.others[0]")]
    assert reader.read(Holder, {}, "top") is None
    assert [str(problem) for problem in reader.problems] == ["top.shape: is not set; set it to a mapping with a kind"]
    assert readable(Holder, [Shape]) and readable(Shape | None, [Shape])


def test_what_can_be_a_choice():
    assert readable(Choosing) and readable(list[Literal["a", 1]]) and readable(Literal["a", None])
    assert not readable(Literal[b"a"])
    assert not readable(Literal[Precision.HALF])


def test_fields_of_another_place(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found, problems = read_fields(Outer, {**WHOLE, "path": "x"}, "policy.yaml")
    assert (found.path, problems) == (tmp_path / "x", [])
    found, problems = read_fields(Outer, {"name": 1}, "policy.yaml")
    assert found is None
    assert [str(problem) for problem in problems] == [
        "policy.yaml.name: is the integer 1, not a text; put it in quotes",
        "policy.yaml.inner: is not set; set it to a mapping",
    ]
