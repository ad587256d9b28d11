"""Numbers in arguments of commands: `exportkit.contract.Command` puts the flag before each refusal."""

from argparse import ArgumentTypeError
from math import inf, isfinite

_MOST_DIGITS = 19  # of an int64


def tolerance(text: str) -> float:
    """Return a tolerance; one that is negative, infinite or NaN is refused, for it would fail or pass every comparison."""
    value = _float(text)
    if value < 0:
        raise _refusal(text, "a number of 0 or more")
    return value


def seconds(text: str) -> float:
    """Return a time that is longer than none."""
    value = _float(text)
    if value <= 0:
        raise _refusal(text, "a number above 0")
    return value


def version(text: str) -> int:
    """Return the number of a version: an int64 from 0."""
    if not 0 <= (value := _integer(text)) < 1 << 63:
        raise _refusal(text, "the number of a version")
    return value


def count(text: str) -> int:
    """Return how often something is done."""
    if not 1 <= (value := _integer(text)) <= 100_000:
        raise _refusal(text, "a number of 1 to 100000")
    return value


def positive_integer(text: str) -> int:
    """Return a number from 1."""
    if (value := _integer(text)) < 1:
        raise _refusal(text, "a whole number of 1 or more")
    return value


def port(text: str) -> int:
    """Return a port of TCP; 0 asks for a free one."""
    if not 0 <= (value := _integer(text)) <= 65535:
        raise _refusal(text, "a number of 0 to 65535")
    return value


def _float(text: str) -> float:
    """Return a finite number, or -inf where the text is none."""
    try:
        value = float(text)
    except ValueError:
        return -inf
    return value if isfinite(value) else -inf


def _integer(text: str) -> int:
    """Return a number in ASCII digits, or -1 where the text is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else -1


def _refusal(text: str, wanted: str) -> ArgumentTypeError:
    return ArgumentTypeError(f"'{text}' is not {wanted}")
