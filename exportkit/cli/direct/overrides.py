"""Overrides with plain values, read as Hydra's grammar reads them."""

import re
from typing import Any

from exportkit.cli.direct import NeedsHydra

_OVERRIDE = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)=(.+)", re.ASCII)
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)", re.ASCII)
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)", re.ASCII)
_KEY = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_REFERENCE = rf"\$(?:\{{{_KEY}\}}|\\\{{{_KEY}\\\}})"  # an interpolation of a key: ${name}, or $\{name\} in the jobs of a sweep
_WORD = re.compile(rf"(?:[A-Za-z_./]|{_REFERENCE})(?:[\w./-]|{_REFERENCE})*", re.ASCII)
_NAMES = re.compile(r"\[(?:[A-Za-z_]\w*(?:,[A-Za-z_]\w*)*)?\]", re.ASCII)
_CONSTANTS = {"true": True, "false": False, "null": None}
_NUMBERS = ("nan", "inf")  # words in any case; so are the constants
_MOST_DIGITS = 300


def parsed(override: str) -> tuple[str, Any]:
    """Return the key and the value of an override ``key=value``.

    The value is null, true, false, a number, an unquoted text, which may have interpolations of keys, or a list of names.

    Raises:
        NeedsHydra: it is any other override.
    """
    found = _OVERRIDE.fullmatch(override)
    if found is None or found[1].partition(".")[0] == "hydra":
        raise NeedsHydra
    return found[1], _value(found[2])


def _value(text: str) -> Any:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) <= _MOST_DIGITS and _INTEGER.fullmatch(text):
        return int(text)
    if len(text) <= _MOST_DIGITS and _FLOAT.fullmatch(text):
        return float(text)
    if _NAMES.fullmatch(text):
        names = text[1:-1].split(",") if text != "[]" else []
        return [_name(name) for name in names]
    return _name(text.replace("\\", "")) if _WORD.fullmatch(text) else _other()


def _name(text: str) -> str:
    return _other() if text.lower() in (*_CONSTANTS, *_NUMBERS) or re.match(r"[.]?\d|[.]{1,3}$", text) else text


def _other() -> Any:
    raise NeedsHydra
