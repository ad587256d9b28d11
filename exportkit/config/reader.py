"""Reads mappings of a config into dataclasses, key by key, and collects every problem."""

import os
import re
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache
from inspect import isabstract
from math import isfinite
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from exportkit.config import ranges
from exportkit.errors import Problem, did_you_mean, nearest

UNSET = "???"
T = TypeVar("T")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(.*)")  # pathlib collapses two slashes into one
_MOST_NAME = 255  # bytes of a file's name (NAME_MAX)
_SCALARS: dict[Any, str] = {str: "a text", int: "an integer", float: "a number", bool: "true or false", Path: "a path"}


class Reader:
    """Reads values of declared types out of plain data and collects what is wrong with them in `problems`.

    A value that cannot be read becomes None; whoever needs it looks at `problems` first.

    Attributes:
        base: directory that relative paths are relative to.
        by_kind: abstract class → reader of a field of that class, which is called with the value and its place, chooses a
            subclass by the value's `kind`, and adds to `problems` itself.
    """

    def __init__(self, base: Path):
        self.base = base
        self.problems: list[Problem] = []
        self.by_kind: dict[type, Callable[[Any, str], Any]] = {}

    def problem(self, where: str, what: str, do: str = "") -> Any:
        """Add a problem; returns None, the value of what cannot be read."""
        self.problems.append(Problem(where, what, do))

    def read(self, cls: type, value: Any, where: str) -> Any:
        """Return an instance of dataclass `cls` from the mapping `value`, or None after adding what is wrong."""
        before = len(self.problems)
        if not isinstance(value, Mapping):
            return self.problem(where, f"is {describe(value)}, not a mapping", f"write {{{', '.join(_keys(cls))}}}")
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
        """Return `value` as the type `hint`, or None after adding what is wrong.

        A type is a dataclass, list[T], dict[str, T], T | None, a Literal, an Enum (chosen by its member's name), a class of
        `by_kind`, Path, str, int, float, bool or Any. A number is finite, and in the range that an annotation declares
        (`exportkit.config.ranges`); so is a list's length.
        """
        bare, constraints = ranges.split(hint)
        if constraints:
            null = ", or null" if _is_optional(bare) else ""
            return self._in_range(constraints, self.convert(bare, value, where), where, null)
        origin, inner = get_origin(hint), get_args(hint)
        if hint is Any:
            return value
        if origin in (Union, types.UnionType):
            return None if value is None else self._given(hint, next(t for t in inner if t is not type(None)), value, where)
        if hint in self.by_kind:
            return self.by_kind[hint](value, where)
        if isinstance(hint, type) and is_dataclass(hint):
            return self.read(hint, value, where)
        if hint is list or origin is list:
            return self._list(inner[0] if inner else Any, value, where)
        if hint is dict or origin is dict:
            return self._dict(inner[1] if inner else Any, value, where)
        return self._scalar(hint, value, where, _kind(hint))

    def _given(self, optional: Any, hint: Any, value: Any, where: str) -> Any:
        """Return a value that is not null, where null is allowed."""
        bare, constraints = ranges.split(hint)
        if bare not in _SCALARS and not choices(bare):
            return self.convert(hint, value, where)
        return self._in_range(constraints, self._scalar(bare, value, where, _kind(optional)), where, ", or null")

    def _in_range(self, constraints: list[Any], value: Any, where: str, null: str = "") -> Any:
        """Return a value of the right type, if it is in its range."""
        if value is None or ranges.contains(constraints, value):
            return value
        what = "is empty" if value == [] else f"is {value:g}" if isinstance(value, float) else f"is {_bare(value)}"
        return self.problem(where, what, f"write {ranges.describe(constraints)}{null}")

    def _list(self, inner: Any, value: Any, where: str) -> Any:
        if not isinstance(value, list | tuple):
            item = f"{_kind(inner)}, …" if value is None or isinstance(value, Mapping) else _bare(value)
            return self.problem(where, f"is {describe(value)}, not a list", f"write [{item}]")
        return [self.convert(inner, item, f"{where}[{i}]") for i, item in enumerate(value)]

    def _dict(self, inner: Any, value: Any, where: str) -> Any:
        if not isinstance(value, Mapping):
            return self.problem(where, f"is {describe(value)}, not a mapping", "write {NAME: …}")
        for key in value:
            if not isinstance(key, str):
                self.problem(f"{where}.{_bare(key)}", f"the key is {describe(key)}, not a text", "put it in quotes")
        return {str(key): self.convert(inner, item, f"{where}.{_bare(key)}") for key, item in value.items()}

    def _chosen(self, hint: Any, value: Any, where: str, wanted: str) -> Any:
        """Return the choice that `value` names. Types are compared too: ``true`` is not 1."""
        known = choices(hint)
        for choice in known.values():
            if type(choice) is type(value) and choice == value:
                return choice  # an Enum's member, too, where a caller passes one
        if isinstance(hint, type) and isinstance(value, str) and value in known:
            return known[value]
        near = nearest(value, known) if isinstance(value, str) else []
        quoted = "put it in quotes" if str(value) in known and not isinstance(value, str) else f"write {wanted}"
        return self.problem(where, f"is {describe(value)}, not {_kind(hint)}", did_you_mean(value, known) if near else quoted)

    def _scalar(self, hint: Any, value: Any, where: str, wanted: str) -> Any:
        if choices(hint):
            return self._chosen(hint, value, where, wanted)
        if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1023:
            return float(value)
        if hint is float and isinstance(value, float) and not isfinite(value):
            return self.problem(where, f"is {value}", "write a finite number" + (", or null" if "null" in wanted else ""))
        if hint is Path and isinstance(value, str | Path) and value and "\0" not in str(value):
            return self._local(value, where)
        if hint in (str, int, float, bool) and type(value) is hint:
            return value
        do = "put it in quotes" if hint is str and isinstance(value, int | float) else f"write {wanted}"
        return self.problem(where, f"is {describe(value)}, not {_kind(hint)}", do)

    def _local(self, value: str | Path, where: str) -> Any:
        """Return the path that `value` names, unless that is an address: only files of this machine are read and written."""
        address = _ADDRESS.fullmatch(str(value)) if isinstance(value, Path) or "://" in value else None
        if address is None and any(len(name.encode(errors="replace")) > _MOST_NAME for name in str(value).split("/")):
            return self.problem(where, f"has a name of more than {_MOST_NAME} bytes: {_bare(value)}", "write a shorter one")
        if address is None:
            return self.path(value)
        scheme, rest = address.groups()
        do = f"write {rest}" if scheme.lower() == "file" and rest.startswith("/") else "give a path on this machine"
        return self.problem(where, f"{scheme}://{rest} is an address, and only local files are read and written", do)

    def path(self, value: str | Path) -> Path:
        """Return `value` as an absolute path; ``..`` is resolved unless that goes through a symbolic link."""
        path = os.path.join(self.base, os.path.expanduser(value))
        tidy = os.path.normpath(path)
        return Path(tidy if os.path.realpath(tidy) == os.path.realpath(path) else path)


def choices(hint: Any) -> dict[str, Any]:
    """Return what a Literal or an Enum lets a config choose from, as text → value; empty for any other type.

    An Enum's members are chosen by their names, as in OmegaConf.
    """
    if get_origin(hint) is Literal:
        return {_bare(choice): choice for choice in get_args(hint)}
    return dict(hint.__members__) if isinstance(hint, type) and issubclass(hint, Enum) else {}


def readable(hint: Any, by_kind: Collection[type] = ()) -> bool:
    """Return whether a `Reader` can make a value of type `hint`; `by_kind` are the classes that it chooses by a kind."""
    hint, constraints = ranges.split(hint)
    if not ranges.checkable(constraints):
        return False
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return len(inner) == 2 and type(None) in inner and all(readable(t, by_kind) for t in inner if t is not type(None))
    if hint in by_kind:
        return True
    if isinstance(hint, type) and is_dataclass(hint):
        return all(readable(t, by_kind) for t in _hints(hint).values())
    if (origin or hint) in (list, dict):
        return all(readable(t, by_kind) for t in inner) and (origin is not dict or inner[0] is str)
    if origin is Literal:
        return {type(choice) for choice in inner} <= {str, int, bool, type(None)}
    return hint is Any or hint in _SCALARS or bool(choices(hint))


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


def read_fields(cls: type[T], data: Any, where: str) -> tuple[T | None, list[Problem]]:
    """Read a mapping into dataclass `cls`, with the rules that hold for a plugin's own keys.

    For what a plugin keeps elsewhere than in its fields: a file of its own, or ``plan.config["vars"]``.

    Args:
        cls: a dataclass; its fields are of the types that `Reader.convert` lists.
        data: plain data, such as YAML gives.
        where: its place, for the problems.

    Returns:
        The instance, None where it cannot be read, and what is wrong. Relative paths are relative to the working directory.
    """
    reader = Reader(Path.cwd())
    return reader.read(cls, data, where), reader.problems


def _is_optional(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def optional_keys(cls: type) -> set[str]:
    """Return the fields of dataclass `cls` that have a default."""
    return {field.name for field in fields(cls) if not _required(field)}


def _keys(cls: type) -> list[str]:
    """Return the required keys of dataclass `cls`, as a config has them."""
    return [f"{field.name}: …" for field in fields(cls) if _required(field)] or ["…"]


def describe(value: Any) -> str:
    """Return a value as a part of a sentence: ``the integer 3``."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "a mapping"
    names = {str: "text", int: "integer", float: "number", bool: "boolean", list: "list", tuple: "list"}
    quote = "'" if isinstance(value, str) else ""
    return f"the {names.get(type(value), type(value).__name__)} {quote}{_bare(value)}{quote}"


def _bare(value: Any, most: int = 60) -> str:
    """Return a value as YAML has it, on one line; a long one is shortened."""
    if isinstance(value, bool | None):
        return "null" if value is None else str(value).lower()
    if isinstance(value, Mapping):
        return "{…}"
    text = f"[{', '.join(map(_bare, value[:most]))}]" if isinstance(value, list | tuple) else " ".join(str(value).splitlines())
    return text if len(text) <= most else text[: most - 1] + "…"


def _kind(hint: Any) -> str:
    """Return what a type wants, as a part of a sentence: ``an integer``."""
    hint = ranges.split(hint)[0]
    origin, inner = get_origin(hint), get_args(hint)
    if _is_optional(hint):
        return f"{_kind(inner[0])} or null"
    if known := [*choices(hint)]:
        return " or ".join([", ".join(known[:-1]), known[-1]]) if len(known) > 1 else known[0]
    if is_dataclass(hint):
        return "a mapping with a kind" if isabstract(hint) else "a mapping"
    return _SCALARS.get(hint, {list: "a list", dict: "a mapping"}.get(origin or hint, "a value"))
