"""Values that a config writes down for a tensor."""

from collections.abc import Iterator
from typing import Any

from exportkit.errors import Problem


def unfit(where: str, value: Any, dtype: str | None) -> Iterator[Problem]:
    """A value that was written for a tensor of `dtype` and cannot be one."""
    kinds = {"bool": ([bool], "true or false"), "string": ([str], "a text")}
    allowed, do = kinds.get(dtype or "", ([int], "an integer") if "int" in (dtype or "") else ([int, float], "a number"))
    if dtype is not None and not all(type(item) in allowed for item in _flat(value)):
        shown = str(value).lower() if isinstance(value, bool) else repr(value)
        yield Problem(where, f"{shown} cannot be of dtype {dtype}", f"write {do}")


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value
