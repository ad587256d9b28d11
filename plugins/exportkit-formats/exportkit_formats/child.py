"""Calls of converters and runtimes in a process of their own."""

import pkgutil
from collections.abc import Mapping
from typing import Any

from exportkit.errors import Problem, StepFailed
from exportkit.processes import call_apart

from exportkit_formats.converting import Refusal


def call(where: str, who: str, timeout: float | None, function: str, **arguments: Any) -> Any:
    """Call a function in a process of its own, and return its value.

    Args:
        where: the place of problems.
        who: what is called, in messages.
        timeout: seconds after which the process is killed.
        function: ``package.module:function``; imported by that process alone.
        arguments: plain data.

    Raises:
        StepFailed: the function raised, crashed or took too long; the text of a Refusal follows `who`.
        EnvironmentFailed: the process was killed from outside, or could not start.
    """
    value, refusal = call_apart(_answer, function, arguments, where=where, title=who, timeout=timeout)
    if refusal is not None:
        what, *do = refusal
        raise StepFailed(Problem(where, f"{who} {what}", *do))
    return value


def _answer(function: str, arguments: Mapping[str, Any]) -> tuple[Any, tuple | None]:
    """Return a function's value, or the arguments of the Refusal that it raised."""
    try:
        return pkgutil.resolve_name(function)(**arguments), None
    except Refusal as refusal:
        return None, refusal.args
