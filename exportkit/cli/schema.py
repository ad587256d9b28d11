"""A plugin's class as a schema that OmegaConf can hold: it knows no Literal, and no class that a `kind` chooses."""

from collections.abc import Callable
from dataclasses import MISSING, Field, asdict, field, fields, is_dataclass, make_dataclass
from enum import Enum
from functools import cache
from importlib import import_module
from inspect import isabstract
from operator import attrgetter
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


@cache
def schema_of(cls: type) -> type:
    """Return dataclass `cls`, or one of its name whose fields have the nearest types that OmegaConf knows.

    `exportkit.config.reader` reads the composed config again and checks the types that are declared, so nothing is lost. Sweeps
    pickle configs: a schema is pickled by the name of its class, and made again in the process that reads it.
    """
    hints = get_type_hints(cls)
    known = {name: known_type(hint) for name, hint in hints.items()}
    if known == hints:
        return cls
    found = [(one.name, known[one.name], _default(one, same=known[one.name] == hints[one.name])) for one in fields(cls)]
    made = make_dataclass(cls.__name__, found, kw_only=True)
    made.__module__, made.__qualname__ = __name__, f"{cls.__module__}:{cls.__qualname__}".replace(".", "/")
    return made


def __getattr__(name: str) -> type:
    """Return the schema of the class that a pickled config names, as ``exportkit/steps/verify:Verify``."""
    module, colon, qualname = name.replace("/", ".").partition(":")
    if not colon:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return schema_of(attrgetter(qualname)(import_module(module)))


def _default(one: Field[Any], same: bool) -> Any:
    """Return a field with the default of `one`, as a config writes it unless the field's type is the same."""
    written: Callable[[Any], Any] = (lambda value: value) if same else plain_default
    if one.default_factory is not MISSING:
        make: Callable[[], Any] = one.default_factory
        return field(default_factory=lambda: written(make()))
    return field() if one.default is MISSING else field(default=written(one.default))


def known_type(hint: Any) -> Any:
    """Return the nearest type that OmegaConf knows."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        types = {type(choice) for choice in inner}
        return types.pop() if len(types) == 1 else Any
    if origin in (Union, UnionType):
        one = next(t for t in inner if t is not type(None))
        return hint if known_type(one) == one else known_type(one) | None
    if origin in (list, dict):
        return hint if all(known_type(t) == t for t in inner) else origin[tuple(map(known_type, inner))]
    if not isinstance(hint, type):
        return hint
    if issubclass(hint, Enum):
        return str
    if is_dataclass(hint):
        return Any if isabstract(hint) or schema_of(hint) is not hint else hint
    return hint


def plain_default(value: Any) -> Any:
    """Return a default as a config writes it: an Enum's member by its name, a dataclass as a mapping."""
    if isinstance(value, Enum):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        return plain_default(asdict(value))
    if isinstance(value, dict):
        return {key: plain_default(inner) for key, inner in value.items()}
    return [plain_default(inner) for inner in value] if isinstance(value, list) else value
