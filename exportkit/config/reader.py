"""Mappings from a config into dataclasses, key by key, with every problem told at once."""

import os
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from exportkit.errors import Problem, did_you_mean, nearest

UNSET = "???"
_SCALARS = {str: "a text", int: "an integer", float: "a number", bool: "true or false", Path: "a path"}


class Reader:
    """Reads values of declared types out of plain data and collects what is wrong with them in `problems`.

    A value that cannot be read becomes None; whoever needs it looks at `problems` first.
    """

    def __init__(self, base: Path):
        self.base = base
        self.problems: list[Problem] = []

    def problem(self, where: str, what: str, do: str = "") -> None:
        self.problems.append(Problem(where, what, do))

    def read(self, cls: type, value: Any, where: str) -> Any:
        """An instance of dataclass `cls` from the mapping `value`, or None after telling what is wrong."""
        before = len(self.problems)
        if not isinstance(value, Mapping):
            return self.problem(where, f"is {said(value)}, not a mapping", f"write {{{', '.join(_keys(cls))}}}")
        hints = _hints(cls)
        unknown = [str(key) for key in value if key not in hints]
        for key in unknown:
            self.problem(f"{where}.{key}", "no such key", did_you_mean(key, hints))
        meant = {near for key in unknown for near in nearest(key, hints)}
        arguments = {}
        for field in fields(cls):
            given = value.get(field.name, UNSET)
            if not (isinstance(given, str) and given == UNSET):
                arguments[field.name] = self.convert(hints[field.name], given, f"{where}.{field.name}")
            elif _required(field) and field.name not in meant:
                self.problem(f"{where}.{field.name}", "is not set", f"set it to {_kind(hints[field.name])}")
        return None if len(self.problems) > before else cls(**arguments)

    def convert(self, hint: Any, value: Any, where: str) -> Any:
        """`value` as the type `hint`: a dataclass, list[T], dict[str, T], T | None, Path, str, int, float, bool or Any."""
        origin, inner = get_origin(hint), get_args(hint)
        if hint is Any:
            return value
        if origin in (Union, types.UnionType):
            return None if value is None else self._given(hint, next(t for t in inner if t is not type(None)), value, where)
        if is_dataclass(hint):
            return self.read(hint, value, where)
        if hint is list or origin is list:
            return self._list(inner[0] if inner else Any, value, where)
        if hint is dict or origin is dict:
            return self._dict(inner[1] if inner else Any, value, where)
        return self._scalar(hint, value, where, _kind(hint))

    def _given(self, optional: Any, hint: Any, value: Any, where: str) -> Any:
        """A value that is not null, where null is allowed."""
        return self._scalar(hint, value, where, _kind(optional)) if hint in _SCALARS else self.convert(hint, value, where)

    def _list(self, inner: Any, value: Any, where: str) -> list[Any] | None:
        if not isinstance(value, list | tuple):
            item = f"{_kind(inner)}, …" if value is None or isinstance(value, Mapping) else _bare(value)
            return self.problem(where, f"is {said(value)}, not a list", f"write [{item}]")
        return [self.convert(inner, item, f"{where}[{i}]") for i, item in enumerate(value)]

    def _dict(self, inner: Any, value: Any, where: str) -> dict[str, Any] | None:
        if not isinstance(value, Mapping):
            return self.problem(where, f"is {said(value)}, not a mapping", "write {NAME: …}")
        for key in value:
            if not isinstance(key, str):
                self.problem(f"{where}.{_bare(key)}", f"the key is {said(key)}, not a text", "put it in quotes")
        return {str(key): self.convert(inner, item, f"{where}.{_bare(key)}") for key, item in value.items()}

    def _scalar(self, hint: Any, value: Any, where: str, wanted: str) -> Any:
        if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1023:
            return float(value)
        if hint is Path and isinstance(value, str | Path) and value and "\0" not in str(value):
            return self.path(value)
        if hint in (str, int, float, bool) and type(value) is hint:
            return value
        do = "put it in quotes" if hint is str and isinstance(value, int | float) else f"write {wanted}"
        return self.problem(where, f"is {said(value)}, not {_kind(hint)}", do)

    def path(self, value: str | Path) -> Path:
        """`value` made absolute, from where exportkit was started; without ``..`` unless that goes through a symbolic link."""
        path = os.path.join(self.base, os.path.expanduser(value))
        tidy = os.path.normpath(path)
        return Path(tidy if os.path.realpath(tidy) == os.path.realpath(path) else path)


def readable(hint: Any) -> bool:
    """Whether a `Reader` can make a value of type `hint`."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return len(inner) == 2 and type(None) in inner and all(readable(t) for t in inner if t is not type(None))
    if is_dataclass(hint):
        return all(map(readable, _hints(hint).values()))
    if (origin or hint) in (list, dict):
        return all(map(readable, inner)) and (origin is not dict or inner[0] is str)
    return hint is Any or hint in _SCALARS


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def _required(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _keys(cls: type) -> list[str]:
    return [f"{field.name}: …" for field in fields(cls) if _required(field)] or ["…"]


def said(value: Any) -> str:
    """A value as a part of a sentence: ``the integer 3``."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "a mapping"
    names = {str: "text", int: "integer", float: "number", bool: "boolean", list: "list", tuple: "list"}
    quote = "'" if isinstance(value, str) else ""
    return f"the {names.get(type(value), type(value).__name__)} {quote}{_bare(value)}{quote}"


def _bare(value: Any, most: int = 60) -> str:
    """A value as YAML has it, on one line; a long one shortened."""
    if isinstance(value, bool | None):
        return "null" if value is None else str(value).lower()
    if isinstance(value, Mapping):
        return "{…}"
    text = f"[{', '.join(map(_bare, value[:most]))}]" if isinstance(value, list | tuple) else " ".join(str(value).splitlines())
    return text if len(text) <= most else text[: most - 1] + "…"


def _kind(hint: Any) -> str:
    """What a type wants: ``an integer``."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return f"{_kind(inner[0])} or null"
    if is_dataclass(hint):
        return "a mapping"
    return _SCALARS.get(hint, {list: "a list", dict: "a mapping"}.get(origin or hint, "a value"))
