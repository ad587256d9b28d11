"""Numbers in arguments of commands: argparse names the flag before each refusal."""

from argparse import ArgumentTypeError
from math import isfinite, nan


def tolerance(text: str) -> float:
    """Return a tolerance; one that is negative, infinite or NaN is refused, for it would fail or pass every comparison."""
    value = _float(text)
    if not (isfinite(value) and value >= 0):
        raise ArgumentTypeError(f"is {text}; write 0 or more")
    return value


def seconds(text: str) -> float:
    """Return a time that is longer than none."""
    value = _float(text)
    if not (isfinite(value) and value > 0):
        raise ArgumentTypeError(f"is {text}; write more than 0")
    return value


def version(text: str) -> int:
    """Return the number of a version: an int64 from 0."""
    if not (text.isdecimal() and text.isascii() and len(text) < 20 and int(text) < 1 << 63):
        raise ArgumentTypeError(f"is {text}; write the number of a version")
    return int(text)


def count(text: str) -> int:
    """Return how often something is done."""
    if not text.isdecimal() or len(text) > 6 or not 0 < int(text) <= 100_000:
        raise ArgumentTypeError(f"is {text}; write 1 to 100000")
    return int(text)


def positive_integer(text: str) -> int:
    """Return a number from 1."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise ArgumentTypeError(f"is {text}; write 1 or more")
    return int(text)


def port(text: str) -> int:
    """Return a port of TCP; 0 asks for a free one."""
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise ArgumentTypeError(f"is {text}; write 0 to 65535")
    return int(text)


def _float(text: str) -> float:
    """Return a number; NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return nan
