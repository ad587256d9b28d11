"""Mappings from a config into dataclasses, key by key, with every problem told at once."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from exportkit.errors import Problem, did_you_mean

UNSET = "???"


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
            return self.problem(where, f"is {_said(value)}, not a mapping", f"write {{{', '.join(_keys(cls))}}}")
        hints = _hints(cls)
        for key in value:
            if key not in hints:
                self.problem(f"{where}.{key}", "no such key", did_you_mean(str(key), hints))
        arguments = {}
        for field in fields(cls):
            given = value.get(field.name, UNSET)
            if not (isinstance(given, str) and given == UNSET):
                arguments[field.name] = self.convert(hints[field.name], given, f"{where}.{field.name}")
            elif field.default is MISSING and field.default_factory is MISSING:
                self.problem(f"{where}.{field.name}", "is not set", f"set it to {_kind(hints[field.name])}")
        return None if len(self.problems) > before else cls(**arguments)

    def convert(self, hint: Any, value: Any, where: str) -> Any:
        """`value` as the type `hint`: a dataclass, list[T], dict[str, T], T | None, Path, str, int, float, bool or Any."""
        origin, inner = get_origin(hint), get_args(hint)
        if hint is Any:
            return value
        if origin in (Union, types.UnionType):
            return None if value is None else self.convert(next(t for t in inner if t is not type(None)), value, where)
        if is_dataclass(hint):
            return self.read(hint, value, where)
        if hint is list or origin is list:
            return self._list(inner[0] if inner else Any, value, where)
        if hint is dict or origin is dict:
            return self._dict(inner[1] if inner else Any, value, where)
        return self._scalar(hint, value, where)

    def _list(self, inner: Any, value: Any, where: str) -> list[Any] | None:
        if not isinstance(value, list | tuple):
            return self.problem(where, f"is {_said(value)}, not a list", f"write [{_bare(value)}]")
        return [self.convert(inner, item, f"{where}[{i}]") for i, item in enumerate(value)]

    def _dict(self, inner: Any, value: Any, where: str) -> dict[str, Any] | None:
        if not isinstance(value, Mapping):
            return self.problem(where, f"is {_said(value)}, not a mapping")
        for key in value:
            if not isinstance(key, str):
                self.problem(f"{where}.{key}", f"the key is {_said(key)}, not a text", "write it in quotes")
        return {str(key): self.convert(inner, item, f"{where}.{key}") for key, item in value.items()}

    def _scalar(self, hint: Any, value: Any, where: str) -> Any:
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if hint is Path and isinstance(value, str | Path):
            return self.path(value)
        if hint in (str, int, float, bool) and type(value) is hint:
            return value
        do = f'write "{value}"' if hint is str and isinstance(value, int | float) else f"write {_kind(hint)}"
        return self.problem(where, f"is {_said(value)}, not {_kind(hint)}", do)

    def path(self, value: str | Path) -> Path:
        """`value` made absolute, from where exportkit was started; without `..`, but with its symbolic links."""
        return Path(self.base, Path(value).expanduser())


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def _keys(cls: type) -> list[str]:
    return [f"{f.name}: …" for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING] or ["…"]


def _said(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "a mapping"
    name = {str: "the text", int: "the integer", float: "the number", bool: "the boolean"}.get(type(value), "the list")
    return f"{name} {_bare(value)}" if type(value) is not str else f"{name} '{value}'"


def _bare(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _kind(hint: Any) -> str:
    names = {str: "a text", int: "an integer", float: "a number", bool: "true or false", Path: "a path"}
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _kind(get_args(hint)[0])
    return names.get(hint, {list: "a list", dict: "a mapping"}.get(origin or hint, "a value"))
