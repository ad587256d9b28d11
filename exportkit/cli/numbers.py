"""Numbers in arguments of commands: argparse names the flag before each refusal."""

from argparse import ArgumentTypeError
from math import isfinite, nan


def tolerance(text: str) -> float:
    """Return a tolerance; one that is negative, infinite or NaN is refused, for it would fail or pass every comparison."""
    value = _float(text)
    if not (isfinite(value) and value >= 0):
        raise ArgumentTypeError(f"is {text or 'empty'}; write 0 or more")
    return value


def seconds(text: str) -> float:
    """Return a time that is longer than none."""
    value = _float(text)
    if not (isfinite(value) and value > 0):
        raise ArgumentTypeError(f"is {text or 'empty'}; write more than 0")
    return value


def version(text: str) -> int:
    """Return the number of a version: an int64 from 0."""
    return _within(text, 0, (1 << 63) - 1, "the number of a version")


def count(text: str) -> int:
    """Return how often something is done."""
    return _within(text, 1, 100_000, "1 to 100000")


def positive_integer(text: str) -> int:
    """Return a number from 1."""
    return _within(text, 1, 999_999_999, "1 or more")


def port(text: str) -> int:
    """Return a port of TCP; 0 asks for a free one."""
    return _within(text, 0, 65535, "0 to 65535")


def _within(text: str, least: int, most: int, wanted: str) -> int:
    """Return a number in ASCII digits; more digits than an int64 has are not converted."""
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
        raise ArgumentTypeError(f"is {text or 'empty'}; write {wanted}")
    return int(text)


def _float(text: str) -> float:
    """Return a number; NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return nan
