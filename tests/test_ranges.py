"""Ranges that fields declare: what is in them, how they read, and that no number of ours is without one."""

from dataclasses import fields
from typing import Annotated, get_args, get_type_hints

import pytest
from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MaxLen, MinLen, MultipleOf

from exportkit.config import ranges
from exportkit.contract import ModelSource, PostStep
from exportkit.registry import DISABLE, load_plugins

NAN = float("nan")


@pytest.mark.parametrize(
    ("hint", "words", "inside", "outside"),
    [
        (Annotated[int, Ge(1)], "1 or more", [1, 2], [0, -1, NAN]),
        (Annotated[float, Gt(0)], "more than 0", [1e-9], [0, NAN]),
        (Annotated[int, Le(18)], "at most 18", [18], [19, NAN]),
        (Annotated[int, Lt(18)], "less than 18", [17], [18, NAN]),
        (Annotated[int, Interval(ge=1, le=2000)], "1 or more, at most 2,000", [1, 2000], [0, 2001]),
        (Annotated[list[int], MinLen(1)], "1 or more entries", [[1]], [[]]),
        (Annotated[list[int], Len(1, 2)], "1 or more entries, at most 2 entries", [[1], [1, 2]], [[], [1, 2, 3]]),
        (Annotated[list[int], MaxLen(1)], "at most 1 entries", [[], [1]], [[1, 2]]),
        (ranges.Seconds, "more than 0, at most 1,000,000", [0.1, 1e6], [0, 1e6 + 1, NAN]),
        (Annotated[int, "a remark"], "", [-1], []),
        (int, "", [-1], []),
    ],
)
def test_a_range(hint, words, inside, outside):
    _, constraints = ranges.split(hint)
    assert ranges.checkable(constraints)
    assert ranges.describe(constraints) == words
    assert [ranges.contains(constraints, value) for value in inside] == [True] * len(inside)
    assert [ranges.contains(constraints, value) for value in outside] == [False] * len(outside)


def test_a_constraint_that_nobody_checks_is_known():
    assert not ranges.checkable(ranges.split(Annotated[int, Ge(1), MultipleOf(2)])[1])


def _numbers_without_range(hint):
    """Whether a number within a type is free to be anything."""
    bare, constraints = ranges.split(hint)
    if bare in (int, float):
        return not constraints
    return any(map(_numbers_without_range, get_args(bare)))


def test_every_number_of_our_steps_and_sources_has_a_range(monkeypatch):
    monkeypatch.delenv(DISABLE)
    plugins = load_plugins()
    ours = [
        cls
        for cls, provider in plugins.providers.items()
        if provider.distribution.startswith("exportkit") and issubclass(cls, ModelSource | PostStep)
    ]
    assert {"verify", "manifest", "warmup", "benchmark", "meta_graph"} <= {cls.kind for cls in ours}
    hints = {cls: get_type_hints(cls, include_extras=True) for cls in ours}
    free = [f"{cls.kind}.{f.name}" for cls in ours for f in fields(cls) if _numbers_without_range(hints[cls][f.name])]
    assert free == []
