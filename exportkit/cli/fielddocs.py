"""The documentation of a dataclass's fields: the string literal right below a field."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields
from enum import Enum
from itertools import pairwise
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from exportkit.config import ranges
from exportkit.config.reader import choices
from exportkit.contract import ModelSource


@dataclass(frozen=True)
class FieldDoc:
    """A field as it is shown to users: `type` with its range; `default` is empty where a value must be given."""

    name: str
    type: str
    default: str
    doc: str


def field_docs(cls: type) -> list[FieldDoc]:
    """Return the fields of the dataclass `cls` in the order of their declaration."""
    hints, ranged = get_type_hints(cls), get_type_hints(cls, include_extras=True)
    docs = {name: doc for base in reversed(cls.__mro__) for name, doc in _documented(base)}
    return [
        FieldDoc(f.name, ", ".join([_type_text(hints[f.name]), *_ranges(ranged[f.name])]), _default(f), docs.get(f.name, ""))
        for f in fields(cls)
    ]


def _documented(cls: type) -> Iterator[tuple[str, str]]:
    """Yield name and documentation of the documented fields in `cls`'s own body; none where its source cannot be read."""
    try:
        definition = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError, SyntaxError):
        return
    for field, below in pairwise(definition.body if isinstance(definition, ast.ClassDef) else ()):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            yield field.target.id, inspect.cleandoc(str(below.value.value))


def _ranges(hint: Any) -> Iterator[str]:
    """Yield the ranges of a type and of its element types: ``1 or more entries``, ``each 1 or more``."""
    bare, constraints = ranges.split(hint)
    if constraints:
        yield ranges.describe(constraints)
    each = "each " if get_origin(bare) in (list, dict) else ""
    yield from (f"{each}{text}" for inner in get_args(bare) for text in _ranges(inner))


def _type_text(hint: Any) -> str:
    """Return a type as the table of keys shows it; of a choice what there is to choose from: ``mean | sum``."""
    if known := choices(hint):
        return " | ".join(known)
    if hint is ModelSource:
        return "a source: {kind: …}"
    if get_origin(hint) in (Union, UnionType):
        return " | ".join("None" if inner is type(None) else _type_text(inner) for inner in get_args(hint))
    if isinstance(hint, type) and not hasattr(hint, "__args__"):
        return hint.__name__
    return str(hint).replace("typing.", "").replace("pathlib.", "")


def _default(field: Field) -> str:
    if field.default is not MISSING:
        return (
            "null"
            if field.default is None
            else str(field.default).lower()
            if isinstance(field.default, bool)
            else field.default.name
            if isinstance(field.default, Enum)
            else repr(field.default)
        )
    return "" if field.default_factory is MISSING else repr(field.default_factory())
