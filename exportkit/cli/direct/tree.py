"""The config while it is composed: mappings whose keys and values are checked by the schema, as OmegaConf's nodes are."""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from exportkit.cli.direct import NeedsHydra
from exportkit.cli.schema import known_type, plain_default

UNSET = "???"
_REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}", re.ASCII)


@dataclass(frozen=True)
class Reference:
    """A text with interpolations, for a field of the type `hint`."""

    text: str
    hint: Any


class Node(dict[str, Any]):
    """A mapping of a config."""

    def hint(self, key: str) -> Any:
        """Return the type of the value at `key`."""
        raise NotImplementedError


class Table(Node):
    """A mapping with free keys and values of one type."""

    def __init__(self, inner: Any = Any):
        super().__init__()
        self._inner = inner

    def hint(self, key: str) -> Any:
        return self._inner


class Struct(Node):
    """A mapping whose keys are the fields of a dataclass, with their defaults."""

    def __init__(self, cls: type, values: Any = None):
        self._hints = _hints(cls)
        given = _default if values is None else lambda field: getattr(values, field.name)
        super().__init__({field.name: self._converted(field, given(field)) for field in fields(cls)})

    def hint(self, key: str) -> Any:
        return self._hints[key]

    def _converted(self, field: Field[Any], value: Any) -> Any:
        if is_dataclass(value) and is_dataclass(self._hints[field.name]):
            return Struct(type(value), value)
        plain = plain_default(value)
        return plain if isinstance(plain, str) and plain == UNSET else converted(self._hints[field.name], plain)


@cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields, by name."""
    hints = get_type_hints(cls)
    return {field.name: known_type(hints[field.name]) for field in fields(cls)}


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return UNSET if field.default is MISSING else field.default


def merge(node: Node, data: Mapping[Any, Any]) -> None:
    """Merge the content of a file into a mapping.

    Raises:
        NeedsHydra: a key or a value does not fit the schema as it is, or would replace a mapping or a list by another kind.
    """
    for key, value in data.items():
        if not isinstance(key, str) or (isinstance(node, Struct) and key not in node):
            raise NeedsHydra
        old = node.get(key)
        if isinstance(old, Node) and isinstance(value, dict):
            merge(old, value)
        elif key in node and not _replaceable(old, value):
            raise NeedsHydra
        else:
            node[key] = converted(node.hint(key), value)


def _replaceable(old: Any, value: Any) -> bool:
    """Return whether a file's value simply takes the place of one before."""
    if isinstance(old, Node) or isinstance(value, dict):
        return False
    return old is None or old == UNSET or isinstance(old, list) is isinstance(value, list)


def converted(hint: Any, value: Any) -> Any:
    """Return a value of plain data as a value of the tree. Raises NeedsHydra unless OmegaConf would surely take it so."""
    if isinstance(value, str) and ("${" in value or value == UNSET):
        return _reference(hint, value)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return None if value is None else converted(next(one for one in inner if one is not NoneType), value)
    if isinstance(value, dict) and (hint is Any or (origin or hint) is dict or is_dataclass(hint)):
        made: Node = Struct(hint) if isinstance(hint, type) and is_dataclass(hint) else Table(inner[1] if inner else Any)
        merge(made, value)
        return made
    if isinstance(value, list) and (hint is Any or (origin or hint) is list):
        return [converted(inner[0] if inner else Any, one) for one in value]
    if hint is Any and isinstance(value, int | float | str | NoneType):
        return value
    if type(value) is hint and hint in (str, int, float, bool):
        return value
    if type(value) is int and hint is float and abs(value) < 2**53:
        return float(value)
    if isinstance(value, str | Path) and hint is Path:
        return Path(value)
    raise NeedsHydra


def _reference(hint: Any, text: str) -> Reference:
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    bare = next(one for one in options if one is not NoneType)
    rest = _REFERENCE.sub("", text)
    if bare not in (Any, str, Path) or text == UNSET or any(character in rest for character in "$\\{}"):
        raise NeedsHydra
    return Reference(text, bare)


def resolved(root: Node) -> dict[str, Any]:
    """Return the tree as plain data, with the values that interpolations refer to."""
    return _plain(root, lambda reference: _value(root, reference))


def _plain(value: Any, resolve: Callable[[Reference], Any]) -> Any:
    if isinstance(value, Node):
        return {key: _plain(inner, resolve) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, resolve) for inner in value]
    return resolve(value) if isinstance(value, Reference) else value


def _value(root: Node, reference: Reference) -> Any:
    if (whole := _REFERENCE.fullmatch(reference.text)) and reference.hint is Any:
        return _target(root, whole[1])
    if whole and not isinstance(_target(root, whole[1]), str):
        raise NeedsHydra
    return converted(reference.hint, _REFERENCE.sub(lambda found: str(_target(root, found[1])), reference.text))


def _target(root: Node, path: str) -> str | int:
    """Return the text or the integer that an interpolation refers to."""
    found: Any = root
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Node) else None
    if type(found) not in (str, int) or found == UNSET:
        raise NeedsHydra
    return found
