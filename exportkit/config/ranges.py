"""The range that a field declares for its values, with the types of `annotated_types`: ``Annotated[int, Ge(1)]``."""

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, get_args, get_origin

from annotated_types import BaseMetadata, Ge, GroupedMetadata, Gt, Le, Lt, MaxLen, MinLen

_KEEPS: dict[type, Callable[[Any, Any], bool]] = {
    Ge: operator.ge,
    Gt: operator.gt,
    Le: operator.le,
    Lt: operator.lt,
    MinLen: lambda value, least: len(value) >= least,
    MaxLen: lambda value, most: len(value) <= most,
}
_WORDS = {
    Ge: "{} or more",
    Gt: "more than {}",
    Le: "at most {}",
    Lt: "less than {}",
    MinLen: "{} or more entries",
    MaxLen: "at most {} entries",
}

Seconds = Annotated[float, Gt(0), Le(1_000_000)]
"""Field type of a time limit, in seconds. System calls that wait take at most 2**31 ms, which is 24 days."""


def split(hint: Any) -> tuple[Any, list[Any]]:
    """Return a type without its annotations, and the constraints among them, one by one."""
    if get_origin(hint) is not Annotated:
        return hint, []
    bare, *metadata = get_args(hint)
    return bare, list(_flat(metadata))


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    for one in metadata:
        if isinstance(one, GroupedMetadata):  # Interval, Len
            yield from _flat(one)
        elif isinstance(one, BaseMetadata):
            yield one


def checkable(constraints: Iterable[Any]) -> bool:
    """Return whether all of these constraints can be checked; a field with one that cannot is refused."""
    return all(type(constraint) in _KEEPS for constraint in constraints)


def contains(constraints: Iterable[Any], value: Any) -> bool:
    """Return whether a number or a list is in its range. NaN is in none."""
    return all(_KEEPS[type(constraint)](value, _limit(constraint)) for constraint in constraints)


def describe(constraints: Iterable[Any]) -> str:
    """Return the range as words: ``1 or more``, ``more than 0, at most 10``; empty where there is none."""
    return ", ".join(_WORDS[type(constraint)].format(f"{_limit(constraint):,}") for constraint in constraints)


def _limit(constraint: Any) -> Any:
    return getattr(constraint, constraint.__match_args__[0])
