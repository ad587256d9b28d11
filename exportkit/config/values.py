"""Values that a config writes down: those of a tensor, and those of a source."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from exportkit.errors import Problem


def unfit(where: str, value: Any, dtype: str | None) -> list[Problem]:
    """Return what keeps `value`, a scalar or nested lists, from being a tensor of `dtype`: at most one problem."""
    kinds: dict[str, tuple[list[type], str]] = {"bool": ([bool], "true or false"), "string": ([str], "a text")}
    if dtype is None:
        return []
    integer = "int" in dtype
    allowed, do = kinds.get(dtype, ([int], "an integer") if integer else ([int, float], "a number"))
    if not all(type(item) in allowed for item in _flat(value)):
        return [Problem(where, f"{format_value(value)} cannot be of dtype {dtype}", f"write {do}")]
    low, high = _range(dtype) if integer else (None, None)
    if low is not None and not all(low <= item <= high for item in _flat(value)):
        return [Problem(where, f"{format_value(value)} is out of the range of {dtype}", f"write {low} to {high}")]
    return []


def format_value(value: Any) -> str:
    """Return a value as it is written in YAML."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _range(dtype: str) -> tuple[int, int] | tuple[None, None]:
    """Return the least and the greatest integer of a dtype; None for one that is not named by its bits."""
    found = re.fullmatch(r"q?(u?)int(\d+)", dtype)
    if found is None:
        return None, None
    bits = int(found[2])
    return (0, 2**bits - 1) if found[1] else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield the values that a source was configured with, at any depth, with their places in the config."""
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping | list | tuple):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from leaves(inner, f"{where}.{key}")
    else:
        yield where, value
