"""How much is printed: a report for a person at a terminal, a line for a log, nothing under ``-q``.

The result goes to stdout and all else to stderr, so that they never mix.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum

from exportkit.cli import running
from exportkit.printable import printable

_quiet = ContextVar("quiet", default=False)


class Detail(Enum):
    """What is printed of an export that went well."""

    NOTHING = "problems only"
    LINE = "one line"
    WHOLE = "the whole report"


@contextmanager
def quiet(wanted: bool) -> Iterator[None]:
    """Print problems only inside this context, if `wanted`."""
    token = _quiet.set(wanted)
    try:
        yield
    finally:
        _quiet.reset(token)


def is_quiet() -> bool:
    """Return whether only problems are printed."""
    return _quiet.get()


def is_verbose() -> bool:
    """Return whether the user asked for everything: ``hydra.verbose=true``, and not ``-q``."""
    hydra = sys.modules.get("hydra.core.hydra_config")
    if is_quiet() or hydra is None or running.job() is not None:  # without Hydra nobody has asked for anything of it
        return False
    return hydra.HydraConfig.initialized() and hydra.HydraConfig.get().verbose is True


class PrintableFormatter(logging.Formatter):
    """Formats log records; what a terminal would obey is escaped. Tracebacks stay as they are, but for that."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), "\n\t")


def detail() -> Detail:
    """Return what to print: ``-q`` and ``hydra.verbose=true`` decide, or else whether stdout is a terminal."""
    if is_quiet():
        return Detail.NOTHING
    return Detail.WHOLE if sys.stdout.isatty() or is_verbose() else Detail.LINE
